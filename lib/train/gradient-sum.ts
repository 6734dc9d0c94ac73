// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { addGradients } from '../autograd/engine.js';
import { workspace, type Tensor } from '../tensor.js';

/**
 * The gradients of several micro-batches. Those of float32 parameters are added by the backward pass; those of 16-bit parameters would be rounded
 * to 16 bits after every addition there, so they are added here, in float32.
 */
export class GradientSum {
  private readonly sums = new Map<Tensor, Tensor>();

  constructor(private readonly parameters: readonly Tensor[]) {}

  /** Takes the gradients that a backward pass has left. */
  add(): void {
    for (const parameter of this.parameters) {
      const { grad, dtype } = parameter;
      if (!grad || dtype === 'float32') continue;
      const exact = workspace('GradientSum', grad.shape, 'float32', grad.device);
      grad.device.backend.cast({ x: grad.arg, out: exact.arg });
      parameter.clearGrad();
      const sum = this.sums.get(parameter);
      this.sums.set(parameter, sum ? addGradients(sum, exact) : exact);
    }
  }

  /** Gives the parameters their sums. */
  finish(): void {
    for (const [parameter, sum] of this.sums) parameter.grad = sum;
    this.sums.clear();
  }

  dispose(): void {
    for (const sum of this.sums.values()) sum.dispose();
    this.sums.clear();
  }
}
