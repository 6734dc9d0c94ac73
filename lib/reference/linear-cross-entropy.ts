// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { LinearCrossEntropyBackwardParams, LinearCrossEntropyParams } from '../backend.js';
import { clear, load, store, type Fail } from './buffer.js';
import { checkedTargets, incomingGradients, reduceLosses, rowGradient, rowLoss } from './cross-entropy.js';

// The logits of one row at a time: what is held does not grow with their number.

/** logits[n] = sum over k of x[m, k] * weight[n, k] + bias[n], for one m. */
function logitsOfRow(x: Float64Array, weight: Float64Array, bias: Float64Array | null, m: number, n: number) {
  const features = weight.length / n;
  const logits = new Float64Array(n);
  for (let j = 0; j < n; j++) {
    let sum = bias ? bias[j] : 0;
    for (let k = 0; k < features; k++) sum += x[m * features + k] * weight[j * features + k];
    logits[j] = sum;
  }
  return logits;
}

/** crossEntropy of x weight^T + bias; x [rows, features], weight [vocabulary, features]. */
export function linearCrossEntropy(params: LinearCrossEntropyParams, fail: Fail): void {
  const { targets, loss, count, statistics, rows, vocabulary } = params;
  const target = checkedTargets(targets, vocabulary, params.ignoreIndex, fail);
  if (!target) return clear(loss, count, statistics);
  const [x, weight, bias] = [load(params.x), load(params.weight), params.bias && load(params.bias)];
  const losses = new Float64Array(rows);
  const perRow = new Float64Array(2 * rows);
  for (let m = 0; m < rows; m++) {
    if (target[m] === params.ignoreIndex) continue;
    const row = rowLoss(logitsOfRow(x, weight, bias, m, vocabulary), target[m], params);
    losses[m] = row.loss;
    perRow.set([row.largest, row.sum], 2 * m);
  }
  store(statistics, perRow);
  reduceLosses(losses, target, params, loss, count);
}

/** With g the gradient of a row's logits: dX[m] = g weight, dWeight = the sum over the rows of g^T x[m], dBias that of g. */
export function linearCrossEntropyBackward(params: LinearCrossEntropyBackwardParams, fail: Fail): void {
  const { targets, count, dLoss, dX, dWeight, dBias, rows, vocabulary, features } = params;
  const target = checkedTargets(targets, vocabulary, params.ignoreIndex, fail);
  const results = [dX, dWeight, dBias].filter((each) => each !== null);
  if (!target) return clear(...results);
  const [x, weight, bias] = [load(params.x), load(params.weight), params.bias && load(params.bias)];
  const incoming = incomingGradients(rows, dLoss, count, params.reduction);
  const xGradient = new Float64Array(rows * features);
  const weightGradient = new Float64Array(vocabulary * features);
  const biasGradient = new Float64Array(vocabulary);
  for (let m = 0; m < rows; m++) {
    if (target[m] === params.ignoreIndex) continue;
    const logits = logitsOfRow(x, weight, bias, m, vocabulary);
    rowGradient(logits, target[m], incoming[m], params).forEach((g, n) => {
      for (let k = 0; k < features; k++) {
        xGradient[m * features + k] += g * weight[n * features + k];
        weightGradient[n * features + k] += g * x[m * features + k];
      }
      biasGradient[n] += g;
    });
  }
  if (dX) store(dX, xGradient);
  if (dWeight) store(dWeight, weightGradient);
  if (dBias) store(dBias, biasGradient);
}
