// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { CrossEntropyBackwardParams, CrossEntropyParams, CrossEntropyRule, TensorArg } from '../backend.js';
import { clear, load, store, view, type Fail } from './buffer.js';

/** The targets, or null after `fail` if one of them is neither a column nor ignoreIndex. */
export function checkedTargets(
  targets: TensorArg,
  cols: number,
  ignoreIndex: number,
  fail: Fail,
): ArrayLike<number> | null {
  const values = view(targets);
  for (let row = 0; row < values.length; row++) {
    const target = values[row];
    if (target !== ignoreIndex && (target < 0 || target >= cols)) {
      fail(`expected targets in 0..${cols - 1} or ignoreIndex ${ignoreIndex}, got ${target} at row ${row}`);
      return null;
    }
  }
  return values;
}

/** z = softcap * tanh(logits / softcap), or the logits themselves if softcap is 0. */
function capped(logits: Float64Array, softcap: number): Float64Array {
  return softcap > 0 ? logits.map((logit) => softcap * Math.tanh(logit / softcap)) : logits;
}

/** z of a row, its largest and sum(exp(z - largest)), in which nothing overflows. */
function softmaxOf(logits: Float64Array, softcap: number): { z: Float64Array; largest: number; sum: number } {
  const z = capped(logits, softcap);
  let largest = -Infinity;
  for (let i = 0; i < z.length; i++) largest = Math.max(largest, z[i]);
  let sum = 0;
  for (let i = 0; i < z.length; i++) sum += Math.exp(z[i] - largest);
  return { z, largest, sum };
}

/** What one row costs, and its share of `statistics`. */
export function rowLoss(
  logits: Float64Array,
  target: number,
  { labelSmoothing, zLoss, softcap }: CrossEntropyRule,
): { loss: number; largest: number; sum: number } {
  const { z, largest, sum } = softmaxOf(logits, softcap);
  // lse = largest + logSum. The largest is subtracted first: it may be so large that the sum would round.
  const logSum = Math.log(sum);
  let loss = 0;
  if (labelSmoothing < 1) loss += (1 - labelSmoothing) * (largest - z[target] + logSum);
  if (labelSmoothing > 0) {
    const mean = z.reduce((total, value) => total + value, 0) / z.length;
    loss += labelSmoothing * (largest - mean + logSum);
  }
  if (zLoss > 0) loss += zLoss * (largest + logSum) ** 2;
  return { loss, largest, sum };
}

/**
 * Gradient of a row's loss, times `incoming`. With p = exp(z - lse) and V classes,
 * dz[i] = p[i] * (1 + 2 * zLoss * lse) - labelSmoothing / V - (1 - labelSmoothing) * [i = target]; the softcap multiplies it by
 * 1 - tanh(logits[i] / softcap)^2 = 1 - (z[i] / softcap)^2. Sums again, because `statistics` are rounded to float32.
 */
export function rowGradient(
  logits: Float64Array,
  target: number,
  incoming: number,
  { labelSmoothing, zLoss, softcap }: CrossEntropyRule,
): Float64Array {
  const { z, largest, sum } = softmaxOf(logits, softcap);
  const weight = zLoss > 0 ? 1 + 2 * zLoss * (largest + Math.log(sum)) : 1;
  return z.map((value, i) => {
    const wanted = labelSmoothing / z.length + (i === target ? 1 - labelSmoothing : 0);
    const dZ = ((Math.exp(value - largest) / sum) * weight - wanted) * incoming;
    return softcap > 0 ? dZ * (1 - (value / softcap) ** 2) : dZ;
  });
}

/** The rows' losses as the contract's `loss` and `count`. */
export function reduceLosses(
  losses: Float64Array,
  target: ArrayLike<number>,
  { ignoreIndex, reduction }: CrossEntropyRule,
  loss: TensorArg,
  count: TensorArg,
): void {
  let total = 0;
  let counted = 0;
  for (let m = 0; m < losses.length; m++) {
    if (target[m] === ignoreIndex) continue;
    total += losses[m];
    counted++;
  }
  store(count, [counted]);
  if (reduction === 'none') store(loss, losses);
  else store(loss, [reduction === 'mean' && counted > 0 ? total / counted : total]);
}

/** The gradient of each row's loss, from that of `loss`. */
export function incomingGradients(
  rows: number,
  dLoss: TensorArg,
  count: TensorArg,
  reduction: CrossEntropyRule['reduction'],
): Float64Array {
  if (reduction === 'none') return load(dLoss);
  const divisor = reduction === 'mean' ? load(count)[0] : 1; // 0 if no row uses it
  return new Float64Array(rows).fill(load(dLoss)[0] / divisor);
}

/** See {@link rowLoss}; logits [rows, cols], targets [rows]. */
export function crossEntropy(params: CrossEntropyParams, fail: Fail): void {
  const { logits, targets, loss, count, statistics, rows, cols } = params;
  const target = checkedTargets(targets, cols, params.ignoreIndex, fail);
  if (!target) return clear(loss, count, statistics);
  const values = load(logits);
  const losses = new Float64Array(rows);
  const perRow = new Float64Array(2 * rows);
  for (let m = 0; m < rows; m++) {
    if (target[m] === params.ignoreIndex) continue;
    const row = rowLoss(values.subarray(m * cols, (m + 1) * cols), target[m], params);
    losses[m] = row.loss;
    perRow.set([row.largest, row.sum], 2 * m);
  }
  store(statistics, perRow);
  reduceLosses(losses, target, params, loss, count);
}

/** See {@link rowGradient}; dLogits [rows, cols] is 0 in ignored rows. */
export function crossEntropyBackward(params: CrossEntropyBackwardParams, fail: Fail): void {
  const { logits, targets, count, dLoss, dLogits, rows, cols } = params;
  const target = checkedTargets(targets, cols, params.ignoreIndex, fail);
  if (!target) return clear(dLogits);
  const values = load(logits);
  const incoming = incomingGradients(rows, dLoss, count, params.reduction);
  const result = new Float64Array(values.length);
  for (let m = 0; m < rows; m++) {
    if (target[m] === params.ignoreIndex) continue;
    const row = values.subarray(m * cols, (m + 1) * cols);
    result.set(rowGradient(row, target[m], incoming[m], params), m * cols);
  }
  store(dLogits, result);
}
