// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { needsGrad, record } from '../autograd/tape.js';
import { checkTensor, checkTogether, showShape } from '../check.js';
import { ShapeError } from '../errors.js';
import { empty, type Tensor } from '../tensor.js';
import { cast } from './cast.js';
import { reshape } from './reshape.js';
import { sum } from './sum.js';
import { rowMajorStrides } from './transpose.js';

/**
 * The shape two operands broadcast to: shapes are aligned at their last axis, and an axis that is 1 or missing in one of them is
 * repeated to the size of the other (NumPy's rule).
 */
function broadcastShape(op: string, a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, axis) => {
    const left = a[axis - rank + a.length] ?? 1;
    const right = b[axis - rank + b.length] ?? 1;
    if (left !== right && left !== 1 && right !== 1) {
      throw new ShapeError(`${op}: expected b to broadcast with a of shape ${showShape(a)}, got ${showShape(b)}`);
    }
    return Math.max(left, right);
  });
}

function broadcastStrides(shape: readonly number[], target: readonly number[]): number[] {
  const strides = rowMajorStrides(shape);
  const missing = target.length - shape.length;
  return target.map((_, axis) => (axis < missing || shape[axis - missing] === 1 ? 0 : strides[axis - missing]));
}

/** Adds up a gradient over the axes along which its operand was repeated. */
function sumToShape(gradient: Tensor, shape: readonly number[]): Tensor {
  const missing = gradient.shape.length - shape.length;
  // Neighbouring axes of a kind are one: [sizes, repeated?].
  const runs: { size: number; repeated: boolean }[] = [];
  gradient.shape.forEach((size, axis) => {
    if (size === 1) return;
    const repeated = axis < missing || shape[axis - missing] === 1;
    const last = runs[runs.length - 1];
    if (last?.repeated === repeated) last.size *= size;
    else runs.push({ size, repeated });
  });
  const repeats = runs.filter((run) => run.repeated).length;
  if (repeats === 0) return reshape(gradient, shape);
  // Several sums in a row would each round: 16-bit gradients are added up in float32.
  const wide = repeats > 1 && gradient.dtype !== 'float32';
  let result = reshape(
    wide ? cast(gradient, 'float32') : gradient,
    runs.map((run) => run.size),
  );
  runs.forEach((run, axis) => {
    if (run.repeated) result = sum(result, { axis, keepDims: true });
  });
  return reshape(wide ? cast(result, gradient.dtype) : result, shape);
}

function binary(op: string, kind: 'add' | 'mul', a: Tensor, b: Tensor): Tensor {
  checkTensor(op, 'a', a);
  checkTensor(op, 'b', b);
  const device = checkTogether(op, { a, b });
  const shape = broadcastShape(op, a.shape, b.shape);
  const out = empty(op, shape, a.dtype, device);
  const aStrides = broadcastStrides(a.shape, shape);
  const bStrides = broadcastStrides(b.shape, shape);
  device.backend.binary({ kind, a: a.arg, b: b.arg, out: out.arg, shape, aStrides, bStrides });
  return out;
}

/**
 * a + b, elementwise, broadcasting by NumPy's rules: shapes are aligned at their last axis, and an axis that one of them lacks counts as size 1
 * there. On every axis the sizes have to be equal, or one of them 1: that operand is then repeated to the size of the other, without a copy. A
 * scalar, shape [], goes with everything. The dtypes are not broadcast: see {@link cast}.
 *
 * The gradient of an operand is the output's gradient, summed over the axes along which the operand was repeated (in float32, rounded once),
 * in the operand's shape and dtype.
 *
 * @param a any shape and dtype; integers wrap around.
 * @param b a shape that broadcasts with a's; same dtype and device.
 * @returns on every axis the larger of the two sizes; a's dtype.
 * @throws ShapeError, as in `add: expected b to broadcast with a of shape [2, 3], got [2]`; DTypeError, DeviceError, DisposedError,
 * OutOfMemoryError.
 */
export function add(a: Tensor, b: Tensor): Tensor {
  const out = binary('add', 'add', a, b);
  const [aShape, bShape] = [a.shape, b.shape];
  record('add', [a, b], out, [], ([dOut]) => [dOut && sumToShape(dOut, aShape), dOut && sumToShape(dOut, bShape)]);
  return out;
}

/**
 * a * b, elementwise, broadcasting like {@link add}. The gradient of an operand is the output's gradient times the other operand, rounded to
 * the dtype and then summed over the axes along which the operand was repeated.
 *
 * @param a any shape and dtype; integers wrap around.
 * @param b a shape that broadcasts with a's; same dtype and device.
 * @returns on every axis the larger of the two sizes; a's dtype.
 * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
 */
export function mul(a: Tensor, b: Tensor): Tensor {
  const out = binary('mul', 'mul', a, b);
  const [aShape, bShape] = [a.shape, b.shape];
  const [needsA, needsB] = [needsGrad(a), needsGrad(b)];
  record('mul', [a, b], out, [a, b], ([dOut], [left, right]) => [
    dOut && needsA ? sumToShape(mul(dOut, right), aShape) : null,
    dOut && needsB ? sumToShape(mul(dOut, left), bShape) : null,
  ]);
  return out;
}
