// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { AttentionShape, FlashAttentionBackwardParams, FlashAttentionParams, TensorArg } from '../backend.js';
import { philox } from '../random.js';
import { load, store, view, type Fail } from './buffer.js';
import { cacheRows, checkPages } from './kv-cache.js';

// Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", 2023. The scores of one
// query are met key by key and never kept, so that memory grows with Sq + Sk and not with their product, forward
// (section 3.1.1) and backward (section 3.1.2).

/** One query of one head: where its numbers are, and which keys it sees. */
interface Row {
  head: number;
  /** Its place in lse, and its number among the rows of dropout. */
  place: number;
  /** Where it starts in q, out and their gradients. */
  q: number;
  /** Where the key head that it reads starts within a key. */
  keyHead: number;
  /** The key beside it. */
  diagonal: number;
  firstKey: number;
  /** Before firstKey if it sees none. */
  lastKey: number;
  slope: number;
}

/** A batch entry. */
interface Sequence {
  b: number;
  /** The first row of q, and how many. */
  query: number;
  queries: number;
  /** The first row of k and v, and how many. */
  key: number;
  keys: number;
}

function* sequencesOf(shape: AttentionShape): Generator<Sequence> {
  const { batch, queries, keyCapacity, packed, keyLengths } = shape;
  const starts = packed && view(packed.cuSeqlens);
  const held = keyLengths && view(keyLengths.held);
  for (let b = 0; b < batch; b++) {
    if (!starts) {
      const keys = held && keyLengths ? held[b] + keyLengths.added : shape.keys;
      yield { b, query: b * queries, queries, key: b * keyCapacity, keys };
    } else {
      const [query, queryEnd] = starts.subarray(b, b + 2);
      const [key, keyEnd] = starts.subarray(batch + 1 + b, batch + 1 + b + 2);
      yield { b, query, queries: queryEnd - query, key, keys: keyEnd - key };
    }
  }
}

function* rowsOf(shape: AttentionShape, { b, query, queries, keys }: Sequence): Generator<Row> {
  const { heads, keyHeads, headDim, topLeft, windowLeft, windowRight, packed, alibiPerBatch } = shape;
  const slopes = shape.alibiSlopes && load(shape.alibiSlopes);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < queries; i++) {
      const diagonal = topLeft ? i : i + keys - queries;
      yield {
        head,
        place: packed ? head * packed.totalQueries + query + i : (b * heads + head) * queries + i,
        q: ((query + i) * heads + head) * headDim,
        keyHead: Math.floor((head * keyHeads) / heads) * headDim,
        diagonal,
        firstKey: windowLeft < 0 ? 0 : Math.max(0, diagonal - windowLeft),
        lastKey: windowRight < 0 ? keys - 1 : Math.min(keys - 1, diagonal + windowRight),
        slope: slopes ? slopes[(alibiPerBatch ? b * heads : 0) + head] : 0,
      };
    }
  }
}

/** The score of a key, and its derivative by scale * q.k. */
function scoreOf(
  { scale, softcap }: AttentionShape,
  row: Row,
  j: number,
  dot: number,
): { score: number; derivative: number } {
  let score = scale * dot;
  let derivative = 1;
  if (softcap > 0) {
    const bent = Math.tanh(score / softcap);
    score = softcap * bent;
    derivative = 1 - bent * bent;
  }
  return { score: score - row.slope * Math.abs(row.diagonal - j), derivative };
}

/**
 * What the probabilities of a row are multiplied by: 0, or 1 / (the share that is kept). Null without dropout. Which number is whose:
 * lib/backend.ts, AttentionShape.dropout.
 */
function dropoutFactors({ dropout, keys }: AttentionShape, row: Row): Float64Array | null {
  const { threshold, seed, offset } = dropout;
  if (threshold === 0) return null;
  const factors = new Float64Array(Math.max(0, row.lastKey + 1));
  const groups = Math.ceil(keys / 32);
  const words = new Uint32Array(4);
  for (let group = Math.floor(row.firstKey / 32); group * 32 <= row.lastKey; group++) {
    for (let block = 0; block < 4; block++) {
      philox(words, offset + (row.place * groups + group) * 4 + block, seed);
      for (let number = 0; number < 8; number++) {
        const [word, half] = [number >> 1, number & 1];
        const j = group * 32 + word * 8 + block * 2 + half;
        const kept = ((words[word] >>> (16 * half)) & 0xffff) >= threshold;
        if (j <= row.lastKey && kept) factors[j] = 65536 / (65536 - threshold);
      }
    }
  }
  return factors;
}

