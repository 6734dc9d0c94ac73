// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  DisposedError,
  FormatError,
  memory,
  openGguf,
  openSafetensors,
  OptionError,
  OutOfMemoryError,
  readFloats,
  setMemoryLimit,
  writeSafetensors,
  type StoredTensor,
  type TensorFile,
} from '../../lib/index.js';
import { decode, encode, type FloatDType } from '../../lib/dtype.js';
import { holdMemory } from '../core/hold-memory.js';
import { bitsOf, describeBackends, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';

holdMemory();

const FIXTURE = path.join(__dirname, '../../../test/fixtures/gguf_py.gguf');

let folder: string;
beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => rmSync(folder, { recursive: true }));

const get = (file: TensorFile, name: string): StoredTensor => file.tensors.get(name) as StoredTensor;

describeBackends((device) => {
  describe.each(FLOAT_DTYPES)('%s of a file', (from) => {
    test.each(FLOAT_DTYPES)('becomes %s, rounded once', async (to) => {
      const values = [
        ...new Random(`${from} ${to}`).normals(100),
        0,
        -0,
        Infinity,
        -Infinity,
        NaN,
        65504,
        1e-7,
        6e-8,
        1e30,
      ];
      const name = path.join(folder, 'floats.safetensors');
      const source = make(device, from, [values.length], values);
      await writeSafetensors(name, { source });
      const file = await openSafetensors(name);
      const tensor = await readFloats(get(file, 'source'), { device, dtype: to });
      expect(tensor).toMatchObject({ dtype: to, shape: [values.length] });
      const expected = from === to ? await bitsOf(source) : [...new Uint8Array(encode(to, await source.data()))];
      const bits = await bitsOf(tensor);
      expect(from === to ? bits : [...new Uint8Array(encode(to, await tensor.data()))]).toEqual(expected);
      const own = await readFloats(get(file, 'source'), { device });
      expect(own.dtype).toBe(from);
      await file.close();
    });
  });

  test.each(['F16', 'BF16', 'Q8_0'])('%s of gguf-py', async (type) => {
    const file = await openGguf(FIXTURE);
    const expected = await readFloats(get(file, `x.${type}.values`), { device });
    const tensor = await readFloats(get(file, `x.${type}`), { device, dtype: 'float32' });
    expect(tensor.shape).toEqual([3, 64]);
    expect(await bitsOf(tensor)).toEqual(await bitsOf(expected));
    const rounded = await readFloats(get(file, `x.${type}`), { device, dtype: 'bfloat16' });
    expect(await rounded.data()).toEqual(decode('bfloat16', encode('bfloat16', await expected.data())));
    await file.close();
  });

  test('a large one comes in pieces, to the last element', async () => {
    // Ten pieces and three elements, numbered.
    const count = 20_971_520 + 3;
    const name = path.join(folder, 'large.safetensors');
    const json = Buffer.from(JSON.stringify({ a: { dtype: 'BF16', shape: [count], data_offsets: [0, 2 * count] } }));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(json.length));
    const bits = new Uint16Array(count);
    for (let i = 0; i < count; i++) bits[i] = 0x3f80 + (i % 9973);
    const handle = await open(name, 'w');
    await handle.writeFile(Buffer.concat([prefix, json]));
    await handle.writeFile(new Uint8Array(bits.buffer));
    await handle.close();
    const file = await openSafetensors(name);
    const before = memory()[device].bytes;
    for (const dtype of ['bfloat16', 'float32'] as FloatDType[]) {
      const tensor = await readFloats(get(file, 'a'), { device, dtype });
      const raw = (await tensor.raw()) as Uint16Array | Float32Array;
      const words = dtype === 'float32' ? new Uint32Array(raw.buffer) : raw;
      const shift = dtype === 'float32' ? 16 : 0;
      expect(words.findIndex((word, i) => word !== (bits[i] << shift) >>> 0)).toBe(-1);
      tensor.dispose();
    }
    expect(memory()[device].bytes).toBe(before);
    await file.close();
  });

  test('where it fails nothing stays allocated', async () => {
    const file = await openGguf(FIXTURE);
    const before = memory()[device].bytes;
    await expect(readFloats(get(file, 'x.Q4_0'), { device })).rejects.toThrow(
      'expected one of F32, F16, BF16, Q8_0, TQ1_0, TQ2_0, I2_S as type of x.Q4_0 at byte 5664, got Q4_0',
    );
    await expect(readFloats(get(file, 'trits'), { device })).rejects.toThrow(FormatError);
    await expect(readFloats(get(file, 'x'), { device, dtype: 'int8' as 'float32' })).rejects.toThrow(OptionError);
    await expect(readFloats(get(file, 'x'), { device, to: 'cpu' } as object)).rejects.toThrow(OptionError);
    setMemoryLimit(1, { device });
    await expect(readFloats(get(file, 'x'), { device })).rejects.toThrow(OutOfMemoryError);
    setMemoryLimit(null, { device });
    await file.close();
    await expect(readFloats(get(file, 'x'), { device })).rejects.toThrow(DisposedError);
    expect(memory()[device].bytes).toBe(before);
  });
});
