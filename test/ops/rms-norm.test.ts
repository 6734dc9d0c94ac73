// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, OptionError, rmsNorm, ShapeError, type Tensor } from '../../lib/index.js';
import { rmsNormSpec } from '../formulas/rms-norm.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { describeGolden, describeOp } from '../op-tests.js';

describeGolden(rmsNormSpec, [
  { fixture: 'rms_norm', c: { name: 'rms_norm', shape: [2, 7, 96], weight: true, eps: 1e-5 } },
]);

describeOp(rmsNormSpec);

describe('rmsNorm', () => {
  describeBackends((device) => {
    test('hand-computed: mean square 4 with eps 12, so a quarter of x', async () => {
      const x = make(device, 'float32', [1, 4], [2, -2, 2, -2]);
      const weight = make(device, 'float32', [4], [1, 2, 3, 4]);
      expect([...(await rmsNorm(x, weight, { eps: 12 }).data())]).toEqual([0.5, -1, 1.5, -2]);
      expect([...(await rmsNorm(x, null, { eps: 12 }).data())]).toEqual([0.5, -0.5, 0.5, -0.5]);
    });

    test('a row of zeros gives zeros', async () => {
      expect([...(await rmsNorm(make(device, 'float32', [1, 3], [0, 0, 0]), null).data())]).toEqual([0, 0, 0]);
    });

    test('large finite float16 values give no infinity', async () => {
      // 300^2 is beyond float16, its mean square is not beyond float32.
      expect([...(await rmsNorm(make(device, 'float16', [1, 3], [300, -300, 300]), null).data())]).toEqual([1, -1, 1]);
    });

    test('squares beyond float32 and below it', async () => {
      const largest = (2 - 2 ** -23) * 2 ** 127;
      // The row is x(i) · size; eps is nothing against it. With 127 columns, vectors and what is left over both count.
      for (const [size, eps, bound] of [
        [1e30, 1e-5, 2 ** -22],
        [largest, 1e-5, 2 ** -21],
        [1e-25, 1e-70, 2 ** -22],
        [1e-37, 1e-90, 2 ** -22],
      ]) {
        const x = make(device, 'float32', [2, 127], new Float64Array(254).fill(size), true);
        const weight = make(device, 'float32', [127], new Float64Array(127).fill(1), true);
        const out = rmsNorm(x, weight, { eps });
        for (const value of await out.data()) expect(Math.abs(value - 1)).toBeLessThan(bound);
        out.backward(make(device, 'float32', [2, 127], new Float64Array(254).fill(1)));
        for (const value of await (weight.grad as Tensor).data()) expect(Math.abs(value - 2)).toBeLessThan(2 * bound);
        // Along a row of equal numbers the norm is constant: nothing but rounding of terms of 1 / size is left.
        for (const value of await (x.grad as Tensor).data()) expect(Math.abs(value * size)).toBeLessThan(8 * bound);
      }
    });

    describeErrors(device, [
      {
        message: 'rmsNorm: expected residual of shape [2, 3] to match x, got [3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => rmsNorm(t([2, 3]), t([3]), { residual: t([3]) }),
      },
      {
        message: 'rmsNorm: expected residual of dtype float32 like x, got bfloat16',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => rmsNorm(t([2, 3]), t([3]), { residual: t([2, 3], 'bfloat16') }),
      },
      {
        message: 'rmsNorm: expected a Tensor for residual, got 3',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => rmsNorm(t([2, 3]), t([3]), { residual: 3 as unknown as Tensor }),
      },
      {
        message: 'rmsNorm: expected a finite number above 0 for eps, got 0',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => rmsNorm(t([3]), null, { eps: 0 }),
      },
      {
        message: 'rmsNorm: expected only eps, residual as options, got epsilon',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => rmsNorm(t([3]), null, { epsilon: 1 } as object),
      },
      {
        message: 'rmsNorm: expected weight of shape [3] to match the last axis of x, got [2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => rmsNorm(t([2, 3]), t([2])),
      },
      {
        message: 'rmsNorm: expected x of shape [..., K], got a scalar',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => rmsNorm(t([]), null),
      },
      {
        message: 'rmsNorm: expected weight of dtype float16 like x, got float32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => rmsNorm(t([3], 'float16'), t([3])),
      },
    ]);
  });
});
