// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { flashAttention, manualSeed, type FlashAttentionOptions, type Tensor } from '../../lib/index.js';
import { attentionCases, type AttentionCase, type AttentionOptionsCase } from '../cases.js';
import type { Input, OpSpec } from '../op-spec.js';
import type { Random } from '../random.js';
import { attentionBackward, attentionForward, DROPOUT_SEED, type Problem } from './attention-rows.js';

/** The options of a case, as the library takes them; begins the numbers of dropout where the formula begins them. */
export function attentionOptions(
  { causal, window, scale, softcap, dropout, deterministic }: AttentionOptionsCase,
  { alibiSlopes, sinks }: Record<string, Tensor>,
): FlashAttentionOptions {
  if (dropout) manualSeed(DROPOUT_SEED);
  return {
    ...(causal && { causal }),
    ...(window && { window }),
    ...(scale && { scale }),
    ...(softcap && { softcap }),
    ...(alibiSlopes && { alibiSlopes }),
    ...(sinks && { sinks }),
    ...(dropout && { dropout }),
    ...(deterministic && { deterministic }),
  };
}

/** Slopes from 2^-1 to 2^-8, and sinks. */
export function optionalInputs(c: AttentionOptionsCase, batch: number, random: Random): Record<string, Input> {
  const { heads, alibi } = c;
  const slopes = alibi === 'batch' ? batch * heads : heads;
  return {
    ...(alibi && {
      alibiSlopes: {
        shape: alibi === 'batch' ? [batch, heads] : [heads],
        values: Float64Array.from({ length: slopes }, (_, i) => Math.fround(2 ** ((-8 * (i + 1)) / slopes))),
        dtype: 'float32',
      },
    }),
    ...(c.sinks && { sinks: { shape: [heads], values: random.normals(heads, 2) } }),
  };
}

export function attentionProblem(c: AttentionCase): Problem {
  const { batch, queries, keys, heads } = c;
  return {
    c,
    sequences: Array.from({ length: batch }, (_, b) => ({ query: b * queries, queries, key: b * keys, keys })),
    place: (b, h, i) => (b * heads + h) * queries + i,
  };
}

export const flashAttentionSpec: OpSpec<AttentionCase> = {
  op: 'flashAttention',
  cases: attentionCases,
  float32Outputs: ['lse'],
  inputs(c, random) {
    const { batch, queries, keys, heads, keyHeads, headDim, spread = 1 } = c;
    const kvShape = [batch, keys, keyHeads, headDim];
    const kvSize = batch * keys * keyHeads * headDim;
    return {
      q: { shape: [batch, queries, heads, headDim], values: random.normals(batch * queries * heads * headDim, spread) },
      k: { shape: kvShape, values: random.normals(kvSize, spread) },
      v: { shape: kvShape, values: random.normals(kvSize) },
      ...optionalInputs(c, batch, random),
    };
  },
  call({ q, k, v, ...optional }, c) {
    return flashAttention(q, k, v, { ...attentionOptions(c, optional), returnLse: true });
  },
  forward: (a, inputs, c) => attentionForward(a, inputs, attentionProblem(c)),
  backward: (a, inputs, dOut, c) => attentionBackward(a, inputs, dOut, attentionProblem(c)),
};
