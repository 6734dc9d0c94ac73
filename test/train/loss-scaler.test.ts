// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { bf16, fp16, fp32, LossScaler, OptionError, tensor, trainingConfig } from '../../lib/index.js';

const good = (scaler: LossScaler, steps: number): void => {
  for (let step = 0; step < steps; step++) expect(scaler.update(1)).toBe(true);
};

describe('LossScaler', () => {
  test('starts at 65536 and grows twofold after 2000 good steps', () => {
    const scaler = new LossScaler();
    good(scaler, 1999);
    expect(scaler.scale).toBe(65536);
    good(scaler, 1);
    expect(scaler.scale).toBe(131072);
  });

  test('grows exactly every interval: not again on each step after the first', () => {
    const scaler = new LossScaler();
    const grown: number[] = [];
    for (let step = 1, last = scaler.scale; step <= 6500; step++) {
      scaler.update(1);
      if (scaler.scale !== last) grown.push(step);
      last = scaler.scale;
    }
    expect(grown).toEqual([2000, 4000, 6000]);
    expect(scaler.scale).toBe(65536 * 8);
  });

  test.each([Infinity, -Infinity, NaN])('halves at a norm of %p and begins to count anew', (norm) => {
    const scaler = new LossScaler({ growthInterval: 3 });
    good(scaler, 2);
    expect(scaler.update(norm)).toBe(false);
    expect(scaler.state).toEqual({ scale: 32768, goodSteps: 0 });
    good(scaler, 2);
    expect(scaler.scale).toBe(32768);
    good(scaler, 1);
    expect(scaler.scale).toBe(65536);
  });

  test('stays between its bounds', () => {
    const scaler = new LossScaler({ growthInterval: 1 });
    good(scaler, 40);
    expect(scaler.scale).toBe(2 ** 31);
    for (let step = 0; step < 40; step++) scaler.update(Infinity);
    expect(scaler.scale).toBe(1);
    const narrow = new LossScaler({ lossScale: 10, minLossScale: 8, maxLossScale: 25, backoffFactor: 0.25 });
    narrow.update(NaN);
    expect(narrow.scale).toBe(8);
    const wide = new LossScaler({ lossScale: 10, maxLossScale: 25, growthFactor: 3, growthInterval: 1 });
    wide.update(1);
    expect(wide.scale).toBe(25);
  });

  test('a fixed scale stays, and still tells a step that overflowed', () => {
    const scaler = new LossScaler({ lossScale: 128, dynamic: false, growthInterval: 1 });
    expect([scaler.update(1), scaler.update(NaN), scaler.update(1)]).toEqual([true, false, true]);
    expect(scaler.state).toEqual({ scale: 128, goodSteps: 0 });
  });

  test('goes on from its state', () => {
    const scaler = new LossScaler({ growthInterval: 5 });
    scaler.update(NaN);
    good(scaler, 3);
    const other = new LossScaler({ growthInterval: 5 });
    other.state = JSON.parse(JSON.stringify(scaler.state)) as typeof scaler.state;
    good(other, 1);
    expect(other.scale).toBe(32768);
    good(other, 1);
    expect(other.scale).toBe(65536);
    expect(() => (other.state = { scale: 2 ** 32, goodSteps: 0 })).toThrow(
      'LossScaler: expected at most 2147483648 for scale, got 4294967296',
    );
    expect(() => (other.state = { scale: 4, goodSteps: 5 })).toThrow(OptionError);
    expect(other.scale).toBe(65536);
  });

  test('scales a loss and its gradient', async () => {
    const scaler = new LossScaler({ lossScale: 8 });
    const x = tensor(3, { requiresGrad: true });
    const scaled = scaler.scaleLoss(x, 0.25);
    expect(await scaled.item()).toBe(6);
    scaled.backward();
    expect(await x.grad?.item()).toBe(2);
    expect(scaler.scaleLoss(x, 1 / 8)).toBe(x);
  });

  test.each([
    [{ lossScale: 0 }, 'LossScaler: expected a finite number above 0 for lossScale, got 0'],
    [{ lossScale: 2 ** 32 }, 'LossScaler: expected a number from 1 to 2147483648 for lossScale, got 4294967296'],
    [{ minLossScale: -1 }, 'LossScaler: expected a finite number above 0 for minLossScale, got -1'],
    [{ maxLossScale: 0.5 }, 'LossScaler: expected a finite number of at least 1 for maxLossScale, got 0.5'],
    [{ growthFactor: 1 }, 'LossScaler: expected a number above 1 for growthFactor, got 1'],
    [{ backoffFactor: 1 }, 'LossScaler: expected a number below 1 for backoffFactor, got 1'],
    [{ growthInterval: 0 }, 'LossScaler: expected an integer from 1 to 2147483647 for growthInterval, got 0'],
    [{ dynamic: 1 as unknown as boolean }, 'LossScaler: expected a boolean for dynamic, got 1'],
  ])('refuses %p', (options, message) => {
    expect(() => new LossScaler(options)).toThrow(message);
  });
});

describe('configurations', () => {
  const scaled = {
    lossScale: 65536,
    dynamic: true,
    minLossScale: 1,
    maxLossScale: 2 ** 31,
    growthFactor: 2,
    backoffFactor: 0.5,
    growthInterval: 2000,
  };

  test('the presets', () => {
    expect(fp16()).toEqual({ compute: 'float16', master: 'float32', ...scaled });
    expect(fp16({ lossScale: 1024 })).toEqual({ ...fp16(), lossScale: 1024 });
    expect(bf16()).toEqual({ compute: 'bfloat16', master: 'float32', ...scaled, lossScale: 1, dynamic: false });
    expect(fp32()).toEqual({ compute: 'float32', master: 'float32', ...scaled, lossScale: 1, dynamic: false });
  });

  test('the defaults of training', () => {
    expect(trainingConfig()).toEqual({
      batchSize: 4,
      maxSequenceLength: 2048,
      gradientAccumulation: 4,
      mixedPrecision: fp16(),
      checkpoint: { enabled: true, every: 1 },
    });
    expect(trainingConfig({ mixedPrecision: null, checkpoint: { every: 3 } })).toEqual({
      ...trainingConfig(),
      mixedPrecision: null,
      checkpoint: { enabled: true, every: 3 },
    });
  });

  test('what makes no sense is refused', () => {
    expect(() => trainingConfig({ batchSize: 0 })).toThrow(
      'TrainingConfig: expected an integer from 1 to 2147483647 for batchSize, got 0',
    );
    expect(() => trainingConfig({ mixedPrecision: { ...bf16(), compute: 'int8' as 'float32' } })).toThrow(
      'TrainingConfig: expected one of float32, float16, bfloat16 for mixedPrecision.compute, got "int8"',
    );
    expect(() => trainingConfig({ mixedPrecision: { ...bf16(), growthFactor: 0 } })).toThrow(
      'TrainingConfig.mixedPrecision: expected a number above 1 for growthFactor, got 0',
    );
    expect(() => trainingConfig({ batchsize: 1 } as object)).toThrow(OptionError);
  });
});
