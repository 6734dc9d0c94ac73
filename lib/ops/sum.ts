// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkAxis, checkBoolean, checkOptions, checkTensor } from '../check.js';
import { FLOAT_DTYPES } from '../dtype.js';
import { elementCount, empty, type Tensor } from '../tensor.js';

/** Options of {@link sum} and {@link mean}. */
export interface ReduceOptions {
  /** The axis to reduce, counted from the end if negative. Default: all, giving a scalar of shape []. */
  axis?: number;
  /** Keep the reduced axis with size 1. Default false. */
  keepDims?: boolean;
}

function reduce(op: string, x: Tensor, options: ReduceOptions, average: boolean): Tensor {
  checkTensor(op, 'x', x, [...FLOAT_DTYPES, 'int32']);
  checkOptions(op, options, ['axis', 'keepDims']);
  const keepDims = checkBoolean(op, 'keepDims', options.keepDims ?? false);
  const rank = x.shape.length;
  const axis = options.axis === undefined ? null : checkAxis(op, options.axis, rank);
  const outer = axis === null ? 1 : elementCount(x.shape.slice(0, axis));
  const length = axis === null ? x.size : x.shape[axis];
  const inner = axis === null ? 1 : elementCount(x.shape.slice(axis + 1));
  const kept = x.shape.map((size, i) => (axis === null || i === axis ? 1 : size));
  const shape = keepDims ? kept : axis === null ? [] : x.shape.filter((_, i) => i !== axis);
  const factor = average ? 1 / length : 1;
  const out = empty(op, shape, x.dtype, x.device);
  x.device.backend.sum({ x: x.arg, out: out.arg, outer, reduce: length, inner, factor });
  const before = x.shape;
  record(op, [x], out, [], ([dOut]) => [dOut && spread(dOut, before, outer, length, inner, factor)]);
  return out;
}

/** The gradient of a reduction: factor times the output's gradient, repeated along the reduced axis. */
function spread(
  dOut: Tensor,
  shape: readonly number[],
  outer: number,
  length: number,
  inner: number,
  factor: number,
): Tensor {
  const { backend } = dOut.device;
  const factors = empty('sum', [1], dOut.dtype, dOut.device);
  backend.fill({ out: factors.arg, value: factor });
  const dX = empty('sum', shape, dOut.dtype, dOut.device);
  backend.binary({
    kind: 'mul',
    a: dOut.arg,
    b: factors.arg,
    out: dX.arg,
    shape: [outer, length, inner],
    aStrides: [inner, 0, 1],
    bStrides: [0, 0, 0],
  });
  return dX;
}

/**
 * The sum over one axis or all. Float dtypes are summed in float32 or better and rounded once; int32 wraps around.
 *
 * @param x any shape, float dtype or int32.
 * @returns x's shape without the axis (or with 1 in its place); x's dtype.
 * @throws DTypeError, OptionError, DisposedError, OutOfMemoryError.
 */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  return reduce('sum', x, options, false);
}

/**
 * The mean over one axis or all.
 *
 * @param x any shape, float dtype.
 * @throws DTypeError, OptionError, DisposedError, OutOfMemoryError.
 */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  checkTensor('mean', 'x', x, FLOAT_DTYPES);
  return reduce('mean', x, options, true);
}
