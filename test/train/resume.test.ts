// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { appendFile, copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import {
  batchTensors,
  bf16,
  crossEntropy,
  FormatError,
  fp16,
  fp32,
  manualSeed,
  mul,
  OptionError,
  readTrainingCheckpoint,
  TokenDataset,
  Trainer,
  uniform,
  type Batch,
  type CausalLM,
  type MixedPrecisionConfig,
  type StepReport,
  type TokenBatch,
  type TrainerOptions,
} from '../../lib/index.js';
import { inChild, resultOfChild, type Library } from '../core/child.js';
import { bitsOfModel, metricsOf, smallModel, someTokens, temporaryFolder, VOCABULARY } from './runs.js';

const folder = temporaryFolder();
const tokens = someTokens(300);

type Options = Partial<TrainerOptions<TokenBatch>>;

function trainerIn(place: string, seed: number, options: Options = {}): Trainer {
  return new Trainer({
    model: options.model ?? smallModel({ seed }),
    data: tokens,
    seed: 5,
    batchSize: 2,
    maxSequenceLength: 10,
    gradientAccumulation: 1,
    mixedPrecision: fp32(),
    learningRate: (step) => 1e-2 / step,
    evaluation: { data: () => new TokenDataset(tokens, { batchSize: 9, sequenceLength: 10 }).pass(), every: 3 },
    save: { folder: path.join(place, 'checkpoints'), every: 2 },
    metrics: path.join(place, 'metrics.jsonl'),
    ...options,
  });
}

interface Run {
  weights: Record<string, number[]>;
  metrics: Partial<StepReport>[];
  lossScale: object;
}

async function outcome(place: string, trainer: Trainer): Promise<Run> {
  return {
    weights: await bitsOfModel(trainer.model),
    metrics: await metricsOf(path.join(place, 'metrics.jsonl')),
    lossScale: trainer.lossScaler.state,
  };
}

