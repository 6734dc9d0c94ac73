// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkAxis, checkTensor } from '../check.js';
import { describe } from '../describe.js';
import { OptionError, ShapeError } from '../errors.js';
import { empty, type Tensor } from '../tensor.js';

/** @internal Row-major strides, in elements. */
export function rowMajorStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
  return strides;
}

/**
 * x with its axes permuted: axis i of the result is axis `axes[i]` of x. **A copy**, since every tensor is dense and row-major. The
 * gradient is permuted back.
 *
 * @param x any shape and dtype.
 * @param axes a permutation of x's axes; default: the last two swapped.
 * @throws ShapeError if x has fewer than two axes and none are given; OptionError, DisposedError, OutOfMemoryError.
 */
export function transpose(x: Tensor, axes?: readonly number[]): Tensor {
  checkTensor('transpose', 'x', x);
  const rank = x.shape.length;
  if (!axes && rank < 2) throw new ShapeError(`transpose: expected x of at least two axes, got ${rank}`);
  const given = axes ?? swapLast(rank);
  const isList = Array.isArray(given) && given.length === rank;
  const order = isList ? given.map((axis) => checkAxis('transpose', axis as number, rank)) : [];
  if (!isList || new Set(order).size !== rank)
    throw new OptionError(`transpose: expected a permutation of ${rank} axes, got ${describe(given)}`);
  const strides = rowMajorStrides(x.shape);
  const shape = order.map((axis) => x.shape[axis]);
  const out = empty('transpose', shape, x.dtype, x.device);
  x.device.backend.transpose({ x: x.arg, out: out.arg, shape, strides: order.map((axis) => strides[axis]) });
  const inverse = order.map((_, axis) => order.indexOf(axis));
  record('transpose', [x], out, [], ([dOut]) => [dOut && transpose(dOut, inverse)]);
  return out;
}

function swapLast(rank: number): number[] {
  const axes = Array.from({ length: rank }, (_, axis) => axis);
  [axes[rank - 2], axes[rank - 1]] = [rank - 1, rank - 2];
  return axes;
}
