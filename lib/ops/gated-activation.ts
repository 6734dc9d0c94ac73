// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkFloat, checkShape, checkTogether } from '../check.js';
import { empty, type Tensor } from '../tensor.js';

function gatedActivation(kind: 'swiglu' | 'relu2Glu', gate: Tensor, up: Tensor): Tensor {
  checkFloat(kind, 'gate', gate);
  checkFloat(kind, 'up', up);
  checkShape(kind, 'up', up, gate.shape, 'to match gate');
  const device = checkTogether(kind, { gate, up });
  const out = empty(kind, gate.shape, gate.dtype, device);
  device.backend.gatedActivation({ kind, gate: gate.arg, up: up.arg, out: out.arg });
  record(kind, [gate, up], out, [gate, up], ([dOut], [g, u]) => {
    if (!dOut) return [null, null];
    const dGate = empty(kind, g.shape, g.dtype, device);
    const dUp = empty(kind, u.shape, u.dtype, device);
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
  return gatedActivation('swiglu', gate, up);
}

/**
 * max(gate, 0)² · up, the activation of BitNet b1.58 2B-4T (Ma et al., 2025). In float16 the square overflows above 255: prefer bfloat16.
 *
 * @param gate any shape, float dtype.
 * @param up same shape and dtype.
 * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
 */
export function relu2Glu(gate: Tensor, up: Tensor): Tensor {
  return gatedActivation('relu2Glu', gate, up);
}
