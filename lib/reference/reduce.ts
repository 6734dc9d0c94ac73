// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { ArgmaxParams, GlobalNormParams, SumParams } from '../backend.js';
import { isFloat } from '../dtype.js';
import { load, store, view } from './buffer.js';

/** out[o, i] = factor * sum over r of x[o, r, i]; x is [outer, reduce, inner]. Integers wrap around. */
export function sum({ x, out, outer, reduce, inner, factor }: SumParams): void {
  const values = load(x);
  // An Int32Array keeps the low 32 bits of every sum.
  const sums = isFloat(out.dtype) ? new Float64Array(outer * inner) : new Int32Array(outer * inner);
  for (let o = 0; o < outer; o++) {
    for (let r = 0; r < reduce; r++) {
      const row = (o * reduce + r) * inner;
      for (let i = 0; i < inner; i++) sums[o * inner + i] += values[row + i];
    }
  }
  for (let i = 0; i < sums.length; i++) sums[i] *= factor;
  if (isFloat(out.dtype)) store(out, sums);
  else view(out).set(sums);
}

/** out[m] = the first index of the largest value of row m; a NaN counts as the largest. x is [rows, cols]. */
export function argmax({ x, out, rows, cols }: ArgmaxParams): void {
  const values = load(x);
  const indices = new Int32Array(rows);
  for (let m = 0; m < rows; m++) {
    let best = m * cols;
    for (let i = m * cols; i < (m + 1) * cols && !Number.isNaN(values[best]); i++) {
      if (values[i] > values[best] || Number.isNaN(values[i])) best = i;
    }
    indices[m] = best - m * cols;
  }
  store(out, indices);
}

/**
 * norm = factor * sqrt(sum of squares over all tensors); coefficient = factor * min(1, maxNorm / (norm + 1e-6)), which turns
 * the tensors into gradients, clipped to a joint norm of maxNorm (Pascanu et al., "On the difficulty of training recurrent neural networks",
 * 2013; eps as in torch.nn.utils).
 */
export function globalNorm({ tensors, norm, coefficient, maxNorm, factor }: GlobalNormParams): void {
  let squares = 0;
  for (const tensor of tensors) {
    const values = load(tensor);
    for (let i = 0; i < values.length; i++) squares += values[i] * values[i];
  }
  const total = factor * Math.sqrt(squares);
  // Finite as the float32 that the caller gets to see, which overflows before float64 does.
  const isFinite = Number.isFinite(Math.fround(total));
  store(norm, [total]);
  store(coefficient, [isFinite ? factor * Math.min(1, maxNorm / (total + 1e-6)) : NaN]);
}
