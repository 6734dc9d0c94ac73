// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  crossEntropy,
  device as deviceNamed,
  DTypeError,
  KernelError,
  OptionError,
  ShapeError,
  type CrossEntropyOptions,
  type Tensor,
} from '../../lib/index.js';
import { crossEntropySpec } from '../formulas/cross-entropy.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { describeGolden, describeOp } from '../op-tests.js';

describeGolden(crossEntropySpec, [
  { fixture: 'cross_entropy', c: { name: 'cross_entropy', rows: 9, vocabulary: 211 }, names: { loss: 'out' } },
]);

describeOp(crossEntropySpec);

describe('crossEntropy', () => {
  describeBackends((device) => {
    test('hand-computed: equal logits give log V', async () => {
      const loss = crossEntropy(
        make(device, 'float32', [2, 8], new Float64Array(16)),
        make(device, 'int32', [2], [0, 7]),
      );
      expect([loss.shape, loss.dtype]).toEqual([[], 'float32']);
      expect(Math.abs((await loss.item()) - Math.log(8))).toBeLessThan(2 ** -22);
    });

    test('hand-computed: a certain, right answer costs nothing; a certain, wrong one the distance', async () => {
      const logits = make(device, 'float32', [2, 3], [200, 0, 0, 200, 0, 0], true);
      const loss = crossEntropy(logits, make(device, 'int32', [2], [0, 1]), { reduction: 'sum' });
      expect(await loss.item()).toBe(200);
      loss.backward();
      expect(Array.from((await logits.grad?.data()) ?? [], (value) => value + 0)).toEqual([0, 0, 0, 1, -1, 0]);
    });

    test('all rows ignored: loss and gradient are 0', async () => {
      const logits = make(device, 'float32', [2, 3], [1, 2, 3, 4, 5, 6], true);
      const loss = crossEntropy(logits, make(device, 'int32', [2], [-100, -100]));
      expect(await loss.item()).toBe(0);
      loss.backward();
      expect(Array.from((await logits.grad?.data()) ?? [], (value) => value + 0)).toEqual([0, 0, 0, 0, 0, 0]);
    });

    test('the gradient of an ignored row is 0 whatever its logits are', async () => {
      const logits = make(device, 'float32', [2, 2], [NaN, Infinity, 0, 0], true);
      const loss = crossEntropy(logits, make(device, 'int32', [2], [-100, 1]));
      expect(Math.abs((await loss.item()) - Math.LN2)).toBeLessThan(2 ** -24);
      loss.backward();
      expect(Array.from((await logits.grad?.data()) ?? [], (value) => value + 0)).toEqual([0, 0, 0.5, -0.5]);
    });

    test('the incoming gradient scales the result', async () => {
      const logits = make(device, 'float32', [1, 2], [0, 0], true);
      crossEntropy(logits, make(device, 'int32', [1], [0])).backward(make(device, 'float32', [], [-8]));
      expect([...(await (logits.grad as Tensor).data())]).toEqual([4, -4]);
    });

    test.each([
      [3, 'crossEntropy: expected targets in 0..2 or ignoreIndex -100, got 3 at row 1'],
      [-1, 'crossEntropy: expected targets in 0..2 or ignoreIndex -100, got -1 at row 1'],
    ])('target %i is a KernelError on the next read, and the device goes on', async (target, message) => {
      const logits = make(device, 'float32', [2, 3], [1, 2, 3, 4, 5, 6]);
      const caught: unknown = await crossEntropy(logits, make(device, 'int32', [2], [0, target]))
        .item()
        .then(
          () => null,
          (error: unknown) => error,
        );
      expect(caught).toBeInstanceOf(KernelError);
      expect(caught).toMatchObject({ message, code: 'ERR_KERNEL', op: 'crossEntropy' });
      await deviceNamed(device).synchronize(); // told once
      expect([...(await logits.data())]).toEqual([1, 2, 3, 4, 5, 6]);
      const again = crossEntropy(logits, make(device, 'int32', [2], [0, 0]), { reduction: 'sum' });
      expect(Number.isFinite(await again.item())).toBe(true);
    });

    const wrong = (options: CrossEntropyOptions, message: string) => ({
      message,
      type: OptionError,
      code: ERROR_CODES.option,
      call: (t: (shape: number[], dtype?: 'int32') => Tensor) => crossEntropy(t([2, 3]), t([2], 'int32'), options),
    });
    describeErrors(device, [
      wrong({ reduction: 'none' as 'sum' }, 'crossEntropy: expected one of mean, sum for reduction, got "none"'),
      wrong(
        { ignoreIndex: 0.5 },
        'crossEntropy: expected an integer from -2147483648 to 2147483647 for ignoreIndex, got 0.5',
      ),
      wrong(
        { zLoss: 1 } as CrossEntropyOptions,
        'crossEntropy: expected only ignoreIndex, reduction as options, got zLoss',
      ),
      {
        message: 'crossEntropy: expected targets of shape [2] to match logits, got [3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => crossEntropy(t([2, 3]), t([3], 'int32')),
      },
      {
        message: 'crossEntropy: expected logits of shape [M, V], got [3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => crossEntropy(t([3]), t([3], 'int32')),
      },
      {
        message: 'crossEntropy: expected targets of dtype int32, got uint8',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => crossEntropy(t([2, 3]), t([2], 'uint8')),
      },
    ]);
  });
});
