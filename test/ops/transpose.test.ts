// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError, ShapeError, transpose, type Tensor } from '../../lib/index.js';
import { DTYPES } from '../../lib/dtype.js';
import { expectIdentical } from '../compare.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { Random } from '../random.js';

const CASES: readonly { shape: number[]; axes?: number[] }[] = [
  { shape: [1, 1] },
  { shape: [3, 9] },
  { shape: [129, 1] },
  { shape: [65, 127] },
  { shape: [2, 63, 64] },
  { shape: [2, 9, 3, 5], axes: [0, 2, 1, 3] },
  { shape: [2, 3, 4], axes: [2, 0, 1] },
  { shape: [2, 3, 4], axes: [0, 1, 2] },
  { shape: [2, 3, 4], axes: [-1, -3, -2] },
  { shape: [5], axes: [0] },
  { shape: [], axes: [] },
  { shape: [2, 1, 3, 1, 2, 2, 1, 3], axes: [7, 6, 5, 4, 3, 2, 1, 0] },
];

/** Element `flat` of the result comes from here. */
function sourceIndex(flat: number, shape: readonly number[], order: readonly number[]): number {
  const out = order.map((axis) => shape[axis]);
  const at = new Array<number>(shape.length);
  let rest = flat;
  for (let i = out.length - 1; i >= 0; i--) {
    at[order[i]] = rest % out[i];
    rest = Math.floor(rest / out[i]);
  }
  return at.reduce((index, position, axis) => index * shape[axis] + position, 0);
}

describe('transpose', () => {
  describeBackends((device) => {
    describe.each(DTYPES)('%s', (dtype) => {
      test.each(CASES)('$shape by $axes', async ({ shape, axes }) => {
        const rank = shape.length;
        const order = axes?.map((axis) => (axis < 0 ? axis + rank : axis)) ?? [
          ...Array.from({ length: rank - 2 }, (_, i) => i),
          rank - 1,
          rank - 2,
        ];
        const values = new Random('transpose').integers(
          shape.reduce((product, size) => product * size, 1),
          0,
          100,
        );
        const result = transpose(make(device, dtype, shape, values), axes);
        expect(result.shape).toEqual(order.map((axis) => shape[axis]));
        expectIdentical(
          'transpose',
          await result.data(),
          values.map((_, i) => values[sourceIndex(i, shape, order)]),
          result.shape,
        );
      });
    });

    test('the gradient is permuted back', async () => {
      const x = make(device, 'float32', [2, 3, 2], new Float64Array(12), true);
      const values = Float64Array.from({ length: 12 }, (_, i) => i);
      transpose(x, [2, 0, 1]).backward(make(device, 'float32', [2, 2, 3], values));
      expect([...(await (x.grad as Tensor).data())]).toEqual([0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]);
    });

    test('a copy: the source can go', async () => {
      const x = make(device, 'float32', [2, 2], [1, 2, 3, 4]);
      const result = transpose(x);
      x.dispose();
      expect([...(await result.data())]).toEqual([1, 3, 2, 4]);
    });

    describeErrors(device, [
      {
        message: 'transpose: expected x of at least two axes, got 1',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => transpose(t([3])),
      },
      {
        message: 'transpose: expected a permutation of 2 axes, got [0, 0]',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => transpose(t([3, 2]), [0, 0]),
      },
      {
        message: 'transpose: expected a permutation of 2 axes, got [0]',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => transpose(t([3, 2]), [0]),
      },
      {
        message: 'transpose: expected an axis from -2 to 1, got 2',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => transpose(t([3, 2]), [0, 2]),
      },
    ]);
  });
});
