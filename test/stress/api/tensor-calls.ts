// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  capture,
  device,
  discardTransfer,
  Generator,
  ones,
  scale,
  sum,
  trackTensors,
  type Tensor,
} from '../../../lib/index.js';
import type { MakeArguments } from './calls.js';
import type { World } from './world.js';

/** Tensors, how they are made, where they are, and what happens to them. */

/** A device that captures. */
const cpu = 'cpu';

export const TENSOR_CALLS: Readonly<Record<string, MakeArguments>> = {
  capture: (w) => {
    const x = w.own(ones([2], { device: cpu }));
    return [() => scale(x, 2), { device: cpu }];
  },
  'CapturedGraph#replay': (w) => {
    const x = w.own(ones([2], { device: cpu }));
    const graph = w.own(capture(() => scale(x, 2), { device: cpu }));
    w.own(graph.result);
    return [graph];
  },
  'CapturedGraph#dispose': (w) => {
    const x = w.own(ones([2], { device: cpu }));
    const graph = w.own(capture(() => scale(x, 2), { device: cpu }));
    w.own(graph.result);
    return [graph];
  },

  tensor: (w) => [
    [
      [1, 2],
      [3, 4],
    ],
    { dtype: 'float16', device: w.device, requiresGrad: false, shape: [4] },
  ],
  tensorFromRaw: (w) => [new Uint8Array(8), [2], { dtype: 'float32', device: w.device, requiresGrad: true }],
  arange: (w) => [0, 4, 1, { device: w.device, dtype: 'int32' }],
  full: (w) => [[2, 3], 1.5, { dtype: 'bfloat16', device: w.device, requiresGrad: true }],
  ones: (w) => [[2, 3], { dtype: 'float32', device: w.device, requiresGrad: true }],
  zeros: (w) => [[2, 3], { dtype: 'int8', device: w.device }],
  randn: (w) => [[2, 3], { mean: 1, std: 2, seed: 3, dtype: 'float32', device: w.device, requiresGrad: true }],
  uniform: (w) => [[2, 3], { low: -1, high: 1, seed: 3, dtype: 'float32', device: w.device, requiresGrad: true }],

  'Tensor#data': (w) => [w.t([2, 3])],
  'Tensor#raw': (w) => [w.t([2, 3], 'bfloat16')],
  'Tensor#item': (w) => [w.t([1])],
  'Tensor#to': (w) => [w.t([2]), { dtype: 'float16', device: w.device }],
  'Tensor#transfer': (w) => [w.t([2])],
  'Tensor#reshape': (w) => [w.t([2, 3]), 3, -1],
  'Tensor#transpose': (w) => [w.t([2, 3]), 1, 0],
  'Tensor#cast': (w) => [w.t([2]), 'float16'],
  'Tensor#detach': (w) => [w.t([2])],
  'Tensor#backward': (w) => [w.own(scale(w.t([2], 'float32', true), 2)), w.t([2])],
  'Tensor#write': (w) => [
    w.t([2, 2]),
    [
      [1, 2],
      [3, 4],
    ],
  ],
  'Tensor#clearGrad': (w) => [w.trained([2])],
  'Tensor#dispose': (w) => [w.t([2])],
  'Tensor#toString': (w) => [w.t([2])],

  receiveTensor: async (w) => [await messageOf(w)],
  discardTransfer: async (w) => [await messageOf(w)],
  pendingTransfers: () => [],
  reclaimTransfers: () => [],

  'Device#synchronize': (w) => [device(w.device)],
  'Device#time': (w) => [device(w.device), () => undefined],
  'Device#memory': (w) => [device(w.device)],
  'Device#resetPeakMemory': (w) => [device(w.device)],
  'Device#toString': (w) => [device(w.device)],
  device: (w) => [w.device],
  devices: () => [],
  emptyCache: () => [],
  getDefaultDevice: () => [],
  getThreads: () => [],
  memory: () => [],
  resetPeakMemory: () => [],
  setDefaultDevice: (w) => [w.device],
  setMemoryLimit: (w) => [2 ** 28, { device: w.device }],
  setThreads: () => [2],

  'new Generator': () => [3],
  'Generator#state=': () => [new Generator(), { seed: 1, offset: 2 }],
  'Generator#reserve': () => [new Generator(), 3],
  'Generator#uniform': () => [new Generator(), 3],
  'Generator#normal': () => [new Generator(), 3],
  'Generator#integer': () => [new Generator(), 3],
  defaultGenerator: () => [],
  manualSeed: () => [3],

  keep: (w) => [w.t([2])],
  tidy: (w) => [() => scale(w.t([2]), 2)],
  leakReport: tracking,
  liveTensors: tracking,
  trackTensors: () => [true],
  noGrad: (w) => [() => scale(w.t([2]), 2)],
  isGradEnabled: () => [],

  grad: () => [(x: Tensor) => sum(x)],
  'grad()': (w) => [w.t([2]), w.t([2])],
  valueAndGrad: () => [(x: Tensor) => sum(x)],
  'valueAndGrad()': (w) => [w.t([2]), w.t([2])],
  checkpoint: (w) => [(x: Tensor) => scale(x, 2), w.t([2], 'float32', true)],
  checkpointWith: (w) => [
    { policy: 'selective', offload: 'host' },
    (x: Tensor) => scale(x, 2),
    w.t([2], 'float32', true),
  ],
};

function tracking(): unknown[] {
  trackTensors(true);
  return [];
}

async function messageOf(w: World): Promise<unknown> {
  const { message } = await w.t([2]).transfer();
  w.own({ dispose: () => discardTransfer(message) });
  return message;
}
