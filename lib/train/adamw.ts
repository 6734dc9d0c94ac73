// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkFloat, checkInteger, checkNumber, checkOptions, checkPositive, checkTensor } from '../check.js';
import { OptionError } from '../errors.js';
import { keep, tidy } from '../scope.js';
import { zeros, type Tensor } from '../tensor.js';

/** Options of {@link AdamW}. */
export interface AdamWOptions {
  /** Default 1e-3. */
  learningRate?: number;
  /** Decay of the two moments. Default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Default 1e-8. */
  eps?: number;
  /** Decoupled weight decay. Default 0.01. */
  weightDecay?: number;
}

/** Parameters with a weight decay of their own. */
export interface ParameterGroup {
  /** Leaves that require a gradient. */
  parameters: readonly Tensor[];
  /** Default: the optimizer's. */
  weightDecay?: number;
}

interface Slot {
  parameter: Tensor;
  weightDecay: number;
  firstMoment: Tensor;
  secondMoment: Tensor;
}

function checkBeta(value: number, name: string): number {
  if (typeof value !== 'number' || !(value >= 0 && value < 1)) {
    throw new OptionError(`AdamW: expected a number from 0 to below 1 for ${name}, got ${String(value)}`);
  }
  return value;
}

/**
 * Adam with decoupled weight decay (Loshchilov and Hutter, 2019), with PyTorch's formula: all parameters are updated in one pass over parameter,
 * gradient and both moments. Moments are float32 whatever the parameters' dtype.
 */
export class AdamW {
  /** Used by the next `step()`; set it from a schedule. */
  learningRate: number;
  /** Steps taken. */
  stepCount = 0;

  private readonly betas: readonly [number, number];
  private readonly eps: number;
  private readonly slots: Slot[] = [];

  /** @throws OptionError, DTypeError, DisposedError, OutOfMemoryError. */
  constructor(parameters: readonly Tensor[] | readonly ParameterGroup[], options: AdamWOptions = {}) {
    const op = 'AdamW';
    checkOptions(op, options, ['learningRate', 'betas', 'eps', 'weightDecay']);
    this.learningRate = checkNumber(op, 'learningRate', options.learningRate ?? 1e-3, 0);
    const [beta1, beta2] = options.betas ?? [0.9, 0.999];
    this.betas = [checkBeta(beta1, 'betas[0]'), checkBeta(beta2, 'betas[1]')];
    this.eps = checkPositive(op, 'eps', options.eps ?? 1e-8);
    const weightDecay = checkNumber(op, 'weightDecay', options.weightDecay ?? 0.01, 0);
    const groups = parameters.map((each) => ('parameters' in each ? each : { parameters: [each] }));
    for (const group of groups) {
      const decay = checkNumber(op, 'weightDecay', group.weightDecay ?? weightDecay, 0);
      for (const parameter of group.parameters) {
        checkFloat(op, 'parameter', parameter);
        if (this.slots.some((slot) => slot.parameter === parameter)) {
          throw new OptionError(
            `${op}: expected each parameter once, got one of shape [${parameter.shape.join(', ')}] twice`,
          );
        }
        const moment = (): Tensor => keep(zeros(parameter.shape, { device: parameter.device }));
        this.slots.push({ parameter, weightDecay: decay, firstMoment: moment(), secondMoment: moment() });
      }
    }
  }

  /** Updates every parameter that has a gradient. The gradients stay; see `clearGrad()`. */
  step(): void {
    const op = 'AdamW.step';
    const learningRate = checkNumber(op, 'learningRate', this.learningRate, 0);
    const ready = this.slots.filter((slot) => checkTensor(op, 'parameter', slot.parameter).grad !== null);
    this.stepCount++;
    for (const device of new Set(ready.map((slot) => slot.parameter.device))) {
      const slots = ready.filter((slot) => slot.parameter.device === device);
      device.backend.adamw({
        parameters: slots.map((slot) => slot.parameter.arg),
        gradients: slots.map((slot) => (slot.parameter.grad as Tensor).arg),
        firstMoments: slots.map((slot) => slot.firstMoment.arg),
        secondMoments: slots.map((slot) => slot.secondMoment.arg),
        weightDecays: slots.map((slot) => slot.weightDecay),
        learningRate,
        beta1: this.betas[0],
        beta2: this.betas[1],
        eps: this.eps,
        step: this.stepCount,
      });
    }
  }

  /** Drops the gradients of all parameters. */
  clearGrad(): void {
    for (const slot of this.slots) slot.parameter.clearGrad();
  }

  /** Frees the moments. */
  dispose(): void {
    for (const slot of this.slots) {
      slot.firstMoment.dispose();
      slot.secondMoment.dispose();
    }
    this.slots.length = 0;
  }
}

/**
 * Scales the gradients of all parameters by one factor so that their joint Euclidean norm is at most `maxNorm` (Pascanu et al., 2013). A norm that
 * is not finite makes every gradient NaN.
 *
 * @returns the norm before, a float32 scalar.
 * @throws OptionError if no parameter has a gradient, or they are on several devices.
 */
export function clipGradNorm(parameters: readonly Tensor[], maxNorm: number): Tensor {
  const op = 'clipGradNorm';
  checkPositive(op, 'maxNorm', maxNorm);
  const gradients = parameters.flatMap((parameter) => parameter.grad ?? []);
  if (gradients.length === 0) throw new OptionError(`${op}: expected at least one parameter with a gradient, got none`);
  const { device } = gradients[0];
  if (gradients.some((gradient) => gradient.device !== device))
    throw new OptionError(`${op}: expected gradients on one device`);
  return tidy(() => {
    const norm = zeros([], { device });
    const coefficient = zeros([], { device });
    device.backend.globalNorm({
      tensors: gradients.map((gradient) => gradient.arg),
      norm: norm.arg,
      coefficient: coefficient.arg,
      maxNorm,
    });
    for (const gradient of gradients) {
      device.backend.scale({ x: gradient.arg, out: gradient.arg, factor: 1, factorTensor: coefficient.arg });
    }
    return norm;
  });
}

/** Options of {@link warmupCosine}. */
export interface WarmupCosineOptions {
  /** The highest learning rate. */
  peak: number;
  /** Steps of the linear rise from 0. */
  warmup: number;
  /** Steps in all. */
  total: number;
  /** The learning rate at and after the end. Default peak / 10. */
  floor?: number;
}

/**
 * A learning rate that rises linearly and then falls along half a cosine (Loshchilov and Hutter, "SGDR", 2017).
 *
 * @returns the learning rate of a step, counted from 1.
 * @throws OptionError.
 */
export function warmupCosine(options: WarmupCosineOptions): (step: number) => number {
  const op = 'warmupCosine';
  checkOptions(op, options, ['peak', 'warmup', 'total', 'floor']);
  const peak = checkPositive(op, 'peak', options.peak);
  const total = checkInteger(op, 'total', options.total, 1, 2 ** 53 - 1);
  const warmup = checkInteger(op, 'warmup', options.warmup, 0, total);
  const floor = checkNumber(op, 'floor', options.floor ?? peak / 10, 0);
  return (step) => {
    if (step <= warmup) return (peak * step) / warmup;
    const progress = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
    return floor + ((peak - floor) * (1 + Math.cos(Math.PI * progress))) / 2;
  };
}
