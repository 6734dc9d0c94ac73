// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  AdamW,
  DocumentDataset,
  LossScaler,
  mul,
  sum,
  TokenDataset,
  Trainer,
  type TrainerOptions,
} from '../../../lib/index.js';
import type { MakeArguments } from './calls.js';
import type { World } from './world.js';

/** Optimizers, data and the trainer. */

const optimizer = (w: World): AdamW => w.own(new AdamW([w.trained([2, 3])]));

const tokens = (): Uint16Array => Uint16Array.from({ length: 20 }, (_, i) => i);

const dataset = (): TokenDataset => new TokenDataset(tokens(), { batchSize: 2, sequenceLength: 4 });

/** Texts as their bytes. */
const byteEncoder = { encode: (text: string): number[] => [...Buffer.from(text)], endToken: 0 };
const documents = (): DocumentDataset =>
  new DocumentDataset([{ text: 'the sea' }, { prompt: 'a', completion: 'bc' }], {
    encoder: byteEncoder,
    maxTokens: 8,
    maxSequenceLength: 4,
    epochs: 1,
  });

const lossScale = {
  lossScale: 8,
  dynamic: true,
  minLossScale: 1,
  maxLossScale: 16,
  growthFactor: 2,
  backoffFactor: 0.5,
  growthInterval: 4,
};

const trainerOptions = (w: World): TrainerOptions => ({
  model: w.model(),
  data: dataset(),
  batchSize: 2,
  maxSequenceLength: 4,
  gradientAccumulation: 1,
  mixedPrecision: { compute: 'float32', master: 'float32', ...lossScale },
  checkpoint: { enabled: true, every: 1 },
  learningRate: 1e-3,
  maxGradNorm: 1,
  optimizer: { learningRate: 1e-3, betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0.1, masterWeights: true },
  evaluation: { data: () => dataset().pass(), every: 1 },
  save: { folder: w.out(), every: 1, keep: 1, weights: 'all' },
  metrics: w.out('.jsonl'),
  onStep: () => undefined,
  onEvaluate: () => undefined,
  onCheckpoint: () => undefined,
});

const trainer = (w: World, options: Partial<TrainerOptions> = {}): Trainer =>
  w.own(
    new Trainer({
      model: w.model(),
      data: tokens(),
      batchSize: 1,
      maxSequenceLength: 4,
      gradientAccumulation: 1,
      mixedPrecision: null,
      ...options,
    }),
  );

const batch = { ids: Int32Array.of(1, 2), targets: Int32Array.of(2, 3), rows: 1, sequence: 2, count: 2 };

export const TRAINING_CALLS: Readonly<Record<string, MakeArguments>> = {
  'new AdamW': (w) => [
    [{ parameters: [w.trained([2])], weightDecay: 0.1 }],
    { learningRate: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, masterWeights: true },
  ],
  'AdamW#step': (w) => [optimizer(w), { coefficient: w.t([]) }],
  'AdamW#state': (w) => [optimizer(w)],
  'AdamW#loadState': (w) => [
    optimizer(w),
    {
      stepCount: 3,
      tensors: new Map([
        ['0.firstMoment', w.t([2, 3])],
        ['0.secondMoment', w.t([2, 3])],
      ]),
    },
  ],
  'AdamW#refreshMasters': (w) => [optimizer(w)],
  'AdamW#clearGrad': (w) => [optimizer(w)],
  'AdamW#dispose': (w) => [optimizer(w)],
  bf16: () => [],
  fp16: () => [{ ...lossScale }],
  fp32: () => [],
  trainingConfig: () => [
    {
      batchSize: 1,
      maxSequenceLength: 8,
      gradientAccumulation: 2,
      mixedPrecision: { compute: 'float16', master: 'float32', ...lossScale },
      checkpoint: { every: 2 },
    },
  ],

  'new TokenDataset': () => [
    tokens(),
    { batchSize: 2, sequenceLength: 4, order: 'random', seed: 3, stride: 2, ignoreToken: 0 },
  ],
  'TokenDataset#next': () => [dataset()],
  'TokenDataset#pass': () => [dataset()],
  'TokenDataset#state': () => [dataset()],
  'TokenDataset#loadState': () => [dataset(), dataset().state()],
  batchTensors: (w) => [{ ...batch }, { device: w.device }],
  'new DocumentDataset': () => [
    [{ text: 'the sea' }, { prompt: 'a', completion: 'bc' }],
    {
      encoder: { ...byteEncoder },
      maxTokens: 8,
      maxSequenceLength: 4,
      longDocuments: 'split',
      order: 'random',
      seed: 3,
      epochs: 2,
    },
  ],
  'DocumentDataset.read': (w) => [w.files.jsonl, { encoder: { ...byteEncoder }, maxTokens: 8 }],
  'DocumentDataset#next': () => [documents()],
  'DocumentDataset#pass': () => [documents()],
  'DocumentDataset#countBatches': () => [documents(), 2],
  'DocumentDataset#split': () => [documents(), 0.5],
  'DocumentDataset#state': () => [documents()],
  'DocumentDataset#loadState': () => [documents(), documents().state()],
  documentEncoder: (w) => [w.files.tokenizer],
  encodeConversation: (w) => [
    w.files.tokenizer,
    [
      { role: 'user', content: 'why?' },
      { role: 'assistant', content: 'so' },
    ],
  ],

  clipGradNorm: (w) => [[w.trained([2]), w.trained([3])], 1],
  gradNorm: (w) => [[w.trained([2]), w.trained([3])], { maxNorm: 1, lossScale: 2 }],
  'new LossScaler': () => [{ ...lossScale }],
  'LossScaler#state=': () => [new LossScaler(lossScale), { scale: 4, goodSteps: 1 }],
  'LossScaler#scaleLoss': (w) => [new LossScaler(lossScale), w.t([]), 0.5],
  'LossScaler#update': () => [new LossScaler(lossScale), 1],
  meanLoss: (w) => [[{ count: 1 }, { count: 2 }], () => sum(mul(w.t([2]), w.t([2])))],
  warmupCosine: () => [{ peak: 1, warmup: 2, total: 4, floor: 0.1 }],
  'warmupCosine()': () => [3],

  'new Trainer': (w) => [trainerOptions(w)],
  // The data ends: any number of steps may be asked for.
  'Trainer#train': (w) => [
    trainer(w, { data: documents(), batchSize: 2 }),
    { steps: 1, signal: new AbortController().signal },
  ],
  'Trainer#resume': (w) => {
    const model = w.model();
    return [trainer(w, { model, save: { folder: w.out() } }), undefined];
  },
  'Trainer#save': (w) => [trainer(w, { save: { folder: w.out() } })],
  'Trainer#evaluate': (w) => [trainer(w, { evaluation: { data: () => dataset().pass() } })],
  'Trainer#dispose': (w) => [trainer(w)],
  estimateMemory: (w) => [
    w.model(),
    {
      batchSize: 1,
      sequenceLength: 4,
      gradientAccumulation: 2,
      dtype: 'float16',
      checkpoint: { every: 1 },
      optimizer: 'adamw',
      masterWeights: true,
    },
  ],
};
