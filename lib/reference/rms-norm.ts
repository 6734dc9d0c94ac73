// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { RmsNormBackwardParams, RmsNormParams } from '../backend.js';
import { load, store } from './buffer.js';

/**
 * out[m, i] = x[m, i] * rstd[m] * weight[i] with rstd[m] = 1 / sqrt(mean over i of x[m, i]^2 + eps) (Zhang and
 * Sennrich, "Root Mean Square Layer Normalization", 2019, eq. 4); x and out [rows, cols], weight [cols], rstd [rows].
 */
export function rmsNorm({ x, weight, out, rstd, rows, cols, eps }: RmsNormParams): void {
  const values = load(x);
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
 * the gradient of x', dX[m, i] = rstd[m] * (g[m, i] - x'[m, i] * mean over j of g[m, j] * x'[m, j]).
 */
export function rmsNormBackward({ dOut, x, weight, rstd, dX, dWeight, rows, cols }: RmsNormBackwardParams): void {
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
  store(dX, gradient);
  if (dWeight) store(dWeight, weightSums);
}
