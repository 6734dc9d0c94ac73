// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { MatmulParams } from '../backend.js';
import { load, store } from './buffer.js';

/** The transpose [cols, rows] of a row-major matrix [rows, cols]. */
function transposed(matrix: Float64Array, rows: number, cols: number): Float64Array {
  const result = new Float64Array(matrix.length);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) result[col * rows + row] = matrix[row * cols + col];
  }
  return result;
}

/**
 * out[i, j] = sum over p of a[i, p] * b[p, j] + bias[j]. Both operands are first brought to rows along k, [m, k] and
 * [n, k], so that there is one loop for the four ways they can lie.
 */
export function matmul({ a, b, bias, out, m, n, k, transposeA, transposeB }: MatmulParams): void {
  const aRows = transposeA ? transposed(load(a), k, m) : load(a);
  const bRows = transposeB ? load(b) : transposed(load(b), k, n);
  const biases = bias ? load(bias) : new Float64Array(n);
  const values = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const [aRow, bRow] = [i * k, j * k];
      let sum = 0;
      for (let p = 0; p < k; p++) sum += aRows[aRow + p] * bRows[bRow + p];
      values[i * n + j] = sum + biases[j];
    }
  }
  store(out, values);
}
