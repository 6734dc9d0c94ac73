// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import {
  encodeTernary,
  FormatError,
  openGguf,
  openSafetensors,
  OptionError,
  readFloats,
  readTernary,
  ShapeError,
  TernaryTensor,
  type StoredTensor,
  type TernaryLayout,
} from '../../lib/index.js';
import { floatToFloat16Bits } from '../../lib/dtype.js';
import { readFixture } from '../fixture.js';
import { describeBackends } from '../harness.js';
import { Random } from '../random.js';

const FIXTURES = path.join(__dirname, '../../../test/fixtures');

/** The layouts one trit at a time, from their definitions: code of value (n, k), and where it lies. */
type Place = (n: number, k: number, rows: number, cols: number) => { byte: number; shift: number };
const PLACES: Record<'transformers' | 'I2_S' | 'TQ2_0', Place> = {
  transformers: (n, k, rows, cols) => {
    const stride = Math.ceil(rows / 4);
    return { byte: (n % stride) * cols + k, shift: 2 * Math.floor(n / stride) };
  },
  I2_S: (n, k, _, cols) => {
    const value = n * cols + k;
    const inBlock = value % 128;
    return { byte: Math.floor(value / 128) * 32 + (inBlock % 32), shift: 6 - 2 * Math.floor(inBlock / 32) };
  },
  TQ2_0: (n, k, _, cols) => {
    const value = n * cols + k;
    const inBlock = value % 256;
    const byte = Math.floor(value / 256) * 66 + Math.floor(inBlock / 128) * 32 + (inBlock % 32);
    return { byte, shift: 2 * Math.floor((inBlock % 128) / 32) };
  },
};

function slow(
  layout: keyof typeof PLACES,
  trits: Int8Array,
  rows: number,
  cols: number,
  bytes: Uint8Array,
): Uint8Array {
  for (let n = 0; n < rows; n++) {
    for (let k = 0; k < cols; k++) {
      const { byte, shift } = PLACES[layout](n, k, rows, cols);
      bytes[byte] |= (trits[n * cols + k] + 1) << shift;
    }
  }
  return bytes;
}

/** ggml's quantize_row_tq1_0, one value at a time. */
function slowTq1(trits: Int8Array): Uint8Array {
  const bytes = new Uint8Array((trits.length / 256) * 54);
  for (let block = 0; block < trits.length / 256; block++) {
    const code = (i: number): number => trits[block * 256 + i] + 1;
    const base3 = (digits: number[]): number =>
      Math.floor((digits.reduce((sum, each) => 3 * sum + each) * 256 + 242) / 243);
    for (let m = 0; m < 32; m++) bytes[block * 54 + m] = base3([0, 1, 2, 3, 4].map((n) => code(m + n * 32)));
    for (let m = 0; m < 16; m++) bytes[block * 54 + 32 + m] = base3([0, 1, 2, 3, 4].map((n) => code(160 + m + n * 16)));
    for (let j = 0; j < 4; j++)
      bytes[block * 54 + 48 + j] = base3([...[0, 1, 2, 3].map((m) => code(240 + j + m * 4)), 0]);
  }
  return bytes;
}

function tritsOf(name: string, count: number): Int8Array {
  const random = new Random(name);
  return Int8Array.from({ length: count }, () => random.integer(-1, 1));
}

/** A tensor in memory, as if a file had it. */
function stored(type: string, shape: number[], bytes: Uint8Array): StoredTensor {
  return {
    name: 'w',
    type,
    shape,
    byteLength: bytes.length,
    file: 'memory',
    offset: 1000,
    read: (begin = 0, length = bytes.length - begin) => Promise.resolve(bytes.slice(begin, begin + length)),
  };
}

const half = (value: number): number[] => {
  const bits = floatToFloat16Bits(value);
  return [bits & 255, bits >> 8];
};

