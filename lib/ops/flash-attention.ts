// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkOptions } from '../check.js';
import type { Tensor } from '../tensor.js';
import { attend, DIFFERENTIABLE_OPTIONS, type FlashAttentionOptions } from './attention-call.js';
import { ATTENTION_OPTIONS, checkAttention, checkQueryKeyValue } from './attention-options.js';

export type { FlashAttentionOptions } from './attention-call.js';

/**
 * dropout(softmax(s + mask)) v with s = scale · q kᵀ, changed by `softcap` and then by `alibiSlopes`, tiled so that no Sq × Sk matrix is ever
 * held, forward or backward (Dao, "FlashAttention-2", 2023). All options work together. A query that sees no key gives output 0, lse −Infinity
 * (with `sinks`: the sink) and zero gradients, but for the sink's through lse. Bit-equal on repeated runs.
 *
 * @param q [B, Sq, H, D], float dtype, D from 1 to 256.
 * @param k [B, Sk, G, D], same dtype. G divides H; query head h reads key head ⌊h·G/H⌋.
 * @param v [B, Sk, G, D], same dtype.
 * @returns out [B, Sq, H, D], or with `returnLse` also lse, float32 [B, H, Sq]: the natural log of the sum of e^s over the keys a query sees, and
 * its sink. Gradients flow through both, to q, k, v and `sinks`.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: FlashAttentionOptions & { returnLse?: false },
): Tensor;
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: FlashAttentionOptions & { returnLse: true },
): { out: Tensor; lse: Tensor };
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: FlashAttentionOptions,
): Tensor | { out: Tensor; lse: Tensor };
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: FlashAttentionOptions = {},
): Tensor | { out: Tensor; lse: Tensor } {
  const op = 'flashAttention';
  const device = checkQueryKeyValue(op, { q, k, v }, ['B', 'Sq', 'H', 'D'], ({ shape }) => [
    shape[0],
    'Sk',
    'G',
    shape[3],
  ]);
  checkOptions(op, options, [...ATTENTION_OPTIONS, ...DIFFERENTIABLE_OPTIONS]);
  const [batch, queries, heads, headDim] = q.shape;
  const [, keys, keyHeads] = k.shape;
  const sizes = { batch, queries, keys, heads, keyHeads, headDim, keyCapacity: keys };
  const checked = checkAttention(op, q, sizes, options);
  return attend({ ...checked, op, device, q, k, v, lseShape: [batch, heads, queries], cuSeqlens: null, options });
}
