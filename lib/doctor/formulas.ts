// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** Plain formulas that the self-check holds devices to, each evaluated in float64 for the truth and in a dtype for a fair error. */

/** How intermediate results are held. */
export interface Rounding {
  /** As a tensor of the dtype holds it. */
  round(value: number): number;
  /** A partial sum: float32 at least. */
  accumulate(value: number): number;
}

const identity = (value: number): number => value;

export const FLOAT64: Rounding = { round: identity, accumulate: identity };

/** x wᵀ, of x [m, k] and w [n, k]. */
export function matmul(
  { round, accumulate }: Rounding,
  x: Float64Array,
  w: Float64Array,
  m: number,
  n: number,
  k: number,
): Float64Array {
  return Float64Array.from({ length: m * n }, (_, at) => {
    const [row, column] = [Math.floor(at / n), at % n];
    let sum = 0;
    for (let i = 0; i < k; i++) sum = accumulate(sum + accumulate(x[row * k + i] * w[column * k + i]));
    return round(sum);
  });
}

/** Causal attention of one head, of q, k and v [s, d]: softmax(q kᵀ / √d) v. */
export function causalAttention(
  { round, accumulate }: Rounding,
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  s: number,
  d: number,
): Float64Array {
  const out = new Float64Array(s * d);
  for (let row = 0; row < s; row++) {
    const scores = Array.from({ length: row + 1 }, (_, column) => {
      let sum = 0;
      for (let i = 0; i < d; i++) sum = accumulate(sum + accumulate(q[row * d + i] * k[column * d + i]));
      return round(round(sum) / Math.sqrt(d));
    });
    const largest = Math.max(...scores);
    const weights = scores.map((score) => round(Math.exp(round(score - largest))));
    const total = round(weights.reduce((sum, weight) => accumulate(sum + weight), 0));
    for (let i = 0; i < d; i++) {
      let sum = 0;
      weights.forEach(
        (weight, column) => (sum = accumulate(sum + accumulate(round(weight / total) * v[column * d + i]))),
      );
      out[row * d + i] = round(sum);
    }
  }
  return out;
}
