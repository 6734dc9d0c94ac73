// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type {
  BitLinearWeightBackwardParams,
  DequantizeTernaryParams,
  QuantizeActivationsParams,
  QuantizeTernaryParams,
  TensorArg,
  TernaryMatmulBackwardParams,
  TernaryMatmulInt8Params,
  TernaryMatmulParams,
} from '../backend.js';
import { bits, load, store } from './buffer.js';
import { addBias, product } from './matmul.js';

const { fround } = Math;
const SMALLEST = fround(1e-5);
const LANES = 16;
const CHUNK = 4096;

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

function clamp(x: number, low: number, high: number): number {
  return Math.min(Math.max(x, low), high);
}

/** Mean of |w|, added up in the order the contract prescribes, so that every backend gets the same bits. */
function meanMagnitude(w: Float64Array): number {
  let total = 0;
  for (let chunk = 0; chunk < w.length; chunk += CHUNK) {
    const lanes = new Float64Array(LANES);
    const end = Math.min(chunk + CHUNK, w.length);
    for (let i = chunk; i < end; i++) lanes[i % LANES] += Math.abs(w[i]);
    let sum = 0;
    for (const lane of lanes) sum += lane;
    total += sum;
  }
  return total / w.length;
}

/** BitNet b1.58's absmean rounding (Ma et al., 2024, equations 1 to 3). */
export function quantizeTernary({ weight, packed, scale, rows, cols }: QuantizeTernaryParams): void {
  const w = load(weight);
  const gamma = Math.max(fround(meanMagnitude(w)), SMALLEST);
  const inverse = fround(1 / gamma);
  const rowBytes = Math.ceil(cols / 4);
  const bytes = new Uint8Array(rows * rowBytes).fill(0b01010101);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const trit = clamp(roundHalfEven(fround(w[row * cols + col] * inverse)), -1, 1);
      const shift = 2 * (col & 3);
      const index = row * rowBytes + (col >> 2);
      bytes[index] = (bytes[index] & ~(3 << shift)) | ((trit + 1) << shift);
    }
  }
  store(packed, bytes);
  store(scale, [gamma]);
}

/** trits [rows, cols] as float64 */
function unpack(packed: TensorArg, rows: number, cols: number): Float64Array {
  const bytes = bits(packed);
  const rowBytes = Math.ceil(cols / 4);
  const out = new Float64Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      out[row * cols + col] = ((bytes[row * rowBytes + (col >> 2)] >> (2 * (col & 3))) & 3) - 1;
    }
  }
  return out;
}

/** trits times their scale */
function weights(packed: TensorArg, scale: TensorArg, rows: number, cols: number): Float64Array {
  const trits = unpack(packed, rows, cols);
  const scales = load(scale);
  return trits.map((trit, i) => trit * scales[scales.length === 1 ? 0 : Math.floor(i / cols)]);
}

export function dequantizeTernary({ packed, scale, out, rows, cols }: DequantizeTernaryParams): void {
  store(out, weights(packed, scale, rows, cols));
}

/** Absmax int8 rounding of each token (Ma et al., 2024; Wang et al., "BitNet", 2023, equation 5). */
export function quantizeActivations({ x, codes, scales, rows, cols }: QuantizeActivationsParams): void {
  const values = load(x);
  const rowScales = new Float64Array(rows);
  for (let row = 0; row < rows; row++) {
    let largest = SMALLEST;
    for (let col = 0; col < cols; col++) largest = Math.max(largest, Math.abs(values[row * cols + col]));
    const s = fround(127 / largest);
    rowScales[row] = s;
    for (let i = row * cols; i < (row + 1) * cols; i++)
      values[i] = clamp(roundHalfEven(fround(values[i] * s)), -128, 127);
  }
  store(codes, values);
  store(scales, rowScales);
}

export function ternaryMatmulInt8(params: TernaryMatmulInt8Params): void {
  const { codes, activationScales, packed, weightScale, bias, out, m, n, k } = params;
  // Integers up to 2^31 are exact in float64.
  const sums = product(load(codes), unpack(packed, n, k), m, n, k, false, true);
  const tokenScales = load(activationScales);
  const rowScales = load(weightScale);
  const offsets = bias ? load(bias) : null;
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const factor = fround(rowScales[rowScales.length === 1 ? 0 : j] / tokenScales[i]);
      const y = fround(fround(sums[i * n + j]) * factor);
      sums[i * n + j] = offsets ? fround(y + offsets[j]) : y;
    }
  }
  store(out, sums);
}

export function ternaryMatmul({ x, packed, weightScale, bias, out, m, n, k }: TernaryMatmulParams): void {
  const result = product(load(x), weights(packed, weightScale, n, k), m, n, k, false, true);
  store(out, bias ? addBias(result, load(bias)) : result);
}

export function ternaryMatmulBackward({ dOut, packed, weightScale, dX, m, n, k }: TernaryMatmulBackwardParams): void {
  store(dX, product(load(dOut), weights(packed, weightScale, n, k), m, k, n, false, false));
}

export function bitLinearWeightBackward(params: BitLinearWeightBackwardParams): void {
  const { dOut, codes, activationScales, dWeight, m, n, k } = params;
  const scales = load(activationScales);
  const x = load(codes).map((code, i) => code / scales[Math.floor(i / k)]);
  store(dWeight, product(load(dOut), x, n, k, m, true, false));
}
