// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { GatedActivationBackwardParams, GatedActivationKind, GatedActivationParams } from '../backend.js';
import { load, store } from './buffer.js';
import { erfc } from './erf.js';

/** f(x) and f'(x). */
type Activation = (x: number) => { value: number; slope: number };

/**
 * silu(x) = x s with s = 1 / (1 + exp(-x)); its derivative is s (1 + x (1 - s)) (Shazeer, "GLU Variants Improve Transformer", 2020, eq. 6).
 */
function silu(x: number): { value: number; slope: number } {
  const sigmoid = 1 / (1 + Math.exp(-x));
  return { value: x * sigmoid, slope: sigmoid * (1 + x * (1 - sigmoid)) };
}

/** relu(x)^2, with the derivative 2 relu(x) (So et al., "Primer", 2021, section 4; as the gate of a GLU: BitNet b1.58 2B4T). */
function squaredRelu(x: number): { value: number; slope: number } {
  const positive = Math.max(x, 0);
  return { value: positive * positive, slope: 2 * positive };
}

/**
 * gelu(x) = x Phi(x), with the derivative Phi(x) + x phi(x), Phi and phi being the distribution function and the density of the normal
 * distribution (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016).
 */
function gelu(x: number): { value: number; slope: number } {
  const distribution = erfc(-x / Math.SQRT2) / 2;
  const density = Math.exp(-(x * x) / 2) / Math.sqrt(2 * Math.PI);
  return { value: x * distribution, slope: distribution + x * density };
}

/** 0.5 x (1 + t) with t = tanh(sqrt(2/pi) (x + 0.044715 x^3)) (the same, section 2); the derivative of tanh is 1 - t^2. */
function geluTanh(x: number): { value: number; slope: number } {
  const factor = Math.sqrt(2 / Math.PI);
  const tanh = Math.tanh(factor * (x + 0.044715 * x ** 3));
  const inner = factor * (1 + 3 * 0.044715 * x ** 2);
  return { value: 0.5 * x * (1 + tanh), slope: 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh ** 2) * inner };
}

const ACTIVATIONS: Record<GatedActivationKind, Activation> = {
  swiglu: silu,
  relu2Glu: squaredRelu,
  geglu: gelu,
  gegluTanh: geluTanh,
};

/** out = f(gate) * up */
export function gatedActivation({ kind, gate, up, out }: GatedActivationParams): void {
  const gates = load(gate);
  const values = load(up);
  for (let i = 0; i < values.length; i++) values[i] *= ACTIVATIONS[kind](gates[i]).value;
  store(out, values);
}

/** dUp = dOut * f(gate), dGate = dOut * up * f'(gate) */
export function gatedActivationBackward({ kind, dOut, gate, up, dGate, dUp }: GatedActivationBackwardParams): void {
  const gradient = load(dOut);
  const gates = load(gate);
  const ups = load(up);
  for (let i = 0; i < gradient.length; i++) {
    const { value, slope } = ACTIVATIONS[kind](gates[i]);
    gates[i] = gradient[i] * ups[i] * slope;
    ups[i] = gradient[i] * value;
  }
  store(dGate, gates);
  store(dUp, ups);
}
