// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, OptionError, rmsNorm, ShapeError } from '../../lib/index.js';
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

    describeErrors(device, [
      {
        message: 'rmsNorm: expected a finite number above 0 for eps, got 0',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => rmsNorm(t([3]), null, { eps: 0 }),
      },
      {
        message: 'rmsNorm: expected only eps as options, got epsilon',
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
