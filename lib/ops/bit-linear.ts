// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { remember } from '../autograd/remember.js';
import { needsGrad, record } from '../autograd/tape.js';
import { empty, type Tensor } from '../tensor.js';
import { checkLinear } from './linear.js';
import { quantizeTernary } from './quantize-ternary.js';
import { reshape } from './reshape.js';
import { sum } from './sum.js';
import { int8Product, quantizeActivations, ternaryInputGradient } from './ternary-matmul.js';

/**
 * The quantisation-aware linear layer of BitNet b1.58 (Ma et al., 2024): the float weight is rounded to trits (absmean) and x to int8 per token on
 * every call, y = x̂ Ŵᵀ + b, and the gradients pass straight through both roundings: dx = dy · Ŵ, dW = dyᵀ · x̂. Equal to
 * `ternaryMatmul(x, quantizeTernary(weight), { bias })` to the bit. What is kept for the backward pass is 8 bits per activation and 2 per weight.
 *
 * @param x [..., K], float dtype.
 * @param weight [N, K], same dtype.
 * @param bias [N], same dtype, or null (default).
 * @returns [..., N].
 * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
 */
export function bitLinear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  const op = 'bitLinear';
  const { device, m, n, k } = checkLinear(op, x, weight, bias);
  const [out, ...operands] = remember(op, [x, weight, bias], {}, () => {
    const product = empty(op, [...x.shape.slice(0, -1), n], x.dtype, device);
    const ternary = quantizeTernary(weight);
    const { codes, scales } = quantizeActivations(op, x, m, k);
    int8Product(codes, scales, ternary, bias, product, m);
    return [product, ...ternary.tensors(), codes, scales];
  });
  const [needsX, needsWeight, needsBias] = [needsGrad(x), needsGrad(weight), needsGrad(bias)];
  const { dtype } = weight;
  record(op, [x, weight, bias], out, operands, ([dOut], [packed, scale, xCodes, xScales]) => {
    if (!dOut) return [null, null, null];
    const dX = needsX ? ternaryInputGradient(op, dOut, packed, scale, m, n, k) : null;
    let dWeight: Tensor | null = null;
    if (needsWeight) {
      dWeight = empty(op, [n, k], dtype, device);
      device.backend.bitLinearWeightBackward({
        dOut: dOut.arg,
        codes: xCodes.arg,
        activationScales: xScales.arg,
        dWeight: dWeight.arg,
        m,
        n,
        k,
      });
    }
    return [
      dX && reshape(dX, [...dOut.shape.slice(0, -1), k]),
      dWeight,
      needsBias ? sum(reshape(dOut, [m, n]), { axis: 0 }) : null,
    ];
  });
  for (const operand of operands) operand.dispose();
  return out;
}
