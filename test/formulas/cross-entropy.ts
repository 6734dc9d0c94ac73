// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { crossEntropy } from '../../lib/index.js';
import { crossEntropyCases, type CrossEntropyCase } from '../cases.js';
import type { OpSpec, Values } from '../op-spec.js';
import { softmaxOf } from './softmax.js';

function rowsThatCount(targets: Values, c: CrossEntropyCase): number[] {
  return [...targets.keys()].filter((row) => targets[row] !== (c.ignoreIndex ?? -100));
}

export const crossEntropySpec: OpSpec<CrossEntropyCase> = {
  op: 'crossEntropy',
  cases: crossEntropyCases,
  float32Outputs: ['loss'],
  inputs(c, random) {
    const { rows, vocabulary, ignoreIndex = -100, ignoreEvery, spread } = c;
    const targets = random.integers(rows, 0, vocabulary - 1);
    if (ignoreEvery) for (let row = 0; row < rows; row += ignoreEvery) targets[row] = ignoreIndex;
    return {
      logits: { shape: [rows, vocabulary], values: random.normals(rows * vocabulary, spread) },
      targets: { shape: [rows], values: targets, dtype: 'int32' },
    };
  },
  call({ logits, targets }, { ignoreIndex, reduction }) {
    const options = { ...(ignoreIndex !== undefined && { ignoreIndex }), ...(reduction && { reduction }) };
    return { loss: crossEntropy(logits, targets, options) };
  },
  forward(a, { logits, targets }, c) {
    const n = c.vocabulary;
    const counted = rowsThatCount(targets, c);
    let total = 0;
    for (const row of counted)
      total = a.accumulate(total + a.round(softmaxOf(a, logits, row, n).lse - logits[row * n + targets[row]]));
    const divisor = c.reduction === 'sum' ? 1 : Math.max(counted.length, 1);
    return { loss: Float64Array.of(a.round(total / divisor)) };
  },
  backward(a, { logits, targets }, { loss: dLoss }, c) {
    const n = c.vocabulary;
    const counted = rowsThatCount(targets, c);
    const factor = c.reduction === 'sum' ? dLoss[0] : a.round(dLoss[0] / Math.max(counted.length, 1));
    const dLogits = new Float64Array(logits.length);
    for (const row of counted) {
      const { p } = softmaxOf(a, logits, row, n);
      for (let i = 0; i < n; i++) {
        dLogits[row * n + i] = a.round(a.round(p[i] - (i === targets[row] ? 1 : 0)) * factor);
      }
    }
    return { logits: dLogits };
  },
};
