// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { add, device as deviceNamed, reshape, ShapeError, type Tensor } from '../../lib/index.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';

describe('reshape', () => {
  describeBackends((device) => {
    test.each([
      { shape: [6], to: [2, 3], result: [2, 3] },
      { shape: [2, 3], to: [-1], result: [6] },
      { shape: [2, 3, 4], to: [4, -1, 2], result: [4, 3, 2] },
      { shape: [1], to: [], result: [] },
      { shape: [], to: [1, 1], result: [1, 1] },
      { shape: [5, 1], to: [-1, 5], result: [1, 5] },
    ])('$shape to $to', async ({ shape, to, result }) => {
      const count = shape.reduce((product, size) => product * size, 1);
      const values = Float64Array.from({ length: count }, (_, i) => i);
      const view = reshape(make(device, 'float32', shape, values), to);
      expect(view.shape).toEqual(result);
      expect(Float64Array.from(await view.data())).toEqual(values);
    });

    test('a view: no memory of its own, which lives until the last view is gone', async () => {
      const x = make(device, 'float32', [2, 2], [1, 2, 3, 4]);
      const before = deviceNamed(device).memory();
      const view = x.reshape(4);
      expect(deviceNamed(device).memory().bytes).toBe(before.bytes);
      x.dispose();
      expect(deviceNamed(device).memory().bytes).toBe(before.bytes);
      expect([...(await view.data())]).toEqual([1, 2, 3, 4]);
      const { bytes } = deviceNamed(device).memory();
      view.dispose();
      expect(deviceNamed(device).memory().bytes).toBe(bytes - 16);
    });

    test('the gradient is reshaped back, and adds to that of other uses', async () => {
      const x = make(device, 'float32', [2, 2], [0, 0, 0, 0], true);
      add(x.reshape(4), x.reshape(-1)).backward(make(device, 'float32', [4], [1, 2, 3, 4]));
      const grad = x.grad as Tensor;
      expect(grad.shape).toEqual([2, 2]);
      expect([...(await grad.data())]).toEqual([2, 4, 6, 8]);
    });

    const wrong = (shape: number[], message: string) => ({
      message,
      type: ShapeError,
      code: ERROR_CODES.shape,
      call: (t: (shape: number[]) => Tensor) => reshape(t([2, 3]), shape),
    });
    describeErrors(device, [
      wrong([4], 'reshape: expected a shape of 6 elements, got [4]'),
      wrong([-1, -1], 'reshape: expected a shape of 6 elements, got [-1, -1]'),
      wrong([-1, 4], 'reshape: expected a shape of 6 elements, got [-1, 4]'),
      wrong([0, -1], 'reshape: expected a shape of 6 elements, got [0, -1]'),
      wrong([2.5, -1], 'reshape: expected a shape of 6 elements, got [2.5, -1]'),
      wrong(
        [6, 1, 1, 1, 1, 1, 1, 1, 1],
        'reshape: expected at most 8 sizes for shape, got [6, 1, 1, 1, 1, 1, 1, 1, 1]',
      ),
    ]);
  });
});
