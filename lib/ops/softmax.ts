// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkFloat } from '../check.js';
import { ShapeError } from '../errors.js';
import { empty, type Tensor } from '../tensor.js';

/**
 * exp(x) / sum(exp(x)) over the last axis, computed with the row's maximum subtracted. A row of -Infinity alone gives zeros.
 *
 * @param x at least one axis, float dtype. For another axis, transpose first.
 * @throws ShapeError, DTypeError, DisposedError, OutOfMemoryError.
 */
export function softmax(x: Tensor): Tensor {
  const { rows, cols } = rowsOf('softmax', x);
  const out = empty('softmax', x.shape, x.dtype, x.device);
  x.device.backend.softmax({ x: x.arg, out: out.arg, rows, cols });
  record('softmax', [x], out, [out], ([dOut], [y]) => {
    if (!dOut) return [null];
    const dX = empty('softmax', y.shape, y.dtype, y.device);
    y.device.backend.softmaxBackward({ out: y.arg, dOut: dOut.arg, dX: dX.arg, rows, cols });
    return [dX];
  });
  return out;
}

/**
 * The index of the largest value over the last axis; the first of equals; a NaN counts as the largest. Carries no gradient.
 *
 * @param x at least one axis, float dtype.
 * @returns int32, x's shape without its last axis.
 * @throws ShapeError, DTypeError, DisposedError, OutOfMemoryError.
 */
export function argmax(x: Tensor): Tensor {
  const { rows, cols } = rowsOf('argmax', x);
  const out = empty('argmax', x.shape.slice(0, -1), 'int32', x.device);
  x.device.backend.argmax({ x: x.arg, out: out.arg, rows, cols });
  return out;
}

function rowsOf(op: string, x: Tensor): { rows: number; cols: number } {
  checkFloat(op, 'x', x);
  if (x.shape.length === 0) throw new ShapeError(`${op}: expected x of at least one axis, got a scalar`);
  const cols = x.shape[x.shape.length - 1];
  return { rows: x.size / cols, cols };
}
