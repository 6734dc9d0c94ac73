// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkOptions } from '../check.js';
import { OptionError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import { attend, DIFFERENTIABLE_OPTIONS, type FlashAttentionOptions } from './attention-call.js';
import { ATTENTION_OPTIONS, checkAttention, checkQueryKeyValue } from './attention-options.js';

/** Options of {@link flashAttentionVarlen}. */
export interface FlashAttentionVarlenOptions extends FlashAttentionOptions {
  /**
   * Cumulative lengths, B + 1 integers from 0 to totalQ, none below the one before it: the queries of sequence b are rows cuSeqlensQ[b] to
   * cuSeqlensQ[b + 1] − 1 of q. Sequences may be empty.
   */
  cuSeqlensQ: readonly number[] | Int32Array;
  /** The same for the keys, 0 to totalK. Default: cuSeqlensQ. */
  cuSeqlensK?: readonly number[] | Int32Array;
}

/** @internal Cumulative lengths of `total` rows, and the longest length. */
export function checkCuSeqlens(
  op: string,
  name: string,
  value: readonly number[] | Int32Array,
  total: number,
): { cumulative: Int32Array; longest: number } {
  if (!(Array.isArray(value) || value instanceof Int32Array) || value.length < 2) {
    const got = Array.isArray(value) || value instanceof Int32Array ? `${value.length}` : typeof value;
    throw new OptionError(`${op}: expected an array of at least 2 integers for ${name}, got ${got}`);
  }
  let [previous, longest] = [0, 0];
  const last = value.length - 1;
  for (let i = 0; i <= last; i++) {
    const entry = checkInteger(
      op,
      `${name}[${i}]`,
      value[i] as number,
      i === last ? total : previous,
      i === 0 ? 0 : total,
    );
    longest = Math.max(longest, entry - previous);
    previous = entry;
  }
  return { cumulative: Int32Array.from(value as readonly number[]), longest };
}

/**
 * {@link flashAttention} for B sequences of different lengths that lie end to end, without padding. Each sequence's queries see keys of their
 * own sequence only; the diagonal is each sequence's own, by its lengths.
 *
 * @param q [totalQ, H, D], float dtype, D from 1 to 256.
 * @param k [totalK, G, D], same dtype. G divides H.
 * @param v [totalK, G, D], same dtype.
 * @param options `cuSeqlensQ`, `cuSeqlensK`: where the sequences begin and end. The others as for {@link flashAttention}; `alibiSlopes` may be [H] or
 * [B, H].
 * @returns out [totalQ, H, D], or with `returnLse` also lse, float32 [H, totalQ]. Gradients as for {@link flashAttention}.
 * @throws OptionError if the cumulative lengths do not rise from 0 to the total; otherwise as {@link flashAttention}.
 */
export function flashAttentionVarlen(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: FlashAttentionVarlenOptions & { returnLse?: false },
): Tensor;
export function flashAttentionVarlen(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: FlashAttentionVarlenOptions & { returnLse: true },
): { out: Tensor; lse: Tensor };
export function flashAttentionVarlen(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: FlashAttentionVarlenOptions,
): Tensor | { out: Tensor; lse: Tensor };
export function flashAttentionVarlen(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: FlashAttentionVarlenOptions,
): Tensor | { out: Tensor; lse: Tensor } {
  const op = 'flashAttentionVarlen';
  const device = checkQueryKeyValue(op, { q, k, v }, ['totalQ', 'H', 'D'], ({ shape }) => ['totalK', 'G', shape[2]]);
  checkOptions(op, options, ['cuSeqlensQ', 'cuSeqlensK', ...ATTENTION_OPTIONS, ...DIFFERENTIABLE_OPTIONS]);
  const [totalQueries, heads, headDim] = q.shape;
  const [totalKeys, keyHeads] = k.shape;
  const ofQueries = checkCuSeqlens(op, 'cuSeqlensQ', options.cuSeqlensQ, totalQueries);
  const ofKeys = checkCuSeqlens(op, 'cuSeqlensK', options.cuSeqlensK ?? options.cuSeqlensQ, totalKeys);
  const batch = ofQueries.cumulative.length - 1;
  if (ofKeys.cumulative.length !== batch + 1) {
    throw new OptionError(
      `${op}: expected ${batch + 1} integers for cuSeqlensK like cuSeqlensQ, got ${ofKeys.cumulative.length}`,
    );
  }
  const { longest: queries } = ofQueries;
  const { longest: keys } = ofKeys;
  const sizes = { batch, queries, keys, heads, keyHeads, headDim, keyCapacity: keys };
  const checked = checkAttention(op, q, sizes, options);
  return attend({
    ...checked,
    op,
    device,
    q,
    k,
    v,
    lseShape: [heads, totalQueries],
    cuSeqlens: [ofQueries.cumulative, ofKeys.cumulative],
    options,
  });
}
