// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { DequantizeTernaryParams, QuantizeTernaryParams } from '../backend.js';
import { load, store, view } from './buffer.js';
import { packTrits, quantize, unpackTrits } from './trits.js';

const CHUNK = 4096;
const LANES = 16;

/**
 * mean |W| in the one order of float64 additions that all backends share (lib/backend.ts): chunks of 4096; in a chunk, lane l adds the
 * elements l, l + 16, l + 32, ...; then the lanes in turn, then the chunks in turn. Wide enough for SIMD, and chunks can go to threads.
 */
function absoluteMean(values: Float64Array): number {
  const lanes = new Float64Array(LANES);
  let total = 0;
  for (let start = 0; start < values.length; start += CHUNK) {
    const end = Math.min(start + CHUNK, values.length);
    lanes.fill(0);
    for (let i = start; i < end; i++) lanes[(i - start) % LANES] += Math.abs(values[i]);
    let chunkSum = 0;
    for (let lane = 0; lane < LANES; lane++) chunkSum += lanes[lane];
    total += chunkSum;
  }
  return total / values.length;
}

/**
 * Absmean quantisation (Ma et al., "The Era of 1-bit LLMs", 2024, eq. 1-3): scale g = max(mean |W|, 1e-5), trit = clip(round(W / g), -1, 1). Ties
 * round to even, and W / g is W times the float32 reciprocal of g, to the bit on every backend. weight [rows, cols], packed [rows, ceil(cols / 4)].
 */
export function quantizeTernary({ weight, packed, scale, rows, cols }: QuantizeTernaryParams): void {
  const values = load(weight);
  const g = Math.fround(Math.max(absoluteMean(values), 1e-5));
  const reciprocal = Math.fround(1 / g);
  const trits = new Int8Array(rows * cols);
  for (let i = 0; i < trits.length; i++) trits[i] = quantize(Math.fround(values[i] * reciprocal), -1, 1);
  store(packed, packTrits(trits, rows, cols));
  store(scale, [g]);
}

/** out[n, k] = trit[n, k] * scale[n], or scale[0] for all rows; out [rows, cols]. */
export function dequantizeTernary({ packed, scale, out, rows, cols }: DequantizeTernaryParams): void {
  const trits = unpackTrits(view(packed), rows, cols);
  const scales = load(scale);
  const values = new Float64Array(rows * cols);
  for (let n = 0; n < rows; n++) {
    const rowScale = scales.length === 1 ? scales[0] : scales[n];
    for (let i = n * cols; i < (n + 1) * cols; i++) values[i] = trits[i] * rowScale;
  }
  store(out, values);
}
