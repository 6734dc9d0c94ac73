// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  applyLora,
  Attention,
  device,
  LayerNorm,
  Linear,
  MLP,
  quantizeWeights,
  RMSNorm,
  TernaryLinear,
  TransformerBlock,
  type LayerConfig,
  type LoraAdapter,
  type Module,
} from '../../../lib/index.js';
import type { MakeArguments } from './calls.js';
import type { World } from './world.js';

/** Modules, adapters and what rounds their weights. */

const layerConfig = (): LayerConfig => ({
  hidden: 8,
  heads: 2,
  keyHeads: 1,
  headDim: 4,
  intermediate: 8,
  ropeTheta: 10000,
  ropeScaling: { type: 'linear', factor: 2 },
  window: 4,
  attentionBias: 'all',
  mlpBias: true,
  queryKeyNorm: true,
  normEps: 1e-5,
  ternary: false,
  subNorm: true,
  activation: 'geglu',
  dropout: 0.1,
  dtype: 'float32',
});

const placement = (w: World): object => ({ device: device(w.device), residualScale: 0.5 });

const linearOf = (w: World): Linear => w.own(new Linear(8, 4, { bias: true, device: w.device }));

function adapted(w: World): Module {
  const model = w.own(new TernaryLinear(8, 4, { device: w.device }));
  applyLora(model, { rank: 2 });
  return model;
}

const block = (w: World, Part: typeof Attention | typeof MLP | typeof TransformerBlock): Module =>
  w.own(new Part(layerConfig(), { device: device(w.device), residualScale: 1 }));

export const MODULE_CALLS: Readonly<Record<string, MakeArguments>> = {
  'Module#state': (w) => [linearOf(w)],
  'Module#modules': (w) => [linearOf(w)],
  'Module#train': (w) => [linearOf(w), true],
  'Module#eval': (w) => [linearOf(w)],
  'Module#namedParameters': (w) => [linearOf(w)],
  'Module#parameters': (w) => [linearOf(w)],
  'Module#parameterCount': (w) => [linearOf(w)],
  'Module#clearGrad': (w) => [linearOf(w)],
  'Module#loadState': (w) => [
    linearOf(w),
    new Map([
      ['weight', w.t([4, 8])],
      ['bias', w.t([4])],
    ]),
  ],
  'Module#to': (w) => [linearOf(w), { dtype: 'float16' }],
  'Module#dispose': (w) => [linearOf(w)],

  'new Linear': (w) => [8, 4, { bias: true, std: 0.1, dtype: 'float16', device: w.device }],
  'Linear#forward': (w) => [linearOf(w), w.t([2, 8])],
  'new TernaryLinear': (w) => [8, 4, { bias: true, std: 0.1, dtype: 'float32', device: w.device }],
  'TernaryLinear.frozen': (w) => [w.ternary(4, 8), w.t([4])],
  'TernaryLinear#forward': (w) => [w.own(new TernaryLinear(8, 4, { device: w.device })), w.t([2, 8])],
  'TernaryLinear#freeze': (w) => [w.own(new TernaryLinear(8, 4, { device: w.device }))],
  'new LayerNorm': (w) => [8, { eps: 1e-5, bias: true, dtype: 'float32', device: w.device }],
  'LayerNorm#forward': (w) => [w.own(new LayerNorm(8, { device: w.device })), w.t([2, 8])],
  'new RMSNorm': (w) => [8, { eps: 1e-5, dtype: 'float32', device: w.device }],
  'RMSNorm#forward': (w) => [w.own(new RMSNorm(8, { device: w.device })), w.t([2, 8])],
  'RMSNorm#forwardSum': (w) => [w.own(new RMSNorm(8, { device: w.device })), w.t([2, 8]), w.t([2, 8])],
  'new Attention': (w) => [layerConfig(), placement(w)],
  'Attention#forward': (w) => [block(w, Attention), w.t([1, 3, 8]), { cuSeqlens: [0, 1, 3] }],
  'new MLP': (w) => [layerConfig(), placement(w)],
  'MLP#forward': (w) => [block(w, MLP), w.t([1, 3, 8])],
  'new TransformerBlock': (w) => [layerConfig(), placement(w)],
  'TransformerBlock#forward': (w) => [
    block(w, TransformerBlock),
    w.t([1, 1, 8]),
    { keys: w.t([1, 4, 1, 4]), values: w.t([1, 4, 1, 4]), length: 2, positions: w.ids(1, 1) },
  ],

  applyLora: (w) => [linearOf(w), { rank: 2, alpha: 4, dropout: 0.1, targets: /^$/, dtype: 'float32' }],
  loadLora: (w) => [w.model(), w.files.lora],
  loraState: (w) => [adapted(w)],
  mergeLora: (w) => [adapted(w), { requantize: { method: 'threshold', granularity: 'row', threshold: 0.5 } }],
  saveLora: (w) => [adapted(w), w.out('.safetensors')],
  'LoraAdapter#forward': (w) => {
    const model = adapted(w) as TernaryLinear;
    return [model.lora as LoraAdapter, w.t([2, 8]), w.t([2, 4])];
  },

  quantizeModel: (w) => [
    w.model({ ternary: false }),
    { minLayerSize: 16, skipPatterns: ['norm'], method: 'meanStd', k: 0.5, granularity: 'tensor' },
  ],
  quantizeWeights: (w) => [
    new Map([['a', w.t([4, 8])]]),
    { minLayerSize: 16, skipPatterns: ['norm'], method: 'absmean', granularity: 'row' },
  ],
  'QuantizationSummary#toString': async (w) => {
    const { quantized, summary } = await quantizeWeights(new Map([['a', w.t([4, 8])]]), { minLayerSize: 1 });
    for (const each of quantized.values()) w.own(each);
    return [summary];
  },
  memoryReductionFactor: () => [{ enabled: true, every: 2, policy: 'full', offload: 'none' }, 4],
};
