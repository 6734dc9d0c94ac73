// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  DisposedError,
  DTypeError,
  openGguf,
  OptionError,
  readFloats,
  readTernary,
  ShapeError,
  TernaryTensor,
  writeGguf,
  type GgufContent,
  type GgufTensor,
  type GgufValue,
  type StoredTensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends, make } from '../harness.js';
import { Random } from '../random.js';

const FIXTURE = path.join(__dirname, '../../../test/fixtures/gguf_py.gguf');

let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'));
  file = path.join(folder, 'written.gguf');
});
afterAll(() => rmSync(folder, { recursive: true }));

test('gguf-py’s file is written again, byte for byte', async () => {
  const source = await openGguf(FIXTURE);
  const number = (type: 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32' | 'u64' | 'i64' | 'f32' | 'f64'): GgufValue => ({
    type,
    value: source.metadata[`test.${type}`] as number,
  });
  const metadata: Record<string, GgufValue> = Object.fromEntries(
    Object.entries(source.metadata).map(([key, value]) => [key, value as GgufValue]),
  );
  for (const type of ['u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'u64', 'i64', 'f32', 'f64'] as const) {
    metadata[`test.${type}`] = number(type);
  }
  metadata['test.u64_large'] = { type: 'u64', value: 2n ** 63n + 1n };
  metadata['test.i64_large'] = { type: 'i64', value: -(2n ** 62n) - 1n };
  metadata['test.u64s'] = BigUint64Array.of(1n, 2n ** 60n + 1n);
  await writeGguf(file, { metadata, tensors: source.tensors });
  await source.close();
  expect(readFileSync(file).equals(readFileSync(FIXTURE))).toBe(true);
});

