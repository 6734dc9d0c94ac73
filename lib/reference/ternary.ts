// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type {
  BitLinearWeightBackwardParams,
  DequantizeTernaryParams,
  QuantizeActivationsParams,
  TernaryMatmulBackwardParams,
  TernaryMatmulInt8Params,
  TernaryProductArg,
  TernaryMatmulParams,
} from '../backend.js';
import { load, store, view } from './buffer.js';
import { quantize, unpackTrits } from './trits.js';

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

/**
 * One scale per token (Ma et al., 2024, section 2): s = 127 / max(max|x|, 1e-5), code = clip(round(x * s), -128, 127),
 * ties to even, each operation rounded to float32. x and codes [rows, cols], scales [rows]. A token with NaN or
 * Infinity gets codes 0 but a scale of NaN or 0, which the product turns into NaN.
 */
export function quantizeActivations({ x, codes, scales, rows, cols }: QuantizeActivationsParams): void {
  const values = load(x);
  const codeValues = new Int8Array(rows * cols);
  const scaleValues = new Float64Array(rows);
  for (let m = 0; m < rows; m++) {
    let max = Math.fround(1e-5);
    for (let i = m * cols; i < (m + 1) * cols; i++) max = Math.max(max, Math.abs(values[i]));
    const s = Math.fround(127 / max);
    for (let i = m * cols; i < (m + 1) * cols; i++) codeValues[i] = quantize(Math.fround(values[i] * s), -128, 127);
    scaleValues[m] = s;
  }
  store(codes, codeValues);
  store(scales, scaleValues);
}

/**
 * out[m, n] = sum over k of codes[m, k] * trits[n, k], exactly, times weightScale[n] / activationScale[m], plus
 * bias[n]. The four roundings to float32 are part of the contract (lib/backend.ts): every backend gives these bits.
 * codes [m, k], packed [n, ceil(k / 4)], out [m, n].
 */
export function ternaryMatmulInt8(params: TernaryMatmulInt8Params): void {
  for (const product of [params, ...(params.also ?? [])]) multiplyCodes(params, product);
}

function multiplyCodes(
  { codes, activationScales, m, k }: TernaryMatmulInt8Params,
  { packed, weightScale, bias, out, n }: TernaryProductArg,
): void {
  const codeValues = view(codes);
  const scales = load(activationScales);
  const trits = unpackTrits(view(packed), n, k);
  const weightScales = load(weightScale);
  const biases = bias && load(bias);
  const values = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const [codeRow, tritRow] = [i * k, j * k];
      const rowScale = weightScales.length === 1 ? weightScales[0] : weightScales[j];
      let sum = 0;
      for (let p = 0; p < k && rowScale !== 0; p++) sum += codeValues[codeRow + p] * trits[tritRow + p];
      const y = Math.fround(Math.fround(sum) * Math.fround(rowScale / scales[i]));
      values[i * n + j] = biases ? Math.fround(y + biases[j]) : y;
    }
  }
  store(out, values);
}

/** out[m, n] = sum over k of x[m, k] * trits[n, k] * weightScale[n] + bias[n]; x [m, k], out [m, n]. */
export function ternaryMatmul({ x, packed, weightScale, bias, out, m, n, k }: TernaryMatmulParams): void {
  const inputs = load(x);
  const trits = unpackTrits(view(packed), n, k);
  const weightScales = load(weightScale);
  const biases = bias ? load(bias) : new Float64Array(n);
  const values = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const [inputRow, tritRow] = [i * k, j * k];
      let sum = 0;
      for (let p = 0; p < k; p++) sum += inputs[inputRow + p] * trits[tritRow + p];
      values[i * n + j] = sum * (weightScales.length === 1 ? weightScales[0] : weightScales[j]) + biases[j];
    }
  }
  store(out, values);
}

/**
 * dX[m, k] = sum over n of dOut[m, n] * weightScale[n] * trits[n, k]; dOut [m, n], dX [m, k]. The gradient passes
 * straight through the rounding.
 */
export function ternaryMatmulBackward({ dOut, packed, weightScale, dX, m, n, k }: TernaryMatmulBackwardParams): void {
  const gradient = load(dOut);
  const trits = unpackTrits(view(packed), n, k);
  const weightScales = load(weightScale);
  const values = new Float64Array(m * k);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const [valueRow, tritRow] = [i * k, j * k];
      const scaled = gradient[i * n + j] * (weightScales.length === 1 ? weightScales[0] : weightScales[j]);
      for (let p = 0; p < k; p++) values[valueRow + p] += scaled * trits[tritRow + p];
    }
  }
  store(dX, values);
}

/**
 * dWeight[n, k] = sum over m of dOut[m, n] * codes[m, k] / activationScales[m]: the weight's gradient with the
 * activations as the forward pass saw them, passed straight through the rounding of the weight (Bengio et al.,
 * "Estimating or Propagating Gradients", 2013). dOut [m, n], codes [m, k].
 */
export function bitLinearWeightBackward(params: BitLinearWeightBackwardParams): void {
  const { dOut, codes, activationScales, dWeight, m, n, k } = params;
  const gradient = load(dOut);
  const codeValues = view(codes);
  const scales = load(activationScales);
  const values = new Float64Array(n * k);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const [codeRow, valueRow] = [i * k, j * k];
      const scaled = gradient[i * n + j] / scales[i];
      for (let p = 0; p < k; p++) values[valueRow + p] += scaled * codeValues[codeRow + p];
    }
  }
  store(dWeight, values);
}
