// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { TernaryMethod } from '../backend.js';
import { checkFloat, checkNumber, checkOneOf, checkOptions, checkRange, checkShape } from '../check.js';
import { describe } from '../describe.js';
import { DisposedError, OptionError } from '../errors.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { empty, type Tensor } from '../tensor.js';
import { TernaryTensor } from './ternary-tensor.js';

/** How thresholds and scales of trits are found: see {@link quantizeTernary}. */
export type { TernaryMethod };

/** Options of {@link quantizeTernary}. */
export interface QuantizeTernaryOptions {
  /** Default `absmean`, that of BitNet b1.58. */
  method?: TernaryMethod;
  /** One scale for the whole `tensor` or for each `row`. Default `tensor` for `absmean`, `row` for the other methods. */
  granularity?: 'tensor' | 'row';
  /** For method `percentile`, which needs it: a number from 0 to 100. */
  percentile?: number;
  /** For method `meanStd`, which needs it. */
  k?: number;
  /** For method `threshold`, which needs it: not negative. */
  threshold?: number;
}

const METHODS: readonly TernaryMethod[] = ['absmean', 'twn', 'percentile', 'meanStd', 'threshold'];

/** The option that a method takes; it has no natural default. */
const METHOD_OPTIONS = { percentile: 'percentile', meanStd: 'k', threshold: 'threshold' } as const;

/** @internal The names of the options. */
export const QUANTIZE_TERNARY_OPTIONS = ['method', 'granularity', 'percentile', 'k', 'threshold'];

/** @internal The options with their defaults, for the contract. */
export function checkQuantizeTernaryOptions(
  op: string,
  options: QuantizeTernaryOptions,
): { method: TernaryMethod; granularity: 'tensor' | 'row'; parameter: number } {
  const method = checkOneOf(op, 'method', options.method ?? 'absmean', METHODS);
  const granularity = checkOneOf(op, 'granularity', options.granularity ?? (method === 'absmean' ? 'tensor' : 'row'), [
    'tensor',
    'row',
  ]);
  for (const [owner, name] of Object.entries(METHOD_OPTIONS)) {
    if (owner !== method && options[name] !== undefined)
      throw new OptionError(`${op}: expected ${name} only with method ${owner}, got it with ${method}`);
  }
  let parameter = 0;
  if (method === 'percentile') parameter = checkRange(op, 'percentile', options.percentile, 0, 100);
  else if (method === 'meanStd') parameter = checkNumber(op, 'k', options.k as number);
  else if (method === 'threshold') parameter = checkNumber(op, 'threshold', options.threshold as number, 0);
  return { method, granularity, parameter };
}

/**
 * Rounds a weight matrix to trits. All backends give the same bits. Carries no gradient; for training see {@link bitLinear}.
 *
 * - `absmean` (Ma et al., "The era of 1-bit LLMs", 2024): γ = max(mean|W|, 1e-5) in float32, trit = clip(round(W · (1/γ)), −1, 1), ties to
 *   even, scale γ.
 *
 * The other methods keep the weights above a threshold Δ: trit = 1 if W > Δ, −1 if W < −Δ, else 0; the scale is mean|W| of those that are kept,
 * 1 if none is.
 * - `twn` (Li et al., "Ternary Weight Networks", 2016): Δ = 0.7 · mean|W|.
 * - `percentile`: Δ is the ⌊percentile/100 · (n − 1)⌋-th of the n magnitudes in ascending order: 90 keeps about a tenth of the weights.
 * - `meanStd`: Δ = mean|W| + k · σ, σ the standard deviation of |W| (divided by n); 0 if that is negative.
 * - `threshold`: Δ = threshold. Prunes small weights.
 *
 * Means and ranks are those of the weights that share a scale. If one of them is NaN or infinite, their trits are 0 and their scale is NaN,
 * or infinite with `absmean`, so that products with them are NaN.
 *
 * There is no method by the largest magnitude: Δ = 0.7 · max|W| drops nearly every weight of a normally distributed row. What is called `AbsMax`
 * elsewhere is meant as `twn`.
 *
 * @param weight [N, K], float dtype.
 * @throws ShapeError, DTypeError, OptionError, DisposedError, OutOfMemoryError.
 */
export function quantizeTernary(weight: Tensor, options: QuantizeTernaryOptions = {}): TernaryTensor {
  const op = 'quantizeTernary';
  checkFloat(op, 'weight', weight);
  checkShape(op, 'weight', weight, ['N', 'K']);
  checkOptions(op, options, QUANTIZE_TERNARY_OPTIONS);
  const { method, granularity, parameter } = checkQuantizeTernaryOptions(op, options);
  const [rows, cols] = weight.shape;
  const { device } = weight;
  const packed = empty(op, [rows, Math.ceil(cols / 4)], 'uint8', device);
  const scale = empty(op, [granularity === 'row' ? rows : 1], 'float32', device);
  device.backend.quantizeTernary({
    weight: weight.arg,
    packed: packed.arg,
    scale: scale.arg,
    method,
    parameter,
    rows,
    cols,
  });
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
    throw new OptionError(`${op}: expected a TernaryTensor for weight, got ${describe(weight)}`);
  if (weight.isDisposed)
    throw new DisposedError(`${op}: expected a live ternary tensor for weight, got a disposed one`);
  return weight;
}
