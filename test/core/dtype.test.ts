// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cast, tensor, tensorFromRaw, type Tensor } from '../../lib/index.js';
import {
  bfloat16BitsToFloat,
  bitsView,
  bytesPerElement,
  decode,
  DTYPES,
  encode,
  float16BitsToFloat,
  floatToBfloat16Bits,
  floatToFloat16Bits,
  isFloat,
  roundTo,
  type DType,
} from '../../lib/dtype.js';
import { expectIdentical } from '../compare.js';
import { bitsOf, describeBackends } from '../harness.js';
import { Random } from '../random.js';

/** The formats by their definition in IEEE 754, in arithmetic and not in bits, to hold against the library's bit manipulation. */
const FORMATS = {
  float16: {
    fractionBits: 10,
    bias: 15,
    toBits: floatToFloat16Bits,
    toFloat: float16BitsToFloat,
    largest: 65504,
    smallest: 2 ** -24,
  },
  bfloat16: {
    fractionBits: 7,
    bias: 127,
    toBits: floatToBfloat16Bits,
    toFloat: bfloat16BitsToFloat,
    largest: (2 - 2 ** -7) * 2 ** 127,
    smallest: 2 ** -133,
  },
} as const;
type Format = keyof typeof FORMATS;

const ALL_PATTERNS = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

function valueOf(bits: number, { fractionBits, bias }: (typeof FORMATS)[Format]): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits & 0x7fff) >> fractionBits;
  const fraction = (bits & ((1 << fractionBits) - 1)) / 2 ** fractionBits;
  if (exponent === 2 * bias + 1) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias);
}

/** Largest e with 2^e <= value. */
function exponentOf(value: number): number {
  let exponent = Math.round(Math.log2(value));
  while (2 ** exponent > value) exponent--;
  while (2 ** (exponent + 1) <= value) exponent++;
  return exponent;
}

/** The nearest number of the format, ties to the even fraction, by dividing by the distance of neighbours. */
function nearestBits(value: number, { fractionBits, bias }: (typeof FORMATS)[Format]): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude === 0) return sign;
  const infinity = (2 * bias + 1) << fractionBits;
  if (magnitude === Infinity) return sign | infinity;
  const exponent = Math.max(exponentOf(magnitude), 1 - bias);
  const steps = magnitude / 2 ** (exponent - fractionBits); // exact: a power of two
  const below = Math.floor(steps);
  const rest = steps - below;
  const count = rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
  // A count of 2^fractionBits is the implicit one; a carry beyond it moves into the exponent as it should.
  return sign | Math.min(infinity, ((exponent + bias - 1) << fractionBits) + count);
}

