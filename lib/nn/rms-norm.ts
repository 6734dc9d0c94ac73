// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkOptions, checkPositive } from '../check.js';
import type { Device, DeviceName } from '../device.js';
import type { FloatDType } from '../dtype.js';
import { rmsNorm, type NormedSum } from '../ops/rms-norm.js';
import { ones, type Tensor } from '../tensor.js';
import { Module, parameter } from './module.js';

/** Normalises the last axis to root mean square 1 and scales it: see the op {@link rmsNorm}. */
export class RMSNorm extends Module {
  /** [features], ones at the start */
  weight: Tensor;
  /** Added to the mean of squares. */
  readonly eps: number;

  /**
   * A norm of weight 1.
   *
   * @param features size of the last axis.
   * @param options `eps` default 1e-5, `dtype` default float32, `device` default the default device.
   * @throws OptionError, DeviceError, OutOfMemoryError.
   */
  constructor(features: number, options: { eps?: number; dtype?: FloatDType; device?: DeviceName | Device } = {}) {
    super();
    checkInteger('RMSNorm', 'features', features, 1, 2 ** 31 - 1);
    checkOptions('RMSNorm', options, ['eps', 'dtype', 'device']);
    const { dtype = 'float32', device = 'auto' } = options;
    this.eps = checkPositive('RMSNorm', 'eps', options.eps ?? 1e-5);
    this.weight = parameter(ones([features], { dtype, device }));
  }

  /**
   * @param x [..., features].
   * @returns the same shape and dtype.
   * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, { eps: this.eps });
  }
  /**
   * Of a sum that is wanted too, in one pass over memory.
   *
   * @param x [..., features].
   * @param residual added to it first; the same shape and dtype.
   * @returns the sum, normalised, and the sum itself.
   * @throws as {@link forward}.
   */
  forwardSum(x: Tensor, residual: Tensor): NormedSum {
    return rmsNorm(x, this.weight, { eps: this.eps, residual });
  }
}
