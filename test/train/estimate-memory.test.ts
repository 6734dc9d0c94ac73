// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  AdamW,
  applyLora,
  CausalLM,
  defaultGenerator,
  device as deviceNamed,
  estimateMemory,
  Linear,
  manualSeed,
  memory,
  Module,
  noGrad,
  OptionError,
  tensor,
  tidy,
  trackTensors,
  liveTensors,
  type CausalLMOptions,
  type CheckpointConfig,
  type DeviceName,
  type FloatDType,
  type LossModel,
  type MemoryEstimateOptions,
} from '../../lib/index.js';
import { bitsOf, describeBackends } from '../harness.js';
import { holdMemory } from '../core/hold-memory.js';

holdMemory();

const SIZES: Record<string, CausalLMOptions> = {
  small: { vocabulary: 33, layers: 3, hidden: 32, heads: 4, keyHeads: 2, intermediate: 48 },
  // Activations outweigh parameters here, and the other way round there.
  deep: { vocabulary: 64, layers: 7, hidden: 16, heads: 2, intermediate: 24, activation: 'relu2Glu' },
  wide: {
    vocabulary: 257,
    layers: 2,
    hidden: 96,
    heads: 6,
    keyHeads: 3,
    intermediate: 128,
    ternary: false,
    tieEmbeddings: false,
  },
};

interface Shape {
  batchSize: number;
  sequenceLength: number;
}

/** What a step takes when it is really taken. */
async function measured(
  device: DeviceName,
  model: CausalLM,
  { batchSize, sequenceLength }: Shape,
  optimize = true,
): Promise<{ gradients: number; optimizer: number; activations: number; peak: number }> {
  const meter = deviceNamed(device);
  const parameters = model.parameters();
  const modelBytes = [...model.state().values()].reduce((bytes, each) => bytes + each.bytes, 0);
  const start = meter.memory().bytes - modelBytes;
  const optimizer = optimize ? new AdamW(parameters) : null;
  const ready = meter.memory().bytes;
  meter.resetPeakMemory();
  let activations = 0;
  tidy(() => {
    const values = Int32Array.from({ length: batchSize * sequenceLength }, (_, i) => i % 30);
    const draw = () => tensor(values, { shape: [batchSize, sequenceLength], device });
    const loss = model.loss(draw(), draw());
    activations = meter.memory().bytes - ready;
    loss.backward();
  });
  optimizer?.step();
  const result = {
    gradients: parameters.reduce((bytes, each) => bytes + (each.grad?.bytes ?? 0), 0),
    optimizer: ready - start - modelBytes,
    activations,
    peak: meter.memory().peakBytes - start,
  };
  await meter.synchronize();
  optimizer?.dispose();
  model.clearGrad();
  return result;
}

describeBackends((device) => {
  const make = (options: CausalLMOptions, checkpoint?: Partial<CheckpointConfig>): CausalLM => {
    manualSeed(1);
    const model = new CausalLM(options, { device });
    if (checkpoint) model.checkpointConfig = checkpoint;
    return model;
  };

  describe.each(Object.keys(SIZES))('a %s model: to the byte what memory() shows', (name) => {
    describe.each<FloatDType>(['float32', 'bfloat16'])('%s', (dtype) => {
      test.each<[string, Partial<CheckpointConfig>]>([
        ['no checkpoints', { enabled: false }],
        ['a checkpoint for every layer', { every: 1 }],
        ['one for two layers', { every: 2 }],
        ['selective', { policy: 'selective' }],
        ['to the host', { offload: 'host' }],
      ])('%s', async (_, checkpoint) => {
        const options = { ...SIZES[name], dtype };
        const shape = { batchSize: 2, sequenceLength: 21 };
        using model = make(options, checkpoint);
        const { parameters, offloaded, ...rest } = estimateMemory(options, { ...shape, checkpoint });
        expect(rest).toEqual(await measured(device, model, shape));
        expect(estimateMemory(model, shape)).toEqual({ parameters, offloaded, ...rest });
        expect(parameters).toBe(model.parameters().reduce((bytes, each) => bytes + each.bytes, 0));
        expect(offloaded > 0).toBe(checkpoint.offload === 'host');
        expect(rest.optimizer).toBe(model.parameterCount() * (dtype === 'float32' ? 8 : 12));
        expect(rest.gradients).toBe(parameters);
        expect(rest.peak).toBeGreaterThan(parameters + rest.optimizer + rest.gradients);
      });
    });
  });

  test('adapters on a frozen model', async () => {
    const shape = { batchSize: 3, sequenceLength: 17 };
    using model = make(SIZES.small);
    const whole = estimateMemory(model, shape);
    model.freeze();
    applyLora(model, { rank: 2, dropout: 0.1 });
    const { parameters, offloaded, ...rest } = estimateMemory(model, shape);
    expect(rest).toEqual(await measured(device, model, shape));
    expect(parameters).toBeLessThan(whole.parameters / 2);
    expect(rest.gradients).toBe(model.parameterCount() * 4);
    expect(offloaded).toBe(0);
  });

  test('without an optimizer, without masters', async () => {
    const shape = { batchSize: 2, sequenceLength: 9 };
    using model = make({ ...SIZES.wide, dtype: 'bfloat16' });
    const none = estimateMemory(model, { ...shape, optimizer: 'none' });
    expect(none.optimizer).toBe(0);
    expect(none.peak).toBe((await measured(device, model, shape, false)).peak);
    const plain = estimateMemory(model, { ...shape, masterWeights: false });
    expect(plain.optimizer).toBe(8 * model.parameterCount());
    expect(plain.peak).toBe(none.peak + plain.optimizer);
  });

  test('another dtype is that of the model turned into it', () => {
    const shape = { batchSize: 2, sequenceLength: 9 };
    using model = make(SIZES.wide);
    const expected = estimateMemory({ ...SIZES.wide, dtype: 'bfloat16' }, shape);
    expect(estimateMemory(model, { ...shape, dtype: 'bfloat16' })).toEqual(expected);
    expect(model.embedding.dtype).toBe('float32');
  });

  test('leaves everything as it was', async () => {
    using model = make({ ...SIZES.small, dropout: 0.1 });
    const bits = await bitsOf(model.embedding);
    const before = [JSON.stringify(memory()), JSON.stringify(defaultGenerator().state), JSON.stringify(model.config)];
    trackTensors(true);
    const inside = tidy(() =>
      noGrad(() => estimateMemory(model, { batchSize: 1, sequenceLength: 5, checkpoint: { every: 2 } })),
    );
    expect(liveTensors()).toEqual([]);
    trackTensors(false);
    expect([JSON.stringify(memory()), JSON.stringify(defaultGenerator().state), JSON.stringify(model.config)]).toEqual(
      before,
    );
    expect(await bitsOf(model.embedding)).toEqual(bits);
    expect(model.checkpointConfig.enabled).toBe(false);
    expect(model.embedding.grad).toBeNull();
    expect(inside.gradients).toBe(inside.parameters);
  });
});

