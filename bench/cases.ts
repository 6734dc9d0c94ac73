// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { bitLinear } from '../lib/ops/bit-linear.js';
import { flashAttention } from '../lib/ops/flash-attention.js';
import { linear } from '../lib/ops/linear.js';
import { quantizeTernary } from '../lib/ops/quantize-ternary.js';
import { ternaryMatmul } from '../lib/ops/ternary-matmul.js';
import { Generator } from '../lib/random.js';
import { tidy } from '../lib/scope.js';
import { randn, type Tensor } from '../lib/tensor.js';

/** One thing to time. */
export interface BenchCase {
  /** Operations of one run: two for a multiply-add. */
  operations: number;
  /** The work is integer arithmetic, so that the float ceiling does not apply. */
  integer: boolean;
  /** Compares the result with a float64 computation and throws if they differ by more than rounding explains. */
  check(): Promise<void>;
  run(): void;
  dispose(): void;
}

export interface NamedCase {
  name: string;
  prepare(): BenchCase;
}

const OPTIONS = { device: 'cpu', seed: 7 } as const;
const SAMPLES = 200;

function expectClose(name: string, actual: number, expected: number, bound: number): void {
  if (!(Math.abs(actual - expected) <= bound)) {
    throw new Error(`bench ${name}: expected ${expected} within ${bound}, got ${actual}`);
  }
}

/** Compares random entries of a matrix product with float64 sums; the bound is the worst rounding error of a float32 sum of k terms. */
async function checkProduct(
  name: string,
  x: Tensor,
  weight: ArrayLike<number>,
  out: Tensor,
  m: number,
  n: number,
  k: number,
): Promise<void> {
  const [left, result] = [await x.data(), await out.data()];
  const random = new Generator(3);
  for (let sample = 0; sample < SAMPLES; sample++) {
    const row = random.integer(m);
    const col = random.integer(n);
    let sum = 0;
    let magnitude = 0;
    for (let i = 0; i < k; i++) {
      const term = left[row * k + i] * weight[col * k + i];
      sum += term;
      magnitude += Math.abs(term);
    }
    expectClose(name, result[row * n + col], sum, magnitude * 2 ** -24 * Math.sqrt(k) * 4);
  }
}

function linearCase(m: number, n: number, k: number): NamedCase {
  const name = `linear float32 M ${m} N ${n} K ${k}`;
  return {
    name,
    prepare() {
      const x = randn([m, k], OPTIONS);
      const weight = randn([n, k], { ...OPTIONS, seed: 8 });
      const run = (): Tensor => linear(x, weight);
      return {
        operations: 2 * m * n * k,
        integer: false,
        async check() {
          const out = run();
          await checkProduct(name, x, await weight.data(), out, m, n, k);
          out.dispose();
        },
        run: () => run().dispose(),
        dispose() {
          x.dispose();
          weight.dispose();
        },
      };
    },
  };
}

function ternaryCase(m: number, n: number, k: number): NamedCase {
  const name = `ternary int8 M ${m} N ${n} K ${k}`;
  return {
    name,
    prepare() {
      const x = randn([m, k], OPTIONS);
      const weight = randn([n, k], { ...OPTIONS, seed: 8 });
      const packed = quantizeTernary(weight);
      weight.dispose();
      const run = (): Tensor => ternaryMatmul(x, packed);
      return {
        operations: 2 * m * n * k,
        integer: true,
        async check() {
          const [values, trits, scale] = [await x.data(), await packed.trits(), await packed.scale.item()];
          const out = run();
          const result = await out.data();
          out.dispose();
          const random = new Generator(3);
          for (let sample = 0; sample < SAMPLES; sample++) {
            const [row, col] = [random.integer(m), random.integer(n)];
            let largest = Math.fround(1e-5);
            for (let i = 0; i < k; i++) largest = Math.max(largest, Math.abs(values[row * k + i]));
            const s = Math.fround(127 / largest);
            let sum = 0;
            for (let i = 0; i < k; i++) {
              const product = Math.fround(values[row * k + i] * s);
              const floor = Math.floor(product);
              const rest = product - floor;
              const rounded = rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
              sum += rounded * trits[col * k + i];
            }
            expectClose(name, result[row * n + col], Math.fround(Math.fround(sum) * Math.fround(scale / s)), 0);
          }
        },
        run: () => run().dispose(),
        dispose() {
          x.dispose();
          packed.dispose();
        },
      };
    },
  };
}

function bitLinearStepCase(m: number, n: number, k: number): NamedCase {
  const name = `bitLinear forward and backward M ${m} N ${n} K ${k}`;
  return {
    name,
    prepare() {
      const x = randn([m, k], { ...OPTIONS, requiresGrad: true });
      const weight = randn([n, k], { ...OPTIONS, seed: 8, requiresGrad: true });
      const dOut = randn([m, n], { ...OPTIONS, seed: 9 });
      const run = (): void => {
        tidy(() => bitLinear(x, weight).backward(dOut));
      };
      const clear = (): void => {
        x.clearGrad();
        weight.clearGrad();
      };
      return {
        operations: 6 * m * n * k,
        integer: true,
        async check() {
          run();
          const packed = quantizeTernary(weight);
          const [trits, scale] = [await packed.trits(), await packed.scale.item()];
          packed.dispose();
          const columns = new Float64Array(k * n);
          for (let row = 0; row < n; row++)
            for (let col = 0; col < k; col++) columns[col * n + row] = trits[row * k + col] * scale;
          await checkProduct(name, dOut, columns, x.grad as Tensor, m, k, n);
          clear();
        },
        run() {
          run();
          clear();
        },
        dispose() {
          for (const tensor of [x, weight, dOut]) tensor.dispose();
        },
      };
    },
  };
}