describeBackends((device) => {
  test('tensors of every kind come back', async () => {
    const random = new Random('writer');
    const floats = make(device, 'bfloat16', [2, 3, 5], random.normals(30));
    const ints = make(device, 'int32', [7], random.integers(7, -9, 9));
    const scalar = make(device, 'float32', [], [2.5]);
    const trits = Int8Array.from(random.integers(4 * 256, -1, 1));
    const weight = TernaryTensor.fromTrits(trits, [4, 256], 0.25, { device });
    const rows = TernaryTensor.fromTrits(trits, [4, 256], [1, 0.5, 0.25, 2], { device });
    const metadata = {
      'general.architecture': 'bitnet-b1.58',
      'general.alignment': { type: 'u32', value: 64 },
    } as const;
    const tensors = {
      floats,
      ints,
      scalar,
      i2s: { weight, type: 'I2_S' },
      tq1: { weight: rows, type: 'TQ1_0' },
      tq2: { weight, type: 'TQ2_0' },
    } as const;
    await writeGguf(file, { metadata, tensors });
    const read = await openGguf(file);
    expect(read.metadata).toEqual({ 'general.architecture': 'bitnet-b1.58', 'general.alignment': 64 });
    expect([...read.tensors.values()].map(({ name, type, shape }) => [name, type, shape])).toEqual([
      ['floats', 'BF16', [2, 3, 5]],
      ['ints', 'I32', [7]],
      ['scalar', 'F32', []],
      ['i2s', 'I2_S', [4, 256]],
      ['tq1', 'TQ1_0', [4, 256]],
      ['tq2', 'TQ2_0', [4, 256]],
    ]);
    const get = (name: string): StoredTensor => read.tensors.get(name) as StoredTensor;
    expect([...read.tensors.values()].every(({ offset }) => offset % 64 === 0)).toBe(true);
    expect(readFileSync(file).length % 64).toBe(0);
    const back = await readFloats(get('floats'), { device });
    expect(await bitsOf(back)).toEqual(await bitsOf(floats));
    expect([...new Int32Array((await get('ints').read()).buffer)]).toEqual(await bitsOf(ints));
    const one = await readFloats(get('scalar'), { device });
    expect(await one.item()).toBe(2.5);
    for (const [name, scales] of Object.entries({ i2s: [0.25], tq1: [1, 0.5, 0.25, 2], tq2: [0.25] })) {
      const { weight: matrix } = await readTernary(get(name), { device });
      expect(await matrix?.trits()).toEqual(trits);
      expect(await matrix?.scale.data()).toEqual(Float32Array.from(scales));
      matrix?.dispose();
    }
    await read.close();
    for (const each of [floats, ints, scalar, weight, rows, back, one]) each.dispose();
  });

  test('what the format does not hold is refused, and the former file stays', async () => {
    const t = make(device, 'float32', [1], [1]);
    await writeGguf(file, { tensors: { t } });
    const before = readFileSync(file);
    const bytes = make(device, 'uint8', [1], [1]);
    const deep = make(device, 'float32', [1, 1, 1, 1, 1], [1]);
    const gone = make(device, 'float32', [1], [1]);
    gone.dispose();
    const tiny = TernaryTensor.fromTrits(new Int8Array(256).fill(1), [1, 256], 1e-20, { device });
    const narrow = TernaryTensor.fromTrits([1], [1, 1], 1, { device });
    const value = (each: unknown): GgufContent => ({ metadata: { key: each as GgufValue }, tensors: {} });
    const short: GgufTensor = { type: 'F32', shape: [2], read: () => Promise.resolve(new Uint8Array(7)) };
    const copy = (type: string, shape: number[]): GgufContent => ({
      tensors: { t: { type, shape, read: () => Promise.resolve(new Uint8Array(0)) } },
    });
    const refused: [GgufContent, new (...args: never[]) => Error, string][] = [
      [
        { tensors: { bytes } },
        DTypeError,
        'expected bytes of dtype float32, float16, bfloat16, int8, int32, got uint8',
      ],
      [
        { tensors: { deep } },
        ShapeError,
        'expected at most 4 axes for deep, the last in blocks of 1 for F32, got [1, 1, 1, 1, 1]',
      ],
      [{ tensors: { gone } }, DisposedError, 'expected a live tensor for gone'],
      [{ tensors: { [`${'é'.repeat(32)}`]: t } }, OptionError, 'names of at most 63 bytes, got éé'],
      [
        { tensors: { narrow: { weight: narrow, type: 'TQ2_0' } } },
        ShapeError,
        'the last in blocks of 256 for TQ2_0, got [1, 1]',
      ],
      [{ tensors: { tiny: { weight: tiny, type: 'TQ2_0' } } }, OptionError, 'expected scales that float16 holds'],
      [{ tensors: { tiny: { weight: tiny, type: 'I2_S' } } }, OptionError, 'with tiny of type I2_S, got neither'],
      [{ tensors: { short } }, OptionError, 'expected 8 bytes of short, got 7'],
      [{ tensors: { none: 5 as unknown as GgufTensor } }, OptionError, 'expected a tensor for none, got 5'],
      [copy('U8', [1]), OptionError, 'expected a type that GGUF has for t, got U8'],
      [copy('Q8_0', [2, 31]), ShapeError, 'the last in blocks of 32 for Q8_0, got [2, 31]'],
      [value(5), OptionError, 'expected a text, a boolean, an array, or { type, value } with a type u8, i8,'],
      [value(null), OptionError, 'for key, got null'],
      [value({ type: 'u8', value: 256 }), OptionError, 'a number that u8 holds for key, got 256'],
      [value({ type: 'i64', value: 2n ** 63n }), OptionError, 'a number that i64 holds'],
      [value({ type: 'i32', value: 0.5 }), OptionError, 'a number that i32 holds for key, got 0.5'],
      [value({ type: 'f32', value: '1' }), OptionError, 'a number that f32 holds for key, got "1"'],
      [
        value([1, 2]),
        OptionError,
        'texts only or booleans only in an array (numbers in a typed array) for key, got [1, 2]',
      ],
      [value(new DataView(new ArrayBuffer(8))), OptionError, 'an array of numbers for key, got DataView'],
      [{ metadata: { ['k'.repeat(65536)]: true }, tensors: {} }, OptionError, 'keys of at most 65535 bytes'],
      [
        { metadata: { 'general.alignment': { type: 'u32', value: 24 } }, tensors: {} },
        OptionError,
        'a power of two from 8 on, of type u32, for general.alignment, got 24',
      ],
    ];
    for (const [content, type, message] of refused) {
      const error = await writeGguf(file, content).then(
        () => null,
        (caught: unknown) => caught,
      );
      expect((error as Error | null)?.message).toContain(message);
      expect(error).toBeInstanceOf(type);
    }
    expect(readFileSync(file).equals(before)).toBe(true);
    expect(readdirSync(folder)).toEqual(['written.gguf']);
    for (const each of [t, bytes, deep, tiny, narrow]) each.dispose();
  });
});

test('values by their type', async () => {
  const metadata: Record<string, GgufValue> = {
    text: 'ä',
    yes: true,
    none: [],
    flags: [true, false],
    words: ['a', ''],
    shorts: Int16Array.of(-1, 300),
    longs: BigInt64Array.of(-5n),
    part: new Float32Array(Float32Array.of(9, 1.5, 9).buffer, 4, 1),
  };
  await writeGguf(file, { metadata, tensors: new Map() });
  const read = await openGguf(file);
  expect(read.metadata).toEqual({ ...metadata, longs: [-5], part: Float32Array.of(1.5) });
  await read.close();
});
