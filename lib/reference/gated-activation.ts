// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { GatedActivationBackwardParams, GatedActivationParams } from '../backend.js';
import { load, store } from './buffer.js';

/**
 * swiglu: silu(gate) * up with silu(g) = g / (1 + exp(-g)) (Shazeer, "GLU Variants Improve Transformer", 2020, eq. 6).
 * relu2Glu: relu(gate)^2 * up (So et al., "Primer", 2021, section 4, as the gate of a GLU; BitNet b1.58 2B4T).
 */
export function gatedActivation({ kind, gate, up, out }: GatedActivationParams): void {
  const gates = load(gate);
  const values = load(up);
  for (let i = 0; i < values.length; i++) {
    const g = gates[i];
    values[i] *= kind === 'swiglu' ? g / (1 + Math.exp(-g)) : Math.max(g, 0) ** 2;
  }
  store(out, values);
}

/**
 * dUp = dOut * f(gate), dGate = dOut * up * f'(gate). With s = 1 / (1 + exp(-g)): silu(g) = g s, silu'(g) = s (1 + g (1
 * - s)). The derivative of relu(g)^2 is 2 relu(g).
 */
export function gatedActivationBackward({ kind, dOut, gate, up, dGate, dUp }: GatedActivationBackwardParams): void {
  const gradient = load(dOut);
  const gates = load(gate);
  const ups = load(up);
  for (let i = 0; i < gradient.length; i++) {
    const g = gates[i];
    let activation: number;
    let slope: number;
    if (kind === 'swiglu') {
      const sigmoid = 1 / (1 + Math.exp(-g));
      activation = g * sigmoid;
      slope = sigmoid * (1 + g * (1 - sigmoid));
    } else {
      const positive = Math.max(g, 0);
      activation = positive * positive;
      slope = 2 * positive;
    }
    gates[i] = gradient[i] * ups[i] * slope;
    ups[i] = gradient[i] * activation;
  }
  store(dGate, gates);
  store(dUp, ups);
}
