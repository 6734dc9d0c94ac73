// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { LayerNormBackwardParams, LayerNormParams } from '../backend.js';
import { load, store } from './buffer.js';
import { loadSum } from './rms-norm.js';

/**
 * out[m, i] = (x[m, i] - mean[m]) * rstd[m] * weight[i] + bias[i] with rstd[m] = 1 / sqrt(variance[m] + eps), mean and variance (that of the
 * row itself, divided by cols) over i (Ba, Kiros and Hinton, "Layer Normalization", 2016, eq. 3 and 4); x and out [rows, cols], weight and
 * bias [cols], mean and rstd [rows]. With a residual, sum = x + residual takes the place of x as it was rounded.
 */
export function layerNorm(p: LayerNormParams): void {
  const { cols } = p;
  const values = loadSum(p.x, p.residual, p.sum);
  const weights = p.weight ? load(p.weight) : new Float64Array(cols).fill(1);
  const biases = p.bias ? load(p.bias) : new Float64Array(cols);
  const means = new Float64Array(p.rows);
  const factors = new Float64Array(p.rows);
  for (let m = 0; m < p.rows; m++) {
    const row = values.subarray(m * cols, (m + 1) * cols);
    const mean = row.reduce((total, value) => total + value, 0) / cols;
    const variance = row.reduce((total, value) => total + (value - mean) ** 2, 0) / cols;
    means[m] = mean;
    factors[m] = 1 / Math.sqrt(variance + p.eps);
    for (let i = 0; i < cols; i++) row[i] = (row[i] - mean) * factors[m] * weights[i] + biases[i];
  }
  store(p.out, values);
  store(p.mean, means);
  store(p.rstd, factors);
}

/**
 * With x' = (x - mean) * rstd, the normalised row: dBias[i] = sum over m of dOut[m, i], dWeight[i] = sum over m of dOut[m, i] * x'[m, i] and, g =
 * dOut * weight being the gradient of x', dX[m, i] = rstd[m] * (g[m, i] - mean over j of g[m, j] - x'[m, i] * mean over j of g[m, j] *
 * x'[m, j]), to which the gradient of the sum is added, if there is one.
 */
export function layerNormBackward(p: LayerNormBackwardParams): void {
  const { rows, cols } = p;
  const gradient = load(p.dOut);
  const values = load(p.x);
  const weights = p.weight ? load(p.weight) : new Float64Array(cols).fill(1);
  const means = load(p.mean);
  const factors = load(p.rstd);
  const weightSums = new Float64Array(cols);
  const biasSums = new Float64Array(cols);
  for (let m = 0; m < rows; m++) {
    const row = m * cols;
    let sum = 0;
    let dot = 0;
    for (let i = 0; i < cols; i++) {
      const normalised = (values[row + i] - means[m]) * factors[m];
      biasSums[i] += gradient[row + i];
      weightSums[i] += gradient[row + i] * normalised;
      sum += gradient[row + i] * weights[i];
      dot += gradient[row + i] * weights[i] * normalised;
    }
    for (let i = 0; i < cols; i++) {
      const normalised = (values[row + i] - means[m]) * factors[m];
      gradient[row + i] = factors[m] * (gradient[row + i] * weights[i] - sum / cols - normalised * (dot / cols));
    }
  }
  if (p.dSum) load(p.dSum).forEach((value, i) => (gradient[i] += value));
  store(p.dX, gradient);
  if (p.dWeight) store(p.dWeight, weightSums);
  if (p.dBias) store(p.dBias, biasSums);
}
