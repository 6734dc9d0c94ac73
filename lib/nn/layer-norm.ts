// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkBoolean, checkInteger, checkOptions, checkPositive } from '../check.js';
import type { Device, DeviceName } from '../device.js';
import type { FloatDType } from '../dtype.js';
import { layerNorm } from '../ops/layer-norm.js';
import { ones, zeros, type Tensor } from '../tensor.js';
import { Module, parameter } from './module.js';

/** Options of {@link LayerNorm}. */
export interface LayerNormModuleOptions {
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Whether there is a bias. Default true. */
  bias?: boolean;
  /** Default float32. */
  dtype?: FloatDType;
  /** Default: the default device. */
  device?: DeviceName | Device;
}

/** Normalises the last axis to mean 0 and variance 1, scales and shifts it: see the op {@link layerNorm}. */
export class LayerNorm extends Module {
  /** [features], ones at the start */
  weight: Tensor;
  /** [features], zeros at the start, or null */
  bias: Tensor | null;
  /** Added to the variance. */
  readonly eps: number;

  /** @throws OptionError, DeviceError, OutOfMemoryError. */
  constructor(features: number, options: LayerNormModuleOptions = {}) {
    super();
    checkInteger('LayerNorm', 'features', features, 1, 2 ** 31 - 1);
    checkOptions('LayerNorm', options, ['eps', 'bias', 'dtype', 'device']);
    const { dtype = 'float32', device = 'auto' } = options;
    this.eps = checkPositive('LayerNorm', 'eps', options.eps ?? 1e-5);
    const hasBias = checkBoolean('LayerNorm', 'bias', options.bias ?? true);
    this.weight = parameter(ones([features], { dtype, device }));
    this.bias = hasBias ? parameter(zeros([features], { dtype, device })) : null;
  }

  /** [..., features] → the same */
  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, { eps: this.eps });
  }
}