test('of a model that is too large for this machine', () => {
  const before = process.memoryUsage().rss;
  const options: CausalLMOptions = {
    vocabulary: 128256,
    layers: 30,
    hidden: 2560,
    heads: 20,
    keyHeads: 5,
    intermediate: 6912,
    dtype: 'bfloat16',
  };
  const step: MemoryEstimateOptions = { batchSize: 8, sequenceLength: 2048 };
  const plain = estimateMemory(options, step);
  const checkpointed = estimateMemory(options, { ...step, checkpoint: { every: 1 } });
  expect(plain.parameters).toBeGreaterThan(4e9); // the size of BitNet b1.58 2B-4T
  expect(plain.optimizer).toBe(6 * plain.parameters);
  expect(checkpointed.peak).toBeLessThan(plain.peak - 20e9);
  expect(process.memoryUsage().rss - before).toBeLessThan(2 ** 28);
});

test('gradients of several micro-batches are added up in float32', () => {
  const step = { batchSize: 1, sequenceLength: 8 };
  const options = { ...SIZES.wide, dtype: 'bfloat16' as const };
  const [one, two, nine] = [1, 2, 9].map((gradientAccumulation) =>
    estimateMemory(options, { ...step, gradientAccumulation }),
  );
  expect(two.gradients).toBe(2 * one.gradients);
  expect(two.peak).toBeGreaterThanOrEqual(one.peak + one.gradients);
  expect(nine).toEqual(two);
});

test('nonsense is refused', () => {
  class Mute extends Module {
    layer = new Linear(2, 2);
  }
  class Bare extends Mute {
    loss(): never {
      throw new Error('not called');
    }
  }
  const step = { batchSize: 1, sequenceLength: 8 };
  const rows: [() => unknown, string][] = [
    [
      () => estimateMemory(new Mute() as unknown as LossModel, step),
      'expected a model that has a loss, got one without',
    ],
    [
      () => estimateMemory(new Bare(), { ...step, checkpoint: {} }),
      'expected a model with a checkpointConfig beside checkpoint, got one without',
    ],
    [
      () => estimateMemory(SIZES.small, { ...step, batchSize: 0 }),
      'expected an integer from 1 to 2147483647 for batchSize, got 0',
    ],
    [
      () => estimateMemory(SIZES.small, { batchSize: 1 } as MemoryEstimateOptions),
      'expected an integer from 1 to 2147483647 for sequenceLength, got NaN',
    ],
    [
      () => estimateMemory(SIZES.small, { ...step, optimizer: 'sgd' as 'none' }),
      'expected one of adamw, none for optimizer, got "sgd"',
    ],
    [
      () => estimateMemory(SIZES.small, { ...step, dtype: 'int8' as 'float32' }),
      'expected one of float32, float16, bfloat16 for dtype, got "int8"',
    ],
  ];
  for (const [call, message] of rows) expect(call).toThrow(new OptionError(`estimateMemory: ${message}`));
  expect(() => estimateMemory(SIZES.small, { ...step, checkpoint: { every: 0 } })).toThrow(
    new OptionError('CheckpointConfig: expected an integer from 1 to 2147483647 for every, got 0'),
  );
});
