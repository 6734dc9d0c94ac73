// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { flashAttention } from '../../lib/index.js';
import { dot, sumOf, type Arithmetic } from '../arithmetic.js';
import { attentionCases, type AttentionCase } from '../cases.js';
import type { OpSpec, Values } from '../op-spec.js';

/** Whether query i sees key j: masks and windows are aligned at the bottom right. */
export function sees(c: AttentionCase, i: number, j: number): boolean {
  const center = i + c.keys - c.queries;
  const [left, right] = c.window ?? [-1, -1];
  const rightmost = c.causal ? 0 : right;
  return (left < 0 || j >= center - left) && (rightmost < 0 || j <= center + rightmost);
}

/** What one query row of one head works with. */
interface Row {
  /** Where the query starts in q and out. */
  query: number;
  /** Its place in lse. */
  lse: number;
  /** The keys it sees: where each starts in k and v. */
  keys: number[];
}

function* rowsOf(c: AttentionCase): Generator<Row> {
  for (let b = 0; b < c.batch; b++) {
    for (let h = 0; h < c.heads; h++) {
      const keyHead = Math.floor((h * c.keyHeads) / c.heads);
      for (let i = 0; i < c.queries; i++) {
        const keys: number[] = [];
        for (let j = 0; j < c.keys; j++)
          if (sees(c, i, j)) keys.push(((b * c.keys + j) * c.keyHeads + keyHead) * c.headDim);
        yield { query: ((b * c.queries + i) * c.heads + h) * c.headDim, lse: (b * c.heads + h) * c.queries + i, keys };
      }
    }
  }
}

/** Probabilities of the keys a query sees, and the log of the sum of exponentials. */
function softmaxOfRow(
  a: Arithmetic,
  q: Values,
  k: Values,
  row: Row,
  c: AttentionCase,
): { p: Float64Array; lse: number } {
  const scale = c.scale ?? 1 / Math.sqrt(c.headDim);
  const scores = Float64Array.from(row.keys, (key) => a.round(dot(a, c.headDim, q, row.query, 1, k, key, 1) * scale));
  const largest = scores.reduce((x, y) => Math.max(x, y), -Infinity);
  const exponentials = scores.map((score) => a.round(Math.exp(a.round(score - largest))));
  const total = sumOf(a, exponentials.length, (j) => exponentials[j]);
  return { p: exponentials.map((e) => a.round(e / total)), lse: a.round(largest + a.round(Math.log(total))) };
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
    };
  },
  call({ q, k, v }, { causal, window, scale }) {
    return flashAttention(q, k, v, {
      ...(causal && { causal }),
      ...(window && { window }),
      ...(scale && { scale }),
      returnLse: true,
    });
  },
  forward(a, { q, k, v }, c) {
    const out = new Float64Array(q.length);
    const lse = new Float64Array(c.batch * c.heads * c.queries).fill(-Infinity);
    for (const row of rowsOf(c)) {
      if (row.keys.length === 0) continue;
      const softmax = softmaxOfRow(a, q, k, row, c);
      lse[row.lse] = softmax.lse;
      for (let d = 0; d < c.headDim; d++) {
        out[row.query + d] = sumOf(a, row.keys.length, (j) => a.accumulate(softmax.p[j] * v[row.keys[j] + d]));
      }
    }
    return { out, lse };
  },
  backward(a, { q, k, v }, { out: dOut, lse: dLse }, c) {
    const scale = c.scale ?? 1 / Math.sqrt(c.headDim);
    const dQ = new Float64Array(q.length);
    const dK = new Float64Array(k.length);
    const dV = new Float64Array(v.length);
    for (const row of rowsOf(c)) {
      const { p } = softmaxOfRow(a, q, k, row, c);
      const dP = Float64Array.from(row.keys, (key) => dot(a, c.headDim, dOut, row.query, 1, v, key, 1));
      const mean = sumOf(a, p.length, (j) => a.accumulate(p[j] * dP[j]));
      const dS = p.map((pj, j) => {
        const fromOut = a.round(dP[j] - mean);
        return a.round(pj * (dLse ? a.round(fromOut + dLse[row.lse]) : fromOut));
      });
      for (let d = 0; d < c.headDim; d++) {
        dQ[row.query + d] = a.round(sumOf(a, p.length, (j) => a.accumulate(dS[j] * k[row.keys[j] + d])) * scale);
      }
      row.keys.forEach((key, j) => {
        for (let d = 0; d < c.headDim; d++) {
          dK[key + d] = a.accumulate(dK[key + d] + a.accumulate(dS[j] * q[row.query + d]));
          dV[key + d] = a.accumulate(dV[key + d] + a.accumulate(p[j] * dOut[row.query + d]));
        }
      });
    }
    return { q: dQ, k: dK.map((sum) => a.round(a.round(sum) * scale)), v: dV.map((sum) => a.round(sum)) };
  },
};
