// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  argmax,
  checkpoint,
  defaultGenerator,
  device as deviceNamed,
  embedding,
  flashAttention,
  isGradEnabled,
  linear,
  manualSeed,
  mul,
  noGrad,
  ones,
  OptionError,
  randn,
  rmsNorm,
  rope,
  scale,
  sum,
  swiglu,
  tensor,
  tidy,
  uniform,
  valueAndGrad,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends, FLOAT_DTYPES } from '../harness.js';
import type { FloatDType } from '../../lib/dtype.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

type Run = (fn: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]) => Tensor;
const direct: Run = (fn, ...inputs) => fn(...inputs);

describeBackends((device) => {
  const leaf = (values: number | number[] | number[][]): Tensor => tensor(values, { device, requiresGrad: true });
  const constant = (values: number | number[] | number[][]): Tensor => tensor(values, { device });
  const valuesOf = async (x: Tensor | null): Promise<number[] | null> => x && Array.from(await x.data());
  const bytes = (): number => deviceNamed(device).memory().bytes;

  /** Two decoder layers with parameters from outside, as functions of the residual stream [B, S, hidden]. */
  function model(dtype: FloatDType): { x: Tensor; parameters: Tensor[]; layers: ((x: Tensor) => Tensor)[] } {
    const [batch, sequence, heads, headDim, inner] = [2, 5, 2, 4, 12];
    const hidden = heads * headDim;
    const parameters: Tensor[] = [];
    const parameter = (...shape: number[]): Tensor => {
      const made = randn(shape, { dtype, device, seed: 100 + parameters.length, std: 0.5, requiresGrad: true });
      parameters.push(made);
      return made;
    };
    const layers = [0, 1].map(() => {
      const [norm1, norm2] = [parameter(hidden), parameter(hidden)];
      const [q, k, v, o] = Array.from({ length: 4 }, () => parameter(hidden, hidden));
      const [gate, up, down] = [parameter(inner, hidden), parameter(inner, hidden), parameter(hidden, inner)];
      return (x: Tensor): Tensor => {
        const normed = rmsNorm(x, norm1);
        const split = (t: Tensor): Tensor => t.reshape(batch, sequence, heads, headDim);
        const mixed = flashAttention(
          rope(split(linear(normed, q))),
          rope(split(linear(normed, k))),
          split(linear(normed, v)),
          {
            causal: true,
          },
        );
        const h = add(x, linear(mixed.reshape(batch, sequence, hidden), o));
        const again = rmsNorm(h, norm2);
        return add(h, linear(swiglu(linear(again, gate), linear(again, up)), down));
      };
    });
    const x = randn([batch, sequence, hidden], { dtype, device, seed: 99, requiresGrad: true });
    return { x, parameters, layers };
  }

  /** Bits of the output and of all gradients, and what is left in memory. */
  async function trace(
    dtype: FloatDType,
    run: (layers: ((x: Tensor) => Tensor)[], x: Tensor) => Tensor,
  ): Promise<unknown> {
    const { x, parameters, layers } = model(dtype);
    const before = bytes();
    const y = tidy(() => run(layers, x));
    const out = await bitsOf(y);
    y.backward(randn(y.shape, { dtype, device, seed: 1 }));
    const gradients = [];
    for (const each of [x, ...parameters]) gradients.push(await bitsOf(each.grad as Tensor));
    return { out, gradients, left: bytes() - before };
  }

  describe.each(FLOAT_DTYPES)('a two-layer decoder in %s: the same bits', (dtype) => {
    test.each<[string, (layers: ((x: Tensor) => Tensor)[], x: Tensor) => Tensor]>([
      ['each layer on its own', ([first, second], x) => checkpoint(second, checkpoint(first, x))],
      ['both in one', ([first, second], x) => checkpoint((h: Tensor) => second(first(h)), x)],
      ['the first alone', ([first, second], x) => second(checkpoint(first, x))],
      ['the second alone', ([first, second], x) => checkpoint(second, first(x))],
      [
        'one inside the other, three deep',
        ([first, second], x) =>
          checkpoint(
            (h: Tensor) => checkpoint((g: Tensor) => second(checkpoint((f: Tensor) => f, g)), checkpoint(first, h)),
            x,
          ),
      ],
    ])('%s', async (_, run) => {
      const plain = await trace(dtype, ([first, second], x) => second(first(x)));
      expect(await trace(dtype, run)).toEqual(plain);
      expect((plain as { gradients: number[][] }).gradients.every((each) => each.some((bits) => bits !== 0))).toBe(
        true,
      );
    });
  });

  describe('inputs and outputs', () => {
    test('several outputs, of which one is used', async () => {
      for (const [useFirst, useSecond] of [
        [true, true],
        [true, false],
        [false, true],
      ]) {
        const results = [];
        for (const recompute of [false, true]) {
          const [x, w] = [leaf([1, 2]), leaf([3, 4])];
          const fn = (a: Tensor): Tensor[] => [mul(a, w), mul(mul(a, a), w)];
          const [first, second] = recompute ? checkpoint(fn, x) : fn(x);
          if (useFirst && useSecond) sum(add(first, scale(second, 10))).backward();
          else sum(useFirst ? first : second).backward();
          results.push([await valuesOf(first), await valuesOf(second), await valuesOf(x.grad), await valuesOf(w.grad)]);
        }
        expect(results[1]).toEqual(results[0]);
      }
    });

    test('an integer among the outputs', async () => {
      const x = leaf([[1, 5, 2]]);
      const [y, index] = checkpoint((a: Tensor) => [mul(a, a), argmax(a)], x);
      expect([index.dtype, index.requiresGrad, await index.item()]).toEqual(['int32', false, 1]);
      const [before, after] = checkpoint((a: Tensor) => [argmax(a), scale(a, 3)], x);
      expect([before.dtype, after.requiresGrad]).toEqual(['int32', true]);
      add(sum(y), sum(after)).backward();
      expect(await valuesOf(x.grad)).toEqual([5, 13, 7]);
    });

    test('integer inputs', async () => {
      const ids = tensor([1, 0, 1], { dtype: 'int32', device });
      const table = leaf([
        [1, 2],
        [3, 4],
      ]);
      sum(checkpoint((t: Tensor, i: Tensor) => embedding(t, i), table, ids)).backward();
      expect(await valuesOf(table.grad)).toEqual([1, 1, 2, 2]);
      expect(ids.grad).toBeNull();
    });

    test('inputs without a gradient, parameters from outside', async () => {
      const [x, w] = [constant([1, 2]), leaf([3, 4])];
      const y = checkpoint((a: Tensor) => mul(mul(a, w), w), x);
      expect(y.requiresGrad).toBe(true);
      sum(y).backward();
      expect([x.grad, await valuesOf(w.grad)]).toEqual([null, [6, 16]]);
    });

    test('no inputs at all', async () => {
      const w = leaf([3, 4]);
      sum(checkpoint(() => mul(w, w))).backward();
      expect(await valuesOf(w.grad)).toEqual([6, 8]);
    });

    test('one input twice, and one that is not used', async () => {
      const [x, unused] = [leaf([3]), leaf([1])];
      checkpoint<[Tensor, Tensor, Tensor], Tensor>((a, b) => mul(mul(a, a), b), x, x, unused).backward();
      expect([await valuesOf(x.grad), unused.grad && (await valuesOf(unused.grad))]).toEqual([[27], null]);
    });

    test('one parameter in two checkpoints and outside adds up', async () => {
      const [x, w] = [leaf([2]), leaf([3])];
      const step = (a: Tensor): Tensor => mul(a, w);
      mul(checkpoint(step, checkpoint(step, x)), w).backward(); // x w³
      expect([await valuesOf(x.grad), await valuesOf(w.grad)]).toEqual([[27], [54]]);
    });

    test('an input as the output', async () => {
      const x = leaf([3]);
      const [same, square] = checkpoint((a: Tensor) => [a, mul(a, a)], x);
      add(same, square).backward();
      expect(await valuesOf(x.grad)).toEqual([7]);
      expect(x.isDisposed).toBe(false);
    });

    test('one tensor as two outputs', async () => {
      const x = leaf([3]);
      const [a, b] = checkpoint((input: Tensor) => {
        const y = mul(input, input);
        return [y, y];
      }, x);
      add(a, scale(b, 10)).backward();
      expect(await valuesOf(x.grad)).toEqual([66]);
    });

    test('a parameter from outside as an output', async () => {
      const results = [];
      for (const recompute of [false, true]) {
        const [x, w] = [leaf([2]), leaf([3])];
        const fn = (a: Tensor): Tensor[] => [mul(a, w), w];
        const [product, same] = recompute ? checkpoint(fn, x) : fn(x);
        add(product, scale(same, 10)).backward();
        results.push([await valuesOf(x.grad), await valuesOf(w.grad)]);
      }
      expect(results[1]).toEqual(results[0]);
      expect(results[0]).toEqual([[3], [12]]);
    });

    test('a computed tensor from outside, used in two checkpoints and beside them', async () => {
      const results = [];
      for (const run of [direct, checkpoint as Run]) {
        const [x, w] = [leaf([2]), leaf([3])];
        const square = mul(w, w);
        const y = run(
          (a) => mul(a, square),
          run((a) => mul(a, square), x),
        );
        add(y, square).backward(); // x w⁴ + w²
        results.push([await valuesOf(x.grad), await valuesOf(w.grad)]);
      }
      expect(results[0]).toEqual([[81], [2 * 4 * 27 + 6]]);
      expect(results[1]).toEqual(results[0]);
    });

    test('a computed tensor from outside, used in one checkpoint alone', async () => {
      const [x, w] = [leaf([2]), leaf([3])];
      const square = mul(w, w);
      checkpoint((a: Tensor) => mul(a, square), x).backward();
      expect([await valuesOf(x.grad), await valuesOf(w.grad)]).toEqual([[9], [12]]);
    });

    test('an output that needs no gradient needs none', () => {
      const x = leaf([3]);
      const fn = (a: Tensor): Tensor[] => [mul(a, a), scale(constant([1]), 2)];
      expect(fn(x).map((each) => each.requiresGrad)).toEqual([true, false]);
      expect(checkpoint(fn, x).map((each) => each.requiresGrad)).toEqual([true, false]);
    });
  });

  describe('runs', () => {
    const counting = (): { fn: (a: Tensor) => Tensor; modes: boolean[] } => {
      const modes: boolean[] = [];
      return {
        modes,
        fn: (a) => {
          modes.push(isGradEnabled());
          return mul(a, a);
        },
      };
    };

    test('fn runs twice, the second time recorded and in the backward pass', () => {
      const { fn, modes } = counting();
      const y = checkpoint(fn, leaf([3]));
      expect(modes).toEqual([false]);
      y.backward();
      expect(modes).toEqual([false, true]);
      expect(isGradEnabled()).toBe(true);
    });

    test('once, where no gradient is asked for', () => {
      for (const run of [
        (fn: (a: Tensor) => Tensor) => checkpoint(fn, constant([3])),
        (fn: (a: Tensor) => Tensor) => noGrad(() => checkpoint(fn, leaf([3]))),
      ]) {
        const { fn, modes } = counting();
        const y = run(fn);
        expect([y.requiresGrad, modes.length]).toEqual([false, 1]);
        expect(() => y.backward()).toThrow(OptionError);
        expect(modes.length).toBe(1);
      }
    });

    test('once, where the backward pass does not come by', () => {
      const { fn, modes } = counting();
      const x = leaf([3]);
      const y = checkpoint(fn, x);
      add(x, x).backward();
      expect([modes.length, y.requiresGrad]).toEqual([1, true]);
    });

    test('the inner of two runs three times: once with each run of the outer, and once to go back', () => {
      const { fn, modes } = counting();
      checkpoint((a: Tensor) => checkpoint(fn, a), leaf([3])).backward();
      expect(modes).toEqual([false, false, true]);
    });

    test('inside valueAndGrad gradients of parameters from outside go nowhere', async () => {
      const [x, w] = [constant([2]), leaf([3])];
      const { value, gradients } = valueAndGrad((a: Tensor) => checkpoint((b: Tensor) => mul(mul(b, b), w), a))(x);
      expect([await value.item(), await (gradients[0] as Tensor).item(), w.grad]).toEqual([12, 12, null]);
    });

    test('what noGrad encloses inside of it requires no gradient', async () => {
      const x = leaf([3]);
      const [squared, constantly] = checkpoint((a: Tensor) => [mul(a, a), noGrad(() => mul(a, a))], x);
      expect([squared.requiresGrad, constantly.requiresGrad]).toEqual([true, false]);
      mul(squared, constantly).backward(); // 9 x²
      expect(await valuesOf(x.grad)).toEqual([54]);
    });

    test('random numbers are the same in both runs, and the sequence goes on as without', async () => {
      const results = [];
      for (const run of [direct, checkpoint as Run]) {
        manualSeed(7);
        const x = ones([64], { device, requiresGrad: true });
        const dropout = (a: Tensor): Tensor => mul(mul(a, uniform([64], { device })), mul(randn([64], { device }), a));
        const y = run(dropout, run(dropout, x));
        const next = await bitsOf(uniform([3], { device }));
        const { state } = defaultGenerator();
        sum(y).backward();
        expect(defaultGenerator().state).toEqual(state); // the backward pass leaves no trace
        results.push({ y: await bitsOf(y), dx: await bitsOf(x.grad as Tensor), next, state });
      }
      expect(results[1]).toEqual(results[0]);
    });

    test('an error in the second run arrives at backward(), and everything goes on', async () => {
      manualSeed(3);
      const x = leaf([3]);
      let runs = 0;
      const y = checkpoint((a: Tensor) => {
        randn([1], { device });
        if (++runs === 2) throw new Error('stop');
        return mul(a, a);
      }, x);
      const { state } = defaultGenerator();
      expect(() => y.backward()).toThrow('stop');
      expect([isGradEnabled(), defaultGenerator().state, x.grad]).toEqual([true, state, null]);
      checkpoint((a: Tensor) => mul(a, a), x).backward();
      expect(await valuesOf(x.grad)).toEqual([6]);
    });
  });

  describe('memory', () => {
    // L layers of k products with one parameter w. Every product saves its left factor; so going back through them directly needs them all,
    // and with checkpoints the input of each layer and, for one layer at a time, the products inside.
    const [L, k, n] = [8, 8, 1000];
    const block = 4 * n;

    function measure(run: Run): {
      afterForward: number;
      peak: number;
      left: number;
      gradient: Promise<number[] | null>;
    } {
      const w = ones([n], { device, requiresGrad: true });
      const x = ones([n], { device });
      const before = bytes();
      deviceNamed(device).resetPeakMemory();
      const layer = (h: Tensor): Tensor => {
        let y = h;
        for (let i = 0; i < k; i++) y = mul(y, w);
        return y;
      };
      const loss = tidy(() => {
        let h = x;
        for (let i = 0; i < L; i++) h = run(layer, h);
        return sum(h);
      });
      const afterForward = bytes() - before;
      loss.backward();
      const result = { afterForward, peak: deviceNamed(device).memory().peakBytes - before, left: bytes() - before };
      loss.dispose();
      return { ...result, gradient: valuesOf(w.grad) };
    }

    test('what the forward pass keeps and the peak fall as computed', async () => {
      const plain = measure(direct);
      const recomputed = measure(checkpoint as Run);
      // Not counted: w and x, made before. The last product is saved by nobody; the loss takes 4 bytes.
      expect(plain.afterForward).toBe((L * k - 1) * block + 4);
      expect(recomputed.afterForward).toBe((L - 1) * block + 4);
      expect(plain.peak).toBeGreaterThanOrEqual((L * k - 1) * block);
      // The inputs of L - 1 layers, the k products of one, the gradient of w, and six more at most under way: the gradient of the
      // layer's result, of a product and of its two factors, and a sum of two gradients.
      expect(recomputed.peak).toBeLessThanOrEqual((L - 1 + k + 1 + 6) * block + 8);
      expect(recomputed.peak).toBeGreaterThan((L - 1 + k) * block);
      expect(recomputed.peak).toBeLessThan(plain.peak / 2);
      expect([plain.left, recomputed.left]).toEqual([block + 4, block + 4]); // the gradient and the loss
      expect(await recomputed.gradient).toEqual(new Array(n).fill(L * k));
      expect(await plain.gradient).toEqual(await recomputed.gradient);
    });
  });

  describe('errors', () => {
    test('the function', () => {
      expect(() => checkpoint(1 as unknown as () => Tensor)).toThrow(
        new OptionError('checkpoint: expected a function for fn, got 1'),
      );
      expect(() => checkpoint<[Tensor], Tensor>(() => 1 as unknown as Tensor, leaf([1]))).toThrow(
        new OptionError('checkpoint: expected fn to return a tensor or an array of tensors'),
      );
      expect(() => checkpoint((async () => leaf([1])) as unknown as () => Tensor)).toThrow(OptionError);
      expect(isGradEnabled()).toBe(true);
    });
    test('the inputs', () => {
      const fn = (a: Tensor): Tensor => a;
      expect(() => checkpoint(fn, 3 as unknown as Tensor)).toThrow(
        new OptionError('checkpoint: expected a Tensor for input 0, got 3'),
      );
      const gone = leaf([1]);
      gone.dispose();
      expect(() => checkpoint(fn, gone)).toThrow(
        'checkpoint: expected a live tensor for input 0, got a disposed one of shape [1]',
      );
    });
    test('backward twice', () => {
      const y = checkpoint((a: Tensor) => mul(a, a), leaf([3]));
      y.backward();
      expect(() => y.backward()).toThrow(
        new OptionError('backward: expected a graph not used before, got one whose checkpoint was already released'),
      );
    });
  });
});
