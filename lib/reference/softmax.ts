// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { SoftmaxBackwardParams, SoftmaxParams } from '../backend.js';
import { load, store } from './buffer.js';

/**
 * out[m, i] = exp(x[m, i] - max) / sum over j of exp(x[m, j] - max), with the maximum of row m; x and out are [rows,
 * cols]. A row of -Infinity alone gives zeros. A row with +Infinity or NaN gives NaN.
 */
export function softmax({ x, out, rows, cols }: SoftmaxParams): void {
  const values = load(x);
  for (let m = 0; m < rows; m++) {
    const row = values.subarray(m * cols, (m + 1) * cols);
    let max = -Infinity;
    for (let i = 0; i < cols; i++) max = Math.max(max, row[i]); // NaN stays
    if (max === -Infinity) {
      row.fill(0);
      continue;
    }
    let total = 0;
    for (let i = 0; i < cols; i++) {
      row[i] = Math.exp(row[i] - max);
      total += row[i];
    }
    for (let i = 0; i < cols; i++) row[i] /= total;
  }
  store(out, values);
}

/** dX[m, i] = out[m, i] * (dOut[m, i] - sum over j of out[m, j] * dOut[m, j]) */
export function softmaxBackward({ out, dOut, dX, rows, cols }: SoftmaxBackwardParams): void {
  const probabilities = load(out);
  const gradient = load(dOut);
  for (let m = 0; m < rows; m++) {
    let dot = 0;
    for (let i = m * cols; i < (m + 1) * cols; i++) dot += probabilities[i] * gradient[i];
    for (let i = m * cols; i < (m + 1) * cols; i++) gradient[i] = probabilities[i] * (gradient[i] - dot);
  }
  store(dX, gradient);
}
