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
}

/**
 * Root mean square normalisation over the last axis (Zhang and Sennrich, 2019): y = x / sqrt(mean(x²) + eps) · weight.
 *
 * @param x [..., K], float dtype.
 * @param weight [K], same dtype, or null for none.
 * @returns x's shape and dtype.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function rmsNorm(x: Tensor, weight: Tensor | null, options: RmsNormOptions = {}): Tensor {
  checkFloat('rmsNorm', 'x', x);
  checkOptions('rmsNorm', options, ['eps']);
  const eps = checkPositive('rmsNorm', 'eps', options.eps ?? 1e-5);
  if (x.shape.length === 0) throw new ShapeError('rmsNorm: expected x of shape [..., K], got a scalar');
  const cols = x.shape[x.shape.length - 1];
  if (weight) {
    checkFloat('rmsNorm', 'weight', weight);
    checkShape('rmsNorm', 'weight', weight, [cols], 'to match the last axis of x');
  }
  const device = checkTogether('rmsNorm', { x, weight });
  const rows = x.size / cols;
  const out = empty('rmsNorm', x.shape, x.dtype, device);
  const rstd = workspace('rmsNorm', [rows], 'float32', device);
  device.backend.rmsNorm({ x: x.arg, weight: weight && weight.arg, out: out.arg, rstd: rstd.arg, rows, cols, eps });
  record('rmsNorm', [x, weight], out, weight ? [x, rstd, weight] : [x, rstd], ([dOut], [input, scaleOfRow, w]) => {
    if (!dOut) return [null, null];
    const dX = empty('rmsNorm', input.shape, input.dtype, device);
    const dWeight = w ? empty('rmsNorm', w.shape, w.dtype, device) : null;
    device.backend.rmsNormBackward({
      dOut: dOut.arg,
      x: input.arg,
      weight: w ? w.arg : null,
      rstd: scaleOfRow.arg,
      dX: dX.arg,
      dWeight: dWeight && dWeight.arg,
      rows,
      cols,
    });
    return [dX, dWeight];
  });
  rstd.dispose();
  return out;
}
