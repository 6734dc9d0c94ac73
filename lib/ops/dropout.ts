// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkFloat } from '../check.js';
import { defaultGenerator, dropoutThreshold } from '../random.js';
import { empty, type Tensor } from '../tensor.js';

/** Elements that one block of Philox serves. */
const BLOCK = 8;

/**
 * Sets each element to 0 with probability p and multiplies the others by 1 / (1 - p), so that the expectation stays (Srivastava et al.,
 * "Dropout", 2014). It does so whenever it is called: whether a model is being trained is for its modules to know.
 *
 * p is taken to the nearest multiple of 2⁻¹⁶ (at most 1 - 2⁻¹⁶), and the factor is the inverse of exactly what is kept, in float32. The
 * numbers come from the library's generator ({@link manualSeed}), one block of it for 8 elements, and are the same on every backend. The
 * backward pass draws them again, so that no mask is stored. An element that is dropped gives 0 even if it is NaN.
 *
 * @param x any shape, float dtype.
 * @param p from 0 to below 1. If it is 0 once rounded, nothing is drawn and the result is a view of x.
 * @returns x's shape and dtype.
 * @throws OptionError, DTypeError, DisposedError, OutOfMemoryError.
 */
export function dropout(x: Tensor, p: number): Tensor {
  checkFloat('dropout', 'x', x);
  const threshold = dropoutThreshold('dropout', p);
  if (threshold === 0) {
    const same = x.detach();
    record('dropout', [x], same, [], ([dOut]) => [dOut]);
    return same;
  }
  const { backend } = x.device;
  const out = empty('dropout', x.shape, x.dtype, x.device);
  const mask = { threshold, ...defaultGenerator().reserve(Math.ceil(x.size / BLOCK)) };
  backend.dropout({ ...mask, x: x.arg, out: out.arg });
  record('dropout', [x], out, [], ([dOut]) => {
    if (!dOut) return [null];
    const dX = empty('dropout', dOut.shape, dOut.dtype, dOut.device);
    backend.dropout({ ...mask, x: dOut.arg, out: dX.arg });
    return [dX];
  });
  return out;
}