/** False if the cumulative lengths, or those of a cache, lead outside the tensors. */
function checkSequences(shape: AttentionShape, fail: Fail): boolean {
  const { batch, queries, keys, packed, keyLengths, pages } = shape;
  if (!checkPages(pages, fail)) return false;
  if (keyLengths) {
    const within = view(keyLengths.held).every((held) => held >= 0 && held + keyLengths.added <= keys);
    if (!within) fail('expected tokens that fit into the cache, got a length that is negative or too large');
    return within;
  }
  if (!packed) return true;
  const starts = view(packed.cuSeqlens);
  const valid = [
    { begin: 0, total: packed.totalQueries, longest: queries },
    { begin: batch + 1, total: packed.totalKeys, longest: keys },
  ].every(({ begin, total, longest }) => {
    for (let b = begin; b < begin + batch; b++) {
      const length = starts[b + 1] - starts[b];
      if (length < 0 || length > longest) return false;
    }
    return starts[begin] === 0 && starts[begin + batch] === total;
  });
  if (!valid) fail('expected cumulative lengths that rise from 0 to the total, got others');
  return valid;
}

/** The keys or values of a batch entry, [Sk, G, D], wherever and however they are stored. */
function loadKeys(
  { keyHeads, headDim, keyCapacity, pages }: AttentionShape,
  { b, key, keys }: Sequence,
  stored: TensorArg,
  scales: TensorArg | null,
): Float64Array {
  const keyStride = keyHeads * headDim;
  if (!pages && !scales) return load(stored, key * keyStride, keys * keyStride);
  const rowOf = cacheRows(pages, keyCapacity);
  const out = new Float64Array(keys * keyStride);
  for (let j = 0; j < keys; j++) {
    const row = Math.max(0, rowOf(b, j));
    const factors = scales && load(scales, row * keyHeads, keyHeads);
    const values = load(stored, row * keyStride, keyStride);
    out.set(factors ? values.map((code, i) => code * factors[Math.floor(i / headDim)]) : values, j * keyStride);
  }
  return out;
}

/**
 * out = dropout(softmax(s)) v over the keys each query sees, s = score(scale * q k^T). With the running maximum `max` and the sum of
 * exponentials `total` of the keys met so far, key j adds p = exp(s_j - max) to `total` and p * v_j to the output; when it raises the
 * maximum, what was summed before is scaled down by exp(old maximum - new maximum). At the end out = sum / total and lse = max +
 * log(total). A sink is a score that is there before the first key and adds to `total` only.
 */
export function flashAttention(params: FlashAttentionParams, fail: Fail): void {
  const { keyHeads, headDim } = params;
  const keyStride = keyHeads * headDim; // between keys
  const out = new Float64Array(params.q.length);
  const lse = new Float64Array(params.lse.length).fill(-Infinity);
  const sinks = params.sinks && load(params.sinks);
  const q = load(params.q);
  for (const sequence of checkSequences(params, fail) ? sequencesOf(params) : []) {
    const k = loadKeys(params, sequence, params.k, params.keyScales);
    const v = loadKeys(params, sequence, params.v, params.valueScales);
    for (const row of rowsOf(params, sequence)) {
      const factors = dropoutFactors(params, row);
      let max = sinks ? sinks[row.head] : -Infinity;
      let total = max === -Infinity ? 0 : 1;
      for (let j = row.firstKey; j <= row.lastKey; j++) {
        const kRow = j * keyStride + row.keyHead; // also of v
        let dot = 0;
        for (let d = 0; d < headDim; d++) dot += q[row.q + d] * k[kRow + d];
        const { score } = scoreOf(params, row, j, dot);
        if (score > max) {
          const shrink = Math.exp(max - score); // 0 at the first key
          total *= shrink;
          for (let d = 0; d < headDim; d++) out[row.q + d] *= shrink;
          max = score;
        }
        const p = Math.exp(score - max);
        total += p;
        const kept = factors ? p * factors[j] : p;
        for (let d = 0; d < headDim; d++) out[row.q + d] += kept * v[kRow + d];
      }
      // A total of 0 is a query without keys or a sink: its output stays 0, its lse -Infinity.
      if (total === 0) continue;
      for (let d = 0; d < headDim; d++) out[row.q + d] /= total;
      lse[row.place] = max + Math.log(total);
    }
  }
  store(params.out, out);
  store(params.lse, lse);
}