describe('a run that is stopped and resumed', () => {
  const STEPS = 8;

  // The scale of the second is so large that it overflows now and then, before and after the stop.
  const precisions: [string, MixedPrecisionConfig, number, boolean][] = [
    ['float32', fp32(), 1, false],
    ['float32 with dropout', fp32(), 2, true],
    ['float16 with a loss scale that moves', fp16({ lossScale: 2 ** 20, growthInterval: 2 }), 3, false],
    ['bfloat16 with dropout', bf16(), 2, true],
  ];

  /** Logits dropped by the library's random numbers. */
  const dropping = (model: CausalLM): Options => ({
    model,
    loss(batch) {
      const { ids, targets } = batchTensors(batch, { device: model.device });
      const logits = model.forward(ids);
      const kept = uniform(logits.shape, { low: 0, high: 2, dtype: logits.dtype, device: model.device });
      return crossEntropy(mul(logits, kept).reshape(-1, VOCABULARY), targets.reshape(-1));
    },
  });

  test.each(precisions)('%s: goes on to the same bits', async (_, mixedPrecision, gradientAccumulation, drops) => {
    const options = { mixedPrecision, gradientAccumulation };
    const modelOf = (seed: number): Options => (drops ? dropping(smallModel({ seed })) : {});
    const whole = folder();
    const uninterrupted = trainerIn(whole, 1, { ...options, ...modelOf(1) });
    await uninterrupted.train({ steps: STEPS });
    const expected = await outcome(whole, uninterrupted);
    if (mixedPrecision.dynamic) {
      expect(expected.metrics.some(({ skipped }) => skipped)).toBe(true);
      expect(expected.metrics.some(({ skipped }) => !skipped)).toBe(true);
    }
    for (const stop of [1, 4, 7]) {
      const place = folder();
      const controller = new AbortController();
      const first = trainerIn(place, 1, {
        ...options,
        ...modelOf(1),
        onStep: ({ step }) => (step === stop ? controller.abort() : undefined),
      });
      expect(await first.train({ steps: STEPS, signal: controller.signal })).toMatchObject({ reason: 'aborted' });
      first.dispose();
      // A model of other weights, and other random numbers: everything has to come from the checkpoint.
      const second = trainerIn(place, 99, { ...options, ...modelOf(99) });
      manualSeed(1234);
      expect(await second.resume()).toBe(stop);
      await second.train({ steps: STEPS });
      expect(await outcome(place, second)).toEqual(expected);
      expect(second.lossScaler.state).toEqual(uninterrupted.lossScaler.state);
      expect(second.optimizer.stepCount).toBe(uninterrupted.optimizer.stepCount);
    }
  });

  test('from an older checkpoint: later lines of the metrics go, torn ones too, and later checkpoints are replaced', async () => {
    const place = folder();
    const first = trainerIn(place, 1, { save: { folder: path.join(place, 'checkpoints'), every: 2, keep: 9 } });
    await first.train({ steps: STEPS });
    const expected = await outcome(place, first);
    const metrics = path.join(place, 'metrics.jsonl');
    await appendFile(metrics, '{"step":9,"lo');
    const second = trainerIn(place, 2);
    const old = path.join(place, 'checkpoints', 'step-00000004.safetensors');
    expect(await second.resume(old)).toBe(4);
    await second.train({ steps: 5 });
    expect((await metricsOf(metrics)).map(({ step }) => step)).toEqual([1, 2, 3, 4, 5]);
    await second.train({ steps: STEPS });
    // The fifth step was evaluated, because it was the last then.
    const { metrics: lines, ...rest } = await outcome(place, second);
    expect(lines[4].evaluation).toBeGreaterThan(0);
    expect({ metrics: lines.map((line) => ({ ...line, evaluation: 0 })), ...rest }).toEqual({
      ...expected,
      metrics: expected.metrics.map((line) => ({ ...line, evaluation: 0 })),
    });
  });

  test('the last checkpoints stay, and latest names the newest', async () => {
    const place = folder();
    const trainer = trainerIn(place, 1, { save: { folder: place, every: 1, keep: 2 } });
    await trainer.train({ steps: 4 });
    expect((await readdir(place)).sort()).toEqual([
      'latest',
      'metrics.jsonl',
      'step-00000003.safetensors',
      'step-00000004.safetensors',
    ]);
    expect(await readFile(path.join(place, 'latest'), 'utf8')).toBe('step-00000004.safetensors\n');
  });

  test('a run without a checkpoint begins at the beginning, and a crash before the first one is no obstacle', async () => {
    const place = folder();
    await writeFile(path.join(place, 'metrics.jsonl'), '{"step":1,"seconds":0}\n{"step":2,');
    const trainer = trainerIn(place, 1);
    expect(await trainer.resume()).toBe(0);
    await trainer.train({ steps: 1 });
    expect((await metricsOf(path.join(place, 'metrics.jsonl'))).length).toBe(1);
  });

  test('what does not fit is refused, and changes nothing', async () => {
    const place = folder();
    await trainerIn(place, 1).train({ steps: 2 });
    const file = path.join(place, 'checkpoints', 'step-00000002.safetensors');
    const refusal = async (options: Options, from = file): Promise<unknown> => {
      const trainer = trainerIn(folder(), 3, options);
      const before = [await bitsOfModel(trainer.model), trainer.optimizer.stepCount];
      const error = await trainer.resume(from).then(
        () => null,
        (each: unknown) => each,
      );
      expect([await bitsOfModel(trainer.model), trainer.optimizer.stepCount]).toEqual(before);
      expect(trainer.step).toBe(0);
      return error;
    };
    expect(await refusal({ gradientAccumulation: 2 })).toEqual(
      new OptionError('Trainer.resume: expected 1 for gradientAccumulation as in the checkpoint, got 2'),
    );
    expect(await refusal({ mixedPrecision: bf16() })).toBeInstanceOf(OptionError);
    expect(await refusal({ seed: 6 })).toEqual(new OptionError('TokenDataset.loadState: expected 6 for seed, got 5'));
    expect(await refusal({ model: smallModel({ tieEmbeddings: false }) })).toEqual(
      new OptionError('Trainer.resume: expected a tensor named model.head, got none'),
    );
    const other = path.join(place, 'model.safetensors');
    await smallModel().save(other);
    expect(await refusal({}, other)).toBeInstanceOf(FormatError);
    const torn = path.join(place, 'torn.safetensors');
    writeFileSync(torn, readFileSync(file).subarray(0, 5000));
    expect(await refusal({}, torn)).toBeInstanceOf(FormatError);
    await expect(trainerIn(place, 1, { save: undefined }).resume()).rejects.toThrow(
      'Trainer.resume: expected a file, or a trainer made with save, got neither',
    );
    await mkdir(path.join(place, 'odd'));
    await writeFile(path.join(place, 'odd', 'latest'), '../x\n');
    await expect(trainerIn(place, 1, { save: { folder: path.join(place, 'odd') } }).resume()).rejects.toThrow(
      FormatError,
    );
  });

  test('a checkpoint can be read without a trainer', async () => {
    const place = folder();
    const trainer = trainerIn(place, 1);
    await trainer.train({ steps: 2 });
    const copy = path.join(place, 'copy.safetensors');
    await copyFile(path.join(place, 'checkpoints', 'step-00000002.safetensors'), copy);
    const { tensors, state } = await readTrainingCheckpoint(copy);
    expect(state).toMatchObject({ step: 2, optimizerSteps: 2, tokens: 40 });
    const weights = new Map(
      [...tensors].filter(([name]) => name.startsWith('model.')).map(([name, each]) => [name.slice(6), each]),
    );
    const model = smallModel({ seed: 8 });
    await model.loadState(weights);
    expect(await bitsOfModel(model)).toEqual(await bitsOfModel(trainer.model));
  });
});

