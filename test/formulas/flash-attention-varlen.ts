// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { flashAttentionVarlen } from '../../lib/index.js';
import { varlenAttentionCases, type VarlenAttentionCase } from '../cases.js';
import type { OpSpec } from '../op-spec.js';
import { attentionBackward, attentionForward, type Problem } from './attention-rows.js';
import { attentionOptions, optionalInputs } from './flash-attention.js';

export function cumulative(lengths: readonly number[]): number[] {
  const sums = [0];
  for (const length of lengths) sums.push(sums[sums.length - 1] + length);
  return sums;
}

const total = (lengths: readonly number[]): number => lengths.reduce((sum, length) => sum + length, 0);

export function varlenProblem(c: VarlenAttentionCase): Problem {
  const [queryStarts, keyStarts] = [cumulative(c.queryLengths), cumulative(c.keyLengths)];
  return {
    c,
    sequences: c.queryLengths.map((queries, b) => ({
      query: queryStarts[b],
      queries,
      key: keyStarts[b],
      keys: c.keyLengths[b],
    })),
    place: (b, h, i) => h * total(c.queryLengths) + queryStarts[b] + i,
  };
}

export const flashAttentionVarlenSpec: OpSpec<VarlenAttentionCase> = {
  op: 'flashAttentionVarlen',
  cases: varlenAttentionCases,
  float32Outputs: ['lse'],
  inputs(c, random) {
    const { queryLengths, keyLengths, heads, keyHeads, headDim } = c;
    const [queries, keys] = [total(queryLengths), total(keyLengths)];
    return {
      q: { shape: [queries, heads, headDim], values: random.normals(queries * heads * headDim) },
      k: { shape: [keys, keyHeads, headDim], values: random.normals(keys * keyHeads * headDim) },
      v: { shape: [keys, keyHeads, headDim], values: random.normals(keys * keyHeads * headDim) },
      ...optionalInputs(c, queryLengths.length, random),
    };
  },
  call({ q, k, v, ...optional }, c) {
    return flashAttentionVarlen(q, k, v, {
      ...attentionOptions(c, optional),
      cuSeqlensQ: cumulative(c.queryLengths),
      cuSeqlensK: Int32Array.from(cumulative(c.keyLengths)),
      returnLse: true,
    });
  },
  forward: (a, inputs, c) => attentionForward(a, inputs, varlenProblem(c)),
  backward: (a, inputs, dOut, c) => attentionBackward(a, inputs, dOut, varlenProblem(c)),
};
