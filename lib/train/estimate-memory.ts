// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { withGradMode } from '../autograd/tape.js';
import { checkBoolean, checkInteger, checkOneOf, checkOptions } from '../check.js';
import { Device } from '../device.js';
import { createDryDevice } from '../dry-device.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { OptionError } from '../errors.js';
import { CausalLM, type CausalLMOptions } from '../models/causal-lm.js';
import type { CheckpointConfig } from '../nn/checkpoint-config.js';
import { Module } from '../nn/module.js';
import { TernaryTensor } from '../ops/ternary-tensor.js';
import { defaultGenerator } from '../random.js';
import { keep, outsideScopes, tidy } from '../scope.js';
import { empty, Tensor, zeros } from '../tensor.js';
import { AdamW } from './adamw.js';
import { gradNorm } from './grad-norm.js';
import { GradientSum } from './gradient-sum.js';
import type { LossModel } from './trainer-options.js';

/** The training step that {@link estimateMemory} is asked about. */
export interface MemoryEstimateOptions {
  /** Sequences in a micro-batch. */
  batchSize: number;
  /** Tokens in a sequence. */
  sequenceLength: number;
  /** Micro-batches in a step, whose gradients are added up as the {@link Trainer} does. Default 1. */
  gradientAccumulation?: number;
  /** The dtype that the model is turned into first, see {@link Module.to}. Default: as it is. */
  dtype?: FloatDType;
  /** What is recomputed in the backward pass. Default: what the model's `checkpointConfig` says. */
  checkpoint?: Partial<CheckpointConfig>;
  /** {@link AdamW}, or `none`: forward and backward pass alone. Default `adamw`. */
  optimizer?: 'adamw' | 'none';
  /** Whether the optimizer holds float32 masters of 16-bit parameters. Default true. */
  masterWeights?: boolean;
}

/** Bytes on the device. */
export interface MemoryEstimate {
  /** Of all tensors of the model, trained or not. */
  parameters: number;
  /** Of the gradients of one step, when they are whole. */
  gradients: number;
  /** Of moments and masters. */
  optimizer: number;
  /** What the forward pass of a micro-batch leaves for the backward pass: activations, and the tokens. */
  activations: number;
  /** What it moves to the host, with `offload`; not on the device and in no other figure. */
  offloaded: number;
  /** The most that is held at once in a step, all of the above included. */
  peak: number;
}

/**
 * How much memory a training step takes, found without taking it: the step is run on a device that counts and computes nothing. The figures are
 * those that `memory()` would show, to the byte, with every option of the model, checkpoints, adapters ({@link applyLora}) and all. They do not
 * contain what kernels use inside themselves, other tensors, and the allocator's reserves; leave some room.
 *
 * @param model a model, whose parameters are not touched, or the options of a {@link CausalLM}, which is then not made.
 * @throws OptionError, and what the step itself throws of it, as ShapeError.
 */
export function estimateMemory(model: LossModel | CausalLMOptions, options: MemoryEstimateOptions): MemoryEstimate {
  const op = 'estimateMemory';
  const isModel = model instanceof Module;
  if (isModel && typeof model.loss !== 'function') {
    throw new OptionError(`${op}: expected a model that has a loss, got one without`);
  }
  const step = checkStep(op, options);
  if (step.checkpoint !== undefined && isModel && !('checkpointConfig' in model)) {
    throw new OptionError(`${op}: expected a model with a checkpointConfig beside checkpoint, got one without`);
  }
  const device = createDryDevice();
  const random = defaultGenerator().state;
  try {
    return outsideScopes(() =>
      withGradMode(true, () => {
        using own: LossModel = isModel ? shadowOf(model, device) : new CausalLM(model, { device });
        if (step.dtype) own.to({ dtype: step.dtype });
        if (step.checkpoint !== undefined) Object.assign(own, { checkpointConfig: step.checkpoint });
        return measure(own, device, step);
      }),
    );
  } finally {
    defaultGenerator().state = random;
  }
}

