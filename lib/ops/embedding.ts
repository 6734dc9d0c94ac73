// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkFloat, checkShape, checkTensor, checkTogether } from '../check.js';
import { empty, type Tensor } from '../tensor.js';

/**
 * Rows of a table: out[..., :] = weight[ids[...], :]. The gradient adds up over repeated ids.
 *
 * @param weight [V, K], float dtype.
 * @param ids int32, any shape, values in 0..V-1.
 * @returns ids' shape and [K].
 * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError; KernelError on the next read if an id is out of range.
 */
export function embedding(weight: Tensor, ids: Tensor): Tensor {
  checkFloat('embedding', 'weight', weight);
  checkShape('embedding', 'weight', weight, ['V', 'K']);
  checkTensor('embedding', 'ids', ids, ['int32']);
  const device = checkTogether('embedding', { weight, ids }, false);
  const [vocabulary, cols] = weight.shape;
  const rows = ids.size;
  const out = empty('embedding', [...ids.shape, cols], weight.dtype, device);
  device.backend.embedding({ weight: weight.arg, ids: ids.arg, out: out.arg, rows, cols, vocabulary });
  const shape = weight.shape;
  record('embedding', [weight], out, [ids], ([dOut], [index]) => {
    if (!dOut) return [null];
    const dWeight = empty('embedding', shape, dOut.dtype, device);
    device.backend.embeddingBackward({ dOut: dOut.arg, ids: index.arg, dWeight: dWeight.arg, rows, cols, vocabulary });
    return [dWeight];
  });
  return out;
}
