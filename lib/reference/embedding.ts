// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { EmbeddingBackwardParams, EmbeddingParams, TensorArg } from '../backend.js';
import { clear, load, store, view, type Fail } from './buffer.js';

/** The ids, or null after `fail` if one of them names no row of the table. */
function checkedIds(ids: TensorArg, vocabulary: number, fail: Fail): ArrayLike<number> | null {
  const values = view(ids);
  for (let i = 0; i < values.length; i++) {
    if (values[i] < 0 || values[i] >= vocabulary) {
      fail(`expected ids in 0..${vocabulary - 1}, got ${values[i]} at position ${i}`);
      return null;
    }
  }
  return values;
}

/**
 * out[m] = weight[ids[m]]; weight [V, K], ids [M], out [M, K]. Moves bits, and touches only the rows that are asked
 * for.
 */
export function embedding({ weight, ids, out, rows, cols, vocabulary }: EmbeddingParams, fail: Fail): void {
  const index = checkedIds(ids, vocabulary, fail);
  if (!index) return clear(out);
  const table = view(weight);
  const result = view(out);
  for (let m = 0; m < rows; m++) result.set(table.subarray(index[m] * cols, (index[m] + 1) * cols), m * cols);
}

/** dWeight[v] = sum of dOut[m] over the m with ids[m] = v; dOut [M, K], dWeight [V, K]. */
export function embeddingBackward(params: EmbeddingBackwardParams, fail: Fail): void {
  const { dOut, ids, dWeight, rows, cols, vocabulary } = params;
  const index = checkedIds(ids, vocabulary, fail);
  if (!index) return clear(dWeight);
  const gradient = load(dOut);
  const sums = new Float64Array(vocabulary * cols);
  for (let m = 0; m < rows; m++) {
    const [from, to] = [m * cols, index[m] * cols];
    for (let i = 0; i < cols; i++) sums[to + i] += gradient[from + i];
  }
  store(dWeight, sums);
}
