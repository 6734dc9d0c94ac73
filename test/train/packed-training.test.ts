// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { statSync } from 'node:fs';
import * as path from 'node:path';
import {
  applyLora,
  bf16,
  CausalLM,
  DocumentDataset,
  fp32,
  manualSeed,
  OptionError,
  Trainer,
  type DocumentBatch,
  type TokenBatch,
  type TrainerOptions,
} from '../../lib/index.js';
import { holdMemory } from '../core/hold-memory.js';
import { bitsOfModel, temporaryFolder } from './runs.js';

holdMemory();

const folder = temporaryFolder();

/** Of very different lengths: micro-batches with very different numbers of targets. */
const documents = Array.from({ length: 24 }, (_, i) => ({
  prompt: 'q'.repeat(1 + (i % 3)),
  completion: 'abcdefghijkl'.slice(i % 5, (i % 5) + 1 + ((i * i) % 7)),
}));
const encoder = {
  encode: (text: string) => Array.from(text, (letter) => letter.charCodeAt(0) - 96),
  endToken: 0,
};

function dataset(maxTokens: number, epochs?: number): DocumentDataset {
  return new DocumentDataset(documents, { encoder, maxTokens, maxSequenceLength: 12, seed: 2, epochs });
}

function model(options: { dropout?: number; seed?: number } = {}): CausalLM {
  const { seed = 1, ...rest } = options;
  manualSeed(seed);
  return new CausalLM({ vocabulary: 27, hidden: 16, layers: 2, heads: 2, intermediate: 24, ...rest });
}

function trainer(options: Partial<TrainerOptions<TokenBatch>> = {}): Trainer {
  return new Trainer({
    model: options.model ?? model(),
    data: dataset(24),
    batchSize: 2,
    maxSequenceLength: 12,
    gradientAccumulation: 1,
    mixedPrecision: fp32(),
    learningRate: 1e-2,
    ...options,
  });
}

test('the loss of a step is the mean over its targets, however they lie in micro-batches: the gradient is that of one large batch', async () => {
  const gradients: Float32Array[][] = [];
  for (const [maxTokens, gradientAccumulation] of [
    [1000, 1],
    [13, 100],
  ]) {
    const data = dataset(maxTokens, 1);
    if (gradientAccumulation > 1) {
      const counts = new Set<number>();
      for (const { count } of data.pass()) counts.add(count);
      expect(counts.size).toBeGreaterThan(3);
    }
    const run = trainer({ data, gradientAccumulation, batchSize: 100, maxGradNorm: Infinity });
    await run.train({ steps: 1 });
    const moments = [...run.optimizer.state().tensors].filter(([name]) => name.endsWith('firstMoment'));
    gradients.push(await Promise.all(moments.map(async ([, each]) => (await each.data()) as Float32Array)));
    run.dispose();
    run.model.dispose();
  }
  const [whole, split] = gradients;
  whole.forEach((expected, i) => {
    const largest = Math.max(...expected.map(Math.abs));
    const error = Math.max(...expected.map((each, j) => Math.abs(split[i][j] - each)));
    expect(error).toBeLessThan(largest * 1e-5);
  });
});

test('a run over packed documents, with dropout and adapters, that is stopped and resumed goes on to the same bits', async () => {
  const adapted = (seed: number): CausalLM => {
    // The frozen weights are not in the checkpoint.
    const made = model({ dropout: 0.1 });
    manualSeed(seed);
    applyLora(made, { rank: 2, dropout: 0.1 });
    return made;
  };
  const options = (place: string): Partial<TrainerOptions<TokenBatch>> => ({
    data: dataset(24, 3),
    mixedPrecision: bf16(),
    gradientAccumulation: 2,
    evaluation: { data: () => dataset(24).pass(), every: 2 },
    save: { folder: place, weights: 'trained' },
  });
  const all = trainer({ ...options(folder()), model: adapted(5) });
  const end = await all.train({ steps: 100 });
  expect(end.reason).toBe('exhausted');
  expect(end.step).toBe(Math.ceil(dataset(24).countBatches(3) / 2));
  const expected = await bitsOfModel(all.model);
  for (const stop of [1, 4]) {
    const place = folder();
    const first = trainer({ ...options(place), model: adapted(5) });
    await first.train({ steps: stop });
    const second = trainer({ ...options(place), model: adapted(77) });
    expect(await second.resume()).toBe(stop);
    expect(await second.train({ steps: 100 })).toEqual(end);
    expect(await bitsOfModel(second.model)).toEqual(expected);
    const bytes = second.model.parameters().reduce((sum, each) => sum + each.bytes, 0);
    // Adapters, their masters and moments, and the names of all; the model itself is larger than that.
    const file = path.join(place, `step-${String(end.step).padStart(8, '0')}.safetensors`);
    expect(statSync(file).size).toBeLessThan(bytes * 7 + 15_000);
    for (const each of [first, second]) {
      each.dispose();
      each.model.dispose();
    }
  }
  all.dispose();
  all.model.dispose();
});

test('batches larger than configured are refused', async () => {
  const batch = (dataset(24).next() as DocumentBatch).sequence;
  const run = trainer({ batchSize: 1, maxSequenceLength: 12 });
  await expect(run.train({ steps: 1 })).rejects.toThrow(
    new OptionError(`Trainer: expected an integer from 1 to 12 for sequence of a batch, got ${batch}`),
  );
  const long = trainer({ batchSize: 8, maxSequenceLength: 4 });
  await expect(long.train({ steps: 1 })).rejects.toThrow('for the longest document of a batch, got');
  const odd = { weights: 'none' } as unknown as { weights: 'all' };
  expect(() => trainer({ save: { folder: folder(), ...odd } })).toThrow(
    'Trainer: expected one of all, trained for save.weights, got "none"',
  );
});
