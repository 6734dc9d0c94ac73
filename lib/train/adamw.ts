// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { refuseInCapture } from '../capturing.js';
import {
  checkArray,
  checkBoolean,
  checkFloat,
  checkInteger,
  checkNumber,
  checkObject,
  checkOptions,
  checkPositive,
  checkShape,
  checkTensor,
} from '../check.js';
import { describe } from '../describe.js';
import { DeviceError, DTypeError, OptionError } from '../errors.js';
import { overwrite } from '../nn/module.js';
import { keep } from '../scope.js';
import { workspace, zeros, type Tensor } from '../tensor.js';

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
  /**
   * Whether every float16 and bfloat16 parameter has a float32 master, which takes the updates and of which the parameter is the rounding.
   * Without one, updates below half a unit in the parameter's last place are lost. Default true.
   */
  masterWeights?: boolean;
}

/** Parameters with a weight decay of their own. */
export interface ParameterGroup {
  /** Leaves that require a gradient. */
  parameters: readonly Tensor[];
  /** Default: the optimizer's. */
  weightDecay?: number;
}

/** What an {@link AdamW} knows beside its options. The tensors are the optimizer's own. */
export interface AdamWState {
  /** Steps taken. */
  stepCount: number;
  /** By name: `0.firstMoment`, `0.secondMoment` and, for a 16-bit parameter, `0.master` of the first parameter, and so on. */
  tensors: Map<string, Tensor>;
}

interface Slot {
  parameter: Tensor;
  weightDecay: number;
  firstMoment: Tensor;
  secondMoment: Tensor;
  master: Tensor | null;
}

function checkBeta(value: number, name: string): number {
  if (typeof value !== 'number' || !(value >= 0 && value < 1)) {
    throw new OptionError(`AdamW: expected a number from 0 to below 1 for ${name}, got ${describe(value)}`);
  }
  return value;
}

