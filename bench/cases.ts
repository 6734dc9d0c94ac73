// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FLOAT_DTYPES } from '../lib/dtype.js';
import { flashAttention } from '../lib/ops/flash-attention.js';
import { linear } from '../lib/ops/linear.js';
import { quantizeTernary } from '../lib/ops/quantize-ternary.js';
import { ternaryMatmul } from '../lib/ops/ternary-matmul.js';
import { bitLinear } from '../lib/ops/bit-linear.js';
import { Generator } from '../lib/random.js';
import { tidy } from '../lib/scope.js';
import { randn, tensor, type Tensor } from '../lib/tensor.js';
import { arithmeticIn, EXACT } from '../test/arithmetic.js';
import {
  attentionCases,
  linearCases,
  ternaryMatmulCases,
  type AttentionCase,
  type Case,
  type LinearCase,
} from '../test/cases.js';
import { expectWithinTolerance, FORWARD_FACTOR, largestError } from '../test/compare.js';
import { mapSpecs } from '../test/formulas/index.js';
import type { OpSpec } from '../test/op-spec.js';
import { Random } from '../test/random.js';
import { adamwCase } from './adamw.js';

/** What a case is measured in, and the ceiling it is held against. */
export type Unit = 'float operations' | 'integer operations' | 'bytes';

/** One thing to time. Shapes come from the list the tests use too, test/cases.ts. */
export interface BenchCase {
  /** Of one run: operations, two for a multiply-add, or bytes of all inputs and outputs. */
  amount: number;
  /** Compares the result with a float64 computation and throws if they differ by more than rounding explains. */
  check(): Promise<void>;
  run(): void;
  dispose(): void;
}

export interface NamedCase {
  name: string;
  unit: Unit;
  prepare(): BenchCase;
}

const OPTIONS = { device: 'cpu', seed: 7 } as const;
const SAMPLES = 200;

function expectClose(name: string, actual: number, expected: number, bound: number): void {
  if (!(Math.abs(actual - expected) <= bound)) {
    throw new Error(`bench ${name}: expected ${expected} within ${bound}, got ${actual}`);
  }
}

