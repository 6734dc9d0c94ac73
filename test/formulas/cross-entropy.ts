// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { crossEntropy, type CrossEntropyOptions } from '../../lib/index.js';
import { sumOf, type Arithmetic } from '../arithmetic.js';
import { crossEntropyCases, type CrossEntropyCase } from '../cases.js';
import type { Input, OpSpec, Values } from '../op-spec.js';
import type { Random } from '../random.js';
import { softmaxOf } from './softmax.js';

/** Options as a caller would give them: none that the case does not name. */
export function lossOptions(c: CrossEntropyCase): CrossEntropyOptions {
  const names = ['ignoreIndex', 'reduction', 'labelSmoothing', 'zLoss', 'softcap'] as const;
  return Object.fromEntries(names.flatMap((name) => (c[name] === undefined ? [] : [[name, c[name]]])));
}

export function lossTargets(
  { rows, vocabulary, ignoreIndex = -100, ignoreEvery }: CrossEntropyCase,
  random: Random,
): Input {
  const targets = random.integers(rows, 0, vocabulary - 1);
  if (ignoreEvery) for (let row = 0; row < rows; row += ignoreEvery) targets[row] = ignoreIndex;
  return { shape: [rows], values: targets, dtype: 'int32' };
}

function rowsThatCount(targets: Values, c: CrossEntropyCase): number[] {
  return [...targets.keys()].filter((row) => targets[row] !== (c.ignoreIndex ?? -100));
}

/** tanh(logits / softcap), and the z that the loss is about. */
function capped(a: Arithmetic, logits: Values, softcap: number): { t: Values; z: Values } {
  const t = logits.map((logit) => a.round(Math.tanh(a.round(logit / softcap))));
  return { t, z: t.map((value) => a.round(value * softcap)) };
}

/** The loss of logits [rows, vocabulary]: one number, or one a row. */
export function lossOf(a: Arithmetic, logits: Values, targets: Values, c: CrossEntropyCase): Values {
  const { vocabulary: n, labelSmoothing = 0, zLoss = 0, softcap = 0 } = c;
  const z = softcap > 0 ? capped(a, logits, softcap).z : logits;
  const losses = new Float64Array(c.rows);
  const counted = rowsThatCount(targets, c);
  for (const row of counted) {
    const { lse } = softmaxOf(a, z, row, n);
    let loss = a.round(lse - z[row * n + targets[row]]);
    if (labelSmoothing > 0) {
      const mean = a.round(sumOf(a, n, (i) => z[row * n + i]) / n);
      loss = a.round(a.round((1 - labelSmoothing) * loss) + a.round(labelSmoothing * a.round(lse - mean)));
    }
    if (zLoss > 0) loss = a.round(loss + a.round(zLoss * a.round(lse * lse)));
    losses[row] = loss;
  }
  if (c.reduction === 'none') return losses;
  const total = counted.reduce((sum, row) => a.accumulate(sum + losses[row]), 0);
  return Float64Array.of(a.round(total / (c.reduction === 'sum' ? 1 : Math.max(counted.length, 1))));
}

/** The gradient of the loss: (p (1 + 2 zLoss lse) - q) (1 - t^2) with q the wanted probabilities. */
export function lossGradient(
  a: Arithmetic,
  logits: Values,
  targets: Values,
  dLoss: Values,
  c: CrossEntropyCase,
): Values {
  const { vocabulary: n, labelSmoothing = 0, zLoss = 0, softcap = 0, reduction = 'mean' } = c;
  const cap = softcap > 0 ? capped(a, logits, softcap) : null;
  const z = cap ? cap.z : logits;
  const counted = rowsThatCount(targets, c);
  const dLogits = new Float64Array(logits.length);
  for (const row of counted) {
    const incoming = reduction === 'none' ? dLoss[row] : dLoss[0];
    const factor = reduction === 'mean' ? a.round(incoming / counted.length) : incoming;
    const { p, lse } = softmaxOf(a, z, row, n);
    const weight = zLoss > 0 ? a.round(1 + a.round(2 * zLoss * lse)) : 1;
    for (let i = 0; i < n; i++) {
      const at = row * n + i;
      const wanted = a.round(labelSmoothing / n + (i === targets[row] ? 1 - labelSmoothing : 0));
      const dZ = a.round(a.round(a.round(p[i] * weight) - wanted) * factor);
      dLogits[at] = cap ? a.round(dZ * a.round(1 - a.round(cap.t[at] * cap.t[at]))) : dZ;
    }
  }
  return dLogits;
}

export const crossEntropySpec: OpSpec<CrossEntropyCase> = {
  op: 'crossEntropy',
  cases: crossEntropyCases,
  float32Outputs: ['loss'],
  inputs(c, random) {
    const targets = lossTargets(c, random);
    const { rows, vocabulary, spread } = c;
    return { logits: { shape: [rows, vocabulary], values: random.normals(rows * vocabulary, spread) }, targets };
  },
  call: ({ logits, targets }, c) => ({ loss: crossEntropy(logits, targets, lossOptions(c)) }),
  forward: (a, { logits, targets }, c) => ({ loss: lossOf(a, logits, targets, c) }),
  backward: (a, { logits, targets }, { loss: dLoss }, c) => ({
    logits: lossGradient(a, logits, targets, dLoss, c),
  }),
};