/**
 * Adam with decoupled weight decay (Loshchilov and Hutter, 2019), with PyTorch's formula: all parameters are updated in one pass over parameter,
 * gradient and both moments. Moments are float32 whatever the parameters' dtype. Masters are made of the parameters here; whoever loads weights
 * afterwards loads the optimizer's state too, or calls `refreshMasters()`.
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
    checkOptions(op, options, ['learningRate', 'betas', 'eps', 'weightDecay', 'masterWeights']);
    this.learningRate = checkNumber(op, 'learningRate', options.learningRate ?? 1e-3, 0);
    const betas = options.betas ?? [0.9, 0.999];
    if (checkArray(op, 'betas', betas).length !== 2)
      throw new OptionError(`${op}: expected two numbers for betas, got ${describe(betas)}`);
    const [beta1, beta2] = betas;
    this.betas = [checkBeta(beta1, 'betas[0]'), checkBeta(beta2, 'betas[1]')];
    this.eps = checkPositive(op, 'eps', options.eps ?? 1e-8);
    const weightDecay = checkNumber(op, 'weightDecay', options.weightDecay ?? 0.01, 0);
    const masterWeights = checkBoolean(op, 'masterWeights', options.masterWeights ?? true);
    const decays = new Map<Tensor, number>();
    for (const each of checkArray<Tensor | ParameterGroup>(op, 'parameters', parameters)) {
      const isGroup = typeof each === 'object' && each !== null && 'parameters' in each;
      const group: ParameterGroup = isGroup ? each : { parameters: [each] };
      if (isGroup) checkOptions(op, group, ['parameters', 'weightDecay']);
      const decay = checkNumber(op, 'weightDecay', group.weightDecay ?? weightDecay, 0);
      for (const parameter of checkArray(op, 'parameters', group.parameters)) {
        checkFloat(op, 'parameter', parameter);
        if (decays.has(parameter)) {
          throw new OptionError(
            `${op}: expected each parameter once, got one of shape [${parameter.shape.join(', ')}] twice`,
          );
        }
        decays.set(parameter, decay);
      }
    }
    try {
      for (const [parameter, decay] of decays) {
        const moment = (): Tensor => keep(zeros(parameter.shape, { device: parameter.device }));
        const slot: Slot = {
          parameter,
          weightDecay: decay,
          firstMoment: moment(),
          secondMoment: moment(),
          master: null,
        };
        this.slots.push(slot);
        if (masterWeights && parameter.dtype !== 'float32') {
          slot.master = workspace(op, parameter.shape, 'float32', parameter.device);
        }
      }
      this.refreshMasters();
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /**
   * Updates every parameter that has a gradient. The gradients stay; see `clearGrad()`.
   *
   * @param options `coefficient`: a float32 tensor of one element that every gradient is multiplied by on the way, as {@link gradNorm} gives to
   * clip and to take the loss scale out. Default 1.
   * @throws OptionError, ShapeError, DTypeError, DeviceError, DisposedError; CaptureError inside {@link capture}, as steps are counted here; nothing is
   * changed then.
   */
  step(options: { coefficient?: Tensor } = {}): void {
    const op = 'AdamW.step';
    checkOptions(op, options, ['coefficient']);
    const learningRate = checkNumber(op, 'learningRate', this.learningRate, 0);
    const { coefficient } = options;
    if (coefficient !== undefined && checkTensor(op, 'coefficient', coefficient, ['float32']).size !== 1) {
      checkShape(op, 'coefficient', coefficient, []);
    }
    const ready = this.slots.filter((slot) => checkTensor(op, 'parameter', slot.parameter).grad !== null);
    const devices = new Set(ready.map((slot) => slot.parameter.device));
    for (const { parameter } of ready) {
      const gradient = checkTensor(op, 'gradient', parameter.grad as Tensor);
      checkShape(op, 'gradient', gradient, parameter.shape, 'to match its parameter');
      if (gradient.dtype !== parameter.dtype && gradient.dtype !== 'float32') {
        throw new DTypeError(
          `${op}: expected gradient of dtype ${parameter.dtype} or float32 like its parameter, got ${gradient.dtype}`,
        );
      }
    }
    if (coefficient && [...devices].some((device) => device !== coefficient.device)) {
      throw new DeviceError(
        `${op}: expected coefficient on the device of the parameters, got ${coefficient.device.id}`,
      );
    }
    for (const device of devices) refuseInCapture(op, 'count', device);
    this.stepCount++;
    for (const device of devices) {
      const slots = ready.filter((slot) => slot.parameter.device === device);
      device.backend.adamw({
        parameters: slots.map((slot) => slot.parameter.arg),
        masters: slots.map((slot) => slot.master?.arg ?? null),
        gradients: slots.map((slot) => (slot.parameter.grad as Tensor).arg),
        firstMoments: slots.map((slot) => slot.firstMoment.arg),
        secondMoments: slots.map((slot) => slot.secondMoment.arg),
        weightDecays: slots.map((slot) => slot.weightDecay),
        coefficient: coefficient?.arg ?? null,
        learningRate,
        beta1: this.betas[0],
        beta2: this.betas[1],
        eps: this.eps,
        step: this.stepCount,
      });
    }
  }

  /** Steps, moments and masters, for saving; the parameters and the learning rate are not part of it. */
  state(): AdamWState {
    const tensors = new Map<string, Tensor>();
    this.slots.forEach(({ firstMoment, secondMoment, master }, index) => {
      tensors.set(`${index}.firstMoment`, firstMoment);
      tensors.set(`${index}.secondMoment`, secondMoment);
      if (master) tensors.set(`${index}.master`, master);
    });
    return { stepCount: this.stepCount, tensors };
  }

  /**
   * Takes over the state of an optimizer of the same parameters in the same order.
   *
   * @throws OptionError, ShapeError, DTypeError if it does not fit; nothing is changed then.
   */
  async loadState(state: AdamWState): Promise<void> {
    const op = 'AdamW.loadState';
    checkObject(op, 'state', state);
    const stepCount = checkInteger(op, 'stepCount', state.stepCount, 0, Number.MAX_SAFE_INTEGER);
    await overwrite(op, this.state().tensors, state.tensors);
    this.stepCount = stepCount;
  }

  /** Makes the masters anew of the parameters: after weights were loaded into these, which the next step would otherwise undo. */
  refreshMasters(): void {
    for (const { parameter, master } of this.slots) {
      if (master) parameter.device.backend.cast({ x: parameter.arg, out: master.arg });
    }
  }

  /** Drops the gradients of all parameters. */
  clearGrad(): void {
    for (const slot of this.slots) slot.parameter.clearGrad();
  }

  /** Frees the moments and masters. */
  dispose(): void {
    for (const slot of this.slots) {
      slot.firstMoment.dispose();
      slot.secondMoment.dispose();
      slot.master?.dispose();
    }
    this.slots.length = 0;
  }
}
