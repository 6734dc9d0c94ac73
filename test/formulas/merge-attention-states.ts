// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cast, mergeAttentionStates, tidy } from '../../lib/index.js';
import { sumOf, type Arithmetic } from '../arithmetic.js';
import { mergeAttentionStatesCases, type MergeCase } from '../cases.js';
import type { OpSpec, Values } from '../op-spec.js';

const sizesOf = ({ shape }: MergeCase): readonly number[] => (shape.length === 3 ? [1, ...shape] : shape);

/** Where each row of out starts, by its place in lse. */
function startsOf(c: MergeCase): number[] {
  const [batch, queries, heads, headDim] = sizesOf(c);
  const starts: number[] = [];
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let s = 0; s < queries; s++) starts.push(((b * queries + s) * heads + h) * headDim);
    }
  }
  return starts;
}

/** exp(lse of each side - lse): the share of each side. */
function sharesOf(a: Arithmetic, lseA: number, lseB: number): { shareA: number; shareB: number; lse: number } {
  const largest = Math.max(lseA, lseB);
  if (largest === -Infinity) return { shareA: 0, shareB: 0, lse: -Infinity };
  const total = a.round(a.round(Math.exp(a.round(lseA - largest))) + a.round(Math.exp(a.round(lseB - largest))));
  const lse = a.round(largest + a.round(Math.log(total)));
  return { shareA: a.round(Math.exp(a.round(lseA - lse))), shareB: a.round(Math.exp(a.round(lseB - lse))), lse };
}

export const mergeAttentionStatesSpec: OpSpec<MergeCase> = {
  op: 'mergeAttentionStates',
  cases: mergeAttentionStatesCases,
  float32Outputs: ['lse'],
  inputs(c, random) {
    const [batch, queries, heads, headDim] = sizesOf(c);
    const rows = batch * queries * heads;
    const lseShape = c.shape.length === 3 ? [heads, queries] : [batch, heads, queries];
    const values = (): Values => random.normals(rows * headDim);
    const sawNone = (i: number, side: number): boolean =>
      c.missing !== undefined && (i % c.missing === side || i % 5 === 0);
    const lse = (side: number): Values =>
      random.normals(rows, c.spread).map((value, i) => (sawNone(i, side) ? -Infinity : value));
    return {
      outA: { shape: c.shape, values: values() },
      lseA: { shape: lseShape, values: lse(0) },
      outB: { shape: c.shape, values: values() },
      lseB: { shape: lseShape, values: lse(1) },
    };
  },
  // The lse are float32 whatever the dtype under test.
  call: ({ outA, lseA, outB, lseB }) =>
    tidy(() => mergeAttentionStates(outA, cast(lseA, 'float32'), outB, cast(lseB, 'float32'))),
  forward(a, { outA, lseA, outB, lseB }, c) {
    const headDim = c.shape[c.shape.length - 1];
    const out = new Float64Array(outA.length);
    const lse = new Float64Array(lseA.length);
    startsOf(c).forEach((start, at) => {
      const row = sharesOf(a, lseA[at], lseB[at]);
      lse[at] = row.lse;
      for (let i = start; i < start + headDim; i++)
        out[i] = a.round(a.round(row.shareA * outA[i]) + a.round(row.shareB * outB[i]));
    });
    return { out, lse };
  },
  backward(a, { outA, lseA, outB, lseB }, { out: dOut, lse: dLse }, c) {
    const headDim = c.shape[c.shape.length - 1];
    const dOutA = new Float64Array(outA.length);
    const dOutB = new Float64Array(outA.length);
    const dLseA = new Float64Array(lseA.length);
    const dLseB = new Float64Array(lseA.length);
    startsOf(c).forEach((start, at) => {
      const { shareA, shareB } = sharesOf(a, lseA[at], lseB[at]);
      const ofA = sumOf(a, headDim, (i) => a.round(dOut[start + i] * outA[start + i]));
      const ofB = sumOf(a, headDim, (i) => a.round(dOut[start + i] * outB[start + i]));
      const mean = a.round(a.round(shareA * ofA) + a.round(shareB * ofB));
      const fromLse = dLse ? dLse[at] : 0;
      dLseA[at] = a.round(shareA * a.round(a.round(ofA - mean) + fromLse));
      dLseB[at] = a.round(shareB * a.round(a.round(ofB - mean) + fromLse));
      for (let i = start; i < start + headDim; i++) {
        dOutA[i] = a.round(shareA * dOut[i]);
        dOutB[i] = a.round(shareB * dOut[i]);
      }
    });
    return { outA: dOutA, lseA: dLseA, outB: dOutB, lseB: dLseB };
  },
};
