// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import { checkFloat, checkShape, checkTensor, checkTogether, showShape } from '../check.js';
import { ShapeError } from '../errors.js';
import { empty, type Tensor } from '../tensor.js';

/**
 * Attention over all keys from attention over two disjoint sets of them: lse = log(exp(lseA) + exp(lseB)),
 * out = exp(lseA − lse) outA + exp(lseB − lse) outB (Dao et al., "Flash-Decoding", 2023; Ye et al., "FlashInfer", 2025: merge_state). A query
 * that saw no key on one side, lse −Infinity, has exactly the other side's result, whatever the first side's out holds; on both, out is 0
 * and lse −Infinity. Gradients flow to all four.
 *
 * @param outA [B, S, H, D], float dtype; or packed, [total, H, D].
 * @param lseA float32 [B, H, S], or [H, total]: the log of the sum of exponentials of the scores, as `flashAttention` returns it.
 * @param outB shape and dtype of outA.
 * @param lseB like lseA.
 * @returns out, shape and dtype of outA, and lse, that of lseA.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function mergeAttentionStates(
  outA: Tensor,
  lseA: Tensor,
  outB: Tensor,
  lseB: Tensor,
): { out: Tensor; lse: Tensor } {
  const op = 'mergeAttentionStates';
  checkFloat(op, 'outA', outA);
  checkTensor(op, 'lseA', lseA, ['float32']);
  checkFloat(op, 'outB', outB);
  checkTensor(op, 'lseB', lseB, ['float32']);
  if (outA.shape.length !== 3 && outA.shape.length !== 4) {
    throw new ShapeError(`${op}: expected outA of shape [B, S, H, D] or [total, H, D], got ${showShape(outA.shape)}`);
  }
  const packed = outA.shape.length === 3;
  const [batch, queries, heads, headDim] = packed ? [1, ...outA.shape] : outA.shape;
  const lseShape = packed ? [heads, queries] : [batch, heads, queries];
  checkShape(op, 'lseA', lseA, lseShape, 'to match outA');
  checkShape(op, 'outB', outB, outA.shape, 'to match outA');
  checkShape(op, 'lseB', lseB, lseShape, 'to match outA');
  const device = checkTogether(op, { outA, outB });
  checkTogether(op, { outA, lseA, lseB }, false);

  const sizes = { batch, queries, heads, headDim };
  const out = empty(op, outA.shape, outA.dtype, device);
  const lse = empty(op, lseShape, 'float32', device);
  device.backend.mergeAttentionStates({
    ...sizes,
    outA: outA.arg,
    lseA: lseA.arg,
    outB: outB.arg,
    lseB: lseB.arg,
    out: out.arg,
    lse: lse.arg,
  });
  const inputs = [outA, lseA, outB, lseB];
  record(op, inputs, [out, lse], inputs, ([dOut, dLse], saved) => {
    const [a, aLse, b, bLse] = saved;
    const gradients = saved.map((each) => empty(op, each.shape, each.dtype, device));
    const [dOutA, dLseA, dOutB, dLseB] = gradients;
    let incoming = dOut;
    if (!incoming) {
      incoming = empty(op, a.shape, a.dtype, device);
      device.backend.fill({ out: incoming.arg, value: 0 });
    }
    device.backend.mergeAttentionStatesBackward({
      ...sizes,
      outA: a.arg,
      lseA: aLse.arg,
      outB: b.arg,
      lseB: bLse.arg,
      dOut: incoming.arg,
      dLse: dLse ? dLse.arg : null,
      dOutA: dOutA.arg,
      dLseA: dLseA.arg,
      dOutB: dOutB.arg,
      dLseB: dLseB.arg,
    });
    return gradients;
  });
  return { out, lse };
}