describeBackends((device) => {
  describe('the bytes of a layout, and back', () => {
    const shapes: [number, number][] = [1, 2, 3, 4, 5, 7, 8, 9, 65].flatMap((rows): [number, number][] =>
      [1, 2, 3, 4, 5, 9, 64].map((cols) => [rows, cols]),
    );
    test.each(shapes)('transformers, %i × %i', async (rows, cols) => {
      const trits = tritsOf(`${rows} ${cols}`, rows * cols);
      const weight = TernaryTensor.fromTrits(trits, [rows, cols], 0.5, { device });
      const bytes = await encodeTernary(weight, 'transformers');
      const stride = Math.ceil(rows / 4);
      expect(bytes).toEqual(slow('transformers', trits, rows, cols, new Uint8Array(stride * cols)));
      const back = await readTernary(stored('U8', [stride, cols], bytes), { device, rows, scale: 0.5 });
      expect(back.invalidCodes).toBe(0);
      expect(await back.weight?.packed.raw()).toEqual(await weight.packed.raw());
      expect(await back.weight?.scale.data()).toEqual(Float32Array.of(0.5));
      expect(back.weight?.shape).toEqual([rows, cols]);
      weight.dispose();
      back.weight?.dispose();
    });

    const grids: [TernaryLayout, number, number][] = [
      ['I2_S', 1, 128],
      ['I2_S', 3, 384],
      ['TQ1_0', 1, 256],
      ['TQ1_0', 5, 512],
      ['TQ2_0', 1, 256],
      ['TQ2_0', 5, 512],
    ];
    test.each(grids)('%s, %i × %i', async (layout, rows, cols) => {
      const trits = tritsOf(`${layout} ${rows}`, rows * cols);
      const weight = TernaryTensor.fromTrits(trits, [rows, cols], 0.375, { device });
      const bytes = await encodeTernary(weight, layout);
      const empty = new Uint8Array(bytes.length);
      const expected = layout === 'TQ1_0' ? slowTq1(trits) : slow(layout as 'I2_S', trits, rows, cols, empty);
      if (layout === 'I2_S') expected.set(new Uint8Array(Float32Array.of(0.375).buffer), bytes.length - 32);
      else {
        const blockBytes = layout === 'TQ1_0' ? 54 : 66;
        for (let end = blockBytes; end <= bytes.length; end += blockBytes) expected.set(half(0.375), end - 2);
      }
      expect(bytes).toEqual(expected);
      const back = await readTernary(stored(layout, [rows, cols], bytes), { device });
      expect(back).toMatchObject({ invalidCodes: 0, isZero: false });
      expect(await back.weight?.trits()).toEqual(trits);
      expect(await back.weight?.scale.data()).toEqual(Float32Array.of(0.375));
      const floats = await readFloats(stored(layout, [rows, cols], bytes), { device });
      expect(await floats.data()).toEqual(Float32Array.from(trits, (trit) => trit * 0.375));
      for (const each of [weight, back.weight, floats]) each?.dispose();
    });
  });

  test("Transformers' own bytes", async () => {
    const file = await openSafetensors(path.join(FIXTURES, 'ternary_pack.safetensors'));
    const { trits, scale } = readFixture('ternary_pack');
    const packed = file.tensors.get('packed') as StoredTensor;
    const { weight, invalidCodes } = await readTernary(packed, { device, scale: scale.values[0] });
    expect(invalidCodes).toBe(0);
    expect(weight?.shape).toEqual([48, 80]);
    expect(await weight?.trits()).toEqual(Int8Array.from(trits.values));
    expect(await encodeTernary(weight as TernaryTensor, 'transformers')).toEqual(await packed.read());
    weight?.dispose();
    await file.close();
  });

  test.each(['TQ1_0', 'TQ2_0'] as const)('gguf-py’s own bytes of %s', async (type) => {
    const file = await openGguf(path.join(FIXTURES, 'gguf_py.gguf'));
    const get = (name: string): StoredTensor => file.tensors.get(name) as StoredTensor;
    const trits = new Int8Array((await get('trits').read()).buffer);
    const scales = { one: [0.0625 + 2 ** -10], rows: [0.5, 0.25, 1, 2 ** -7] };
    for (const [name, expected] of Object.entries(scales)) {
      const source = get(`${name}.${type}`);
      const { weight } = await readTernary(source, { device });
      expect(await weight?.trits()).toEqual(trits);
      expect(await weight?.scale.data()).toEqual(Float32Array.from(expected));
      expect(await encodeTernary(weight as TernaryTensor, type)).toEqual(await source.read());
      weight?.dispose();
    }
    const blocks = get(`blocks.${type}`);
    expect(await readTernary(blocks, { device })).toEqual({ weight: null, invalidCodes: 0, isZero: false });
    const floats = await readFloats(blocks, { device });
    const values = await readFloats(get('blocks.values'), { device });
    expect(await floats.data()).toEqual(await values.data());
    floats.dispose();
    values.dispose();
    await file.close();
  });

  test('codes of 3 are counted and become 0, and are no floats', async () => {
    // Rows 0, 2 and 4 of 5 in the first byte: the last pair of bits is nobody's.
    const packed = Uint8Array.of(0b11_11_00_10, 0b00_00_11_11);
    const { weight, invalidCodes } = await readTernary(stored('U8', [2, 1], packed), { device, rows: 5, scale: 1 });
    expect(invalidCodes).toBe(3);
    expect(await weight?.trits()).toEqual(Int8Array.of(1, 0, -1, 0, 0));
    weight?.dispose();

    const bytes = new Uint8Array(64).fill(0b01010101, 0, 32);
    bytes[5] = 0b11_00_10_11;
    bytes.set(new Uint8Array(Float32Array.of(2).buffer), 32);
    const whole = await readTernary(stored('I2_S', [1, 128], bytes), { device });
    expect(whole.invalidCodes).toBe(2);
    const trits = new Int8Array(128);
    [trits[37], trits[69]] = [-1, 1];
    expect(await whole.weight?.trits()).toEqual(trits);
    whole.weight?.dispose();
    await expect(readFloats(stored('I2_S', [1, 128], bytes), { device })).rejects.toThrow(
      'memory: expected codes from 0 to 2 in 1 blocks of w at byte 1000, got 2 of 3',
    );
  });

  test('a block of scale 0 has trits 0, and fits any scale', async () => {
    const bytes = new Uint8Array(4 * 66).fill(0b10101010);
    for (const [block, scale] of [0.5, 0, 0.5, -0].entries()) bytes.set(half(scale), block * 66 + 64);
    const { weight, isZero } = await readTernary(stored('TQ2_0', [2, 512], bytes), { device });
    expect(isZero).toBe(false);
    expect(await weight?.scale.data()).toEqual(Float32Array.of(0.5));
    expect(await weight?.trits()).toEqual(Int8Array.from({ length: 1024 }, (_, i) => (i % 512 < 256 ? 1 : 0)));
    weight?.dispose();
  });

  test('a matrix of zeros', async () => {
    const bytes = new Uint8Array(66).fill(0b01010101);
    bytes.set(half(0.5), 64);
    const { weight, isZero } = await readTernary(stored('TQ2_0', [1, 256], bytes), { device });
    expect(isZero).toBe(true);
    expect(await weight?.scale.data()).toEqual(Float32Array.of(0.5));
    weight?.dispose();
    bytes.fill(0, 64);
    const zero = await readTernary(stored('TQ2_0', [1, 256], bytes), { device });
    expect(await zero.weight?.scale.data()).toEqual(Float32Array.of(0));
    zero.weight?.dispose();
  });

  test.each([-0.5, Infinity, NaN])('a scale of %d is none of a TernaryTensor', async (scale) => {
    const tq = new Uint8Array(66).fill(0b01010110);
    tq.set(half(scale), 64);
    expect((await readTernary(stored('TQ2_0', [1, 256], tq), { device })).weight).toBeNull();
    const floats = await readFloats(stored('TQ2_0', [1, 256], tq), { device });
    expect((await floats.data())[0]).toBe(scale);
    floats.dispose();
    const i2s = new Uint8Array(64);
    i2s.set(new Uint8Array(Float32Array.of(scale).buffer), 32);
    expect((await readTernary(stored('I2_S', [1, 128], i2s), { device })).weight).toBeNull();
  });

  test('what cannot be read or written says why', async () => {
    const u8 = stored('U8', [2, 4], new Uint8Array(8));
    const refused: [() => Promise<unknown>, new (...args: never[]) => Error, string][] = [
      [() => readTernary(u8, { device }), OptionError, 'readTernary: expected a scale for w, got none'],
      [() => readTernary(u8, { device, scale: 1, rows: 4 }), OptionError, 'an integer from 5 to 8 for rows, got 4'],
      [() => readTernary(u8, { device, scale: [1, 2] }), ShapeError, 'expected 1 or 8 scales, got 2'],
      [() => readTernary(u8, { device, scale: -1 }), OptionError, 'of at least 0 for scale, got -1'],
      [
        () => readTernary(stored('U8', [8], new Uint8Array(8)), { device, scale: 1 }),
        ShapeError,
        'a matrix for w, got shape [8]',
      ],
      [
        () => readTernary(stored('TQ2_0', [1, 256], new Uint8Array(66)), { device, scale: 1 }),
        OptionError,
        'got scale',
      ],
      [
        () => readTernary(stored('Q4_0', [1, 32], new Uint8Array(18)), { device }),
        FormatError,
        'as type of w at byte 1000, got Q4_0',
      ],
    ];
    const weight = TernaryTensor.fromTrits(tritsOf('rows', 2 * 256), [2, 256], [1e-9, 1], { device });
    refused.push(
      [() => encodeTernary(weight, 'I2_S'), OptionError, 'encodeTernary: expected one scale for I2_S, got 2'],
      [() => encodeTernary(weight, 'TQ2_0'), OptionError, 'expected scales that float16 holds, got 9.99'],
      [
        () => encodeTernary(weight, 'TL1' as 'I2_S'),
        OptionError,
        'expected one of transformers, TQ1_0, TQ2_0, I2_S for layout',
      ],
    );
    const narrow = TernaryTensor.fromTrits(tritsOf('narrow', 128), [1, 128], 1, { device });
    refused.push([() => encodeTernary(narrow, 'TQ1_0'), ShapeError, 'expected K in blocks of 256 for TQ1_0, got 128']);
    for (const [call, type, message] of refused) {
      const error = await call().then(
        () => null,
        (caught: unknown) => caught,
      );
      expect(error).toBeInstanceOf(type);
      expect((error as Error).message).toContain(message);
    }
    weight.dispose();
    narrow.dispose();
  });
});

test('every byte of TQ1_0 stands for the trits that ggml reads', async () => {
  // 52 bytes a block, five digits in the first 48: all 256 bytes fit into six blocks.
  const bytes = new Uint8Array(6 * 54);
  for (let i = 0; i < 6 * 48; i++) bytes[Math.floor(i / 48) * 54 + (i % 48)] = i;
  for (let block = 0; block < 6; block++) bytes.set(half(1), block * 54 + 52);
  const { weight } = await readTernary(stored('TQ1_0', [6, 256], bytes), { device: 'reference' });
  const trits = (await weight?.trits()) as Int8Array;
  for (let i = 0; i < 6 * 48; i++) {
    const [block, m] = [Math.floor(i / 48), i % 48];
    for (let n = 0; n < 5; n++) {
      const shifted = ((i & 255) * 3 ** n) & 255;
      const expected = ((shifted * 3) >> 8) - 1;
      expect(trits[block * 256 + (m < 32 ? m + n * 32 : 160 + (m - 32) + n * 16)]).toBe(expected);
    }
  }
  weight?.dispose();
});
