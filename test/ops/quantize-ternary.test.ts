// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  dequantizeTernary,
  DisposedError,
  DTypeError,
  OptionError,
  quantizeTernary,
  ShapeError,
  TernaryTensor,
  type Tensor,
} from '../../lib/index.js';
import { roundedTo } from '../arithmetic.js';
import { quantizeActivations } from '../../lib/ops/ternary-matmul.js';
import { quantizeCases } from '../cases.js';
import { expectIdentical } from '../compare.js';
import { readFixture } from '../fixture.js';
import { int8Of, pack, roundHalfEven, ternaryOf } from '../formulas/ternary.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';

const inputOf = (c: { name: string; rows: number; cols: number; spread?: number }): Float64Array =>
  new Random(`quantize ${c.name}`).normals(c.rows * c.cols, c.spread);

test('round half to even', () => {
  expect([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, -0.51, 126.5, 3].map((value) => roundHalfEven(value) + 0)).toEqual([
    0, 2, 2, 0, -2, -2, 0, -1, 126, 3,
  ]);
});

describe('quantizeTernary', () => {
  test('the rule gives the trits and the scale of Transformers', () => {
    const { weight, trits, scale } = readFixture('ternary_pack');
    const result = ternaryOf(weight.values);
    expect(result.trits).toEqual(trits.values.map((trit) => trit + 0));
    // PyTorch sums in float32 and in another order: a rounding step of float32 either way.
    expect(Math.abs(result.scale - scale.values[0])).toBeLessThanOrEqual(scale.values[0] * 2 ** -23);
  });

  describeBackends((device) => {
    describe.each(FLOAT_DTYPES)('%s', (dtype) => {
      test.each(quantizeCases.cases)('codes and scale to the bit: $name', async (c) => {
        const values = inputOf(c).map((value) => roundedTo(dtype, value));
        const expected = ternaryOf(values);
        using result = quantizeTernary(make(device, dtype, [c.rows, c.cols], values));
        expect([result.shape, result.packed.shape, result.scale.shape]).toEqual([
          [c.rows, c.cols],
          [c.rows, Math.ceil(c.cols / 4)],
          [1],
        ]);
        expectIdentical(
          'packed',
          await result.packed.data(),
          pack(expected.trits, c.rows, c.cols),
          result.packed.shape,
        );
        expectIdentical('scale', await result.scale.data(), [expected.scale], [1]);
      });
    });

    test('golden: the trits of Transformers', async () => {
      const { weight, trits, scale } = readFixture('ternary_pack');
      using result = quantizeTernary(make(device, 'float32', weight.shape, weight.values));
      expect(Float64Array.from(await result.trits())).toEqual(trits.values.map((trit) => trit + 0));
      expect(Math.abs((await result.scale.item()) - scale.values[0])).toBeLessThanOrEqual(scale.values[0] * 2 ** -23);
    });

    test('hand-computed: ties go to even, so half the scale gives 0 and one and a half gives 1', async () => {
      // The mean magnitude of 1/2, 3/2, 1, 1 is 1.
      using result = quantizeTernary(make(device, 'float32', [2, 4], [0.5, -0.5, 1.5, -1.5, 1, -1, 1, -1]));
      expect([...(await result.trits())]).toEqual([0, 0, 1, -1, 1, -1, 1, -1]);
      expect(await result.scale.item()).toBe(1);
      expect([...(await result.packed.data())]).toEqual([0b00_10_01_01, 0b00_10_00_10]);
    });

    test('hand-computed: unused bits of a row hold code 1', async () => {
      using result = quantizeTernary(make(device, 'float32', [2, 5], [1, 1, 1, 1, 1, -1, -1, -1, -1, -1]));
      expect([...(await result.packed.data())]).toEqual([0b10101010, 0b01010110, 0b00000000, 0b01010100]);
    });

    test('hand-computed: the weight is multiplied by the rounded reciprocal, not divided', async () => {
      // One rounding step above half the scale: the quotient is above a half, the product with 1/scale rounds to a half, and that to 0.
      const [least, other, scale] = [0.6406250596046448, 1.4947916269302368, 1.28125];
      expect(Math.fround(least / scale)).toBeGreaterThan(0.5);
      expect(Math.fround(least * Math.fround(1 / scale))).toBe(0.5);
      using result = quantizeTernary(make(device, 'float32', [1, 4], [least, other, -other, -other]));
      expect(await result.scale.item()).toBe(scale);
      expect([...(await result.trits())]).toEqual([0, 1, -1, -1]);
    });

    test('all zeros: the scale is its smallest value and every trit 0', async () => {
      using result = quantizeTernary(make(device, 'float32', [3, 5], new Float64Array(15)));
      expect(await result.scale.item()).toBe(Math.fround(1e-5));
      expect(new Set(await result.trits())).toEqual(new Set([0]));
    });

    test('carries no gradient and leaves the weight alone', async () => {
      const weight = make(device, 'float32', [1, 3], [3, -2, 1], true);
      using result = quantizeTernary(weight);
      expect(result.packed.requiresGrad || result.scale.requiresGrad).toBe(false);
      expect([...(await weight.data())]).toEqual([3, -2, 1]);
    });

    describeErrors(device, [
      {
        message: 'quantizeTernary: expected weight of shape [N, K], got [6]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => quantizeTernary(t([6])),
      },
      {
        message: 'quantizeTernary: expected weight of dtype float32 or float16 or bfloat16, got int8',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => quantizeTernary(t([2, 3], 'int8')),
      },
      {
        message: 'quantizeTernary: expected one of absmean for method, got "absmax"',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => quantizeTernary(t([2, 3]), { method: 'absmax' as 'absmean' }),
      },
      {
        message: 'quantizeTernary: expected one of tensor for granularity, got "row"',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => quantizeTernary(t([2, 3]), { granularity: 'row' as 'tensor' }),
      },
      {
        message: 'quantizeTernary: expected a live tensor for weight, got a disposed one of shape [2, 3]',
        type: DisposedError,
        code: ERROR_CODES.disposed,
        call: (t) => {
          const weight = t([2, 3]);
          weight.dispose();
          return quantizeTernary(weight);
        },
      },
    ]);
  });
});

