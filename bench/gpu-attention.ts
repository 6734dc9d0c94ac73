// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { flashAttention } from '../lib/ops/flash-attention.js';
import { Generator } from '../lib/random.js';
import { tidy } from '../lib/scope.js';
import type { Tensor } from '../lib/tensor.js';
import { clearGrads, disposeAll, size, type GpuCase } from './gpu-case.js';
import { expectNear, operand, readerOf } from './operands.js';
import { subject } from './schema.js';

const DTYPE = 'bfloat16';
const EPSILON = 2 ** -8;
const TOKENS = size(16384, 256);
const FEATURES = size(2048, 256);
const HEAD_DIMS = [64, 128];
const SEQUENCES = [2048, 4096, 8192, 16384].map((s) => size(s, s / 64));
const CHECKED_QUERIES = 3;

interface Shape {
  batch: number;
  sequence: number;
  heads: number;
  headDim: number;
  causal: boolean;
}

function attentionCase(shape: Shape, backward: boolean): GpuCase {
  const { batch, sequence: s, heads, headDim: d, causal } = shape;
  const pass = backward ? 'forward+backward' : 'forward';
  const mask = causal ? 'causal' : 'full';
  const name = `attention ${pass} bf16 D${d} S${s} ${mask}`;
  // The batch changes with the sequence, for the number of tokens does not.
  const alongSequence = `D ${d} ${mask}, ${batch * s} tokens`;
  return {
    name,
    subject: subject('flashAttention', DTYPE, { pass, batch, sequence: s, alongSequence }),
    prepare() {
      const make = (seed: number) => operand([batch, s, heads, d], DTYPE, { seed, requiresGrad: backward });
      const [q, k, v] = [1, 2, 3].map(make);
      const dOut = operand([batch, s, heads, d], DTYPE, { seed: 4 });
      const inputs = [q, k, v].map(({ tensor }) => tensor);
      const pairs = batch * heads * (causal ? (s * (s + 1)) / 2 : s * s);
      const once = (): Tensor => {
        const out = flashAttention(inputs[0], inputs[1], inputs[2], { causal });
        if (backward) out.backward(dOut.tensor);
        return out;
      };
      return {
        flops: 4 * d * pairs * (backward ? 3.5 : 1),
        bytes: q.tensor.bytes * (backward ? 4 + 8 : 4),
        /** A few queries: their row of out and of dQ. And of a head, the sum of dV over the keys, which is that of dOut over the queries. */
        async check() {
          const out = await readerOf(tidy(once));
          const [dQ, dV] = backward
            ? [await readerOf(inputs[0].grad as Tensor), await readerOf(inputs[2].grad as Tensor)]
            : [];
          const random = new Generator(3);
          for (let i = 0; i < CHECKED_QUERIES; i++) {
            const [b, h] = [random.integer(batch), random.integer(heads)];
            const query = i === 0 ? s - 1 : random.integer(s);
            const keys = causal ? query + 1 : s;
            const start = (token: number): number => ((b * s + token) * heads + h) * d;
            const row = q.part(start(query), d);
            const g = dOut.part(start(query), d);
            const dot = (x: Float32Array, y: Float32Array): number =>
              x.reduce((sum, value, at) => sum + value * y[at], 0);
            const keyRows = Array.from({ length: keys }, (_, j) => k.part(start(j), d));
            const valueRows = Array.from({ length: keys }, (_, j) => v.part(start(j), d));
            const scores = keyRows.map((key) => dot(row, key) / Math.sqrt(d));
            const largest = scores.reduce((most, score) => Math.max(most, score), -Infinity);
            const exponentials = scores.map((score) => Math.exp(score - largest));
            const total = exponentials.reduce((sum, value) => sum + value, 0);
            const p = exponentials.map((value) => value / total);
            const dP = valueRows.map((value) => dot(g, value));
            const mean = p.reduce((sum, value, j) => sum + value * dP[j], 0);
            for (let at = 0; at < d; at++) {
              let [sum, magnitude, gradient, gradientMagnitude] = [0, 0, 0, 0];
              for (let j = 0; j < keys; j++) {
                sum += p[j] * valueRows[j][at];
                magnitude += p[j] * Math.abs(valueRows[j][at]);
                const dS = (p[j] * (dP[j] - mean) * keyRows[j][at]) / Math.sqrt(d);
                gradient += dS;
                gradientMagnitude += Math.abs(dS) + p[j] * Math.abs(keyRows[j][at] / Math.sqrt(d));
              }
              // Probabilities and dS are rounded to bfloat16 before they are multiplied; so is out, of which the mean is computed.
              expectNear(`${name} out`, DTYPE, out(start(query) + at), sum, EPSILON * magnitude);
              if (dQ) expectNear(`${name} dQ`, DTYPE, dQ(start(query) + at), gradient, EPSILON * gradientMagnitude);
            }
          }
          if (dV) {
            let [got, wanted, magnitude] = [0, 0, 0];
            for (let token = 0; token < s; token++) {
              const place = token * heads * d;
              got += dV(place);
              wanted += dOut.at(place);
              magnitude += Math.abs(dV(place)) + Math.abs(dOut.at(place));
            }
            expectNear(`${name} sum of dV`, 'float32', got, wanted, EPSILON * magnitude);
          }
          clearGrads(inputs);
        },
        run() {
          tidy(() => void once());
          clearGrads(inputs);
        },
        dispose: () => disposeAll([...inputs, dOut.tensor]),
      };
    },
  };
}

/** 16,384 tokens of 2,048 features in all, as one sequence or as several. */
export function attentionCases(): GpuCase[] {
  return [false, true].flatMap((backward) =>
    HEAD_DIMS.flatMap((headDim) =>
      SEQUENCES.flatMap((sequence) =>
        [false, true].map((causal) =>
          attentionCase({ batch: TOKENS / sequence, sequence, heads: FEATURES / headDim, headDim, causal }, backward),
        ),
      ),
    ),
  );
}
