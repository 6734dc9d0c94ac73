// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkOneOf, checkTensor } from '../check.js';
import { DTYPES, isFloat, type DType } from '../dtype.js';
import { empty, type Tensor } from '../tensor.js';

/**
 * x rounded to another dtype: to nearest, ties to even, between float types; truncated and saturated from float to integer (NaN gives 0).
 * Between float types the gradient is the output's gradient rounded back to x's dtype; integers carry none.
 *
 * @param x any shape, any dtype.
 * @returns same shape, of `dtype`; a copy even if x has that dtype already.
 * @throws OptionError, DisposedError, OutOfMemoryError.
 */
export function cast(x: Tensor, dtype: DType): Tensor {
  checkTensor('cast', 'x', x);
  checkOneOf('cast', 'dtype', dtype, DTYPES);
  const out = empty('cast', x.shape, dtype, x.device);
  x.device.backend.cast({ x: x.arg, out: out.arg });
  if (isFloat(dtype)) record('cast', [x], out, [], ([dOut]) => [dOut && cast(dOut, x.dtype)]);
  return out;
}
