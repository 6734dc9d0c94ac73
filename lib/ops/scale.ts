// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkFloat, checkNumber } from '../check.js';
import { empty, type Tensor } from '../tensor.js';

/**
 * x times a number.
 *
 * @param x any shape, float dtype.
 * @param factor a finite number.
 * @throws DTypeError, OptionError, DisposedError, OutOfMemoryError.
 */
export function scale(x: Tensor, factor: number): Tensor {
  checkFloat('scale', 'x', x);
  checkNumber('scale', 'factor', factor);
  const out = empty('scale', x.shape, x.dtype, x.device);
  x.device.backend.scale({ x: x.arg, out: out.arg, factor, factorTensor: null });
  record('scale', [x], out, [], ([dOut]) => [dOut && scale(dOut, factor)]);
  return out;
}
