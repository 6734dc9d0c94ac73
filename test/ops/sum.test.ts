// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, mean, OptionError, sum, type ReduceOptions, type Tensor } from '../../lib/index.js';
import { reduceCases } from '../cases.js';
import { expectIdentical } from '../compare.js';
import { meanSpec, reducedShape, reduction, sumSpec } from '../formulas/sum.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { describeOp } from '../op-tests.js';
import { Random } from '../random.js';

describeOp(sumSpec);
describeOp(meanSpec);

describe('sum and mean', () => {
  describeBackends((device) => {
    test.each(reduceCases.cases)('int32, wrapping around: $name', async (c) => {
      const { outer, length, inner } = reduction(c);
      const x = new Random(c.name).integers(outer * length * inner, -(2 ** 31), 2 ** 31 - 1);
      const options = { ...(c.axis !== undefined && { axis: c.axis }), ...(c.keepDims && { keepDims: true }) };
      const result = sum(make(device, 'int32', c.shape, x), options);
      expect(result.shape).toEqual(reducedShape(c));
      const expected = new Float64Array(outer * inner).map((_, i) => {
        let total = 0;
        for (let j = 0; j < length; j++)
          total = (total + x[(Math.floor(i / inner) * length + j) * inner + (i % inner)]) | 0;
        return total;
      });
      expectIdentical('sum', await result.data(), expected, result.shape);
    });

    test.each(reduceCases.cases)('shape of mean: $name', (c) => {
      const count = c.shape.reduce((product, size) => product * size, 1);
      const options = { ...(c.axis !== undefined && { axis: c.axis }), ...(c.keepDims && { keepDims: true }) };
      expect(mean(make(device, 'float32', c.shape, new Float64Array(count)), options).shape).toEqual(reducedShape(c));
    });

    test('hand-computed', async () => {
      const x = make(device, 'float32', [2, 3], [1, 2, 3, 10, 20, 30], true);
      expect([...(await sum(x, { axis: 0 }).data())]).toEqual([11, 22, 33]);
      expect([...(await sum(x, { axis: 1 }).data())]).toEqual([6, 60]);
      expect(await sum(x).item()).toBe(66);
      expect(await mean(x).item()).toBe(11);
      mean(x, { axis: 1 }).backward(make(device, 'float32', [2], [3, 6]));
      expect([...(await (x.grad as Tensor).data())]).toEqual([1, 1, 1, 2, 2, 2]);
    });

    test('sums of 16-bit floats are rounded once', async () => {
      // 256 + 1 is not a bfloat16: a running sum in 16 bits would stay at 256.
      const values = new Float64Array(257).fill(1);
      values[0] = 256;
      expect(await sum(make(device, 'bfloat16', [257], values)).item()).toBe(512);
    });

    test('the sum of float16 may lie beyond float16 on the way', async () => {
      expect(await sum(make(device, 'float16', [4], [60000, 60000, -60000, -60000])).item()).toBe(0);
    });

    const wrong = (options: ReduceOptions, message: string) => ({
      message,
      type: OptionError,
      code: ERROR_CODES.option,
      call: (t: (shape: number[]) => Tensor) => sum(t([2, 3]), options),
    });
    describeErrors(device, [
      wrong({ axis: 2 }, 'sum: expected an axis from -2 to 1, got 2'),
      wrong({ axis: -3 }, 'sum: expected an axis from -2 to 1, got -3'),
      wrong({ axis: 0.5 }, 'sum: expected an axis from -2 to 1, got 0.5'),
      wrong({ keepDims: 0 as unknown as boolean }, 'sum: expected a boolean for keepDims, got 0'),
      wrong({ dim: 0 } as ReduceOptions, 'sum: expected only axis, keepDims as options, got dim'),
      {
        message: 'mean: expected x of dtype float32 or float16 or bfloat16, got int32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => mean(t([2], 'int32')),
      },
      {
        message: 'sum: expected x of dtype float32 or float16 or bfloat16 or int32, got uint8',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => sum(t([2], 'uint8')),
      },
    ]);
  });
});
