// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, OptionError, scale } from '../../lib/index.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { scaleSpec } from '../formulas/scale.js';
import { describeOp } from '../op-tests.js';

describeOp(scaleSpec);

describe('scale', () => {
  describeBackends((device) => {
    test('a power of two is exact, to the bit', async () => {
      const values = [1.5, -3.25, 0, 1e-3, 7e8];
      const x = make(device, 'float32', [5], values);
      expect(await bitsOf(scale(x, -0.25))).toEqual(
        await bitsOf(
          make(
            device,
            'float32',
            [5],
            values.map((value) => Math.fround(value) * -0.25),
          ),
        ),
      );
    });

    describeErrors(device, [
      {
        message: 'scale: expected a finite number for factor, got NaN',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => scale(t([3]), NaN),
      },
      {
        message: 'scale: expected a finite number for factor, got Infinity',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => scale(t([3]), Infinity),
      },
      {
        message: 'scale: expected x of dtype float32 or float16 or bfloat16, got int8',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => scale(t([3], 'int8'), 2),
      },
    ]);
  });
});