/** Compares random entries of a matrix product with float64 sums, allowing the error that k roundings in float32 are likely to make. */
async function checkProduct(
  name: string,
  x: Tensor,
  weight: ArrayLike<number>,
  out: Tensor,
  { m, n, k }: { m: number; n: number; k: number },
): Promise<void> {
  const [left, result] = [await x.data(), await out.data()];
  const random = new Generator(3);
  for (let sample = 0; sample < SAMPLES; sample++) {
    const [row, col] = [random.integer(m), random.integer(n)];
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

const sizes = ({ lead, n, k }: LinearCase): { m: number; n: number; k: number } => ({
  m: lead.reduce((a, b) => a * b, 1),
  n,
  k,
});

function linearCase(c: LinearCase): NamedCase {
  const name = `linear ${c.name}`;
  const { m, n, k } = sizes(c);
  return {
    name,
    unit: 'float operations',
    prepare() {
      const x = randn([m, k], OPTIONS);
      const weight = randn([n, k], { ...OPTIONS, seed: 8 });
      return {
        amount: 2 * m * n * k,
        async check() {
          using out = linear(x, weight);
          await checkProduct(name, x, await weight.data(), out, { m, n, k });
        },
        run: () => linear(x, weight).dispose(),
        dispose() {
          x.dispose();
          weight.dispose();
        },
      };
    },
  };
}

/** int8 activations, their rounding included. The result has to be exact. */
function ternaryCase(c: LinearCase): NamedCase {
  const name = `ternary-matmul int8 ${c.name}`;
  const { m, n, k } = sizes(c);
  return {
    name,
    unit: 'integer operations',
    prepare() {
      const x = randn([m, k], OPTIONS);
      const weight = randn([n, k], { ...OPTIONS, seed: 8 });
      const packed = quantizeTernary(weight);
      weight.dispose();
      return {
        amount: 2 * m * n * k,
        async check() {
          const [values, trits, scale] = [await x.data(), await packed.trits(), await packed.scale.item()];
          using out = ternaryMatmul(x, packed);
          const result = await out.data();
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
            const expected = Math.fround(Math.fround(sum) * Math.fround(scale / s));
            expectClose(name, result[row * n + col], expected, 0);
          }
        },
        run: () => ternaryMatmul(x, packed).dispose(),
        dispose() {
          x.dispose();
          packed.dispose();
        },
      };
    },
  };
}

function bitLinearStepCase(m: number, n: number, k: number): NamedCase {
  const name = `bit-linear forward and backward ${m}x${n}x${k}`;
  return {
    name,
    unit: 'integer operations',
    prepare() {
      const x = randn([m, k], { ...OPTIONS, requiresGrad: true });
      const weight = randn([n, k], { ...OPTIONS, seed: 8, requiresGrad: true });
      const dOut = randn([m, n], { ...OPTIONS, seed: 9 });
      const step = (): void => tidy(() => bitLinear(x, weight).backward(dOut));
      const clear = (): void => [x, weight].forEach((each) => each.clearGrad());
      return {
        amount: 6 * m * n * k,
        async check() {
          step();
          using packed = quantizeTernary(weight);
          const [trits, scale] = [await packed.trits(), await packed.scale.item()];
          const columns = new Float64Array(k * n);
          for (let i = 0; i < columns.length; i++) columns[(i % k) * n + Math.floor(i / k)] = trits[i] * scale;
          await checkProduct(name, dOut, columns, x.grad as Tensor, { m, n: k, k: n });
          clear();
        },
        run() {
          step();
          clear();
        },
        dispose() {
          for (const each of [x, weight, dOut]) each.dispose();
        },
      };
    },
  };
}

/** Query-key pairs that are seen. */
function attentionPairs({ queries, keys, causal }: AttentionCase): number {
  if (!causal) return queries * keys;
  let pairs = 0;
  for (let i = 0; i < queries; i++) pairs += Math.max(0, Math.min(keys, i + keys - queries + 1));
  return pairs;
}

async function checkAttention(
  name: string,
  c: AttentionCase,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  out: Tensor,
): Promise<void> {
  const { batch, queries, keys, heads, keyHeads, headDim, causal } = c;
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

function attentionCase(c: AttentionCase, backward: boolean): NamedCase {
  const { batch, queries, keys, heads, keyHeads, headDim, causal = false } = c;
  const name = `flash-attention ${c.name}, ${backward ? 'forward and backward' : 'forward'}`;
  return {
    name,
    unit: 'float operations',
    prepare() {
      const make = (shape: number[], seed: number): Tensor =>
        randn(shape, { ...OPTIONS, seed, requiresGrad: backward });
      const q = make([batch, queries, heads, headDim], 7);
      const k = make([batch, keys, keyHeads, headDim], 8);
      const v = make([batch, keys, keyHeads, headDim], 9);
      const dOut = randn(q.shape, { ...OPTIONS, seed: 10 });
      return {
        amount: 4 * batch * heads * headDim * attentionPairs(c) * (backward ? 3.5 : 1),
        async check() {
          using out = flashAttention(q, k, v, { causal });
          await checkAttention(name, c, q, k, v, out);
        },
        run() {
          tidy(() => {
            const out = flashAttention(q, k, v, { causal });
            if (backward) out.backward(dOut);
          });
          for (const each of [q, k, v]) each.clearGrad();
        },
        dispose() {
          for (const each of [q, k, v, dOut]) each.dispose();
        },
      };
    },
  };
}

/** The forward pass of an op whose time goes into reading and writing memory, checked whole against its plain formula. */
function memoryCase<C extends Case>(spec: OpSpec<C>, c: C): NamedCase {
  return {
    name: `${spec.op} ${c.name}`,
    unit: 'bytes',
    prepare() {
      const inputs = spec.inputs(c, new Random(c.name));
      const tensors: Record<string, Tensor> = {};
      for (const [name, { shape, values, dtype }] of Object.entries(inputs)) {
        tensors[name] = tensor(values, { shape, device: 'cpu', ...(dtype && { dtype }) });
      }
      const run = (): Record<string, Tensor> => spec.call(tensors, c);
      const results = run();
      const bytes = [...Object.values(tensors), ...Object.values(results)].reduce((sum, each) => sum + each.bytes, 0);
      for (const each of Object.values(results)) each.dispose();
      return {
        amount: bytes,
        async check() {
          const rounded: Record<string, Float64Array> = {};
          for (const [name, each] of Object.entries(tensors)) rounded[name] = Float64Array.from(await each.data());
          const exact = spec.forward(EXACT, rounded, c);
          const plain = spec.forward(arithmeticIn('float32'), rounded, c);
          for (const [name, out] of Object.entries(run())) {
            expectWithinTolerance({
              name: `${spec.op} ${c.name} ${name}`,
              got: await out.data(),
              exact: exact[name],
              plainError: largestError(plain[name], exact[name]),
              factor: FORWARD_FACTOR,
              dtype: 'float32',
              shape: out.shape,
            });
            out.dispose();
          }
        },
        run() {
          for (const each of Object.values(run())) each.dispose();
        },
        dispose() {
          for (const each of Object.values(tensors)) each.dispose();
        },
      };
    },
  };
}

// Bound by arithmetic, and too slow to be checked whole in JavaScript: they have cases of their own above.
const OWN_CASES = ['linear', 'ternaryMatmul', 'ternaryMatmul, float activations', 'bitLinear', 'flashAttention'];

/** Every case, made only when it is its turn. */
export function benchCases(): NamedCase[] {
  return [
    ...linearCases.bench.map(linearCase),
    ...ternaryMatmulCases.bench.map(ternaryCase),
    bitLinearStepCase(2048, 512, 192),
    ...FLOAT_DTYPES.map(adamwCase),
    ...attentionCases.bench.map((c) => attentionCase(c, false)),
    ...attentionCases.bench.filter((c) => c.queries === 1024).map((c) => attentionCase(c, true)),
    ...mapSpecs((spec) => (OWN_CASES.includes(spec.op) ? [] : spec.cases.bench.map((c) => memoryCase(spec, c)))).flat(),
  ];
}
