// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkArray, checkFloat, checkOptions, checkPositive, checkTensor } from '../check.js';
import type { Device } from '../device.js';
import { OptionError } from '../errors.js';
import { tidy } from '../scope.js';
import { zeros, type Tensor } from '../tensor.js';

/** Options of {@link gradNorm}. */
export interface GradNormOptions {
  /** The longest joint gradient that the coefficient leaves as it is. Default Infinity: no clipping. */
  maxNorm?: number;
  /** What the loss was multiplied by, see {@link LossScaler}. Default 1. */
  lossScale?: number;
}

function gradientsOf(op: string, parameters: readonly Tensor[]): { gradients: Tensor[]; device: Device } {
  const gradients: Tensor[] = [];
  for (const parameter of checkArray(op, 'parameters', parameters)) {
    const { grad } = checkTensor(op, 'parameter', parameter);
    if (grad !== null) gradients.push(checkFloat(op, 'gradient', grad));
  }
  if (gradients.length === 0) throw new OptionError(`${op}: expected at least one parameter with a gradient, got none`);
  const { device } = gradients[0];
  if (gradients.some((gradient) => gradient.device !== device))
    throw new OptionError(`${op}: expected gradients on one device`);
  return { gradients, device };
}

function measure(
  gradients: readonly Tensor[],
  device: Device,
  maxNorm: number,
  factor: number,
): { norm: Tensor; coefficient: Tensor } {
  const norm = zeros([], { device });
  const coefficient = zeros([], { device });
  device.backend.globalNorm({
    tensors: gradients.map((gradient) => gradient.arg),
    norm: norm.arg,
    coefficient: coefficient.arg,
    maxNorm,
    factor,
  });
  return { norm, coefficient };
}

/**
 * The joint Euclidean norm of the gradients of all parameters, the loss scale taken out, and the factor that takes it out of the gradients and
 * clips them to `maxNorm` (Pascanu et al., 2013): min(1, maxNorm / (norm + 1e-6)) / lossScale. The gradients are read once and not written;
 * {@link AdamW.step} multiplies them by the coefficient as it goes.
 *
 * @returns two float32 scalars. If a gradient is infinite or NaN, so is the norm, and the coefficient is NaN.
 * @throws OptionError if no parameter has a gradient, or they are on several devices; OutOfMemoryError.
 */
export function gradNorm(
  parameters: readonly Tensor[],
  options: GradNormOptions = {},
): { norm: Tensor; coefficient: Tensor } {
  const op = 'gradNorm';
  checkOptions(op, options, ['maxNorm', 'lossScale']);
  const { maxNorm = Infinity } = options;
  if (maxNorm !== Infinity) checkPositive(op, 'maxNorm', maxNorm);
  const lossScale = checkPositive(op, 'lossScale', options.lossScale ?? 1);
  const { gradients, device } = gradientsOf(op, parameters);
  return measure(gradients, device, maxNorm, 1 / lossScale);
}

/**
 * Scales the gradients of all parameters by one factor so that their joint Euclidean norm is at most `maxNorm` (Pascanu et al., 2013). A norm that
 * is not finite makes every gradient NaN. Where only the optimizer sees the gradients, {@link gradNorm} saves a pass over them.
 *
 * @returns the norm before, a float32 scalar.
 * @throws OptionError if no parameter has a gradient, or they are on several devices.
 */
export function clipGradNorm(parameters: readonly Tensor[], maxNorm: number): Tensor {
  const op = 'clipGradNorm';
  checkPositive(op, 'maxNorm', maxNorm);
  const { gradients, device } = gradientsOf(op, parameters);
  return tidy(() => {
    const { norm, coefficient } = measure(gradients, device, maxNorm, 1);
    for (const gradient of gradients) {
      device.backend.scale({ x: gradient.arg, out: gradient.arg, factor: 1, factorTensor: coefficient.arg });
    }
    return norm;
  });
}
