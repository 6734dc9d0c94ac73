// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import type { GatedActivationKind } from '../backend.js';
import { checkFloat, checkOneOf, checkOptions, checkShape, checkTogether } from '../check.js';
import { empty, type Tensor } from '../tensor.js';

function gatedActivation(op: string, kind: GatedActivationKind, gate: Tensor, up: Tensor): Tensor {
  checkFloat(op, 'gate', gate);
  checkFloat(op, 'up', up);
  checkShape(op, 'up', up, gate.shape, 'to match gate');
  const device = checkTogether(op, { gate, up });
  const out = empty(op, gate.shape, gate.dtype, device);
  device.backend.gatedActivation({ kind, gate: gate.arg, up: up.arg, out: out.arg });
  record(op, [gate, up], out, [gate, up], ([dOut], [g, u]) => {
    if (!dOut) return [null, null];
    const dGate = empty(op, g.shape, g.dtype, device);
    const dUp = empty(op, u.shape, u.dtype, device);
    device.backend.gatedActivationBackward({
      kind,
      dOut: dOut.arg,
      gate: g.arg,
      up: u.arg,
      dGate: dGate.arg,
      dUp: dUp.arg,
    });
    return [dGate, dUp];
  });
  return out;
}

/**
 * silu(gate) · up, where silu(x) = x / (1 + e⁻ˣ) (Shazeer, "GLU variants improve Transformer", 2020).
 *
 * @param gate any shape, float dtype.
 * @param up same shape and dtype.
 * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
 */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return gatedActivation('swiglu', 'swiglu', gate, up);
}

/**
 * max(gate, 0)² · up, the activation of BitNet b1.58 2B-4T (Ma et al., 2025). In float16 the square overflows above 255: prefer bfloat16.
 *
 * @param gate any shape, float dtype.
 * @param up same shape and dtype.
 * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
 */
export function relu2Glu(gate: Tensor, up: Tensor): Tensor {
  return gatedActivation('relu2Glu', 'relu2Glu', gate, up);
}

/** Options of {@link geglu}. */
export interface GegluOptions {
  /** `none`: gelu as it is defined, by the normal distribution; `tanh`: its approximation by the hyperbolic tangent. Default none. */
  approximate?: 'none' | 'tanh';
}

/**
 * gelu(gate) · up (Shazeer, "GLU variants improve Transformer", 2020), where gelu(x) = x · Φ(x) = x · (1 + erf(x / √2)) / 2, or with `approximate:
 * 'tanh'` x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2 (Hendrycks and Gimpel, "Gaussian error linear units", 2016).
 *
 * @param gate any shape, float dtype.
 * @param up same shape and dtype.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function geglu(gate: Tensor, up: Tensor, options: GegluOptions = {}): Tensor {
  checkOptions('geglu', options, ['approximate']);
  const approximate = checkOneOf('geglu', 'approximate', options.approximate ?? 'none', ['none', 'tanh']);
  return gatedActivation('geglu', approximate === 'tanh' ? 'gegluTanh' : 'geglu', gate, up);
}
