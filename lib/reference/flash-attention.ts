// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { AttentionShape, FlashAttentionBackwardParams, FlashAttentionParams } from '../backend.js';
import { load, store } from './buffer.js';

// Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", 2023. The scores of one
// query are met key by key and never kept, so that memory grows with Sq + Sk and not with their product, forward
// (section 3.1.1) and backward (section 3.1.2).

/** The first key that query i may see; with lastKey, the window of the contract aligned to the bottom right. */
function firstKey({ queries, keys, windowLeft }: AttentionShape, i: number): number {
  return windowLeft < 0 ? 0 : Math.max(0, i + keys - queries - windowLeft);
}

/** The last key that query i may see; before firstKey if it sees none. */
function lastKey({ queries, keys, windowRight }: AttentionShape, i: number): number {
  return windowRight < 0 ? keys - 1 : Math.min(keys - 1, i + keys - queries + windowRight);
}

/**
 * out = softmax(scale * q k^T) v over the keys each query sees. With the running maximum `max` and the sum of
 * exponentials `total` of the keys met so far, key j adds p = exp(s_j - max) to `total` and p * v_j to the output; when
 * it raises the maximum, what was summed before is scaled down by exp(old maximum - new maximum). At the end out = sum
 * / total and lse = max + log(total).
 */
export function flashAttention(params: FlashAttentionParams): void {
  const { batch, queries, keys, heads, keyHeads, headDim, keyCapacity, scale } = params;
  const queryStride = heads * headDim; // between queries, in q and out [B, Sq, H, D]
  const keyStride = keyHeads * headDim; // between keys, in k and v [B, keyCapacity, G, D]
  const q = load(params.q);
  const out = new Float64Array(q.length);
  const lse = new Float64Array(batch * heads * queries).fill(-Infinity); // [B, H, Sq]
  for (let b = 0; b < batch; b++) {
    const k = load(params.k, b * keyCapacity * keyStride, keys * keyStride); // [Sk, G, D]
    const v = load(params.v, b * keyCapacity * keyStride, keys * keyStride);
    for (let h = 0; h < heads; h++) {
      const headOffset = Math.floor((h * keyHeads) / heads) * headDim; // of the key head that h reads, within a key
      for (let i = 0; i < queries; i++) {
        const qRow = (b * queries + i) * queryStride + h * headDim; // also of out
        const last = lastKey(params, i);
        let max = -Infinity;
        let total = 0;
        for (let j = firstKey(params, i); j <= last; j++) {
          const kRow = j * keyStride + headOffset; // also of v
          let score = 0;
          for (let d = 0; d < headDim; d++) score += q[qRow + d] * k[kRow + d];
          score *= scale;
          if (score > max) {
            const shrink = Math.exp(max - score); // 0 at the first key
            total *= shrink;
            for (let d = 0; d < headDim; d++) out[qRow + d] *= shrink;
            max = score;
          }
          const p = Math.exp(score - max);
          total += p;
          for (let d = 0; d < headDim; d++) out[qRow + d] += p * v[kRow + d];
        }
        // A total of 0 is a query without keys: its output stays 0, its lse -Infinity.
        if (total === 0) continue;
        for (let d = 0; d < headDim; d++) out[qRow + d] /= total;
        lse[(b * heads + h) * queries + i] = max + Math.log(total);
      }
    }
  }
  store(params.out, out);
  store(params.lse, lse);
}

/**
 * The probabilities P_ij = exp(s_ij - max_i) / total_i are found again from the scores: lse, rounded to float32, would
 * do where scores are small, but an oracle should not depend on that. Then dV_j = sum over i of P_ij dOut_i,
 * dP_ij = dOut_i . v_j, dS_ij = P_ij (dP_ij - delta_i + dLse_i) with delta_i = out_i . dOut_i, dQ_i = scale * sum over
 * j of dS_ij k_j, dK_j = scale * sum over i of dS_ij q_i. dK and dV also add up over the query heads that share the key
 * head. (d lse_i / d s_ij = P_ij.)
 */
export function flashAttentionBackward(params: FlashAttentionBackwardParams): void {
  const { batch, queries, keys, heads, keyHeads, headDim, scale } = params;
  const queryStride = heads * headDim;
  const keyStride = keyHeads * headDim;
  const [q, k, v] = [load(params.q), load(params.k), load(params.v)];
  const [out, dOut] = [load(params.out), load(params.dOut)];
  const dLse = params.dLse && load(params.dLse);
  const [dQ, dK, dV] = [new Float64Array(q.length), new Float64Array(k.length), new Float64Array(v.length)];
  const deltas = new Float64Array(batch * heads * queries); // [B, H, Sq]
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const headOffset = Math.floor((h * keyHeads) / heads) * headDim;
      for (let i = 0; i < queries; i++) {
        const row = (b * heads + h) * queries + i;
        const qRow = (b * queries + i) * queryStride + h * headDim; // also of out, dOut and dQ
        let delta = 0;
        for (let d = 0; d < headDim; d++) delta += out[qRow + d] * dOut[qRow + d];
        deltas[row] = delta;
        const [first, last] = [firstKey(params, i), lastKey(params, i)];
        let max = -Infinity;
        let total = 0;
        for (let j = first; j <= last; j++) {
          const kRow = (b * keys + j) * keyStride + headOffset;
          let score = 0;
          for (let d = 0; d < headDim; d++) score += q[qRow + d] * k[kRow + d];
          score *= scale;
          if (score > max) {
            total *= Math.exp(max - score);
            max = score;
          }
          total += Math.exp(score - max);
        }
        for (let j = first; j <= last; j++) {
          const kRow = (b * keys + j) * keyStride + headOffset; // also of v, dK and dV
          let score = 0;
          let dP = 0;
          for (let d = 0; d < headDim; d++) {
            score += q[qRow + d] * k[kRow + d];
            dP += dOut[qRow + d] * v[kRow + d];
          }
          const p = Math.exp(score * scale - max) / total;
          const dScore = p * (dP - delta + (dLse ? dLse[row] : 0)) * scale;
          for (let d = 0; d < headDim; d++) {
            dQ[qRow + d] += dScore * k[kRow + d];
            dK[kRow + d] += dScore * q[qRow + d];
            dV[kRow + d] += p * dOut[qRow + d];
          }
        }
      }
    }
  }
  store(params.dQ, dQ);
  store(params.dK, dK);
  store(params.dV, dV);
  store(params.delta, deltas);
}
