// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkTensor, MAX_AXES } from '../check.js';
import { describe } from '../describe.js';
import { ShapeError } from '../errors.js';
import { elementCount, Tensor } from '../tensor.js';

/**
 * The same elements, in row-major order, under another shape. **A view**: both tensors share one block of memory, which is freed when
 * the last of them is disposed. The gradient is reshaped back.
 *
 * @param x any shape and dtype.
 * @param shape positive sizes whose product is x's size; one may be -1 and is then worked out.
 * @throws ShapeError, DisposedError.
 */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  checkTensor('reshape', 'x', x);
  if (!Array.isArray(shape) || shape.length > MAX_AXES)
    throw new ShapeError(`reshape: expected at most ${MAX_AXES} sizes for shape, got ${describe(shape)}`);
  const known = shape.filter((size) => size !== -1) as number[];
  const wildcards = shape.length - known.length;
  const isShape = known.every((size) => Number.isSafeInteger(size) && size > 0);
  const product = isShape ? elementCount(known) : NaN;
  const fits = isShape && (wildcards === 0 ? product === x.size : wildcards === 1 && x.size % product === 0);
  if (!fits) throw new ShapeError(`reshape: expected a shape of ${x.size} elements, got ${describe(shape)}`);
  const resolved = shape.map((size) => (size === -1 ? x.size / product : size));
  const out = new Tensor((x.storage as NonNullable<Tensor['storage']>).retain(), resolved, x.dtype, false, true);
  const before = x.shape;
  record('reshape', [x], out, [], ([dOut]) => [dOut && reshape(dOut, before)]);
  return out;
}
