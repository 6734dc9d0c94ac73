// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { QuantizeTernaryParams, TernaryMethod } from '../backend.js';
import { load, store } from './buffer.js';
import { packTrits, quantize } from './trits.js';

const CHUNK = 4096;
const LANES = 16;

/**
 * The sum of term(|w|) in the one order of float64 additions that all backends share (lib/backend.ts): chunks of 4096; in a chunk,
 * lane l adds the elements l, l + 16, l + 32, ...; then the lanes in turn, then the chunks in turn. Wide enough for
 * SIMD, and chunks can go to threads.
 */
function sumOf(magnitudes: Float64Array, term: (a: number) => number): number {
  const lanes = new Float64Array(LANES);
  let total = 0;
  for (let start = 0; start < magnitudes.length; start += CHUNK) {
    const end = Math.min(start + CHUNK, magnitudes.length);
    lanes.fill(0);
    for (let i = start; i < end; i++) lanes[(i - start) % LANES] += term(magnitudes[i]);
    let chunkSum = 0;
    for (let lane = 0; lane < LANES; lane++) chunkSum += lanes[lane];
    total += chunkSum;
  }
  return total;
}

/** What |w| has to exceed to become a trit other than 0, before it is rounded to float32. */
function thresholdOf(
  magnitudes: Float64Array,
  mean: number,
  method: Exclude<TernaryMethod, 'absmean'>,
  parameter: number,
): number {
  switch (method) {
    case 'twn':
      return 0.7 * mean;
    case 'percentile':
      return magnitudes.slice().sort()[Math.floor((parameter / 100) * (magnitudes.length - 1))];
    case 'meanStd': {
      const variance = sumOf(magnitudes, (a) => (a - mean) * (a - mean)) / magnitudes.length;
      return Math.max(mean + parameter * Math.sqrt(variance), 0);
    }
    case 'threshold':
      return parameter;
  }
}

/** Writes the trits of the weights that share a scale; returns the scale. */
function quantizeGroup(weights: Float64Array, method: TernaryMethod, parameter: number, trits: Int8Array): number {
  const magnitudes = weights.map(Math.abs);
  const mean = sumOf(magnitudes, (a) => a) / weights.length;
  if (method === 'absmean') {
    const scale = Math.fround(Math.max(mean, 1e-5));
    const reciprocal = Math.fround(1 / scale);
    weights.forEach((w, i) => (trits[i] = quantize(Math.fround(w * reciprocal), -1, 1)));
    return scale;
  }
  if (!Number.isFinite(mean)) {
    trits.fill(0);
    return NaN;
  }
  const threshold = Math.fround(thresholdOf(magnitudes, mean, method, parameter));
  weights.forEach((w, i) => (trits[i] = w > threshold ? 1 : w < -threshold ? -1 : 0));
  const kept = sumOf(magnitudes, (a) => (a > threshold ? 1 : 0));
  return kept === 0 ? 1 : sumOf(magnitudes, (a) => (a > threshold ? a : 0)) / kept;
}

/**
 * Trits and scales of a weight, one scale for the matrix or for each row. absmean: scale g = max(mean |W|, 1e-5), trit = clip(round(W / g), -1, 1)
 * (Ma et al., "The Era of 1-bit LLMs", 2024, eq. 1-3); ties round to even, and W / g is W times the float32 reciprocal of g. The others: trit
 * = sign(W) where |W| exceeds a threshold, scale = mean |W| there (Li et al., "Ternary Weight Networks", 2016, eq. 5 and 6).
 * weight [rows, cols], packed [rows, ceil(cols / 4)], scale [1] or [rows].
 */
export function quantizeTernary(params: QuantizeTernaryParams): void {
  const { weight, packed, scale, method, parameter, rows, cols } = params;
  const values = load(weight);
  const trits = new Int8Array(rows * cols);
  const size = values.length / scale.length;
  const scales = Array.from({ length: scale.length }, (_, group) =>
    quantizeGroup(
      values.subarray(group * size, (group + 1) * size),
      method,
      parameter,
      trits.subarray(group * size, (group + 1) * size),
    ),
  );
  store(packed, packTrits(trits, rows, cols));
  store(scale, scales);
}
