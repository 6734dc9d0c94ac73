// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { RmsNormBackwardParams, RmsNormParams, TensorArg } from '../backend.js';
import { load, store } from './buffer.js';

/** The rows to normalise: x, or, with a residual, x + residual, which is stored in `sum` and read back as it was rounded. */
export function loadSum(x: TensorArg, residual: TensorArg | null, sum: TensorArg | null): Float64Array {
  const values = load(x);
  if (!residual || !sum) return values;
  load(residual).forEach((value, i) => (values[i] += value));
  store(sum, values);
  return load(sum);
}

/**
 * out[m, i] = x[m, i] * rstd[m] * weight[i] with rstd[m] = 1 / sqrt(mean over i of x[m, i]^2 + eps) (Zhang and
 * Sennrich, "Root Mean Square Layer Normalization", 2019, eq. 4); x and out [rows, cols], weight [cols], rstd [rows]. With
 * a residual, sum = x + residual takes the place of x as it was rounded.
 */
export function rmsNorm({ x, residual, sum, weight, out, rstd, rows, cols, eps }: RmsNormParams): void {
  const values = loadSum(x, residual, sum);
  const weights = weight ? load(weight) : new Float64Array(cols).fill(1);
  const factors = new Float64Array(rows);
  for (let m = 0; m < rows; m++) {
    const row = values.subarray(m * cols, (m + 1) * cols);
    let squares = 0;
    for (let i = 0; i < cols; i++) squares += row[i] * row[i];
    factors[m] = 1 / Math.sqrt(squares / cols + eps);
    for (let i = 0; i < cols; i++) row[i] *= factors[m] * weights[i];
  }
  store(out, values);
  store(rstd, factors);
}

/**
 * With x' = x * rstd, the normalised row: dWeight[i] = sum over m of dOut[m, i] * x'[m, i] and, g = dOut * weight being
 * the gradient of x', dX[m, i] = rstd[m] * (g[m, i] - x'[m, i] * mean over j of g[m, j] * x'[m, j]),
 * to which the gradient of the sum is added, if there is one.
 */
export function rmsNormBackward({ dOut, dSum, x, weight, rstd, dX, dWeight, rows, cols }: RmsNormBackwardParams): void {
  const gradient = load(dOut);
  const values = load(x);
  const weights = weight ? load(weight) : new Float64Array(cols).fill(1);
  const factors = load(rstd);
  const weightSums = new Float64Array(cols);
  for (let m = 0; m < rows; m++) {
    const row = m * cols;
    let dot = 0;
    for (let i = 0; i < cols; i++) {
      const normalised = values[row + i] * factors[m];
      weightSums[i] += gradient[row + i] * normalised;
      dot += gradient[row + i] * weights[i] * normalised;
    }
    const mean = dot / cols;
    for (let i = 0; i < cols; i++) {
      gradient[row + i] = factors[m] * (gradient[row + i] * weights[i] - values[row + i] * factors[m] * mean);
    }
  }
  if (dSum) load(dSum).forEach((value, i) => (gradient[i] += value));
  store(dX, gradient);
  if (dWeight) store(dWeight, weightSums);
}
