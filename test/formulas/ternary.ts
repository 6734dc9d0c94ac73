// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { TernaryMethod } from '../../lib/index.js';
import type { Values } from '../op-spec.js';

/**
 * The integer path of BitNet b1.58 as lib/backend.ts states it, step by step in float32: what every backend has to equal to the bit.
 */

export function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value) + 0;
  return below % 2 === 0 ? below : below + 1;
}

const clip = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), high);

const CHUNK = 4096;
const LANES = 16;

/** The sum in chunks of 4096 and 16 lanes. */
function sumInOrder(values: Values): number {
  let total = 0;
  for (let start = 0; start < values.length; start += CHUNK) {
    const lanes = new Float64Array(LANES);
    const end = Math.min(start + CHUNK, values.length);
    for (let i = start; i < end; i++) lanes[(i - start) % LANES] += values[i];
    total += lanes.reduce((sum, lane) => sum + lane, 0);
  }
  return total;
}

/** Trits and scale of the weights that share one: absmean. */
export function ternaryOf(weight: Values): { trits: Values; scale: number } {
  const scale = Math.fround(Math.max(sumInOrder(weight.map(Math.abs)) / weight.length, 1e-5));
  const inverse = Math.fround(1 / scale);
  return { trits: weight.map((w) => clip(roundHalfEven(Math.fround(w * inverse)), -1, 1) + 0), scale };
}

/** The threshold of a method, in float64. `parameter`: percentile, k or the threshold itself. */
export function thresholdOf(weight: Values, method: Exclude<TernaryMethod, 'absmean'>, parameter: number): number {
  const magnitudes = weight.map(Math.abs);
  const mean = sumInOrder(magnitudes) / weight.length;
  const deviation = Math.sqrt(sumInOrder(magnitudes.map((a) => (a - mean) * (a - mean))) / weight.length);
  switch (method) {
    case 'twn':
      return 0.7 * mean;
    case 'percentile':
      return Array.from(magnitudes).sort((a, b) => a - b)[Math.floor((parameter / 100) * (weight.length - 1))];
    case 'meanStd':
      return Math.max(0, mean + parameter * deviation);
    case 'threshold':
      return parameter;
  }
}

/** Trits and scale of the weights that share one: those above a threshold, and their mean magnitude. */
export function thresholdedOf(
  weight: Values,
  method: Exclude<TernaryMethod, 'absmean'>,
  parameter: number,
): { trits: Values; scale: number } {
  const threshold = Math.fround(thresholdOf(weight, method, parameter));
  const trits = weight.map((w) => (Math.abs(w) > threshold ? Math.sign(w) : 0));
  const count = trits.filter((trit) => trit !== 0).length;
  const kept = sumInOrder(weight.map((w, i) => (trits[i] === 0 ? 0 : Math.abs(w))));
  return { trits, scale: count === 0 ? 1 : Math.fround(kept / count) };
}

/** Codes [rows, cols] and scale of each row of activations: absmax to 127. `round`: to an integer. */
export function int8Of(x: Values, cols: number, round = roundHalfEven): { codes: Values; scales: Values } {
  const rows = x.length / cols;
  const codes = new Float64Array(x.length);
  const scales = new Float64Array(rows);
  for (let row = 0; row < rows; row++) {
    const values = x.subarray(row * cols, (row + 1) * cols);
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), Math.fround(1e-5));
    scales[row] = Math.fround(127 / largest);
    codes.set(
      values.map((value) => clip(round(Math.fround(value * scales[row])), -128, 127) + 0),
      row * cols,
    );
  }
  return { codes, scales };
}

/** The exact integer product and its float32 epilogue, [M, N]; rounding to the output's dtype is left to the caller. */
export function int8Product(
  { codes, scales }: { codes: Values; scales: Values },
  { trits, scale }: { trits: Values; scale: number | Values },
  bias: Values | undefined,
  n: number,
  k: number,
): Values {
  return new Float64Array(scales.length * n).map((_, i) => {
    const [row, col] = [Math.floor(i / n), i % n];
    const weightScale = typeof scale === 'number' ? scale : scale[col];
    let sum = 0;
    if (weightScale !== 0) for (let j = 0; j < k; j++) sum += codes[row * k + j] * trits[col * k + j];
    const y = Math.fround(Math.fround(sum) * Math.fround(weightScale / scales[row]));
    return bias ? Math.fround(y + bias[col]) : y;
  });
}

/** Four codes to a byte, trit + 1 in two bits; unused bits hold code 1. */
export function pack(trits: ArrayLike<number>, rows: number, cols: number): Uint8Array {
  const rowBytes = Math.ceil(cols / 4);
  const bytes = new Uint8Array(rows * rowBytes);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < rowBytes * 4; col++) {
      const code = col < cols ? trits[row * cols + col] + 1 : 1;
      bytes[row * rowBytes + Math.floor(col / 4)] += code * 4 ** (col % 4);
    }
  }
  return bytes;
}
