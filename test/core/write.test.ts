// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { add, mul, scale, sum, tensor, zeros, type Tensor } from '../../lib/index.js';
import { describeBackends, describeErrors, ERROR_CODES } from '../harness.js';
import { DeviceError, DisposedError, DTypeError, OptionError, ShapeError } from '../../lib/index.js';

const numbers = async (t: Tensor): Promise<number[]> => Array.from(await t.data());

describe('Tensor.write', () => {
  describeBackends((device) => {
    const on = { device };

    test('takes nested arrays, typed arrays and tensors', async () => {
      const x = zeros([2, 2], on);
      x.write([
        [1, 2],
        [3, 4],
      ]);
      expect(await numbers(x)).toEqual([1, 2, 3, 4]);
      x.write(Float64Array.of(5, 6, 7, 0.1));
      expect(await numbers(x)).toEqual([5, 6, 7, Math.fround(0.1)]);
      const y = tensor([8, 9, 10, 11], { shape: [2, 2], ...on });
      x.write(y);
      x.write(x);
      y.write([
        [0, 0],
        [0, 0],
      ]);
      expect(await numbers(x)).toEqual([8, 9, 10, 11]);
      const scalar = tensor(3, on);
      scalar.write(4);
      expect(await scalar.item()).toBe(4);
    });

    test('rounds to the dtype', async () => {
      const half = zeros([2], { dtype: 'bfloat16', ...on });
      half.write([1.0001, 3.14159]);
      expect(await numbers(half)).toEqual([1, 3.140625]);
      const bytes = zeros([3], { dtype: 'int8', ...on });
      bytes.write([1.9, 300, -300]);
      expect(await numbers(bytes)).toEqual([1, 127, -128]);
      bytes.write(Int8Array.of(1, 2, 3));
      expect(await numbers(bytes)).toEqual([1, 2, 3]);
    });

    test('is done in the order of the ops; the values may change at once', async () => {
      const x = tensor([1, 2], on);
      const before = scale(x, 10);
      const values = Float32Array.of(3, 4);
      x.write(values);
      values.fill(0);
      const after = scale(x, 10);
      expect(await numbers(before)).toEqual([10, 20]);
      expect(await numbers(after)).toEqual([30, 40]);
    });

    test('leaves gradients alone, and is possible again after the backward pass', async () => {
      const w = tensor([1, 2], { requiresGrad: true, ...on });
      const loss = sum(mul(w, w));
      expect(() => w.write([5, 5])).toThrow(OptionError); // the backward pass needs it
      loss.backward();
      w.write([5, 5]);
      expect(w.requiresGrad).toBe(true);
      expect(await numbers(w.grad as Tensor)).toEqual([2, 4]);
    });

    test('refuses a tensor of another device', () => {
      const other = device === 'reference' ? 'cpu' : 'reference';
      const [x, y] = [zeros([2], on), zeros([2], { device: other })];
      const message = `write: expected values on ${x.device.id} like tensor, got ${other}`;
      expect(() => x.write(y)).toThrow(new DeviceError(message));
    });

    describeErrors(device, [
      {
        message: 'write: expected values of shape [2, 3], got [3, 2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) =>
          t([2, 3]).write([
            [1, 2],
            [3, 4],
            [5, 6],
          ]),
      },
      {
        message: 'write: expected values of shape [2, 3], got [5]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => t([2, 3]).write(new Float32Array(5)),
      },
      {
        message: 'write: expected nested arrays of equal, positive lengths, got ragged or empty ones',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => t([2, 2]).write([[1, 2], [3]]),
      },
      {
        message: 'write: expected values of shape [2], got [3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => t([2]).write(t([3])),
      },
      {
        message: 'write: expected values for float32, got Int32Array',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => t([2]).write(new Int32Array(2)),
      },
      {
        message: 'write: expected values for int32, got Float32Array',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => t([2], 'int32').write(new Float32Array(2)),
      },
      {
        message: 'write: expected values of dtype float32, got float16',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => t([2]).write(t([2], 'float16')),
      },
      {
        message: 'write: expected numbers in nested arrays, got "ab"',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => t([2]).write('ab' as never),
      },
      {
        message: 'write: expected a leaf, got the result of add',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => {
          const w = t([2]);
          w.requiresGrad = true;
          using out = add(w, w);
          out.write([1, 2]);
        },
      },
      {
        message: 'write: expected a tensor that shares its memory with no view or graph, got one that does',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => {
          const x = t([2]);
          using view = x.detach();
          view.write([1, 2]);
        },
      },
      {
        message: 'write: expected a live tensor, got a disposed one of shape [2]',
        type: DisposedError,
        code: ERROR_CODES.disposed,
        call: (t) => {
          const x = t([2]);
          x.dispose();
          x.write([1, 2]);
        },
      },
    ]);
  });
});
