// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkFloat, checkOptions, checkPositive, checkShape, checkTogether } from '../check.js';
import { ShapeError } from '../errors.js';
import { empty, workspace, type Tensor } from '../tensor.js';
import type { NormedSum } from './rms-norm.js';

/** Options of {@link layerNorm}. */
export interface LayerNormOptions {
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Added to x first; x's shape and dtype. Default none. */
  residual?: Tensor;
}

/**
 * Layer normalisation over the last axis (Ba, Kiros and Hinton, 2016): y = (x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) · weight + bias.
 *
 * With a `residual` it is sum = x + residual that is normalised, and both are given: bit-equal to {@link add} followed by `layerNorm`, in one
 * pass over memory. Gradients flow through both.
 *
 * The variance is taken about the mean, so that a large mean costs it no digits; the mean itself is rounded to float32. Numbers further than
 * the largest of float32 from the mean of their row give infinity; half of it is always safe.
 *
 * @param x [..., K], float dtype.
 * @param weight [K], same dtype. Default null: none.
 * @param bias [K], same dtype. Default null: none.
 * @returns out, x's shape and dtype; with a residual `{ out, sum }`, both of x's shape and dtype.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function layerNorm(
  x: Tensor,
  weight?: Tensor | null,
  bias?: Tensor | null,
  options?: LayerNormOptions & { residual?: undefined },
): Tensor;
export function layerNorm(
  x: Tensor,
  weight: Tensor | null | undefined,
  bias: Tensor | null | undefined,
  options: LayerNormOptions & { residual: Tensor },
): NormedSum;
export function layerNorm(
  x: Tensor,
  weight?: Tensor | null,
  bias?: Tensor | null,
  options?: LayerNormOptions,
): Tensor | NormedSum;
export function layerNorm(
  x: Tensor,
  weight: Tensor | null = null,
  bias: Tensor | null = null,
  options: LayerNormOptions = {},
): Tensor | NormedSum {
  checkFloat('layerNorm', 'x', x);
  checkOptions('layerNorm', options, ['eps', 'residual']);
  const eps = checkPositive('layerNorm', 'eps', options.eps ?? 1e-5);
  const residual = options.residual ?? null;
  if (x.shape.length === 0) throw new ShapeError('layerNorm: expected x of shape [..., K], got a scalar');
  const cols = x.shape[x.shape.length - 1];
  if (residual !== null) {
    checkFloat('layerNorm', 'residual', residual);
    checkShape('layerNorm', 'residual', residual, x.shape, 'to match x');
  }
  for (const [name, each] of Object.entries({ weight, bias })) {
    if (each === null) continue;
    checkFloat('layerNorm', name, each);
    checkShape('layerNorm', name, each, [cols], 'to match the last axis of x');
  }
  const device = checkTogether('layerNorm', { x, residual, weight, bias });
  const rows = x.size / cols;
  const sum = residual && empty('layerNorm', x.shape, x.dtype, device);
  const out = empty('layerNorm', x.shape, x.dtype, device);
  const mean = workspace('layerNorm', [rows], 'float32', device);
  const rstd = workspace('layerNorm', [rows], 'float32', device);
  device.backend.layerNorm({
    x: x.arg,
    residual: residual && residual.arg,
    sum: sum && sum.arg,
    weight: weight && weight.arg,
    bias: bias && bias.arg,
    out: out.arg,
    mean: mean.arg,
    rstd: rstd.arg,
    rows,
    cols,
    eps,
  });
  const normalised = sum ?? x;
  const saved = weight ? [normalised, mean, rstd, weight] : [normalised, mean, rstd];
  const outputs = sum ? [out, sum] : out;
  const [hasResidual, hasBias] = [residual !== null, bias !== null];
  record('layerNorm', [x, residual, weight, bias], outputs, saved, ([dOut, dSum = null], [input, center, scale, w]) => {
    if (!dOut) return [dSum, hasResidual ? dSum : null, null, null];
    const dX = empty('layerNorm', input.shape, input.dtype, device);
    const dWeight = w ? empty('layerNorm', w.shape, w.dtype, device) : null;
    const dBias = hasBias ? empty('layerNorm', [cols], input.dtype, device) : null;
    device.backend.layerNormBackward({
      dOut: dOut.arg,
      dSum: dSum && dSum.arg,
      x: input.arg,
      weight: w ? w.arg : null,
      mean: center.arg,
      rstd: scale.arg,
      dX: dX.arg,
      dWeight: dWeight && dWeight.arg,
      dBias: dBias && dBias.arg,
      rows,
      cols,
    });
    return [dX, hasResidual ? dX : null, dWeight, dBias];
  });
  mean.dispose();
  rstd.dispose();
  return sum ? { out, sum } : out;
}