describe.each(Object.entries(FORMATS) as [Format, (typeof FORMATS)[Format]][])('%s', (dtype, format) => {
  test('every bit pattern decodes to the number it stands for', () => {
    expectIdentical(
      'decode',
      decode(dtype, new Uint8Array(ALL_PATTERNS.slice().buffer)),
      Array.from(ALL_PATTERNS, (bits) => valueOf(bits, format)),
      [65536],
    );
  });

  test('every bit pattern that is a number comes back from decode and encode; a NaN as a quiet NaN', () => {
    const values = decode(dtype, new Uint8Array(ALL_PATTERNS.slice().buffer));
    const back = bitsView(dtype, encode(dtype, values));
    const quiet = 1 << (format.fractionBits - 1);
    let nans = 0;
    for (let bits = 0; bits < 65536; bits++) {
      if (Number.isNaN(values[bits])) {
        nans++;
        expect({ bits, isNaN: Number.isNaN(valueOf(back[bits], format)), quiet: back[bits] & quiet }).toEqual({
          bits,
          isNaN: true,
          quiet,
        });
      } else if (back[bits] !== bits) {
        throw new Error(`expected pattern ${bits.toString(16)} to come back, got ${back[bits].toString(16)}`);
      }
    }
    expect(nans).toBe(2 * (2 ** format.fractionBits - 1));
  });

  /** All midpoints of neighbours, and numbers a float32 step to either side of each. */
  function* interestingFloats(): Generator<number> {
    const bits = new Uint32Array(1);
    const float = new Float32Array(bits.buffer);
    for (let pattern = 0; pattern < (2 * format.bias + 1) << format.fractionBits; pattern++) {
      const here = valueOf(pattern, format);
      const next =
        pattern + 1 === (2 * format.bias + 1) << format.fractionBits
          ? 2 * 2 ** format.bias
          : valueOf(pattern + 1, format);
      float[0] = here / 2 + next / 2;
      const middle = bits[0];
      for (const offset of [-1, 0, 1]) {
        bits[0] = middle + offset;
        yield float[0];
        yield -float[0];
      }
    }
  }

  function expectNearest(value: number): void {
    const [got, expected] = [format.toBits(value), nearestBits(value, format)];
    if (got !== expected) {
      throw new Error(
        `${value}: expected ${valueOf(expected, format)} (${expected.toString(16)}), got ${valueOf(got, format)} (${got.toString(16)})`,
      );
    }
  }

  test('rounds every midpoint and its float32 neighbours to nearest, ties to even', () => {
    let count = 0;
    for (const value of interestingFloats()) {
      expectNearest(value);
      count++;
    }
    expect(count).toBe(6 * ((2 * format.bias + 1) << format.fractionBits));
  });

  test('rounds 200,000 float32 numbers of random bits to nearest', () => {
    const random = new Random(dtype);
    const bits = Uint32Array.from({ length: 200_000 }, () => random.integer(0, 2 ** 32 - 1));
    const values = new Float32Array(bits.buffer).filter((value) => !Number.isNaN(value));
    expect(values.length).toBeGreaterThan(190_000);
    values.forEach(expectNearest);
  });

  test('rounds a float64 number once, not by way of float32', () => {
    // Above a tie by less than float32 can say: through float32 it would become the tie and round down.
    const tie = 1 + 2 ** -(format.fractionBits + 1);
    for (const value of [tie + 2 ** -40, -tie - 2 ** -40, tie, format.smallest * (0.5 + 2 ** -30)])
      expectNearest(value);
  });

  test('overflow, underflow, signed zeros, NaN', () => {
    const { largest, smallest, toBits, toFloat } = format;
    const step = largest - toFloat(toBits(largest) - 1);
    expect(roundTo(dtype, largest)).toBe(largest);
    expect(roundTo(dtype, largest + 0.49 * step)).toBe(largest);
    expect(roundTo(dtype, largest + 0.5 * step)).toBe(Infinity);
    expect(roundTo(dtype, -largest - 0.5 * step)).toBe(-Infinity);
    expect(roundTo(dtype, 1e300)).toBe(Infinity);
    expect(roundTo(dtype, -Infinity)).toBe(-Infinity);
    expect(roundTo(dtype, smallest)).toBe(smallest);
    expect(roundTo(dtype, 0.5 * smallest)).toBe(0);
    expect(roundTo(dtype, -0.5 * smallest)).toBe(-0);
    expect(roundTo(dtype, 0.75 * smallest)).toBe(smallest);
    expect(roundTo(dtype, 1.5 * smallest)).toBe(2 * smallest);
    expect(roundTo(dtype, -0)).toBe(-0);
    expect(toBits(-0)).toBe(0x8000);
    expect(roundTo(dtype, NaN)).toBeNaN();
    expect(roundTo(dtype, 1e-300)).toBe(0);
  });
});

describe('integers', () => {
  test.each([
    ['int8', -128, 127],
    ['uint8', 0, 255],
    ['int32', -(2 ** 31), 2 ** 31 - 1],
  ] as const)('%s: truncated toward zero, saturated, NaN to 0', (dtype, low, high) => {
    expect([0.9, 1.5, 99.999].map((value) => roundTo(dtype, value))).toEqual([0, 1, 99]);
    expect([high, high + 0.5, high + 1, 1e30, Infinity].map((value) => roundTo(dtype, value))).toEqual([
      high,
      high,
      high,
      high,
      high,
    ]);
    expect([low, low - 1, -1e30, -Infinity].map((value) => roundTo(dtype, value))).toEqual([low, low, low, low]);
    expect(roundTo(dtype, -1.9)).toBe(Math.max(low, -1));
    expect(roundTo(dtype, NaN)).toBe(0);
    expect(Array.from(decode(dtype, encode(dtype, [NaN, 1e30, -1e30, 7.7])))).toEqual([0, high, low, 7]);
  });
});

