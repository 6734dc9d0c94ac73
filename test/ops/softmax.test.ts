// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { argmax, DTypeError, ShapeError, softmax } from '../../lib/index.js';
import { softmaxCases } from '../cases.js';
import { softmaxSpec } from '../formulas/softmax.js';
import { describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { describeOp } from '../op-tests.js';
import { Random } from '../random.js';

describeOp(softmaxSpec);

describe('softmax', () => {
  describeBackends((device) => {
    test('hand-computed: equal scores, and a score that nothing else reaches', async () => {
      const x = make(device, 'float32', [2, 4], [7, 7, 7, 7, 0, 1000, 0, -1000]);
      expect([...(await softmax(x).data())]).toEqual([0.25, 0.25, 0.25, 0.25, 0, 1, 0, 0]);
    });

    test('a row of -Infinity alone gives zeros; -Infinity beside others counts for nothing', async () => {
      const x = make(device, 'float32', [2, 3], [-Infinity, -Infinity, -Infinity, 2, -Infinity, 2]);
      expect([...(await softmax(x).data())]).toEqual([0, 0, 0, 0.5, 0, 0.5]);
    });

    test.each(FLOAT_DTYPES)('the largest finite %s values give no NaN', async (dtype) => {
      const largest = dtype === 'float16' ? 65504 : 3e38;
      const x = make(device, dtype, [1, 3], [largest, -largest, largest]);
      expect([...(await softmax(x).data())]).toEqual([0.5, 0, 0.5]);
    });

    describeErrors(device, [
      {
        message: 'softmax: expected x of at least one axis, got a scalar',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => softmax(t([])),
      },
      {
        message: 'softmax: expected x of dtype float32 or float16 or bfloat16, got int32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => softmax(t([3], 'int32')),
      },
    ]);
  });
});

describe('argmax', () => {
  describeBackends((device) => {
    describe.each(FLOAT_DTYPES)('%s', (dtype) => {
      test.each(softmaxCases.cases)('$name', async (c) => {
        const cols = c.shape[c.shape.length - 1];
        const rows = c.shape.reduce((product, size) => product * size, 1) / cols;
        // Few different values, so that most rows have ties.
        const values = new Random(`argmax ${c.name}`).integers(rows * cols, -5, 5);
        const expected = Array.from({ length: rows }, (_, row) => {
          const ofRow = values.subarray(row * cols, (row + 1) * cols);
          return ofRow.indexOf(Math.max(...ofRow));
        });
        const result = argmax(make(device, dtype, c.shape, values));
        expect([result.shape, result.dtype]).toEqual([c.shape.slice(0, -1), 'int32']);
        expect([...(await result.data())]).toEqual(expected);
      });

      test.each([
        ['the first of equals', [1, 3, 3, 2, 3], 1],
        ['a NaN counts as the largest', [1, Infinity, NaN, 2, 9], 2],
        ['the first NaN', [NaN, 5, NaN, 6, 7], 0],
        ['all -Infinity', [-Infinity, -Infinity, -Infinity, -Infinity, -Infinity], 0],
        ['-Infinity first', [-Infinity, -Infinity, -7, -Infinity, -7], 2],
        ['zeros of both signs are equal', [-0, 0, -0, 0, 0], 0],
      ])('%s', async (_name, values, expected) => {
        // Also in a long row, where wide vectors are compared.
        const long = [...values, ...new Array<number>(124).fill(-Infinity)];
        expect([...(await argmax(make(device, dtype, [1, 5], values)).data())]).toEqual([expected]);
        expect([...(await argmax(make(device, dtype, [1, 129], long)).data())]).toEqual([expected]);
      });

      test('ties and NaN far into a long row', async () => {
        const values = new Float64Array(3 * 129);
        values[100] = values[128] = 1; // row 0: a tie
        values[129 + 127] = NaN; // row 1: a NaN behind
        values[129 + 3] = 9; // a larger number
        values[258 + 128] = 1; // row 2: the last
        expect([...(await argmax(make(device, dtype, [3, 129], values)).data())]).toEqual([100, 127, 128]);
      });
    });

    test('carries no gradient', () => {
      expect(argmax(make(device, 'float32', [3], [1, 2, 3], true)).requiresGrad).toBe(false);
    });

    describeErrors(device, [
      {
        message: 'argmax: expected x of at least one axis, got a scalar',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => argmax(t([])),
      },
      {
        message: 'argmax: expected x of dtype float32 or float16 or bfloat16, got uint8',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => argmax(t([3], 'uint8')),
      },
    ]);
  });
});
