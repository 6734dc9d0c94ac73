// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { MakeArguments } from './calls.js';
import type { World } from './world.js';

/** Ops, in one of the float dtypes that gradients flow through or do not. */

const attentionOptions = (w: World): object => ({
  causal: true,
  window: [2, 0],
  scale: 0.5,
  softcap: 30,
  alibiSlopes: w.t([2]),
  sinks: w.t([2]),
});

const lossOptions = {
  ignoreIndex: -100,
  reduction: 'mean',
  labelSmoothing: 0.1,
  zLoss: 1e-4,
  softcap: 30,
};

export const OP_CALLS: Readonly<Record<string, MakeArguments>> = {
  add: (w) => [w.t([2, 3], 'float32', true), w.t([3])],
  mul: (w) => [w.t([2, 3], 'float32', true), w.t([3])],
  bitLinear: (w) => [w.t([2, 8]), w.t([4, 8], 'float32', true), w.t([4])],
  cast: (w) => [w.t([2]), 'bfloat16'],
  crossEntropy: (w) => [w.t([2, 4], 'float32', true), w.ids(2), lossOptions],
  dropout: (w) => [w.t([2, 4], 'float32', true), 0.5],
  embedding: (w) => [w.t([4, 2], 'float32', true), w.ids(2, 3)],
  flashAttention: (w) => [
    w.t([1, 3, 2, 4], 'float32', true),
    w.t([1, 3, 1, 4]),
    w.t([1, 3, 1, 4]),
    { ...attentionOptions(w), dropout: 0.1, deterministic: true, returnLse: true },
  ],
  flashAttentionVarlen: (w) => [
    w.t([3, 2, 4], 'float32', true),
    w.t([3, 1, 4]),
    w.t([3, 1, 4]),
    {
      ...attentionOptions(w),
      cuSeqlensQ: [0, 1, 3],
      cuSeqlensK: Int32Array.of(0, 2, 3),
      dropout: 0.1,
      returnLse: true,
    },
  ],
  flashAttentionWithKvCache: (w) => [
    w.t([1, 1, 2, 4]),
    { keys: w.t([1, 4, 1, 4]), values: w.t([1, 4, 1, 4]), length: 2 },
    { ...attentionOptions(w), newK: w.t([1, 1, 1, 4]), newV: w.t([1, 1, 1, 4]) },
  ],
  geglu: (w) => [w.t([2, 4]), w.t([2, 4], 'float32', true), { approximate: 'tanh' }],
  relu2Glu: (w) => [w.t([2, 4]), w.t([2, 4])],
  swiglu: (w) => [w.t([2, 4], 'float16', true), w.t([2, 4], 'float16')],
  layerNorm: (w) => [w.t([2, 4], 'float32', true), w.t([4]), w.t([4]), { eps: 1e-5, residual: w.t([2, 4]) }],
  linear: (w) => [w.t([2, 3, 4]), w.t([5, 4], 'float32', true), w.t([5])],
  linearCrossEntropy: (w) => [w.t([2, 4]), w.t([5, 4], 'float32', true), w.ids(2), { ...lossOptions, bias: w.t([5]) }],
  mergeAttentionStates: (w) => [w.t([1, 3, 2, 4]), w.t([1, 2, 3]), w.t([1, 3, 2, 4]), w.t([1, 2, 3])],
  dequantizeTernary: (w) => [w.ternary(3, 5), { dtype: 'float16' }],
  quantizeTernary: (w) => [w.t([3, 5]), { method: 'percentile', granularity: 'row', percentile: 50 }],
  reshape: (w) => [w.t([2, 3], 'float32', true), [3, -1]],
  rmsNorm: (w) => [w.t([2, 4], 'float32', true), w.t([4]), { eps: 1e-5, residual: w.t([2, 4]) }],
  rope: (w) => [
    w.t([1, 3, 2, 4], 'float32', true),
    {
      positions: w.ids(3),
      theta: 10000,
      rotaryDim: 4,
      interleaved: true,
      scaling: { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 },
    },
  ],
  scale: (w) => [w.t([2], 'float32', true), 2],
  argmax: (w) => [w.t([2, 3])],
  softmax: (w) => [w.t([2, 3], 'float32', true)],
  mean: (w) => [w.t([2, 3], 'float32', true), { axis: 1, keepDims: true }],
  sum: (w) => [w.t([2, 3], 'float32', true), { axis: -1, keepDims: false }],
  ternaryMatmul: (w) => [w.t([2, 8], 'float32', true), w.ternary(4, 8), { activations: 'none', bias: w.t([4]) }],
  transpose: (w) => [w.t([2, 3, 4], 'float32', true), [2, 0, 1]],

  'TernaryTensor.fromTrits': (w) => [[1, 0, -1, 1, 0, -1], [2, 3], [0.5, 2], { device: w.device }],
  'TernaryTensor#tensors': (w) => [w.ternary(2, 5)],
  'TernaryTensor#compressionRatio': (w) => [w.ternary(2, 5), 'float16'],
  'TernaryTensor#trits': (w) => [w.ternary(2, 5)],
  'TernaryTensor#sparsity': (w) => [w.ternary(2, 5)],
  'TernaryTensor#statistics': (w) => [w.ternary(2, 5)],
  'TernaryTensor#pruneRows': (w) => [w.ternary(2, 5, [0.5, 2]), 1],
  'TernaryTensor#getTrit': (w) => [w.ternary(2, 5), 1, 4],
  'TernaryTensor#setTrit': (w) => [w.ternary(2, 5), 1, 4, -1],
  'TernaryTensor#quantizationError': (w) => [w.ternary(2, 5), w.t([2, 5])],
  'TernaryTensor#to': (w) => [w.ternary(2, 5), { device: w.device }],
  'TernaryTensor#dispose': (w) => [w.ternary(2, 5)],
};