type Step = Required<Omit<MemoryEstimateOptions, 'dtype' | 'checkpoint'>> &
  Pick<MemoryEstimateOptions, 'dtype' | 'checkpoint'>;

function checkStep(op: string, options: MemoryEstimateOptions): Step {
  const counts = ['batchSize', 'sequenceLength', 'gradientAccumulation'] as const;
  checkOptions(op, options, [...counts, 'dtype', 'checkpoint', 'optimizer', 'masterWeights']);
  const [batchSize, sequenceLength, gradientAccumulation] = counts.map((name) =>
    checkInteger(op, name, options[name] ?? (name === 'gradientAccumulation' ? 1 : NaN), 1, 2 ** 31 - 1),
  );
  const { dtype, checkpoint } = options;
  if (dtype !== undefined) checkOneOf(op, 'dtype', dtype, FLOAT_DTYPES);
  return {
    batchSize,
    sequenceLength,
    gradientAccumulation,
    dtype,
    checkpoint,
    optimizer: checkOneOf(op, 'optimizer', options.optimizer ?? 'adamw', ['adamw', 'none']),
    masterWeights: checkBoolean(op, 'masterWeights', options.masterWeights ?? true),
  };
}

/** The same step as the trainer's, with a look at the device in between. */
function measure(model: LossModel, device: Device, step: Step): MemoryEstimate {
  const held = (): number => device.memory().bytes;
  const parameters = model.parameters();
  const result: MemoryEstimate = {
    parameters: held(),
    gradients: 0,
    optimizer: 0,
    activations: 0,
    offloaded: 0,
    peak: 0,
  };
  const optimizer = step.optimizer === 'adamw' ? new AdamW(parameters, { masterWeights: step.masterWeights }) : null;
  result.optimizer = held() - result.parameters;
  device.resetPeakMemory();
  const sum = new GradientSum(parameters);
  // What the third and later ones hold is what the second one does.
  for (let i = 0; i < Math.min(2, step.gradientAccumulation); i++) {
    tidy(() => {
      const before = held();
      const tokens = (): Tensor => zeros([step.batchSize, step.sequenceLength], { dtype: 'int32', device });
      const loss = model.loss(tokens(), tokens());
      result.activations = held() - before;
      result.offloaded = device.memory().offloadedBytes;
      loss.backward();
    });
    if (step.gradientAccumulation > 1) sum.add();
  }
  sum.finish();
  result.gradients = parameters.reduce((bytes, { grad }) => bytes + (grad ? grad.bytes : 0), 0);
  if (optimizer) {
    const { norm, coefficient } = tidy(() => gradNorm(parameters));
    optimizer.step({ coefficient });
    for (const each of [norm, coefficient]) each.dispose();
  }
  result.peak = device.memory().peakBytes;
  optimizer?.dispose();
  return result;
}

/** A module of the same fields, whose tensors are on another device, with unspecified contents. */
function shadowOf<T extends Module>(module: T, device: Device): T {
  const made = new Map<object, unknown>();
  const shadow = (value: object): unknown => {
    if (value instanceof Device) return device;
    if (value instanceof Tensor) {
      const tensor = keep(empty('estimateMemory', value.shape, value.dtype, device));
      tensor.requiresGrad = value.requiresGrad;
      return tensor;
    }
    if (value instanceof TernaryTensor) {
      return new TernaryTensor(of(value.packed) as Tensor, of(value.scale) as Tensor, value.shape);
    }
    if (Array.isArray(value)) return value.map(of);
    return value;
  };
  const of = (value: unknown): unknown => {
    if (typeof value !== 'object' || value === null) return value;
    if (made.has(value)) return made.get(value);
    if (value instanceof Module) {
      const copy = Object.create(Object.getPrototypeOf(value) as object) as Record<string, unknown>;
      made.set(value, copy);
      for (const [name, field] of Object.entries(value)) copy[name] = of(field);
      return copy;
    }
    made.set(value, shadow(value));
    return made.get(value);
  };
  return of(module) as T;
}
