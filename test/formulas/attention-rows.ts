// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { philox } from '../../lib/random.js';
import { dot, sumOf, type Arithmetic } from '../arithmetic.js';
import type { AttentionOptionsCase } from '../cases.js';
import type { NamedValues, Values } from '../op-spec.js';

/** The plain formula of attention, of one query at a time, for batches of equal and of different lengths. */

/** Where the queries and keys of a batch entry begin in q and in k, and how many they are. */
export interface Sequence {
  query: number;
  queries: number;
  key: number;
  keys: number;
}

export interface Problem {
  c: AttentionOptionsCase;
  sequences: readonly Sequence[];
  /** Where the result of query i of entry b and head h is in lse. */
  place(b: number, h: number, i: number): number;
  /** Only these places are computed, if given: for what is too large to be computed whole. */
  only?: ReadonlySet<number>;
}

/** The seed of dropout in the tests. */
export const DROPOUT_SEED = 77;

/** What one query of one head works with. */
interface Row {
  head: number;
  /** Where it starts in q and out. */
  query: number;
  /** Its place in lse, and its number among the rows of dropout. */
  place: number;
  slope: number;
  /** The keys it sees. */
  keys: { j: number; start: number; distance: number; factor: number }[];
}

/** Whether a query sees key j, the diagonal being the key beside it. */
export function sees({ causal, window }: AttentionOptionsCase, diagonal: number, j: number): boolean {
  const [left, right] = window ?? [-1, -1];
  const rightmost = causal ? 0 : right;
  return (left < 0 || j >= diagonal - left) && (rightmost < 0 || j <= diagonal + rightmost);
}

/** Whether dropout keeps the probability of (row, j), as lib/backend.ts says it; `keys` are those of the longest entry. */
export function keeps(p: number, row: number, j: number, keys: number, offset = 0): boolean {
  const block = (row * Math.ceil(keys / 32) + Math.floor(j / 32)) * 4 + Math.floor((j % 8) / 2);
  const words = new Uint32Array(4);
  philox(words, offset + block, DROPOUT_SEED);
  const number = (words[Math.floor((j % 32) / 8)] >>> (16 * (j % 2))) & 0xffff;
  return number >= Math.round(p * 65536);
}

function makeRows({ c, sequences, place, only }: Problem, slopes: Values | undefined): Row[] {
  const longest = Math.max(...sequences.map(({ keys }) => keys));
  const rows: Row[] = [];
  sequences.forEach(({ query, queries, key, keys }, b) => {
    for (let h = 0; h < c.heads; h++) {
      const keyHead = Math.floor((h * c.keyHeads) / c.heads);
      for (let i = 0; i < queries; i++) {
        if (only && !only.has(place(b, h, i))) continue;
        const diagonal = c.causal === 'top-left' ? i : i + keys - queries;
        const row: Row = {
          head: h,
          query: ((query + i) * c.heads + h) * c.headDim,
          place: place(b, h, i),
          slope: slopes ? slopes[(c.alibi === 'batch' ? b * c.heads : 0) + h] : 0,
          keys: [],
        };
        for (let j = 0; j < keys; j++) {
          if (!sees(c, diagonal, j)) continue;
          const kept = !c.dropout || keeps(c.dropout, row.place, j, longest);
          row.keys.push({
            j,
            start: ((key + j) * c.keyHeads + keyHead) * c.headDim,
            distance: Math.abs(diagonal - j),
            factor: kept ? 65536 / (65536 - Math.round((c.dropout ?? 0) * 65536)) : 0,
          });
        }
        rows.push(row);
      }
    }
  });
  return rows;
}

/** Rows depend on the case and on the slopes only; many evaluations of a formula share them. */
const known = new WeakMap<AttentionOptionsCase, { slopes: Values | undefined; rows: Row[] }>();

function rowsOf(problem: Problem, slopes: Values | undefined): Row[] {
  const found = known.get(problem.c);
  if (found && String(found.slopes) === String(slopes)) return found.rows;
  const rows = makeRows(problem, slopes);
  known.set(problem.c, { slopes, rows });
  return rows;
}

interface Softmax {
  p: Float64Array;
  /** Of the sink. */
  pSink: number;
  lse: number;
  /** Of each score by scale · q·k. */
  derivatives: Float64Array;
}

