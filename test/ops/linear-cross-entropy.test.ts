// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  cast,
  crossEntropy,
  device as deviceNamed,
  DTypeError,
  KernelError,
  linear,
  linearCrossEntropy,
  noGrad,
  OptionError,
  reshape,
  ShapeError,
  type LinearCrossEntropyOptions,
  type Tensor,
} from '../../lib/index.js';
import { native } from '../../lib/native.js';
import type { FloatDType } from '../../lib/dtype.js';
import { arithmeticIn, EXACT, roundedTo } from '../arithmetic.js';
import { expectWithinTolerance, FORWARD_FACTOR, GRADIENT_FACTOR, largestError } from '../compare.js';
import { linearCrossEntropySpec } from '../formulas/linear-cross-entropy.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, hasCpu, make } from '../harness.js';
import { describeGolden, describeOp, prepareCase } from '../op-tests.js';
import { Random } from '../random.js';

describeGolden(linearCrossEntropySpec, [
  {
    fixture: 'linear_cross_entropy',
    c: { name: 'linear_cross_entropy', rows: 9, vocabulary: 211, features: 64 },
    names: { loss: 'out' },
  },
]);

describeOp(linearCrossEntropySpec);

describe('linearCrossEntropy', () => {
  describeBackends((device) => {
    const random = new Random('linearCrossEntropy');
    const normals = (shape: number[], requiresGrad = true): Tensor =>
      make(device, 'float32', shape, random.normals(shape.reduce((product, size) => product * size, 1)), requiresGrad);

    test('leading axes are rows, and the loss of each row has their shape', async () => {
      const x = normals([2, 3, 5]);
      const weight = normals([7, 5]);
      const targets = make(device, 'int32', [2, 3], [0, 6, -100, 1, 2, 3]);
      const losses = linearCrossEntropy(x, weight, targets, { reduction: 'none' });
      expect(losses.shape).toEqual([2, 3]);
      const flat = crossEntropy(linear(reshape(x, [6, 5]), weight), reshape(targets, [6]), { reduction: 'none' });
      const [got, expected] = [await losses.data(), await flat.data()];
      expected.forEach((value, i) => expect(Math.abs(got[i] - value)).toBeLessThan(1e-6));
      losses.backward(make(device, 'float32', [2, 3], [1, 1, 1, 1, 1, 1]));
      expect(x.grad?.shape).toEqual([2, 3, 5]);
      expect([...(await (x.grad as Tensor).data()).slice(10, 15)].map((value) => value + 0)).toEqual([0, 0, 0, 0, 0]);
    });

    test('a vector and a scalar target', async () => {
      const x = make(device, 'float32', [2], [1, 0]);
      const weight = make(device, 'float32', [2, 2], [5, 1, 5, 2]);
      const loss = linearCrossEntropy(x, weight, make(device, 'int32', [], [1]));
      expect(loss.shape).toEqual([]);
      expect(Math.abs((await loss.item()) - Math.LN2)).toBeLessThan(2 ** -23);
    });

    test('only the gradients that are wanted', async () => {
      const targets = make(device, 'int32', [3], [0, 1, 2]);
      for (const wanted of ['x', 'weight', 'bias']) {
        const x = normals([3, 5], wanted === 'x');
        const weight = normals([7, 5], wanted === 'weight');
        const bias = normals([7], wanted === 'bias');
        linearCrossEntropy(x, weight, targets, { bias }).backward();
        const grads = Object.entries({ x, weight, bias }).filter(([, each]) => each.grad !== null);
        expect(grads.map(([name]) => name)).toEqual([wanted]);
        expect((await (grads[0][1].grad as Tensor).data()).some((value) => value !== 0)).toBe(true);
      }
      const loss = noGrad(() => linearCrossEntropy(normals([3, 5]), normals([7, 5]), targets));
      expect(loss.requiresGrad).toBe(false);
    });

    test('the same bits again', async () => {
      const run = async (): Promise<number[][]> => {
        const again = new Random('again');
        const [x, weight] = [
          make(device, 'float32', [65, 17], again.normals(65 * 17), true),
          make(device, 'float32', [129, 17], again.normals(129 * 17), true),
        ];
        const loss = linearCrossEntropy(x, weight, make(device, 'int32', [65], again.integers(65, 0, 128)));
        loss.backward();
        return Promise.all([loss, x.grad as Tensor, weight.grad as Tensor].map(bitsOf));
      };
      expect(await run()).toEqual(await run());
    });

    // More logits than a GPU has at a time; the parts are fewer.
    (device === 'reference' ? test.skip : test).each(FLOAT_DTYPES)(
      'a large vocabulary gives what its rows give in two parts: %s',
      async (dtype) => {
        const [rows, vocabulary, features, first] = [1027, 65537, 2, 515];
        const random = new Random('large vocabulary');
        const values = random.normals(rows * features);
        const weight = make(device, dtype, [vocabulary, features], random.normals(vocabulary * features));
        const targets = Array.from({ length: rows }, (_, row) => (row * 251) % vocabulary);
        const run = async (begin: number, end: number): Promise<{ loss: number[]; dX: number[] }> => {
          const part = values.slice(begin * features, end * features);
          const x = make(device, dtype, [end - begin, features], part, true);
          const t = make(device, 'int32', [end - begin], targets.slice(begin, end));
          const loss = linearCrossEntropy(x, weight, t, { reduction: 'none' });
          loss.backward(make(device, 'float32', [end - begin], new Float64Array(end - begin).fill(1)));
          return { loss: Array.from(await loss.data()), dX: Array.from(await (x.grad as Tensor).data()) };
        };
        const whole = await run(0, rows);
        const parts = [await run(0, first), await run(first, rows)];
        const step = { float32: 2 ** -20, float16: 2 ** -10, bfloat16: 2 ** -7 }[dtype];
        for (const name of ['loss', 'dX'] as const) {
          const expected = parts.flatMap((part) => part[name]);
          const bound = (name === 'loss' ? 2 ** -20 : step) * Math.max(...expected.map(Math.abs));
          expect(whole[name].length).toBe(expected.length);
          expect(Math.max(...whole[name].map((value, i) => Math.abs(value - expected[i])))).toBeLessThanOrEqual(bound);
        }
      },
    );

    // lib/ops asks for blocks so large that only large problems have several of them; the contract leaves it free.
    describe('any blocks give the same', () => {
      const c = {
        name: 'blocks',
        rows: 13,
        vocabulary: 67,
        features: 5,
        bias: true,
        ignoreEvery: 4,
        reduction: 'none',
        labelSmoothing: 0.1,
        zLoss: 0.01,
        softcap: 6,
      } as const;
      describe.each(FLOAT_DTYPES)('%s', (dtype) => {
        test.each([
          [1, 1],
          [1, 67],
          [13, 1],
          [4, 9],
          [5, 16],
          [12, 66],
          [13, 67],
          [32, 100],
        ])('%i x %i', async (blockRows, blockCols) => {
          const { inputs, dOut } = prepareCase(linearCrossEntropySpec, c, dtype);
          const values = Object.fromEntries(Object.entries(inputs).map(([name, each]) => [name, each.values]));
          const t = Object.fromEntries(
            Object.entries(inputs).map(([name, each]) => [
              name,
              make(device, each.dtype ?? dtype, each.shape, each.values),
            ]),
          );
          const { rows, vocabulary, features, labelSmoothing, zLoss, softcap } = c;
          const scratch = (...shape: number[]): Tensor =>
            make(device, 'float32', shape, new Float64Array(shape.reduce((x, y) => x * y)).fill(NaN));
          const sumFor = (...shape: number[]): Tensor | null => (dtype === 'float32' ? null : scratch(...shape));
          const [loss, count, statistics] = [scratch(rows), scratch(1), scratch(rows, 2)];
          const workspace = scratch(blockRows * (blockCols + 8));
          const { backend } = deviceNamed(device);
          const sizes = { rows, vocabulary, features, blockRows, blockCols };
          const rule = { ignoreIndex: -100, reduction: 'none', labelSmoothing, zLoss, softcap } as const;
          const shared = {
            ...sizes,
            ...rule,
            x: t.x.arg,
            weight: t.weight.arg,
            bias: t.bias.arg,
            targets: t.targets.arg,
            count: count.arg,
            statistics: statistics.arg,
            workspace: workspace.arg,
          };
          backend.linearCrossEntropy({ ...shared, loss: loss.arg });
          const [x, weight, bias] = [t.x, t.weight, t.bias].map((each) =>
            make(device, dtype, each.shape, new Float64Array(each.size).fill(NaN)),
          );
          const dLoss = make(device, 'float32', [rows], dOut.loss);
          const sums = [sumFor(rows, features), sumFor(blockCols, features), sumFor(blockCols)];
          const [dXSum, dWeightSum, dBiasSum] = sums.map((each) => each && each.arg);
          backend.linearCrossEntropyBackward({
            ...shared,
            dLoss: dLoss.arg,
            dX: x.arg,
            dWeight: weight.arg,
            dBias: bias.arg,
            dXSum,
            dWeightSum,
            dBiasSum,
          });
          expect(await count.data()).toEqual(Float32Array.of(9));
          const exact = {
            loss: linearCrossEntropySpec.forward(EXACT, values, c).loss,
            ...linearCrossEntropySpec.backward(EXACT, values, dOut, c),
          };
          const plain = {
            loss: linearCrossEntropySpec.forward(arithmeticIn('float32'), values, c).loss,
            ...linearCrossEntropySpec.backward(arithmeticIn(dtype), values, dOut, c),
          };
          for (const [name, got] of Object.entries({ loss, x, weight, bias })) {
            const judged = name as keyof typeof exact;
            expectWithinTolerance({
              name,
              got: await got.data(),
              exact: exact[judged],
              plainError: largestError(plain[judged], exact[judged]),
              factor: name === 'loss' ? FORWARD_FACTOR : GRADIENT_FACTOR,
              dtype: got.dtype as FloatDType,
              shape: got.shape,
            });
          }
        });
      });
    });

    test('a masked vocabulary: classes of bias -Infinity cannot be', async () => {
      const x = make(device, 'float32', [1, 1], [1], true);
      const weight = make(device, 'float32', [4, 1], [3, 2, 9, 2], true);
      const bias = make(device, 'float32', [4], [-Infinity, 0, -Infinity, 0]);
      const loss = linearCrossEntropy(x, weight, make(device, 'int32', [1], [1]), { bias });
      expect(Math.abs((await loss.item()) - Math.LN2)).toBeLessThan(2 ** -24);
      loss.backward();
      expect(Array.from(await (weight.grad as Tensor).data(), (value) => value + 0)).toEqual([0, -0.5, 0, 0.5]);
    });

    test('logits of ±1e30', async () => {
      const x = make(device, 'float32', [2, 1], [1e15, -1e15], true);
      const weight = make(device, 'float32', [3, 1], [1e15, 1e15, -1e15]);
      const losses = linearCrossEntropy(x, weight, make(device, 'int32', [2], [0, 2]), { reduction: 'none' });
      const [two, one] = await losses.data();
      expect(Math.abs(two - Math.LN2)).toBeLessThan(2 ** -23);
      expect(one).toBe(0);
      losses.backward(make(device, 'float32', [2], [1, 1]));
      expect((await (x.grad as Tensor).data()).every((value) => Number.isFinite(value))).toBe(true);
    });

    test.each([9, -1])('target %i is a KernelError, also in the backward pass, and gives zeros', async (target) => {
      const x = normals([2, 3]);
      const weight = normals([9, 3]);
      const loss = linearCrossEntropy(x, weight, make(device, 'int32', [2], [0, target]));
      const caught: unknown = await loss.item().then(
        () => null,
        (error: unknown) => error,
      );
      expect(caught).toBeInstanceOf(KernelError);
      expect(caught).toMatchObject({
        message: `linearCrossEntropy: expected targets in 0..8 or ignoreIndex -100, got ${target} at row 1`,
        op: 'linearCrossEntropy',
      });
      expect(await loss.item()).toBe(0);
      loss.backward();
      await expect((x.grad as Tensor).data()).rejects.toMatchObject({ op: 'linearCrossEntropyBackward' });
      expect(new Set(await (x.grad as Tensor).data())).toEqual(new Set([0]));
      expect(new Set(await (weight.grad as Tensor).data())).toEqual(new Set([0]));
      await deviceNamed(device).synchronize();
    });

    type Make = Parameters<Parameters<typeof describeErrors>[1][number]['call']>[0];
    const wrong = (options: LinearCrossEntropyOptions, message: string) => ({
      message: `linearCrossEntropy: expected ${message}`,
      type: OptionError,
      code: ERROR_CODES.option,
      call: (t: Make) => linearCrossEntropy(t([2, 3]), t([5, 3]), t([2], 'int32'), options),
    });
    describeErrors(device, [
      wrong({ labelSmoothing: 2 }, 'a number from 0 to 1 for labelSmoothing, got 2'),
      wrong(
        { weight: 1 } as LinearCrossEntropyOptions,
        'only ignoreIndex, reduction, labelSmoothing, zLoss, softcap, bias as options, got weight',
      ),
      {
        message: 'linearCrossEntropy: expected weight of shape [N, 3] to match the last axis of x, got [5, 4]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => linearCrossEntropy(t([2, 3]), t([5, 4]), t([2], 'int32')),
      },
      {
        message: 'linearCrossEntropy: expected targets of shape [2] to match x, got [2, 1]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => linearCrossEntropy(t([2, 3]), t([5, 3]), t([2, 1], 'int32')),
      },
      {
        message: 'linearCrossEntropy: expected bias of shape [5] to match weight, got [3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => linearCrossEntropy(t([2, 3]), t([5, 3]), t([2], 'int32'), { bias: t([3]) }),
      },
      {
        message: 'linearCrossEntropy: expected targets of dtype int32, got float32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => linearCrossEntropy(t([2, 3]), t([5, 3]), t([2])),
      },
      {
        message: 'linearCrossEntropy: expected weight of dtype float32 like x, got float16',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => linearCrossEntropy(t([2, 3]), t([5, 3], 'float16'), t([2], 'int32')),
      },
    ]);
  });
});

