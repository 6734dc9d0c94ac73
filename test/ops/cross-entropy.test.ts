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
import type { CrossEntropyCase } from '../cases.js';
import { crossEntropySpec } from '../formulas/cross-entropy.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { describeGolden, describeOp, type GoldenCase } from '../op-tests.js';

const golden = (fixture: string, options: Partial<CrossEntropyCase> = {}): GoldenCase<CrossEntropyCase> => ({
  fixture,
  c: { name: fixture, rows: 9, vocabulary: 211, ...options },
  names: { loss: 'out' },
});
describeGolden(crossEntropySpec, [
  golden('cross_entropy'),
  golden('cross_entropy_smooth', { labelSmoothing: 0.1 }),
  golden('cross_entropy_z', { zLoss: 0.001 }),
  golden('cross_entropy_softcap', { softcap: 10 }),
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

    const all: CrossEntropyOptions = { labelSmoothing: 0.1, zLoss: 0.01, softcap: 4 };

    test.each([{ reduction: 'none' } as const, { ...all, reduction: 'mean' } as const])(
      'all rows ignored, %j',
      async (options) => {
        const logits = make(device, 'float32', [2, 3], [NaN, Infinity, 3, 4, 5, 6], true);
        const loss = crossEntropy(logits, make(device, 'int32', [2], [7, 7]), { ...options, ignoreIndex: 7 });
        expect(new Set(await loss.data())).toEqual(new Set([0]));
        loss.backward(make(device, 'float32', loss.shape, [1, 1].slice(0, loss.size)));
        expect(Array.from((await logits.grad?.data()) ?? [], (value) => value + 0)).toEqual([0, 0, 0, 0, 0, 0]);
      },
    );

    test('the mean and the sum are those of the losses of the rows', async () => {
      const logits = make(device, 'float32', [3, 4], [1, 2, 3, 4, -1, 0, 1, 0, 9, 8, 7, 6]);
      const targets = make(device, 'int32', [3], [3, -100, 1]);
      const rows = await crossEntropy(logits, targets, { ...all, reduction: 'none' }).data();
      expect(rows[1]).toBe(0);
      const sum = await crossEntropy(logits, targets, { ...all, reduction: 'sum' }).item();
      const mean = await crossEntropy(logits, targets, all).item();
      expect(Math.abs(sum - (rows[0] + rows[2]))).toBeLessThan(2 ** -21);
      expect(Math.abs(mean - sum / 2)).toBeLessThan(2 ** -22);
    });

    // [-Infinity, 1, -Infinity, 1] is a vocabulary of four of which two are masked.
    const MASKED = [-Infinity, 1, -Infinity, 1];

    test('a masked vocabulary: the loss is that of the classes left, and the gradient of a masked one 0', async () => {
      const logits = make(device, 'float32', [1, 4], MASKED, true);
      const loss = crossEntropy(logits, make(device, 'int32', [1], [1]));
      expect(Math.abs((await loss.item()) - Math.LN2)).toBeLessThan(2 ** -24);
      loss.backward();
      expect(Array.from((await logits.grad?.data()) ?? [], (value) => value + 0)).toEqual([0, -0.5, 0, 0.5]);
    });

    test('a masked vocabulary longer than a chunk, the mask first', async () => {
      const n = 3000;
      const values = new Float64Array(n).fill(-Infinity);
      values.fill(2, 2500);
      const logits = make(device, 'float32', [1, n], values, true);
      const loss = crossEntropy(logits, make(device, 'int32', [1], [2600]), { zLoss: 0.5 });
      const lse = 2 + Math.log(500);
      expect(Math.abs((await loss.item()) - (lse - 2 + 0.5 * lse * lse))).toBeLessThan(1e-5);
      loss.backward();
      const grad = (await logits.grad?.data()) ?? [];
      expect(grad[0]).toBe(0);
      expect(Math.abs(grad[2999] - (1 + lse) / 500)).toBeLessThan(1e-7);
    });

    test('smoothing gives masked classes a share: the loss is Infinity, the gradients finite', async () => {
      const logits = make(device, 'float32', [1, 4], MASKED, true);
      const loss = crossEntropy(logits, make(device, 'int32', [1], [1]), { labelSmoothing: 0.5 });
      expect(await loss.item()).toBe(Infinity);
      loss.backward();
      expect([...((await logits.grad?.data()) ?? [])]).toEqual([-0.125, -0.125, -0.125, 0.375]);
    });

    test('a softcap makes infinite logits finite', async () => {
      const logits = make(device, 'float32', [1, 3], [-Infinity, 0, Infinity], true);
      const loss = crossEntropy(logits, make(device, 'int32', [1], [1]), { softcap: 2 });
      expect(Math.abs((await loss.item()) - Math.log(Math.exp(-2) + 1 + Math.exp(2)))).toBeLessThan(2 ** -22);
      loss.backward();
      const grad = (await logits.grad?.data()) ?? [];
      expect([grad[0] + 0, grad[2] + 0]).toEqual([0, 0]);
      expect(Math.abs(grad[1] - (1 / (Math.exp(-2) + 1 + Math.exp(2)) - 1))).toBeLessThan(2 ** -22);
    });

    test.each([1e4, 3e38])('logits of ±%d: differences count, and nothing overflows', async (big) => {
      const logits = make(device, 'float32', [3, 3], [big, big, -big, -big, -big, -big, big, 0, -big], true);
      const targets = make(device, 'int32', [3], [0, 2, 0]);
      const losses = crossEntropy(logits, targets, { reduction: 'none' });
      const [two, three, one] = await losses.data();
      expect(Math.abs(two - Math.LN2)).toBeLessThan(2 ** -23);
      expect(Math.abs(three - Math.log(3))).toBeLessThan(2 ** -22);
      expect(one).toBe(0);
      losses.backward(make(device, 'float32', [3], [1, 3, 1]));
      const expected = [-0.5, 0.5, 0, 1, 1, -2, 0, 0, 0];
      const grad = (await logits.grad?.data()) ?? [];
      expected.forEach((value, i) => expect(Math.abs(grad[i] - value)).toBeLessThan(2 ** -21));
    });

    test('a z-loss beyond float32 is Infinity; what has no probability still has no gradient', async () => {
      const logits = make(device, 'float32', [1, 2], [3e38, -3e38], true);
      const loss = crossEntropy(logits, make(device, 'int32', [1], [0]), { zLoss: 1 });
      expect(await loss.item()).toBe(Infinity);
      loss.backward();
      const grad = (await logits.grad?.data()) ?? [];
      expect(grad[0]).toBeGreaterThan(3.4e38);
      expect(grad[1] + 0).toBe(0);
    });

    test.each([
      ['+Infinity', [Infinity, 0, 0]],
      ['NaN', [0, NaN, 0]],
      ['-Infinity alone', [-Infinity, -Infinity, -Infinity]],
    ])('%s makes its own row NaN, and no other', async (_, row) => {
      const logits = make(device, 'float32', [2, 3], [...row, 0, 0, 0], true);
      const losses = crossEntropy(logits, make(device, 'int32', [2], [0, 1]), { reduction: 'none' });
      const [bad, good] = await losses.data();
      expect(bad).toBeNaN();
      expect(Math.abs(good - Math.log(3))).toBeLessThan(2 ** -22);
      losses.backward(make(device, 'float32', [2], [1, 1]));
      const grad = [...((await logits.grad?.data()) ?? [])];
      expect(grad.slice(0, 3)).toEqual([NaN, NaN, NaN]);
      expect(grad.slice(3).every((value) => Number.isFinite(value))).toBe(true);
    });

    test('a target that cannot be costs Infinity', async () => {
      const logits = make(device, 'float32', [1, 4], MASKED, true);
      const loss = crossEntropy(logits, make(device, 'int32', [1], [0]));
      expect(await loss.item()).toBe(Infinity);
      loss.backward();
      expect([...((await logits.grad?.data()) ?? [])].map((value) => value + 0)).toEqual([-1, 0.5, 0, 0.5]);
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
      wrong({ reduction: 'max' as 'sum' }, 'crossEntropy: expected one of mean, sum, none for reduction, got "max"'),
      wrong(
        { labelSmoothing: -0.1 },
        'crossEntropy: expected a finite number of at least 0 for labelSmoothing, got -0.1',
      ),
      wrong({ labelSmoothing: 1.5 }, 'crossEntropy: expected a number from 0 to 1 for labelSmoothing, got 1.5'),
      wrong({ zLoss: NaN }, 'crossEntropy: expected a finite number of at least 0 for zLoss, got NaN'),
      wrong({ softcap: -1 }, 'crossEntropy: expected a finite number of at least 0 for softcap, got -1'),
      wrong({ softcap: Infinity }, 'crossEntropy: expected a finite number of at least 0 for softcap, got Infinity'),
      wrong(
        { ignoreIndex: 0.5 },
        'crossEntropy: expected an integer from -2147483648 to 2147483647 for ignoreIndex, got 0.5',
      ),
      wrong(
        { weight: 1 } as CrossEntropyOptions,
        'crossEntropy: expected only ignoreIndex, reduction, labelSmoothing, zLoss, softcap as options, got weight',
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
