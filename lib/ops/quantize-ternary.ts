// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkFloat, checkOneOf, checkOptions, checkShape } from '../check.js';
import { DisposedError, OptionError } from '../errors.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { empty, type Tensor } from '../tensor.js';
import { TernaryTensor } from './ternary-tensor.js';

/** Options of {@link quantizeTernary}. */
export interface QuantizeTernaryOptions {
  /** How the scale is found. `absmean` (default) is BitNet b1.58's. */
  method?: 'absmean';
  /** One scale for the whole `tensor` (default). */
  granularity?: 'tensor';
}

/**
 * Rounds a weight matrix to trits (Ma et al., "The era of 1-bit LLMs", 2024): γ = max(mean|W|, 1e-5) over the whole matrix in float32, trit =
 * clip(round(W · (1/γ)), −1, 1), ties to even. All backends give the same bits. Carries no gradient; for training see {@link bitLinear}.
 *
 * @param weight [N, K], float dtype.
 * @throws ShapeError, DTypeError, OptionError, DisposedError, OutOfMemoryError.
 */
export function quantizeTernary(weight: Tensor, options: QuantizeTernaryOptions = {}): TernaryTensor {
  const op = 'quantizeTernary';
  checkFloat(op, 'weight', weight);
  checkShape(op, 'weight', weight, ['N', 'K']);
  checkOptions(op, options, ['method', 'granularity']);
  checkOneOf(op, 'method', options.method ?? 'absmean', ['absmean']);
  checkOneOf(op, 'granularity', options.granularity ?? 'tensor', ['tensor']);
  const [rows, cols] = weight.shape;
  const { device } = weight;
  const packed = empty(op, [rows, Math.ceil(cols / 4)], 'uint8', device);
  const scale = empty(op, [1], 'float32', device);
  device.backend.quantizeTernary({ weight: weight.arg, packed: packed.arg, scale: scale.arg, rows, cols });
  return new TernaryTensor(packed, scale, [rows, cols]);
}

/**
 * trit · scale as an ordinary matrix [N, K].
 *
 * @param weight [N, K].
 * @param options `dtype`: float dtype of the result, default float32.
 * @throws OptionError, DisposedError, OutOfMemoryError.
 */
export function dequantizeTernary(weight: TernaryTensor, options: { dtype?: FloatDType } = {}): Tensor {
  const op = 'dequantizeTernary';
  checkTernary(op, weight);
  checkOptions(op, options, ['dtype']);
  const dtype = checkOneOf(op, 'dtype', options.dtype ?? 'float32', FLOAT_DTYPES);
  const [rows, cols] = weight.shape;
  const out = empty(op, [rows, cols], dtype, weight.device);
  weight.device.backend.dequantizeTernary({
    packed: weight.packed.arg,
    scale: weight.scale.arg,
    out: out.arg,
    rows,
    cols,
  });
  return out;
}

/** @internal */
export function checkTernary(op: string, weight: TernaryTensor): TernaryTensor {
  if (!(weight instanceof TernaryTensor))
    throw new OptionError(`${op}: expected a TernaryTensor for weight, got ${String(weight)}`);
  if (weight.isDisposed)
    throw new DisposedError(`${op}: expected a live ternary tensor for weight, got a disposed one`);
  return weight;
}