/**
 * The probabilities P_ij = exp(s_ij - max_i) / total_i are found again from the scores: lse, rounded to float32, would do where scores are
 * small, but an oracle should not depend on that. With Z_ij what dropout multiplies P_ij by (1 without), dV_j = sum over i of Z_ij P_ij
 * dOut_i, dP_ij = Z_ij dOut_i . v_j, dS_ij = P_ij (dP_ij - delta_i + dLse_i) with delta_i = out_i . dOut_i, and, with s' the derivative of
 * the score by scale * q.k, dQ_i = scale * sum over j of dS_ij s'_ij k_j, dK_j = scale * sum over i of dS_ij s'_ij q_i. dK and dV also add
 * up over the query heads that share the key head. (d lse_i / d s_ij = P_ij.) A sink is a key without a value: dSink = sum over i of
 * P_i,sink (dLse_i - delta_i).
 */
export function flashAttentionBackward(params: FlashAttentionBackwardParams, fail: Fail): void {
  const { keyHeads, headDim, scale } = params;
  const keyStride = keyHeads * headDim;
  const [q, k, v] = [load(params.q), load(params.k), load(params.v)];
  const [out, dOut] = [load(params.out), load(params.dOut)];
  const dLse = params.dLse && load(params.dLse);
  const sinks = params.sinks && load(params.sinks);
  const [dQ, dK, dV] = [new Float64Array(q.length), new Float64Array(k.length), new Float64Array(v.length)];
  const dSinks = new Float64Array(params.heads);
  const deltas = new Float64Array(params.delta.length);
  for (const sequence of checkSequences(params, fail) ? sequencesOf(params) : []) {
    for (const row of rowsOf(params, sequence)) {
      const factors = dropoutFactors(params, row);
      const firstKey = sequence.key * keyStride + row.keyHead; // in k, v, dK and dV
      let delta = 0;
      for (let d = 0; d < headDim; d++) delta += out[row.q + d] * dOut[row.q + d];
      deltas[row.place] = delta;
      const fromLse = dLse ? dLse[row.place] : 0;
      let max = sinks ? sinks[row.head] : -Infinity;
      let total = max === -Infinity ? 0 : 1;
      for (let j = row.firstKey; j <= row.lastKey; j++) {
        const kRow = firstKey + j * keyStride;
        let dot = 0;
        for (let d = 0; d < headDim; d++) dot += q[row.q + d] * k[kRow + d];
        const { score } = scoreOf(params, row, j, dot);
        if (score > max) {
          total *= Math.exp(max - score);
          max = score;
        }
        total += Math.exp(score - max);
      }
      if (sinks && total > 0) dSinks[row.head] += (Math.exp(sinks[row.head] - max) / total) * (fromLse - delta);
      for (let j = row.firstKey; j <= row.lastKey; j++) {
        const kRow = firstKey + j * keyStride;
        let dot = 0;
        let dP = 0;
        for (let d = 0; d < headDim; d++) {
          dot += q[row.q + d] * k[kRow + d];
          dP += dOut[row.q + d] * v[kRow + d];
        }
        const { score, derivative } = scoreOf(params, row, j, dot);
        const factor = factors ? factors[j] : 1;
        const p = Math.exp(score - max) / total;
        const dDot = p * (factor * dP - delta + fromLse) * derivative * scale;
        for (let d = 0; d < headDim; d++) {
          dQ[row.q + d] += dDot * k[kRow + d];
          dK[kRow + d] += dDot * q[row.q + d];
          dV[kRow + d] += factor * p * dOut[row.q + d];
        }
      }
    }
  }
  store(params.dQ, dQ);
  store(params.dK, dK);
  store(params.dV, dV);
  if (params.dSinks) store(params.dSinks, dSinks);
  store(params.delta, deltas);
}
