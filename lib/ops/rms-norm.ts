// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkFloat, checkOptions, checkPositive, checkShape, checkTogether } from '../check.js';
import { ShapeError } from '../errors.js';
import { empty, workspace, type Tensor } from '../tensor.js';

/** Options of {@link rmsNorm}. */
export interface RmsNormOptions {
  /** Added to the mean square. Default 1e-5. */
  eps?: number;
  /** Added to x first; x's shape and dtype. Default none. */
  residual?: Tensor;
}

/** A normalised sum and the sum itself: `{ out, sum }`. */
export interface NormedSum {
  /** The sum, normalised. */
  out: Tensor;
  /** x + residual, rounded to the dtype. */
  sum: Tensor;
}

/**
 * Root mean square normalisation over the last axis (Zhang and Sennrich, 2019): y = x / sqrt(mean(x²) + eps) · weight.
 *
 * With a `residual` it is sum = x + residual that is normalised, and both are given: bit-equal to {@link add} followed by `rmsNorm`, in one pass
 * over memory. Gradients flow through both.
 *
 * No finite row overflows, nor does a small one vanish; beyond 2¹²⁶ a row's factor is a subnormal number, good to 2⁻²² only.
 *
 * @param x [..., K], float dtype.
 * @param weight [K], same dtype, or null for none.
 * @returns out, x's shape and dtype; with a residual `{ out, sum }`, both of x's shape and dtype.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function rmsNorm(x: Tensor, weight: Tensor | null, options?: RmsNormOptions & { residual?: undefined }): Tensor;
export function rmsNorm(x: Tensor, weight: Tensor | null, options: RmsNormOptions & { residual: Tensor }): NormedSum;
export function rmsNorm(x: Tensor, weight: Tensor | null, options?: RmsNormOptions): Tensor | NormedSum;
export function rmsNorm(x: Tensor, weight: Tensor | null, options: RmsNormOptions = {}): Tensor | NormedSum {
  checkFloat('rmsNorm', 'x', x);
  checkOptions('rmsNorm', options, ['eps', 'residual']);
  const eps = checkPositive('rmsNorm', 'eps', options.eps ?? 1e-5);
  const residual = options.residual ?? null;
  if (x.shape.length === 0) throw new ShapeError('rmsNorm: expected x of shape [..., K], got a scalar');
  const cols = x.shape[x.shape.length - 1];
  if (residual !== null) {
    checkFloat('rmsNorm', 'residual', residual);
    checkShape('rmsNorm', 'residual', residual, x.shape, 'to match x');
  }
  if (weight !== null) {
    checkFloat('rmsNorm', 'weight', weight);
    checkShape('rmsNorm', 'weight', weight, [cols], 'to match the last axis of x');
  }
  const device = checkTogether('rmsNorm', { x, residual, weight });
  const rows = x.size / cols;
  const sum = residual && empty('rmsNorm', x.shape, x.dtype, device);
  const out = empty('rmsNorm', x.shape, x.dtype, device);
  const rstd = workspace('rmsNorm', [rows], 'float32', device);
  device.backend.rmsNorm({
    x: x.arg,
    residual: residual && residual.arg,
    sum: sum && sum.arg,
    weight: weight && weight.arg,
    out: out.arg,
    rstd: rstd.arg,
    rows,
    cols,
    eps,
  });
  const normalised = sum ?? x;
  const saved = weight ? [normalised, rstd, weight] : [normalised, rstd];
  const outputs = sum ? [out, sum] : out;
  const hasResidual = residual !== null;
  record('rmsNorm', [x, residual, weight], outputs, saved, ([dOut, dSum = null], [input, scaleOfRow, w]) => {
    if (!dOut) return [dSum, hasResidual ? dSum : null, null];
    const dX = empty('rmsNorm', input.shape, input.dtype, device);
    const dWeight = w ? empty('rmsNorm', w.shape, w.dtype, device) : null;
    device.backend.rmsNormBackward({
      dOut: dOut.arg,
      dSum: dSum && dSum.arg,
      x: input.arg,
      weight: w ? w.arg : null,
      rstd: scaleOfRow.arg,
      dX: dX.arg,
      dWeight: dWeight && dWeight.arg,
      rows,
      cols,
    });
    return [dX, hasResidual ? dX : null, dWeight];
  });
  rstd.dispose();
  return sum ? { out, sum } : out;
}
