// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { AdamW, clipGradNorm, OptionError, warmupCosine, type Tensor } from '../../lib/index.js';
import { keep } from '../../lib/scope.js';
import { readFixture } from '../fixture.js';
import { describeBackends, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';

/** A leaf with a gradient. */
function leafWith(leaf: Tensor, gradient: Tensor): Tensor {
  leaf.clearGrad();
  leaf.grad = keep(gradient);
  return leaf;
}

describeBackends((device) => {
  describe('AdamW', () => {
    test('golden: five steps of PyTorch, each within two float32 steps of the parameter', async () => {
      const { param, params, grads_after_clip: gradients } = readFixture('adamw');
      const size = param.values.length;
      const parameter = make(device, 'float32', [size], param.values, true);
      const optimizer = new AdamW([parameter], { learningRate: 0.01, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 });
      for (let step = 0; step < 5; step++) {
        leafWith(parameter, make(device, 'float32', [size], gradients.values.subarray(step * size, (step + 1) * size)));
        optimizer.step();
        const got = await parameter.data();
        for (let i = 0; i < size; i++) {
          const expected = params.values[step * size + i];
          // PyTorch and we round at different places; an update is 0.01, its error a few parts in 2^24 of that and of the parameter.
          expect(Math.abs(got[i] - expected)).toBeLessThanOrEqual((Math.abs(expected) + 0.01) * 2 ** -22);
        }
      }
      expect(optimizer.stepCount).toBe(5);
    });

    test.each(FLOAT_DTYPES)('%s parameters of many sizes follow the float64 formula', async (dtype) => {
      const random = new Random('adamw');
      const sizes = [1, 9, 63, 65, 1029, 16385];
      const values = sizes.map((size) => random.normals(size));
      const leaves = values.map((each, i) => make(device, dtype, [sizes[i]], each, true));
      const start = await Promise.all(leaves.map((leaf) => leaf.data()));
      const optimizer = new AdamW(leaves, { learningRate: 0.1, weightDecay: 0.5 });
      for (const leaf of leaves) leafWith(leaf, make(device, dtype, leaf.shape, random.normals(leaf.size)));
      const gradients = await Promise.all(leaves.map((leaf) => (leaf.grad as Tensor).data()));
      optimizer.step();
      const step = { float32: 2 ** -23, float16: 2 ** -10, bfloat16: 2 ** -7 }[dtype];
      for (const [i, leaf] of leaves.entries()) {
        const got = await leaf.data();
        for (let j = 0; j < got.length; j++) {
          // The first step: both moments, corrected, are the gradient and its square.
          const g = gradients[i][j];
          const expected = start[i][j] * (1 - 0.1 * 0.5) - (0.1 * g) / (Math.abs(g) + 1e-8);
          expect(Math.abs(got[j] - expected)).toBeLessThanOrEqual(step * (Math.abs(expected) + 0.1));
        }
      }
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

    test('refuses what makes no sense', () => {
      const parameter = make(device, 'float32', [2], [1, 2], true);
      expect(() => new AdamW([parameter, parameter])).toThrow(OptionError);
      expect(() => new AdamW([parameter], { betas: [1, 0.9] })).toThrow(
        'AdamW: expected a number from 0 to below 1 for betas[0], got 1',
      );
      expect(() => new AdamW([parameter], { learningRate: NaN })).toThrow(OptionError);
      expect(() => new AdamW([parameter], { weightdecay: 1 } as object)).toThrow(
        'AdamW: expected only learningRate, betas, eps, weightDecay as options, got weightdecay',
      );
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
