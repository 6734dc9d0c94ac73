// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { remember } from '../autograd/remember.js';
import { record } from '../autograd/tape.js';
import { checkFloat, checkOneOf, checkOptions, checkShape, checkTogether } from '../check.js';
import type { TernaryProductArg } from '../backend.js';
import type { Device } from '../device.js';
import { ShapeError } from '../errors.js';
import { empty, workspace, type Tensor } from '../tensor.js';
import { checkTernary } from './quantize-ternary.js';
import { sum } from './sum.js';
import { reshape } from './reshape.js';
import type { TernaryTensor } from './ternary-tensor.js';

/** Options of {@link ternaryMatmul}. */
export interface TernaryMatmulOptions {
  /**
   * `int8` (default): x is rounded to int8 with one scale per token, s = 127 / max(max|x|, 1e-5), and the product is exact in int32, as BitNet
   * b1.58 models are trained. `none`: x stays float.
   */
  activations?: 'int8' | 'none';
  /** [N], x's dtype. Default none. */
  bias?: Tensor | null;
}

/**
 * y = x Wᵀ + bias with a ternary W. With int8 activations y = (round(x·s) · trits) · scale / s: the integer sum and its float epilogue are equal
 * to the bit on every backend. The gradient passes straight through the rounding: dx = dy · (trits · scale).
 *
 * @param x [..., K], float dtype.
 * @param weight [N, K].
 * @returns [..., N], x's dtype.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function ternaryMatmul(x: Tensor, weight: TernaryTensor, options: TernaryMatmulOptions = {}): Tensor {
  const op = 'ternaryMatmul';
  checkFloat(op, 'x', x);
  checkTernary(op, weight);
  checkOptions(op, options, ['activations', 'bias']);
  const activations = checkOneOf(op, 'activations', options.activations ?? 'int8', ['int8', 'none']);
  const bias = options.bias ?? null;
  const { device, m, n, k } = checkProduct(op, x, weight, bias);
  const [out] = remember(op, [x, ...weight.tensors(), bias], { activations }, () => {
    const product = empty(op, [...x.shape.slice(0, -1), n], x.dtype, device);
    if (activations === 'int8') {
      const { codes, scales } = quantizeActivations(op, x, m, k);
      int8Product(codes, scales, weight, bias, product, m);
      codes.dispose();
      scales.dispose();
    } else {
      device.backend.ternaryMatmul({
        x: x.arg,
        packed: weight.packed.arg,
        weightScale: weight.scale.arg,
        bias: bias && bias.arg,
        out: product.arg,
        m,
        n,
        k,
      });
    }
    return [product];
  });
  record(op, [x, bias], out, weight.tensors(), ([dOut], [packed, scale]) => {
    if (!dOut) return [null, null];
    const dX = ternaryInputGradient(op, dOut, packed, scale, m, n, k);
    return [reshape(dX, [...dOut.shape.slice(0, -1), k]), bias ? sum(reshape(dOut, [m, n]), { axis: 0 }) : null];
  });
  return out;
}

/**
 * @internal What {@link ternaryMatmul} gives for each of the weights, x rounded once for all of them. No gradient is recorded.
 *
 * @param products at least one.
 */
export function ternaryMatmuls(
  x: Tensor,
  products: readonly { readonly weight: TernaryTensor; readonly bias: Tensor | null }[],
): Tensor[] {
  const op = 'ternaryMatmul';
  checkFloat(op, 'x', x);
  const sizes = products.map(({ weight, bias }) => checkProduct(op, x, weight, bias));
  const [{ m, k }] = sizes;
  const results = sizes.map(({ n }) => empty(op, [...x.shape.slice(0, -1), n], x.dtype, x.device));
  const { codes, scales } = quantizeActivations(op, x, m, k);
  const [first, ...also] = products.map(({ weight, bias }, i) => productArg(weight, bias, results[i]));
  x.device.backend.ternaryMatmulInt8({ codes: codes.arg, activationScales: scales.arg, ...first, m, k, also });
  codes.dispose();
  scales.dispose();
  return results;
}

function checkProduct(
  op: string,
  x: Tensor,
  weight: TernaryTensor,
  bias: Tensor | null,
): { device: Device; m: number; n: number; k: number } {
  const [n, k] = weight.shape;
  if (x.shape[x.shape.length - 1] !== k) {
    throw new ShapeError(
      `${op}: expected x of shape [..., ${k}] to match weight [${n}, ${k}], got [${x.shape.join(', ')}]`,
    );
  }
  if (bias !== null) {
    checkFloat(op, 'bias', bias);
    checkShape(op, 'bias', bias, [n], 'to match weight');
    checkTogether(op, { x, bias });
  }
  const device = checkTogether(op, { x, weight: weight.packed }, false);
  return { device, m: x.size / k, n, k };
}

/** @internal Outside every scope: the caller disposes. */
export function quantizeActivations(op: string, x: Tensor, m: number, k: number): { codes: Tensor; scales: Tensor } {
  const codes = workspace(op, [m, Math.ceil(k / 64) * 64], 'int8', x.device);
  const scales = workspace(op, [m], 'float32', x.device);
  x.device.backend.quantizeActivations({ x: x.arg, codes: codes.arg, scales: scales.arg, rows: m, cols: k });
  return { codes, scales };
}

function productArg(weight: TernaryTensor, bias: Tensor | null, out: Tensor): TernaryProductArg {
  const [n] = weight.shape;
  return { packed: weight.packed.arg, weightScale: weight.scale.arg, bias: bias && bias.arg, out: out.arg, n };
}

/** @internal */
export function int8Product(
  codes: Tensor,
  scales: Tensor,
  weight: TernaryTensor,
  bias: Tensor | null,
  out: Tensor,
  m: number,
): void {
  out.device.backend.ternaryMatmulInt8({
    codes: codes.arg,
    activationScales: scales.arg,
    ...productArg(weight, bias, out),
    m,
    k: weight.shape[1],
  });
}

/** @internal dOut (trits · scale), [M, K]. */
export function ternaryInputGradient(
  op: string,
  dOut: Tensor,
  packed: Tensor,
  scale: Tensor,
  m: number,
  n: number,
  k: number,
): Tensor {
  const dX = empty(op, [m, k], dOut.dtype, dOut.device);
  dOut.device.backend.ternaryMatmulBackward({
    dOut: dOut.arg,
    packed: packed.arg,
    weightScale: scale.arg,
    dX: dX.arg,
    m,
    n,
    k,
  });
  return dX;
}
