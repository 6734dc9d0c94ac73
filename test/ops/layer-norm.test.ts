// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, layerNorm, LayerNorm, OptionError, ShapeError, type Tensor } from '../../lib/index.js';
import { layerNormSpec } from '../formulas/layer-norm.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { describeGolden, describeOp } from '../op-tests.js';
import { Random } from '../random.js';

describeGolden(layerNormSpec, [
  { fixture: 'layer_norm', c: { name: 'layer_norm', shape: [2, 7, 96], weight: true, bias: true, eps: 1e-5 } },
]);

describeOp(layerNormSpec);

/** Rows less their mean, over the root of their variance, in float64. */
function normalised(values: Float64Array, cols: number, eps: number): Float64Array {
  const out = new Float64Array(values.length);
  for (let at = 0; at < values.length; at += cols) {
    const row = values.subarray(at, at + cols);
    const mean = row.reduce((total, value) => total + value, 0) / cols;
    const variance = row.reduce((total, value) => total + (value - mean) ** 2, 0) / cols;
    row.forEach((value, i) => (out[at + i] = (value - mean) / Math.sqrt(variance + eps)));
  }
  return out;
}

describe('layerNorm', () => {
  describeBackends((device) => {
    test('hand-computed: mean 2, variance 1 with eps 3, so half of the deviation', async () => {
      const x = make(device, 'float32', [2, 2], [1, 3, 3, 1]);
      const weight = make(device, 'float32', [2], [1, 4]);
      const bias = make(device, 'float32', [2], [10, 20]);
      expect([...(await layerNorm(x, weight, bias, { eps: 3 }).data())]).toEqual([9.5, 22, 10.5, 18]);
      expect([...(await layerNorm(x, null, bias, { eps: 3 }).data())]).toEqual([9.5, 20.5, 10.5, 19.5]);
      expect([...(await layerNorm(x, weight, null, { eps: 3 }).data())]).toEqual([-0.5, 2, 0.5, -2]);
    });

    test('a row of equal numbers gives the bias, to the bit', async () => {
      for (const value of [0, 0.1, 12345.678, -3e37]) {
        const x = make(device, 'float32', [1, 129], new Float64Array(129).fill(value));
        const bias = make(device, 'float32', [129], new Random('bias').normals(129));
        expect(await bitsOf(layerNorm(x, null, bias))).toEqual(await bitsOf(bias));
      }
    });

    test('a mean that is large against the spread costs the variance no digits', async () => {
      const cols = 4099;
      for (const mean of [1000, 2 ** 20, -(2 ** 22)]) {
        // Whole and half numbers, so that the input is exact; the mean itself is rounded to float32.
        const values = new Random(`mean ${mean}`).normals(cols).map((value) => mean + Math.round(2 * value) / 2);
        const expected = normalised(values, cols, 1e-5);
        const got = await layerNorm(make(device, 'float32', [1, cols], values)).data();
        const roundingOfMean = Math.abs(mean) * 2 ** -24;
        const errors = Array.from(got, (value, i) => Math.abs(value - expected[i]));
        expect(Math.max(...errors)).toBeLessThan(roundingOfMean + 4 * 2 ** -22);
        // Differences of outputs do not depend on the mean: they show the variance alone, a float32 sum of 16 partial ones at least.
        const [low, high] = [expected.indexOf(Math.min(...expected)), expected.indexOf(Math.max(...expected))];
        const spread = (numbers: ArrayLike<number>): number => numbers[high] - numbers[low];
        expect(Math.abs(spread(got) / spread(expected) - 1)).toBeLessThan((cols / 16) * 2 ** -24);
      }
    });

    test('squares beyond float32 and below it', async () => {
      const cols = 128;
      const signs = Float64Array.from({ length: cols }, (_, i) => (i % 2 === 0 ? 1 : -1));
      for (const [size, eps, bound] of [
        [1e30, 1e-5, 2 ** -22],
        [3e38, 1e-5, 2 ** -20],
        [1e-25, 1e-70, 2 ** -22],
        [1e-37, 1e-90, 2 ** -22],
      ]) {
        const values = signs.map((sign) => sign * size);
        const x = make(device, 'float32', [1, cols], values, true);
        const weight = make(device, 'float32', [cols], new Float64Array(cols).fill(1), true);
        const out = layerNorm(x, weight, null, { eps });
        (await out.data()).forEach((value, i) => expect(Math.abs(value - signs[i])).toBeLessThan(bound));
        out.backward(make(device, 'float32', [1, cols], new Float64Array(cols).fill(1)));
        const dWeight = await (weight.grad as Tensor).data();
        dWeight.forEach((value, i) => expect(Math.abs(value - signs[i])).toBeLessThan(bound));
        for (const value of await (x.grad as Tensor).data()) expect(Math.abs(value * size)).toBeLessThan(8 * bound);
      }
    });

    describeErrors(device, [
      {
        message: 'layerNorm: expected a finite number above 0 for eps, got -1',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => layerNorm(t([3]), null, null, { eps: -1 }),
      },
      {
        message: 'layerNorm: expected only eps, residual as options, got epsilon',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => layerNorm(t([3]), null, null, { epsilon: 1 } as object),
      },
      {
        message: 'layerNorm: expected weight of shape [3] to match the last axis of x, got [2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => layerNorm(t([2, 3]), t([2])),
      },
      {
        message: 'layerNorm: expected bias of shape [3] to match the last axis of x, got [2, 3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => layerNorm(t([2, 3]), t([3]), t([2, 3])),
      },
      {
        message: 'layerNorm: expected residual of shape [2, 3] to match x, got [3, 2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => layerNorm(t([2, 3]), t([3]), t([3]), { residual: t([3, 2]) }),
      },
      {
        message: 'layerNorm: expected x of shape [..., K], got a scalar',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => layerNorm(t([])),
      },
      {
        message: 'layerNorm: expected bias of dtype float16 like x, got float32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => layerNorm(t([3], 'float16'), null, t([3])),
      },
    ]);
  });
});

describe('LayerNorm', () => {
  describeBackends((device) => {
    test('starts as the plain normalisation, and trains weight and bias', async () => {
      using norm = new LayerNorm(5, { device });
      const values = new Random('LayerNorm').normals(15);
      const x = make(device, 'float32', [3, 5], values);
      expect(await bitsOf(norm.forward(x))).toEqual(await bitsOf(layerNorm(x)));
      expect([...norm.namedParameters().keys()]).toEqual(['weight', 'bias']);
      norm.forward(x).backward(make(device, 'float32', [3, 5], values));
      expect(norm.weight.grad?.shape).toEqual([5]);
      expect(norm.bias?.grad?.shape).toEqual([5]);
    });

    test('eps, dtype, and no bias', async () => {
      using norm = new LayerNorm(4, { device, eps: 3, bias: false, dtype: 'bfloat16' });
      expect(norm.bias).toBe(null);
      expect([...norm.namedParameters().keys()]).toEqual(['weight']);
      const out = norm.forward(make(device, 'bfloat16', [1, 4], [1, 3, 1, 3]));
      expect([...(await out.data())]).toEqual([-0.5, 0.5, -0.5, 0.5]);
    });

    test('refuses what it does not know', () => {
      expect(() => new LayerNorm(0, { device })).toThrow(
        new OptionError('LayerNorm: expected an integer from 1 to 2147483647 for features, got 0'),
      );
      expect(() => new LayerNorm(3, { device, affine: true } as object)).toThrow(
        new OptionError('LayerNorm: expected only eps, bias, dtype, device as options, got affine'),
      );
    });
  });
});
