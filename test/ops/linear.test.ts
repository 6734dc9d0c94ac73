// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  DeviceError,
  DisposedError,
  DTypeError,
  linear,
  OptionError,
  ShapeError,
  type Tensor,
} from '../../lib/index.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { linearSpec } from '../formulas/linear.js';
import { describeOp } from '../op-tests.js';

describeOp(linearSpec);

describe('linear', () => {
  describeBackends((device) => {
    test('hand-computed: x W^T + b', async () => {
      const x = make(device, 'float32', [2, 3], [1, 2, 3, -1, 0, 0.5]);
      const weight = make(device, 'float32', [2, 3], [1, 0, -1, 2, 2, 2]);
      const bias = make(device, 'float32', [2], [10, -10]);
      const y = linear(x, weight, bias);
      expect(y.shape).toEqual([2, 2]);
      expect([...(await y.data())]).toEqual([8, 2, 8.5, -11]);
      const vector = linear(make(device, 'float32', [3], [1, 2, 3]), weight);
      expect(vector.shape).toEqual([2]);
      expect([...(await vector.data())]).toEqual([-2, 12]);
    });

    test('hand-computed: gradients of x, weight and bias', async () => {
      const x = make(device, 'float32', [2, 2], [1, 2, 3, 4], true);
      const weight = make(device, 'float32', [1, 2], [5, -6], true);
      const bias = make(device, 'float32', [1], [0], true);
      linear(x, weight, bias).backward(make(device, 'float32', [2, 1], [1, 10]));
      expect([...(await (x.grad as Tensor).data())]).toEqual([5, -6, 50, -60]);
      expect([...(await (weight.grad as Tensor).data())]).toEqual([31, 42]);
      expect([...(await (bias.grad as Tensor).data())]).toEqual([11]);
    });

    test('sums of 16-bit products are not held in 16 bits', async () => {
      // 1 + 2047 * 2^-11 in steps of 2^-11: a running sum in float16 or bfloat16 would stop growing at 1.
      const k = 2048;
      for (const dtype of ['float16', 'bfloat16'] as const) {
        const values = new Float64Array(k).fill(2 ** -11);
        values[0] = 1;
        const y = linear(make(device, dtype, [1, k], values), make(device, dtype, [1, k], new Float64Array(k).fill(1)));
        expect([...(await y.data())]).toEqual([2]); // 1.99951171875 rounded: float16 holds it as 2, bfloat16 too
      }
    });

    describeErrors(device, [
      {
        message: 'linear: expected weight of shape [N, 3] to match the last axis of x, got [2, 4]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => linear(t([2, 3]), t([2, 4])),
      },
      {
        message: 'linear: expected x of shape [..., K], got a scalar',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => linear(t([]), t([2, 4])),
      },
      {
        message: 'linear: expected bias of shape [2] to match weight, got [3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => linear(t([4]), t([2, 4]), t([3])),
      },
      {
        message: 'linear: expected weight of dtype float32 like x, got float16',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => linear(t([3]), t([2, 3], 'float16')),
      },
      {
        message: 'linear: expected x of dtype float32 or float16 or bfloat16, got int32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => linear(t([3], 'int32'), t([2, 3], 'int32')),
      },
      {
        message: 'linear: expected a Tensor for weight, got [1, 2, 3]',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => linear(t([3]), [1, 2, 3] as unknown as Tensor),
      },
      {
        message: 'linear: expected a live tensor for x, got a disposed one of shape [3]',
        type: DisposedError,
        code: ERROR_CODES.disposed,
        call: (t) => {
          const x = t([3]);
          x.dispose();
          return linear(x, t([2, 3]));
        },
      },
    ]);
    if (device !== 'reference') {
      describeErrors(device, [
        {
          message: `linear: expected weight on ${device} like x, got reference`,
          type: DeviceError,
          code: ERROR_CODES.device,
          call: (t) => linear(t([3]), t([2, 3], 'float32', 'reference')),
        },
      ]);
    }
  });
});