describe('bytes', () => {
  test.each([
    ['float32', 4],
    ['float16', 2],
    ['bfloat16', 2],
    ['int8', 1],
    ['uint8', 1],
    ['int32', 4],
  ] as const)('%s takes %i', (dtype, bytes) => {
    expect(bytesPerElement(dtype)).toBe(bytes);
    expect(encode(dtype, [1, 2, 3]).byteLength).toBe(3 * bytes);
    expect(isFloat(dtype)).toBe(dtype.includes('float'));
  });
  test('are little-endian', () => {
    expect(Array.from(encode('float32', [1]))).toEqual([0, 0, 0x80, 0x3f]);
    expect(Array.from(encode('bfloat16', [1]))).toEqual([0x80, 0x3f]);
    expect(Array.from(encode('float16', [1]))).toEqual([0, 0x3c]);
    expect(Array.from(encode('int32', [-2]))).toEqual([0xfe, 0xff, 0xff, 0xff]);
  });
});

/** Stored bits to convert: every pattern where there are at most 65536, random ones otherwise. */
function patterns(dtype: DType): Uint8Array {
  const size = bytesPerElement(dtype);
  if (size === 1) return Uint8Array.from({ length: 256 }, (_, bits) => bits);
  if (size === 2) return new Uint8Array(ALL_PATTERNS.slice().buffer);
  const random = new Random(dtype);
  const bits = Uint32Array.from({ length: 20_003 }, () => random.integer(0, 2 ** 32 - 1));
  if (dtype === 'float32') {
    // Random exponents hardly ever fall where 16-bit floats and integers end: half of the numbers are put there.
    const floats = new Float32Array(bits.buffer);
    for (let i = 0; i < floats.length; i += 2) floats[i] = random.normal() * 2 ** random.integer(-30, 33);
  } else {
    // Integers of more digits than a float32 holds, just beside those halfway between two bfloat16 numbers: going through float32 makes
    // ties of them.
    for (let i = 0; i < bits.length; i += 2) {
      const shift = random.integer(17, 23);
      bits[i] = (2 * random.integer(128, 255) + 1) * 2 ** (shift - 1) + random.integer(-1, 1);
    }
  }
  return new Uint8Array(bits.buffer);
}

/** Bits with every NaN as one: what a NaN carries beside being one is nobody's promise. */
function withoutPayload(dtype: DType, bits: readonly number[]): number[] {
  const values = decode(dtype, bytesOf(dtype, bits));
  return bits.map((each, i) => (Number.isNaN(values[i]) ? -1 : each));
}

function bytesOf(dtype: DType, bits: readonly number[]): Uint8Array {
  const size = bytesPerElement(dtype);
  const typed = size === 4 ? Uint32Array.from(bits) : size === 2 ? Uint16Array.from(bits) : Uint8Array.from(bits);
  return new Uint8Array(typed.buffer);
}

describe('the cast op converts as lib/dtype.ts does, to the bit', () => {
  describeBackends((device) => {
    const pairs = DTYPES.flatMap((from) => DTYPES.map((to): [DType, DType] => [from, to]));
    test.each(pairs)('%s to %s', async (from, to) => {
      const stored = patterns(from);
      const length = stored.byteLength / bytesPerElement(from);
      const x = tensorFromRaw(stored, [length], { dtype: from, device });
      const y = cast(x, to);
      const expected: Tensor = tensorFromRaw(encode(to, decode(from, stored)), [length], { dtype: to, device });
      expectIdentical('cast', withoutPayload(to, await bitsOf(y)), withoutPayload(to, await bitsOf(expected)), [
        length,
      ]);
      for (const each of [x, y, expected]) each.dispose();
    });

    test('raw bits come back as they went in, NaN payloads too', async () => {
      for (const dtype of DTYPES) {
        const stored = patterns(dtype);
        const x = tensorFromRaw(stored, [stored.byteLength / bytesPerElement(dtype)], { dtype, device });
        const raw = await x.raw();
        expect(Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength).equals(Buffer.from(stored))).toBe(true);
        x.dispose();
      }
    });

    test('tensor() and data() convert the same way', async () => {
      const values = [1 + 2 ** -8, -1.5, 65520, 1e-8, NaN, Infinity];
      for (const dtype of DTYPES) {
        const x = tensor(values, { dtype, device });
        expectIdentical(
          dtype,
          await x.data(),
          values.map((value) => roundTo(dtype, value)),
          [6],
        );
        x.dispose();
      }
    });
  });
});
