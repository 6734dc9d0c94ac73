// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  checkBoolean,
  checkFloat,
  checkInteger,
  checkNumber,
  checkObject,
  checkOptions,
  checkPositive,
} from '../check.js';
import { describe } from '../describe.js';
import { OptionError } from '../errors.js';
import { scale } from '../ops/scale.js';
import type { Tensor } from '../tensor.js';

/** How the loss is scaled, so that small gradients do not become 0 in float16. */
export interface LossScaleConfig {
  /** The factor at the start. Default 65536. */
  lossScale: number;
  /** Whether the factor follows the gradients. Default true. */
  dynamic: boolean;
  /** Default 1. */
  minLossScale: number;
  /** Default 2^31. */
  maxLossScale: number;
  /** Above 1. Default 2. */
  growthFactor: number;
  /** Above 0 and below 1. Default 0.5. */
  backoffFactor: number;
  /** Good steps in a row after which the factor grows. Default 2000. */
  growthInterval: number;
}

/** Where a {@link LossScaler} stands. */
export interface LossScalerState {
  /** What losses are multiplied by. */
  scale: number;
  /** Good steps since the factor last changed. */
  goodSteps: number;
}

const DEFAULTS: LossScaleConfig = {
  lossScale: 65536,
  dynamic: true,
  minLossScale: 1,
  maxLossScale: 2 ** 31,
  growthFactor: 2,
  backoffFactor: 0.5,
  growthInterval: 2000,
};

/** @internal The options with their defaults. */
export function resolveLossScale(op: string, options: Partial<LossScaleConfig>): LossScaleConfig {
  checkOptions(op, options, Object.keys(DEFAULTS));
  const config: LossScaleConfig = { ...DEFAULTS };
  for (const [key, value] of Object.entries(options)) if (value !== undefined) Object.assign(config, { [key]: value });
  const minLossScale = checkPositive(op, 'minLossScale', config.minLossScale);
  const maxLossScale = checkNumber(op, 'maxLossScale', config.maxLossScale, minLossScale);
  checkBoolean(op, 'dynamic', config.dynamic);
  checkPositive(op, 'lossScale', config.lossScale);
  if (config.lossScale < minLossScale || config.lossScale > maxLossScale) {
    throw new OptionError(
      `${op}: expected a number from ${minLossScale} to ${maxLossScale} for lossScale, got ${config.lossScale}`,
    );
  }
  checkNumber(op, 'growthFactor', config.growthFactor);
  if (config.growthFactor <= 1) {
    throw new OptionError(`${op}: expected a number above 1 for growthFactor, got ${config.growthFactor}`);
  }
  checkPositive(op, 'backoffFactor', config.backoffFactor);
  if (config.backoffFactor >= 1) {
    throw new OptionError(`${op}: expected a number below 1 for backoffFactor, got ${config.backoffFactor}`);
  }
  checkInteger(op, 'growthInterval', config.growthInterval, 1, 2 ** 31 - 1);
  return config;
}

/**
 * Dynamic loss scaling (Micikevicius et al., "Mixed Precision Training", 2018). The loss is multiplied by a factor before the backward pass, and
 * {@link gradNorm} takes it out again. Gradients that overflow cost their step and shrink the factor; `growthInterval` good steps in a row
 * make it grow.
 *
 * ```
 * scaler.scaleLoss(loss).backward();
 * const { norm, coefficient } = gradNorm(parameters, { maxNorm: 1, lossScale: scaler.scale });
 * if (scaler.update(await norm.item())) optimizer.step({ coefficient });
 * ```
 */
export class LossScaler {
  /** With every default filled in. */
  readonly config: Readonly<LossScaleConfig>;
  private current: number;
  private goodSteps = 0;

  /** @throws OptionError. */
  constructor(options: Partial<LossScaleConfig> = {}) {
    this.config = resolveLossScale('LossScaler', options);
    this.current = this.config.lossScale;
  }

  /** What losses are multiplied by now. */
  get scale(): number {
    return this.current;
  }

  /** Where it stands: assigned to another one, that goes on from there. */
  get state(): LossScalerState {
    return { scale: this.current, goodSteps: this.goodSteps };
  }

  /** @throws OptionError if the state is outside this scaler's bounds. */
  set state(state: LossScalerState) {
    const { minLossScale, maxLossScale, growthInterval } = this.config;
    checkObject('LossScaler', 'state', state);
    const { scale: value, goodSteps } = state;
    checkNumber('LossScaler', 'scale', value, minLossScale);
    if (value > maxLossScale) {
      throw new OptionError(`LossScaler: expected at most ${maxLossScale} for scale, got ${value}`);
    }
    this.goodSteps = checkInteger('LossScaler', 'goodSteps', goodSteps, 0, growthInterval - 1);
    this.current = value;
  }

  /**
   * The loss times the factor and `weight`, the loss itself if that is 1.
   *
   * @param weight the loss's share of a step of several micro-batches. Default 1.
   * @throws OptionError, DTypeError, DisposedError, OutOfMemoryError.
   */
  scaleLoss(loss: Tensor, weight = 1): Tensor {
    checkFloat('LossScaler.scaleLoss', 'loss', loss);
    const factor = this.current * checkNumber('LossScaler.scaleLoss', 'weight', weight);
    return factor === 1 ? loss : scale(loss, factor);
  }

  /**
   * Takes note of the gradient norm of a step, with or without the factor in it, once a step.
   *
   * @returns whether the step may be taken: whether the norm is finite.
   * @throws OptionError if it is no number.
   */
  update(norm: number): boolean {
    const { dynamic, minLossScale, maxLossScale, growthFactor, backoffFactor, growthInterval } = this.config;
    if (typeof norm !== 'number')
      throw new OptionError(`LossScaler.update: expected a number for norm, got ${describe(norm)}`);
    const good = Number.isFinite(norm);
    if (!dynamic) return good;
    if (!good) {
      this.current = Math.max(this.current * backoffFactor, minLossScale);
      this.goodSteps = 0;
    } else if (++this.goodSteps === growthInterval) {
      this.current = Math.min(this.current * growthFactor, maxLossScale);
      this.goodSteps = 0;
    }
    return good;
  }
}
