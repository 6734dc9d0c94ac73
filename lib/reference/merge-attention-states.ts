// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { MergeAttentionStatesBackwardParams, MergeAttentionStatesParams } from '../backend.js';
import { load, store } from './buffer.js';

/** The shares of a and b, which add up to 1 or, if neither saw a key, are 0; and their lse. */
function merged(lseA: number, lseB: number): { shareA: number; shareB: number; lse: number } {
  const largest = Math.max(lseA, lseB);
  if (largest === -Infinity) return { shareA: 0, shareB: 0, lse: -Infinity };
  const lse = largest + Math.log1p(Math.exp(-Math.abs(lseA - lseB)));
  return { shareA: 1 / (1 + Math.exp(lseB - lseA)), shareB: 1 / (1 + Math.exp(lseA - lseB)), lse };
}

/** Each row of out [B, S, H, D], where it starts, and its place in lse [B, H, S]. */
function* rowsOf(batch: number, queries: number, heads: number, headDim: number): Generator<[number, number]> {
  for (let b = 0; b < batch; b++) {
    for (let s = 0; s < queries; s++) {
      for (let h = 0; h < heads; h++) yield [((b * queries + s) * heads + h) * headDim, (b * heads + h) * queries + s];
    }
  }
}

/** A side that saw no key is not looked at: its out need not be a number. */
function loadSeen(params: MergeAttentionStatesParams | MergeAttentionStatesBackwardParams) {
  const { batch, queries, heads, headDim } = params;
  const [outA, lseA, outB, lseB] = [params.outA, params.lseA, params.outB, params.lseB].map((each) => load(each));
  for (const [start, at] of rowsOf(batch, queries, heads, headDim)) {
    if (lseA[at] === -Infinity) outA.fill(0, start, start + headDim);
    if (lseB[at] === -Infinity) outB.fill(0, start, start + headDim);
  }
  return { outA, lseA, outB, lseB };
}

/** out = shareA outA + shareB outB, with share = exp(its lse - lse) and lse = log(exp(lseA) + exp(lseB)). */
export function mergeAttentionStates(params: MergeAttentionStatesParams): void {
  const { batch, queries, heads, headDim } = params;
  const { outA, lseA, outB, lseB } = loadSeen(params);
  const out = new Float64Array(outA.length);
  const lse = new Float64Array(lseA.length);
  for (const [start, at] of rowsOf(batch, queries, heads, headDim)) {
    const row = merged(lseA[at], lseB[at]);
    lse[at] = row.lse;
    for (let i = start; i < start + headDim; i++) out[i] = row.shareA * outA[i] + row.shareB * outB[i];
  }
  store(params.out, out);
  store(params.lse, lse);
}

/**
 * dOutA = shareA dOut; dLseA = shareA shareB (dOut · (outA - outB)) + shareA dLse, because the derivative of shareA by lseA is
 * shareA shareB and that of shareB its negative. The same for b.
 */
export function mergeAttentionStatesBackward(params: MergeAttentionStatesBackwardParams): void {
  const { batch, queries, heads, headDim } = params;
  const { outA, lseA, outB, lseB } = loadSeen(params);
  const dOut = load(params.dOut);
  const dLse = params.dLse && load(params.dLse);
  const [dOutA, dOutB] = [new Float64Array(outA.length), new Float64Array(outA.length)];
  const [dLseA, dLseB] = [new Float64Array(lseA.length), new Float64Array(lseA.length)];
  for (const [start, at] of rowsOf(batch, queries, heads, headDim)) {
    const { shareA, shareB } = merged(lseA[at], lseB[at]);
    let difference = 0;
    for (let i = start; i < start + headDim; i++) {
      dOutA[i] = shareA * dOut[i];
      dOutB[i] = shareB * dOut[i];
      difference += dOut[i] * (outA[i] - outB[i]);
    }
    const fromOut = shareA * shareB * difference;
    const fromLse = dLse ? dLse[at] : 0;
    dLseA[at] = fromOut + shareA * fromLse;
    dLseB[at] = -fromOut + shareB * fromLse;
  }
  store(params.dOutA, dOutA);
  store(params.dLseA, dLseA);
  store(params.dOutB, dOutB);
  store(params.dLseB, dLseB);
}
