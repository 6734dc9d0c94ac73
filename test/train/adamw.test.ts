// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  AdamW,
  clipGradNorm,
  device as deviceNamed,
  gradNorm,
  OptionError,
  warmupCosine,
  type GradNormOptions,
  type Tensor,
} from '../../lib/index.js';
import { roundTo, type FloatDType } from '../../lib/dtype.js';
import { keep } from '../../lib/scope.js';
import { expectWithinTolerance, FORWARD_FACTOR, largestError } from '../compare.js';
import { readFixture } from '../fixture.js';
import { bitsOf, describeBackends, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';

interface Settings {
  learningRate: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
}

/** The formula of torch.optim.AdamW, every intermediate result rounded by `round`; the parameter is held in `dtype`. */
class Simulation {
  parameter: Float64Array;
  private readonly m: Float64Array;
  private readonly v: Float64Array;
  private steps = 0;

  constructor(
    parameter: ArrayLike<number>,
    private readonly settings: Settings,
    private readonly round: (value: number) => number,
    private readonly dtype?: FloatDType,
  ) {
    this.parameter = Float64Array.from(parameter);
    this.m = new Float64Array(parameter.length);
    this.v = new Float64Array(parameter.length);
  }

  step(gradient: ArrayLike<number>): void {
    const { round: r, m, v } = this;
    const { learningRate, beta1, beta2, eps, weightDecay } = this.settings;
    this.steps++;
    const correction1 = 1 - beta1 ** this.steps;
    const correction2 = Math.sqrt(1 - beta2 ** this.steps);
    this.parameter = this.parameter.map((old, i) => {
      const p = r(old * (1 - learningRate * weightDecay));
      m[i] = r(r(beta1 * m[i]) + r((1 - beta1) * gradient[i]));
      v[i] = r(r(beta2 * v[i]) + r(r((1 - beta2) * gradient[i]) * gradient[i]));
      const denominator = r(r(r(Math.sqrt(v[i])) / correction2) + eps);
      const value = r(p - r(r((learningRate / correction1) * m[i]) / denominator));
      // 16-bit parameters are rounded after every step in both, so that the comparison is of steps and not of histories.
      return this.dtype && this.dtype !== 'float32' ? roundTo(this.dtype, value) : value;
    });
  }
}

/** A leaf with a gradient. */
function leafWith(leaf: Tensor, gradient: Tensor): Tensor {
  leaf.clearGrad();
  leaf.grad = keep(gradient);
  return leaf;
}

describeBackends((device) => {
  describe('AdamW', () => {
    test('golden: five steps, as close to float64 as PyTorch', async () => {
      const { param, params, grads_after_clip: gradients } = readFixture('adamw');
      const size = param.values.length;
      const settings = { learningRate: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
      const parameter = make(device, 'float32', [size], param.values, true);
      const optimizer = new AdamW([parameter], { learningRate: 0.01, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 });
      const exact = new Simulation(param.values, settings, (value) => value);
      for (let step = 0; step < 5; step++) {
        const gradient = gradients.values.subarray(step * size, (step + 1) * size);
        leafWith(parameter, make(device, 'float32', [size], gradient));
        optimizer.step();
        exact.step(gradient);
        expectWithinTolerance({
          name: `step ${step + 1}`,
          got: await parameter.data(),
          exact: exact.parameter,
          plainError: largestError(params.values.subarray(step * size, (step + 1) * size), exact.parameter),
          factor: FORWARD_FACTOR,
          dtype: 'float32',
          shape: [size],
        });
      }
      expect(optimizer.stepCount).toBe(5);
    });

    test.each(FLOAT_DTYPES)('%s parameters of many sizes, three steps', async (dtype) => {
      const random = new Random('adamw');
      const sizes = [1, 9, 63, 65, 1029, 16385];
      const settings = { learningRate: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.5 };
      const leaves = sizes.map((size) => make(device, dtype, [size], random.normals(size), true));
      const start = await Promise.all(leaves.map((leaf) => leaf.data()));
      const exact = start.map((values) => new Simulation(values, settings, (value) => value, dtype));
      const plain = start.map((values) => new Simulation(values, settings, Math.fround, dtype));
      const optimizer = new AdamW(leaves, { learningRate: 0.1, weightDecay: 0.5, masterWeights: false });
      for (let step = 0; step < 3; step++) {
        for (const leaf of leaves) leafWith(leaf, make(device, dtype, leaf.shape, random.normals(leaf.size)));
        const gradients = await Promise.all(leaves.map((leaf) => (leaf.grad as Tensor).data()));
        optimizer.step();
        for (const [i, leaf] of leaves.entries()) {
          exact[i].step(gradients[i]);
          plain[i].step(gradients[i]);
          expectWithinTolerance({
            name: `step ${step + 1}, ${sizes[i]} elements`,
            got: await leaf.data(),
            exact: exact[i].parameter,
            plainError: largestError(plain[i].parameter, exact[i].parameter),
            factor: FORWARD_FACTOR,
            dtype,
            shape: [sizes[i]],
          });
        }
      }
    });

    test.each(['float16', 'bfloat16'] as const)('%s parameters are their float32 masters, rounded', async (dtype) => {
      const random = new Random('masters');
      const sizes = [1, 9, 63, 65, 1029, 16385];
      const settings = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.5 };
      const leaves = sizes.map((size) => make(device, dtype, [size], random.normals(size), true));
      const start = await Promise.all(leaves.map((leaf) => leaf.data()));
      const exact = start.map((values) => new Simulation(values, settings, (value) => value));
      const plain = start.map((values) => new Simulation(values, settings, Math.fround));
      const optimizer = new AdamW(leaves, { learningRate: 1e-3, weightDecay: 0.5 });
      for (let step = 0; step < 3; step++) {
        // Gradients may be of the parameter's dtype or float32.
        const gradientDType = step === 1 ? 'float32' : dtype;
        for (const leaf of leaves) leafWith(leaf, make(device, gradientDType, leaf.shape, random.normals(leaf.size)));
        const gradients = await Promise.all(leaves.map((leaf) => (leaf.grad as Tensor).data()));
        optimizer.step();
        const masters: number[] = [];
        for (const [i, leaf] of leaves.entries()) {
          exact[i].step(gradients[i]);
          plain[i].step(gradients[i]);
          const master = await (optimizer.state().tensors.get(`${i}.master`) as Tensor).data();
          masters.push(...master);
          expect(Array.from(await leaf.data())).toEqual(Array.from(master, (value) => roundTo(dtype, value)));
        }
        // Together: of one element after several steps, the plain formula's error may happen to be nothing.
        const all = (simulations: Simulation[]): number[] => simulations.flatMap((each) => [...each.parameter]);
        expectWithinTolerance({
          name: `step ${step + 1}`,
          got: masters,
          exact: all(exact),
          plainError: largestError(all(plain), all(exact)),
          factor: FORWARD_FACTOR,
          dtype: 'float32',
          shape: [masters.length],
        });
      }
    });

    test('masters follow weights that are loaded, once they are refreshed', async () => {
      const leaf = make(device, 'bfloat16', [2], [1, 2], true);
      const optimizer = new AdamW([leaf], { learningRate: 2 ** -6, weightDecay: 0 });
      const loaded = make(device, 'bfloat16', [2], [3, 2]);
      deviceNamed(device).backend.cast({ x: loaded.arg, out: leaf.arg });
      optimizer.refreshMasters();
      leafWith(leaf, make(device, 'bfloat16', [2], [1, -1]));
      optimizer.step();
      expect([...(await leaf.data())]).toEqual([2.984375, 2.015625]);
    });

    test('float32 parameters have no master', () => {
      const optimizer = new AdamW([make(device, 'float32', [2], [1, 2], true)], { masterWeights: true });
      expect([...optimizer.state().tensors.keys()]).toEqual(['0.firstMoment', '0.secondMoment']);
    });

    test.each(FLOAT_DTYPES)('%s: a coefficient is a factor of every gradient', async (dtype) => {
      const values = new Random('coefficient').normals(700);
      const gradient = new Random('gradient').normals(700);
      const run = async (factor: number, coefficient?: Tensor): Promise<number[]> => {
        const leaf = make(device, dtype, [700], values, true);
        const optimizer = new AdamW([leaf], { eps: 1e-3 });
        const scaled = make(device, dtype, [700], gradient);
        leafWith(
          leaf,
          make(
            device,
            dtype,
            [700],
            Array.from(await scaled.data(), (value) => value * factor),
          ),
        );
        for (let step = 0; step < 3; step++) optimizer.step({ coefficient });
        return [...(await leaf.data()), ...(await (optimizer.state().tensors.get('0.secondMoment') as Tensor).data())];
      };
      // Powers of two, so that the products are exact in every dtype.
      expect(await run(1, make(device, 'float32', [], [0.25]))).toEqual(await run(0.25));
      expect(await run(8, make(device, 'float32', [1], [1 / 8]))).toEqual(await run(1));
      expect(await run(1, make(device, 'float32', [1], [1]))).toEqual(await run(1));
    });

    test('goes on from its state to the same bits', async () => {
      const random = new Random('state');
      const values = random.normals(70);
      const gradients = [1, 2, 3, 4].map(() => random.normals(70));
      const [a, b] = [1, 2].map(() => make(device, 'bfloat16', [70], values, true));
      const [first, second] = [new AdamW([a]), new AdamW([b])];
      const step = (leaf: Tensor, optimizer: AdamW, gradient: Float64Array): void => {
        leafWith(leaf, make(device, 'bfloat16', [70], gradient));
        optimizer.step();
      };
      for (const gradient of gradients.slice(0, 2)) step(a, first, gradient);
      await second.loadState(first.state());
      const master = second.state().tensors.get('0.master') as Tensor;
      expect(await bitsOf(master)).toEqual(await bitsOf(first.state().tensors.get('0.master') as Tensor));
      expect(second.stepCount).toBe(2);
      for (const gradient of gradients.slice(2)) {
        step(a, first, gradient);
        step(b, second, gradient);
      }
      expect(await bitsOf(b)).toEqual(await bitsOf(a));
      for (const [name, tensor] of first.state().tensors) {
        expect(await bitsOf(second.state().tensors.get(name) as Tensor)).toEqual(await bitsOf(tensor));
      }
    });

    test('refuses a state of other parameters, and stays as it was', async () => {
      const optimizer = new AdamW([make(device, 'bfloat16', [2], [1, 2], true)]);
      const other = new AdamW([make(device, 'bfloat16', [3], [1, 2, 3], true)]);
      await expect(optimizer.loadState(other.state())).rejects.toThrow(
        'AdamW.loadState: expected 0.firstMoment of shape [2], got [3]',
      );
      const plain = new AdamW([make(device, 'float32', [2], [1, 2], true)]);
      await expect(optimizer.loadState({ ...plain.state(), stepCount: 5 })).rejects.toThrow(
        'AdamW.loadState: expected a tensor named 0.master, got none',
      );
      await expect(plain.loadState({ ...optimizer.state(), stepCount: 5 })).rejects.toThrow(
        'AdamW.loadState: expected only the names of this state, got 0.master',
      );
      await expect(optimizer.loadState({ ...optimizer.state(), stepCount: -1 })).rejects.toThrow(OptionError);
      expect([optimizer.stepCount, plain.stepCount]).toEqual([0, 0]);
    });

    test('parameters without a gradient stay, and groups have their own decay', async () => {
      const still = make(device, 'float32', [2], [1, 2], true);
      const decayed = make(device, 'float32', [1], [1], true);
      const free = make(device, 'float32', [1], [1], true);
      const optimizer = new AdamW([{ parameters: [still, decayed] }, { parameters: [free], weightDecay: 0 }], {
        learningRate: 0.5,
        weightDecay: 0.5,
      });
      leafWith(decayed, make(device, 'float32', [1], [0]));
      leafWith(free, make(device, 'float32', [1], [0]));
      optimizer.step();
      expect([...(await still.data())]).toEqual([1, 2]);
      expect(await decayed.item()).toBe(0.75);
      expect(await free.item()).toBe(1);
    });

    test('refuses gradients and coefficients that do not fit, and takes no step', () => {
      const leaf = make(device, 'float16', [2], [1, 2], true);
      const optimizer = new AdamW([leaf]);
      leafWith(leaf, make(device, 'bfloat16', [2], [1, 2]));
      expect(() => optimizer.step()).toThrow(
        'AdamW.step: expected gradient of dtype float16 or float32 like its parameter, got bfloat16',
      );
      leafWith(leaf, make(device, 'float16', [3], [1, 2, 3]));
      expect(() => optimizer.step()).toThrow(
        'AdamW.step: expected gradient of shape [2] to match its parameter, got [3]',
      );
      leafWith(leaf, make(device, 'float16', [2], [1, 2]));
      expect(() => optimizer.step({ coefficient: make(device, 'float32', [2], [1, 1]) })).toThrow(
        'AdamW.step: expected coefficient of shape [], got [2]',
      );
      expect(() => optimizer.step({ coefficient: make(device, 'float16', [], [1]) })).toThrow(
        'AdamW.step: expected coefficient of dtype float32, got float16',
      );
      expect(optimizer.stepCount).toBe(0);
    });

    test('refuses what makes no sense', () => {
      const parameter = make(device, 'float32', [2], [1, 2], true);
      expect(() => new AdamW([parameter, parameter])).toThrow(OptionError);
      expect(() => new AdamW([parameter], { betas: [1, 0.9] })).toThrow(
        'AdamW: expected a number from 0 to below 1 for betas[0], got 1',
      );
      expect(() => new AdamW([parameter], { learningRate: NaN })).toThrow(OptionError);
      expect(() => new AdamW([parameter], { weightdecay: 1 } as object)).toThrow(
        'AdamW: expected only learningRate, betas, eps, weightDecay, masterWeights as options, got weightdecay',
      );
    });
  });

  describe('gradNorm', () => {
    const leaves = (dtype: FloatDType, factor: number): Tensor[] => [
      leafWith(make(device, dtype, [2], [0, 0], true), make(device, dtype, [2], [3 * factor, 0])),
      leafWith(make(device, dtype, [1], [0], true), make(device, dtype, [1], [4 * factor])),
    ];
    const numbers = async (parameters: Tensor[], options: GradNormOptions): Promise<[number, number]> => {
      const { norm, coefficient } = gradNorm(parameters, options);
      return [await norm.item(), await coefficient.item()];
    };

    test.each(FLOAT_DTYPES)('%s: takes the loss scale out and clips, without touching the gradients', async (dtype) => {
      const parameters = leaves(dtype, 1024);
      expect(await numbers(parameters, { lossScale: 1024 })).toEqual([5, 1 / 1024]);
      expect(await numbers(parameters, { lossScale: 1024, maxNorm: 100 })).toEqual([5, 1 / 1024]);
      expect(await numbers(parameters, {})).toEqual([5120, 1]);
      const [norm, coefficient] = await numbers(parameters, { lossScale: 1024, maxNorm: 1 });
      expect([norm, coefficient]).toEqual([5, Math.fround(1 / (5 + 1e-6) / 1024)]);
      expect([...(await (parameters[0].grad as Tensor).data())]).toEqual([3072, 0]);
    });

    test.each([Infinity, -Infinity, NaN])('a gradient of %p makes the coefficient NaN', async (value) => {
      const [a, b] = leaves('float16', 1);
      leafWith(b, make(device, 'float16', [1], [value]));
      const [norm, coefficient] = await numbers([a, b], { lossScale: 65536 });
      expect(Number.isFinite(norm)).toBe(false);
      expect(coefficient).toBeNaN();
    });

    test('refuses what makes no sense', () => {
      const parameters = leaves('float32', 1);
      expect(() => gradNorm(parameters, { maxNorm: 0 })).toThrow(
        'gradNorm: expected a finite number above 0 for maxNorm, got 0',
      );
      expect(() => gradNorm(parameters, { lossScale: Infinity })).toThrow(
        'gradNorm: expected a finite number above 0 for lossScale, got Infinity',
      );
      expect(() => gradNorm([])).toThrow('gradNorm: expected at least one parameter with a gradient, got none');
    });
  });

  describe('clipGradNorm', () => {
    const twoLeaves = (): [Tensor, Tensor] => [
      leafWith(make(device, 'float32', [2], [0, 0], true), make(device, 'float32', [2], [3, 0])),
      leafWith(make(device, 'float32', [1], [0], true), make(device, 'float32', [1], [4])),
    ];

    test('scales a long gradient to the norm and leaves a short one', async () => {
      const [a, b] = twoLeaves();
      expect(await clipGradNorm([a, b], 1).item()).toBe(5);
      const clipped = [...(await (a.grad as Tensor).data()), ...(await (b.grad as Tensor).data())];
      expect(Math.hypot(...clipped)).toBeCloseTo(1, 5);
      expect(clipped[0] / clipped[2]).toBeCloseTo(0.75, 6);
      const [c, d] = twoLeaves();
      expect(await clipGradNorm([c, d], 100).item()).toBe(5);
      expect([...(await (c.grad as Tensor).data()), ...(await (d.grad as Tensor).data())]).toEqual([3, 0, 4]);
    });

    test('a norm that is not finite makes every gradient NaN', async () => {
      const [a, b] = twoLeaves();
      leafWith(b, make(device, 'float32', [1], [Infinity]));
      expect(await clipGradNorm([a, b], 1).item()).toBe(Infinity);
      expect([...(await (a.grad as Tensor).data())]).toEqual([NaN, NaN]);
    });

    test('needs a gradient', () => {
      expect(() => clipGradNorm([make(device, 'float32', [1], [0], true)], 1)).toThrow(
        'clipGradNorm: expected at least one parameter with a gradient, got none',
      );
    });
  });
});

describe('warmupCosine', () => {
  const schedule = warmupCosine({ peak: 2, warmup: 10, total: 110, floor: 1 });

  test('rises linearly, falls along half a cosine, and stays at the floor', () => {
    expect(schedule(1)).toBeCloseTo(0.2, 12);
    expect(schedule(10)).toBe(2);
    expect(schedule(60)).toBeCloseTo(1.5, 12);
    expect(schedule(110)).toBe(1);
    expect(schedule(1000)).toBe(1);
  });

  test('refuses a warm-up longer than the whole', () => {
    expect(() => warmupCosine({ peak: 1, warmup: 11, total: 10 })).toThrow(OptionError);
  });
});
