// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { remember } from '../autograd/remember.js';
import { needsGrad, record } from '../autograd/tape.js';
import { checkFloat, checkShape, checkTogether } from '../check.js';
import { ShapeError } from '../errors.js';
import { empty, type Tensor } from '../tensor.js';
import { sum } from './sum.js';
import { reshape } from './reshape.js';

/**
 * y = x Wᵀ + b, accumulated in float32.
 *
 * @param x [..., K], float dtype.
 * @param weight [N, K], same dtype.
 * @param bias [N], same dtype, or null (default).
 * @returns [..., N].
 * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
 */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  const { device, m, n, k } = checkLinear('linear', x, weight, bias);
  const [out] = remember('linear', [x, weight, bias], {}, () => {
    const product = empty('linear', [...x.shape.slice(0, -1), n], x.dtype, device);
    device.backend.matmul({
      a: x.arg,
      b: weight.arg,
      bias: bias && bias.arg,
      out: product.arg,
      m,
      n,
      k,
      transposeA: false,
      transposeB: true,
    });
    return [product];
  });
  const [needsX, needsWeight, needsBias] = [needsGrad(x), needsGrad(weight), needsGrad(bias)];
  record('linear', [x, weight, bias], out, [x, weight], ([dOut], [input, w]) => {
    if (!dOut) return [null, null, null];
    const { backend } = device;
    let dX: Tensor | null = null;
    let dWeight: Tensor | null = null;
    if (needsX) {
      dX = empty('linear', input.shape, input.dtype, device);
      backend.matmul({
        a: dOut.arg,
        b: w.arg,
        bias: null,
        out: dX.arg,
        m,
        n: k,
        k: n,
        transposeA: false,
        transposeB: false,
      });
    }
    if (needsWeight) {
      dWeight = empty('linear', w.shape, w.dtype, device);
      backend.matmul({
        a: dOut.arg,
        b: input.arg,
        bias: null,
        out: dWeight.arg,
        m: n,
        n: k,
        k: m,
        transposeA: true,
        transposeB: false,
      });
    }
    return [dX, dWeight, needsBias ? sum(reshape(dOut, [m, n]), { axis: 0 }) : null];
  });
  return out;
}

/** @internal What `linear` and its ternary relatives ask of x, weight and bias. */
export function checkLinear(
  op: string,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
): { device: Tensor['device']; m: number; n: number; k: number } {
  checkFloat(op, 'x', x);
  checkFloat(op, 'weight', weight);
  if (x.shape.length === 0) throw new ShapeError(`${op}: expected x of shape [..., K], got a scalar`);
  const k = x.shape[x.shape.length - 1];
  checkShape(op, 'weight', weight, ['N', k], 'to match the last axis of x');
  const n = weight.shape[0];
  if (bias !== null) {
    checkFloat(op, 'bias', bias);
    checkShape(op, 'bias', bias, [n], 'to match weight');
  }
  return { device: checkTogether(op, { x, weight, bias }), m: x.size / k, n, k };
}