interface AttentionSize {
  batch: number;
  queries: number;
  keys: number;
  heads: number;
  keyHeads: number;
  headDim: number;
  causal: boolean;
}

/** Multiply-adds that count: causal masks halve them. */
function attentionOperations({ batch, queries, keys, heads, headDim, causal }: AttentionSize): number {
  let pairs = queries * keys;
  if (causal) {
    pairs = 0;
    for (let i = 0; i < queries; i++) pairs += Math.max(0, Math.min(keys, i + keys - queries + 1));
  }
  return 4 * batch * heads * headDim * pairs;
}

async function checkAttention(
  name: string,
  size: AttentionSize,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  out: Tensor,
): Promise<void> {
  const { batch, queries, keys, heads, keyHeads, headDim, causal } = size;
  const [qs, ks, vs, result] = [await q.data(), await k.data(), await v.data(), await out.data()];
  const random = new Generator(3);
  for (let sample = 0; sample < 20; sample++) {
    const [b, i, h] = [random.integer(batch), random.integer(queries), random.integer(heads)];
    const g = Math.floor((h * keyHeads) / heads);
    const last = causal ? i + keys - queries : keys - 1;
    const scores: number[] = [];
    for (let j = 0; j <= last; j++) {
      let score = 0;
      for (let d = 0; d < headDim; d++) {
        score += qs[((b * queries + i) * heads + h) * headDim + d] * ks[((b * keys + j) * keyHeads + g) * headDim + d];
      }
      scores.push(score / Math.sqrt(headDim));
    }
    const largest = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - largest));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let d = 0; d < headDim; d++) {
      let expected = 0;
      weights.forEach(
        (weight, j) => (expected += (weight / total) * vs[((b * keys + j) * keyHeads + g) * headDim + d]),
      );
      expectClose(name, result[((b * queries + i) * heads + h) * headDim + d], expected, 1e-5);
    }
  }
}

function attentionCase(size: AttentionSize, backward: boolean): NamedCase {
  const { batch, queries, keys, heads, keyHeads, headDim, causal } = size;
  const kind = backward ? 'forward and backward' : 'forward';
  const name = `flash-attention ${kind} B ${batch} Sq ${queries} Sk ${keys} H ${heads}/${keyHeads} D ${headDim}${causal ? ' causal' : ''}`;
  return {
    name,
    prepare() {
      const q = randn([batch, queries, heads, headDim], { ...OPTIONS, requiresGrad: backward });
      const k = randn([batch, keys, keyHeads, headDim], { ...OPTIONS, seed: 8, requiresGrad: backward });
      const v = randn([batch, keys, keyHeads, headDim], { ...OPTIONS, seed: 9, requiresGrad: backward });
      const dOut = randn([batch, queries, heads, headDim], { ...OPTIONS, seed: 10 });
      const clear = (): void => [q, k, v].forEach((each) => each.clearGrad());
      return {
        operations: attentionOperations(size) * (backward ? 3.5 : 1),
        integer: false,
        async check() {
          const out = flashAttention(q, k, v, { causal });
          await checkAttention(name, size, q, k, v, out);
          out.dispose();
        },
        run() {
          tidy(() => {
            const out = flashAttention(q, k, v, { causal });
            if (backward) out.backward(dOut);
          });
          clear();
        },
        dispose() {
          for (const tensor of [q, k, v, dOut]) tensor.dispose();
        },
      };
    },
  };
}

/** Every case, made only when it is its turn. */
export function benchCases(): NamedCase[] {
  const attention = (sequence: number, causal: boolean): AttentionSize => ({
    batch: 1,
    queries: sequence,
    keys: sequence,
    heads: 12,
    keyHeads: 12,
    headDim: 64,
    causal,
  });
  const decode = (heads: number, keyHeads: number, headDim: number): AttentionSize => ({
    batch: 1,
    queries: 1,
    keys: 4096,
    heads,
    keyHeads,
    headDim,
    causal: true,
  });
  return [
    linearCase(1024, 1024, 1024),
    linearCase(128, 2560, 2560),
    linearCase(1, 2560, 2560),
    ternaryCase(1, 2560, 2560),
    ternaryCase(128, 2560, 2560),
    ternaryCase(512, 6912, 2560),
    bitLinearStepCase(2048, 512, 192),
    ...[512, 1024, 2048].flatMap((sequence) => [
      attentionCase(attention(sequence, false), false),
      attentionCase(attention(sequence, true), false),
    ]),
    attentionCase(attention(1024, true), true),
    attentionCase(decode(12, 12, 64), false),
    attentionCase(decode(32, 8, 128), false),
  ];
}