(hasCpu ? describe : describe.skip)(
  'linearCrossEntropy on the cpu device, several blocks of rows and of columns',
  () => {
    const [rows, vocabulary, features] = [1027, 2053, 24];
    const random = new Random('several blocks');
    const values = { x: random.normals(rows * features), weight: random.normals(vocabulary * features) };
    const targets = random.integers(rows, 0, vocabulary - 1);
    const run = (
      dtype: FloatDType,
      loss: (x: Tensor, weight: Tensor, t: Tensor) => Tensor,
      rounding: FloatDType = 'bfloat16',
    ): Tensor[] => {
      const round = (each: Float64Array): Float64Array => each.map((value) => roundedTo(rounding, value));
      const x = make('cpu', dtype, [rows, features], round(values.x), true);
      const weight = make('cpu', dtype, [vocabulary, features], round(values.weight), true);
      const result = loss(x, weight, make('cpu', 'int32', [rows], targets));
      result.backward();
      return [result, x.grad as Tensor, weight.grad as Tensor];
    };

    test('equals the pair of ops', async () => {
      const fused = run('float32', linearCrossEntropy);
      const pair = run('float32', (x, weight, t) => crossEntropy(linear(x, weight), t));
      for (const [i, each] of fused.entries()) {
        const got = await each.data();
        const expected = Float64Array.from(await pair[i].data());
        const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        expected.forEach((value, j) => {
          if (!(Math.abs(got[j] - value) <= 1e-6 * largest)) throw new Error(`${i}: ${got[j]} for ${value} at ${j}`);
        });
      }
    });

    describe.each(['float16', 'bfloat16'] as const)('%s', (dtype) => {
      test('gradients are the float32 ones, rounded once: sums over blocks are float32', async () => {
        const [loss, ...exact] = run('float32', linearCrossEntropy, dtype);
        const [halfLoss, ...halves] = run(dtype, linearCrossEntropy, dtype);
        // Products of pairs of bfloat16 are added in another order, so that a few numbers are rounded to the other side.
        const pairs = dtype === 'bfloat16' && native?.isa === 'avx512bf16';
        expect(await halfLoss.item()).toBeCloseTo(await loss.item(), pairs ? 5 : 15);
        for (const [i, half] of halves.entries()) {
          const [got, expected] = [await bitsOf(half), await bitsOf(cast(exact[i], dtype))];
          const others = got.filter((bits, place) => bits !== expected[place]);
          expect(others.length).toBeLessThanOrEqual(pairs ? got.length / 200 : 0);
          got.forEach((bits, place) => {
            if (Math.abs(bits - expected[place]) > 1) throw new Error(`${bits} for ${expected[place]} at ${place}`);
          });
        }
      });
    });
  },
);