function softmaxOf(a: Arithmetic, { q, k, sinks }: NamedValues, row: Row, c: AttentionOptionsCase): Softmax {
  const scale = c.scale ?? 1 / Math.sqrt(c.headDim);
  const derivatives = new Float64Array(row.keys.length).fill(1);
  const scores = Float64Array.from(row.keys, ({ start, distance }, index) => {
    let score = a.round(dot(a, c.headDim, q, row.query, 1, k, start, 1) * scale);
    if (c.softcap) {
      const bent = a.round(Math.tanh(a.round(score / c.softcap)));
      score = a.round(c.softcap * bent);
      derivatives[index] = a.round(1 - a.round(bent * bent));
    }
    return row.slope === 0 ? score : a.round(score - a.round(row.slope * distance));
  });
  const sink = sinks ? sinks[row.head] : -Infinity;
  const largest = scores.reduce((x, y) => Math.max(x, y), sink);
  const exponentials = scores.map((score) => a.round(Math.exp(a.round(score - largest))));
  const ofSink = sinks ? a.round(Math.exp(a.round(sink - largest))) : 0;
  const total = a.round(sumOf(a, exponentials.length, (j) => exponentials[j]) + ofSink);
  return {
    p: exponentials.map((e) => a.round(e / total)),
    pSink: a.round(ofSink / total),
    lse: a.round(largest + a.round(Math.log(total))),
    derivatives,
  };
}

export function attentionForward(a: Arithmetic, inputs: NamedValues, problem: Problem): NamedValues {
  const { q, v, sinks, alibiSlopes } = inputs;
  const { c } = problem;
  const out = new Float64Array(q.length);
  const lse = new Float64Array(q.length / c.headDim).fill(-Infinity);
  for (const row of rowsOf(problem, alibiSlopes)) {
    if (row.keys.length === 0 && !sinks) continue;
    const softmax = softmaxOf(a, inputs, row, c);
    lse[row.place] = softmax.lse;
    const p = softmax.p.map((each, index) => a.round(each * row.keys[index].factor));
    for (let d = 0; d < c.headDim; d++) {
      out[row.query + d] = sumOf(a, p.length, (index) => a.accumulate(p[index] * v[row.keys[index].start + d]));
    }
  }
  return { out, lse };
}

export function attentionBackward(
  a: Arithmetic,
  inputs: NamedValues,
  { out: dOut, lse: dLse }: NamedValues,
  problem: Problem,
): NamedValues {
  const { q, k, v, sinks, alibiSlopes } = inputs;
  const { c } = problem;
  const scale = c.scale ?? 1 / Math.sqrt(c.headDim);
  const dQ = new Float64Array(q.length);
  const dK = new Float64Array(k.length);
  const dV = new Float64Array(v.length);
  const dSinks = new Float64Array(c.heads);
  for (const row of rowsOf(problem, alibiSlopes)) {
    if (row.keys.length === 0 && !sinks) continue;
    const { p, pSink, derivatives } = softmaxOf(a, inputs, row, c);
    const dP = Float64Array.from(row.keys, ({ start, factor }) =>
      a.round(factor * dot(a, c.headDim, dOut, row.query, 1, v, start, 1)),
    );
    const mean = sumOf(a, p.length, (j) => a.accumulate(p[j] * dP[j]));
    const withLse = (value: number): number => (dLse ? a.round(value + dLse[row.place]) : value);
    const dS = p.map((pj, j) => a.round(a.round(pj * withLse(a.round(dP[j] - mean))) * derivatives[j]));
    dSinks[row.head] = a.accumulate(dSinks[row.head] + a.round(pSink * withLse(-mean)));
    for (let d = 0; d < c.headDim; d++) {
      dQ[row.query + d] = a.round(sumOf(a, p.length, (j) => a.accumulate(dS[j] * k[row.keys[j].start + d])) * scale);
    }
    row.keys.forEach(({ start, factor }, j) => {
      const dropped = a.round(p[j] * factor);
      for (let d = 0; d < c.headDim; d++) {
        dK[start + d] = a.accumulate(dK[start + d] + a.accumulate(dS[j] * q[row.query + d]));
        dV[start + d] = a.accumulate(dV[start + d] + a.accumulate(dropped * dOut[row.query + d]));
      }
    });
  }
  return {
    q: dQ,
    k: dK.map((sum) => a.round(a.round(sum) * scale)),
    v: dV.map((sum) => a.round(sum)),
    ...(sinks && { sinks: dSinks.map((sum) => a.round(sum)) }),
  };
}