describe('dequantizeTernary', () => {
  describeBackends((device) => {
    test.each(FLOAT_DTYPES.flatMap((dtype) => quantizeCases.cases.map((c) => ({ dtype, ...c }))))(
      'trit times scale, rounded once: $dtype, $name',
      async ({ dtype, rows, cols, name }) => {
        const random = new Random(name);
        const trits = random.integers(rows * cols, -1, 1);
        for (const scales of [
          [Math.fround(0.1)],
          Array.from({ length: rows }, () => Math.fround(0.01 + random.next())),
        ]) {
          using weight = TernaryTensor.fromTrits(trits, [rows, cols], scales, { device });
          const result = dequantizeTernary(weight, { dtype });
          expect([result.shape, result.dtype]).toEqual([[rows, cols], dtype]);
          const expected = trits.map(
            (trit, i) => roundedTo(dtype, trit * scales[scales.length === 1 ? 0 : Math.floor(i / cols)]) + 0,
          );
          expectIdentical(
            'dequantized',
            Array.from(await result.data(), (value) => value + 0),
            expected,
            [rows, cols],
          );
        }
      },
    );

    test('of a quantised weight gives it back where it is ternary already', async () => {
      const values = Float64Array.of(0.75, -0.75, 0.75, 0.75, -0.75, -0.75);
      using weight = quantizeTernary(make(device, 'float32', [2, 3], values));
      expect(Float64Array.from(await dequantizeTernary(weight).data())).toEqual(values);
    });

    describeErrors(device, [
      {
        message: 'dequantizeTernary: expected one of float32, float16, bfloat16 for dtype, got "int8"',
        type: OptionError,
        code: ERROR_CODES.option,
        call: () => {
          using weight = TernaryTensor.fromTrits([1], [1, 1], 1, { device });
          return dequantizeTernary(weight, { dtype: 'int8' as 'float32' });
        },
      },
      {
        message: 'dequantizeTernary: expected a TernaryTensor for weight, got 3',
        type: OptionError,
        code: ERROR_CODES.option,
        call: () => dequantizeTernary(3 as unknown as TernaryTensor),
      },
      {
        message: 'dequantizeTernary: expected a live ternary tensor for weight, got a disposed one',
        type: DisposedError,
        code: ERROR_CODES.disposed,
        call: () => {
          const weight = TernaryTensor.fromTrits([1], [1, 1], 1, { device });
          weight.dispose();
          return dequantizeTernary(weight);
        },
      },
    ]);
  });
});

describe('the rounding of activations', () => {
  async function rounded(x: Tensor, rows: number, cols: number): Promise<{ codes: number[]; scales: Tensor }> {
    const { codes, scales } = quantizeActivations('test', x, rows, cols);
    const result = [...(await codes.data())];
    codes.dispose();
    return { codes: result, scales };
  }

  describeBackends((device) => {
    describe.each(FLOAT_DTYPES)('%s', (dtype) => {
      test.each(quantizeCases.cases)('codes and scales to the bit: $name', async (c) => {
        const values = inputOf(c).map((value) => roundedTo(dtype, value));
        const expected = int8Of(values, c.cols);
        const { codes, scales } = await rounded(make(device, dtype, [c.rows, c.cols], values), c.rows, c.cols);
        expectIdentical('codes', codes, expected.codes, [c.rows, c.cols]);
        expectIdentical('scales', await scales.data(), expected.scales, [c.rows]);
      });
    });

    test('hand-computed: ties to even, a zero token, a token below the smallest maximum', async () => {
      // The first row's largest is 127, so its scale is 1.
      const x = make(device, 'float32', [3, 4], [127, 0.5, 1.5, -2.5, 0, 0, 0, 0, 1e-6, -1e-6, 0, 5e-6]);
      const { codes, scales } = await rounded(x, 3, 4);
      expect(codes).toEqual([127, 0, 2, -2, 0, 0, 0, 0, 13, -13, 0, 64]);
      const smallest = Math.fround(127 / Math.fround(1e-5));
      expect([...(await scales.data())]).toEqual([1, smallest, smallest]);
    });

    test('the bits of a scale', async () => {
      const { scales } = await rounded(make(device, 'float32', [1, 2], [3, -1]), 1, 2);
      expect(await bitsOf(scales)).toEqual([0x42295555]); // 127/3 = 42.333332
    });
  });
});
