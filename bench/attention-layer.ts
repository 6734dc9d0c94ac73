// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FLOAT_DTYPES, type FloatDType } from '../lib/dtype.js';
import { flashAttention } from '../lib/ops/flash-attention.js';
import { linear } from '../lib/ops/linear.js';
import { Generator } from '../lib/random.js';
import { tidy } from '../lib/scope.js';
import type { Tensor } from '../lib/tensor.js';
import { disposeAll, size, type GpuCase } from './gpu-case.js';
import { expectNear, operand, readerOf, type Operand } from './operands.js';
import { subject } from './schema.js';

/**
 * A layer of attention as the Rust predecessor has timed it: from x [B, S, 768] to q, k and v of 12 heads of 64, attention without a mask, and the projection of its
 * result; forward, without biases. What it has published of that is in report/predecessor.ts.
 */

export const HIDDEN = 768;
export const HEADS = 12;
export const HEAD_DIM = HIDDEN / HEADS;
export const BATCHES = [1, 4];
export const SEQUENCES = [512, 1024, 2048].map((s) => size(s, s / 64));

const CHECKED_QUERIES = 3;
/**
 * Of the largest element of a row: what float32 sums in another order differ by, and what roundings of q, k, v, the probabilities and the attended values
 * to 16 bits make together.
 */
const BOUNDS: Record<FloatDType, number> = { float32: 1e-5, float16: 2 ** -10, bfloat16: 2 ** -7 };

/** x [B, S, 768], the four weights [768, 768]; gives [B, S, 768]. */
export function attentionLayer(x: Tensor, weights: readonly Tensor[], causal = false): Tensor {
  const [batch, sequence] = x.shape;
  return tidy(() => {
    const [q, k, v] = weights.slice(0, 3).map((weight) => linear(x, weight).reshape(batch, sequence, HEADS, HEAD_DIM));
    return linear(flashAttention(q, k, v, { causal }).reshape(...x.shape), weights[3]);
  });
}

export const layerOperands = (batch: number, sequence: number, dtype: FloatDType): Operand[] => [
  operand([batch, sequence, HIDDEN], dtype, { seed: 1 }),
  ...[2, 3, 4, 5].map((seed) => operand([HIDDEN, HIDDEN], dtype, { seed, std: HIDDEN ** -0.5 })),
];

/** Four projections, and two products for every pair of a query and a key that it sees. */
export function layerOperations(batch: number, sequence: number, causal = false): number {
  const pairs = causal ? (sequence * (sequence + 1)) / 2 : sequence * sequence;
  return 8 * batch * sequence * HIDDEN * HIDDEN + 4 * batch * HIDDEN * pairs;
}

/**
 * A row of the result in float64. What stands between is folded: the score of query and key is (Wkᵀ q) · x, the attended value Wv (Σ p x), so that no key and
 * no value is computed.
 */
function exactRow(x: Float32Array, row: number, weights: readonly Float32Array[]): Float64Array {
  const sequence = x.length / HIDDEN;
  const [wq, wk, wv, wo] = weights;
  const attended = new Float64Array(HIDDEN);
  for (let head = 0; head < HEADS; head++) {
    const folded = new Float64Array(HIDDEN);
    for (let feature = head * HEAD_DIM; feature < (head + 1) * HEAD_DIM; feature++) {
      let q = 0;
      for (let i = 0; i < HIDDEN; i++) q += wq[feature * HIDDEN + i] * x[row * HIDDEN + i];
      for (let i = 0; i < HIDDEN; i++) folded[i] += q * wk[feature * HIDDEN + i];
    }
    const scores = Float64Array.from({ length: sequence }, (_, j) => {
      let score = 0;
      for (let i = 0; i < HIDDEN; i++) score += folded[i] * x[j * HIDDEN + i];
      return score / Math.sqrt(HEAD_DIM);
    });
    const largest = scores.reduce((most, score) => Math.max(most, score), -Infinity);
    const exponentials = scores.map((score) => Math.exp(score - largest));
    const total = exponentials.reduce((sum, value) => sum + value, 0);
    const mean = new Float64Array(HIDDEN);
    exponentials.forEach((value, j) => {
      for (let i = 0; i < HIDDEN; i++) mean[i] += (value / total) * x[j * HIDDEN + i];
    });
    for (let feature = head * HEAD_DIM; feature < (head + 1) * HEAD_DIM; feature++)
      for (let i = 0; i < HIDDEN; i++) attended[feature] += wv[feature * HIDDEN + i] * mean[i];
  }
  return Float64Array.from({ length: HIDDEN }, (_, feature) => {
    let sum = 0;
    for (let i = 0; i < HIDDEN; i++) sum += wo[feature * HIDDEN + i] * attended[i];
    return sum;
  });
}

function layerCase(batch: number, sequence: number, dtype: FloatDType): GpuCase {
  const name = `attention-layer ${dtype} B${batch} S${sequence}`;
  return {
    name,
    subject: subject('attention layer', dtype, {
      pass: 'forward',
      batch,
      sequence,
      alongSequence: `${dtype}, B ${batch}`,
      alongBatch: `${dtype}, S ${sequence}`,
    }),
    prepare() {
      const operands = layerOperands(batch, sequence, dtype);
      const [x, ...weights] = operands.map(({ tensor }) => tensor);
      return {
        flops: layerOperations(batch, sequence),
        bytes: 2 * x.bytes + weights.reduce((sum, { bytes }) => sum + bytes, 0),
        async check() {
          using out = attentionLayer(x, weights);
          const result = await readerOf(out);
          const values = operands.slice(1).map((each) => each.part(0, HIDDEN * HIDDEN));
          const random = new Generator(3);
          for (let sample = 0; sample < CHECKED_QUERIES; sample++) {
            const [entry, row] = [random.integer(batch), sample === 0 ? sequence - 1 : random.integer(sequence)];
            const exact = exactRow(operands[0].part(entry * sequence * HIDDEN, sequence * HIDDEN), row, values);
            const largest = exact.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
            exact.forEach((value, i) => {
              const got = result((entry * sequence + row) * HIDDEN + i);
              expectNear(name, dtype, got, value, BOUNDS[dtype] * largest);
            });
          }
        },
        run: () => attentionLayer(x, weights).dispose(),
        dispose: () => disposeAll([x, ...weights]),
      };
    },
  };
}

/** Of the dtypes given; all shapes of the predecessor's table. */
export const layerCases = (dtypes: readonly FloatDType[] = FLOAT_DTYPES): GpuCase[] =>
  dtypes.flatMap((dtype) => BATCHES.flatMap((batch) => SEQUENCES.map((s) => layerCase(batch, s, dtype))));
