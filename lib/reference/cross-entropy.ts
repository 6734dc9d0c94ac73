// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { CrossEntropyBackwardParams, CrossEntropyParams, TensorArg } from '../backend.js';
import { clear, load, store, view, type Fail } from './buffer.js';

/** The targets, or null after `fail` if one of them is neither a column nor ignoreIndex. */
function checkedTargets(targets: TensorArg, cols: number, ignoreIndex: number, fail: Fail): ArrayLike<number> | null {
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

/** log(sum of exp(row)), from the differences to the maximum so that nothing overflows. */
function logSumExp(row: Float64Array): number {
  let max = -Infinity;
  for (let i = 0; i < row.length; i++) max = Math.max(max, row[i]);
  if (max === -Infinity) return -Infinity;
  let total = 0;
  for (let i = 0; i < row.length; i++) total += Math.exp(row[i] - max);
  return max + Math.log(total);
}

/**
 * loss = sum over the rows m that are not ignored of lse[m] - logits[m, targets[m]], divided by their count if mean,
 * with lse[m] = log(sum over i of exp(logits[m, i])); logits [rows, cols], targets [rows]. 0 if every row is ignored.
 */
export function crossEntropy(params: CrossEntropyParams, fail: Fail): void {
  const { logits, targets, loss, count, rows, cols, ignoreIndex, mean } = params;
  const target = checkedTargets(targets, cols, ignoreIndex, fail);
  if (!target) return clear(loss, count);
  const values = load(logits);
  let total = 0;
  let counted = 0;
  for (let m = 0; m < rows; m++) {
    if (target[m] === ignoreIndex) continue;
    total += logSumExp(values.subarray(m * cols, (m + 1) * cols)) - values[m * cols + target[m]];
    counted++;
  }
  store(loss, [mean && counted > 0 ? total / counted : total]);
  store(count, [counted]);
}

/**
 * dLogits[m, i] = (exp(logits[m, i] - lse[m]) - [i = targets[m]]) * dLoss, divided by count if mean; 0 in ignored rows.
 * dLogits is [rows, cols].
 */
export function crossEntropyBackward(params: CrossEntropyBackwardParams, fail: Fail): void {
  const { logits, targets, count, dLoss, dLogits, rows, cols, ignoreIndex, mean } = params;
  const target = checkedTargets(targets, cols, ignoreIndex, fail);
  if (!target) return clear(dLogits);
  const values = load(logits);
  const factor = mean ? load(dLoss)[0] / load(count)[0] : load(dLoss)[0]; // count 0: no row uses it
  for (let m = 0; m < rows; m++) {
    const row = values.subarray(m * cols, (m + 1) * cols);
    if (target[m] === ignoreIndex) {
      row.fill(0);
      continue;
    }
    const lse = logSumExp(row);
    for (let i = 0; i < cols; i++) row[i] = Math.exp(row[i] - lse) * factor;
    row[target[m]] -= factor;
  }
  store(dLogits, values);
}
