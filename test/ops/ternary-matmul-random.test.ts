// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { TernaryTensor, ternaryMatmul, type DeviceName } from '../../lib/index.js';
import { int8Of, int8Product } from '../formulas/ternary.js';
import { bitsOf, describeBackends, FLOAT_DTYPES, hasCpu, make } from '../harness.js';
import { Random } from '../random.js';
import { roundedTo } from '../arithmetic.js';

/**
 * Products of random sizes with int8 activations, equal to the formula to the bit; those too large for it, which reach the kernels for many tokens,
 * equal to the CPU's.
 *
 *   TERNFLASH_RANDOM_CASES=1000   how many are drawn; default 40
 */
const COUNT = Number(process.env.TERNFLASH_RANDOM_CASES ?? 40);
const LARGEST_FOR_FORMULA = 400_000; // products

interface Configuration {
  number: number;
  m: number;
  n: number;
  k: number;
  dtype: (typeof FLOAT_DTYPES)[number];
  rowScales: boolean;
  bias: boolean;
  /** Scales and activations from 2^-60 to 2^60, tokens of zeros, rows whose scale is 0. */
  extreme: boolean;
}

function draw(number: number): Configuration {
  const random = new Random(`ternary product ${number}`);
  const large = number % 10 === 0;
  // Small sizes, sizes around powers of two, and any.
  const size = (most: number): number => {
    const kind = random.integer(0, 3);
    if (kind === 0) return random.integer(1, Math.min(9, most));
    if (kind === 1) return Math.min(most, Math.max(1, 2 ** random.integer(3, 9) + random.integer(-1, 1)));
    return random.integer(1, most);
  };
  let [m, n, k] = [size(300), size(600), size(1500)];
  if (large) {
    [m, n, k] = [random.integer(700, 2500), random.integer(300, 2500), size(700)];
    if (random.next() < 0.7) n = Math.ceil(n / 8) * 8;
  } else {
    while (m * n * k > LARGEST_FOR_FORMULA) [m, n, k] = [Math.ceil(m / 1.3), Math.ceil(n / 1.3), Math.ceil(k / 1.2)];
  }
  const dtype = FLOAT_DTYPES[random.integer(0, FLOAT_DTYPES.length - 1)];
  const [rowScales, bias, extreme] = [random.next() < 0.5, random.next() < 0.5, random.next() < 0.3];
  return { number, m, n, k, dtype, rowScales, bias, extreme };
}

function inputsOf({ number, m, n, k, dtype, rowScales, bias, extreme }: Configuration) {
  const random = new Random(`inputs of ternary product ${number}`);
  const x = random.normals(m * k);
  const scale = Float64Array.from({ length: rowScales ? n : 1 }, () => Math.fround(0.01 + random.next()));
  if (extreme) {
    const exponent = dtype === 'float16' ? 8 : 60;
    for (let row = 0; row < m; row++) {
      const factor = random.next() < 0.1 ? 0 : 2 ** random.integer(-exponent, exponent);
      for (let i = row * k; i < (row + 1) * k; i++) x[i] *= factor;
    }
    for (let i = 0; i < scale.length; i++) {
      scale[i] = rowScales && random.next() < 0.1 ? 0 : Math.fround(scale[i] * 2 ** random.integer(-70, 70));
    }
  }
  return {
    x: x.map((value) => roundedTo(dtype, value)),
    trits: random.integers(n * k, -1, 1),
    scale: rowScales ? scale : scale[0],
    bias: bias ? random.normals(n).map((value) => roundedTo(dtype, value)) : undefined,
  };
}

async function productOn(device: DeviceName, c: Configuration, given: ReturnType<typeof inputsOf>): Promise<number[]> {
  using x = make(device, c.dtype, [c.m, c.k], given.x);
  using weight = TernaryTensor.fromTrits(given.trits, [c.n, c.k], given.scale, { device });
  using bias = given.bias && make(device, c.dtype, [c.n], given.bias);
  using y = ternaryMatmul(x, weight, { bias: bias ?? null });
  return bitsOf(y);
}

describe('ternary products of random sizes', () => {
  describeBackends((device) => {
    const rows = Array.from({ length: COUNT }, (_, i) => draw(i + 1))
      .filter(({ m, n, k }) => m * n * k <= LARGEST_FOR_FORMULA || (device.startsWith('cuda') && hasCpu))
      .map((c) => ({ c, line: JSON.stringify(c) }));
    test.each(rows)('$line', async ({ c }) => {
      const given = inputsOf(c);
      const got = await productOn(device, c, given);
      if (c.m * c.n * c.k > LARGEST_FOR_FORMULA) {
        const expected = await productOn('cpu', c, given);
        expect(got.length).toBe(expected.length);
        expect(got.findIndex((bits, i) => bits !== expected[i])).toBe(-1);
        return;
      }
      const expected = int8Product(int8Of(given.x, c.k), given, given.bias, c.n, c.k);
      using rounded = make('reference', c.dtype, [c.m, c.n], expected);
      expect(got).toEqual(await bitsOf(rounded));
    });
  });
});