/**
 * Trains a model of one weight, whose loss drops weights by random numbers of the library, in float16 with a loss scale that overflows now and
 * then, and writes a checkpoint after each step. Dies at the `killAt`-th use of the file system since training began: half of what a write
 * should have written is in the file then.
 */
async function dyingRun(
  lib: Library,
  place: string,
  steps: number,
  killAt: number,
): Promise<{ weights: number[]; operations: number }> {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const fs = require('node:fs/promises') as Record<string, (...args: unknown[]) => Promise<unknown>>;
  let operations = 0;
  const die = async (): Promise<void> => {
    process.kill(process.pid, 'SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 1e6));
  };
  type Operation = (...args: unknown[]) => Promise<unknown>;
  const counted =
    (operation: Operation, isWrite: boolean): Operation =>
    async (...args) => {
      if (++operations === killAt) {
        const [data] = args as [string | Uint8Array];
        if (isWrite) await operation(data.slice(0, data.length / 2));
        await die();
      }
      return operation(...args);
    };
  const original = { ...fs };
  for (const name of ['rename', 'rm', 'readdir', 'mkdir', 'readFile']) fs[name] = counted(original[name], false);
  fs.open = counted(async (...args) => {
    const handle = (await original.open(...args)) as Record<string, Operation>;
    for (const name of ['writeFile', 'appendFile', 'sync', 'datasync', 'close']) {
      handle[name] = counted(handle[name].bind(handle), /File/.test(name));
    }
    return handle;
  }, false);

  class Weight extends lib.Module {
    weight = lib.keep(lib.tensor([1, 2, 3, 4, 5, 6, 7, 8], { requiresGrad: true }));
  }
  const model = new Weight();
  let position = 0;
  const trainer = new lib.Trainer<Batch>({
    model,
    data: {
      next: () => ({ count: 1 + (position++ % 3) }),
      state: () => position,
      loadState: (state) => void (position = state as number),
    },
    loss: ({ count }) => {
      const kept = lib.uniform([8], { low: -count / 2, high: 1, dtype: 'float16' });
      return lib.sum(lib.mul(model.weight, kept));
    },
    gradientAccumulation: 2,
    mixedPrecision: lib.fp16({ growthInterval: 3 }),
    learningRate: 0.05,
    save: { folder: place, every: 1, keep: 2 },
    metrics: `${place}/metrics.jsonl`,
  });
  lib.manualSeed(7);
  await trainer.resume();
  operations = 0;
  await trainer.train({ steps });
  Object.assign(fs, original);
  return { weights: Array.from(await model.weight.data()), operations };
}

describe('a run that is killed', () => {
  test('while it writes a checkpoint, at any moment, leaves the last one whole, and goes on to the same bits', async () => {
    const STEPS = 24;
    const whole = folder();
    const expected = await resultOfChild(dyingRun, [whole, STEPS, Infinity]);
    const expectedLines = await metricsOf(path.join(whole, 'metrics.jsonl'));
    expect(expectedLines.map(({ step }) => step)).toEqual(Array.from({ length: STEPS }, (_, i) => i + 1));
    expect(expectedLines.some(({ skipped }) => skipped)).toBe(true);
    // A child does not know how far the one before it came: points of one and a half checkpoints, each after the one before it.
    const perStep = Math.ceil(expected.operations / STEPS);
    expect(perStep).toBeGreaterThan(20);
    const points = Array.from({ length: Math.floor(perStep * 1.5) }, (_, i) => i + 3);
    const chains = [0, 1, 2].map((chain) => points.filter((_, i) => i % 3 === chain));
    await Promise.all(
      chains.map(async (chain) => {
        const place = folder();
        for (const killAt of chain) {
          const { signal, stderr } = await inChild(dyingRun, [place, STEPS, killAt]);
          expect({ signal, stderr }).toEqual({ signal: 'SIGKILL', stderr: '' });
          if (!existsSync(path.join(place, 'latest'))) continue;
          const name = (await readFile(path.join(place, 'latest'), 'utf8')).trim();
          const { tensors, state } = await readTrainingCheckpoint(path.join(place, name));
          expect(name).toBe(`step-${String(state.step).padStart(8, '0')}.safetensors`);
          for (const tensor of tensors.values()) tensor.dispose();
        }
        const { weights } = await resultOfChild(dyingRun, [place, STEPS, 1e9]);
        expect(weights).toEqual(expected.weights);
        expect(await metricsOf(path.join(place, 'metrics.jsonl'))).toEqual(expectedLines);
        expect((await readdir(place)).sort()).toEqual((await readdir(whole)).sort());
      }),
    );
  });
});
