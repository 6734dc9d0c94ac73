// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FLOAT_DTYPES } from '../lib/dtype.js';
import { sample, type SamplingOptions } from '../lib/models/sampling.js';
import { crossEntropy } from '../lib/ops/cross-entropy.js';
import { linear } from '../lib/ops/linear.js';
import { linearCrossEntropy } from '../lib/ops/linear-cross-entropy.js';
import { quantizeTernary, type QuantizeTernaryOptions } from '../lib/ops/quantize-ternary.js';
import { ternaryMatmul } from '../lib/ops/ternary-matmul.js';
import { TernaryTensor } from '../lib/ops/ternary-tensor.js';
import { bitLinear } from '../lib/ops/bit-linear.js';
import { Generator } from '../lib/random.js';
import { tidy } from '../lib/scope.js';
import { randn, tensor, type Tensor } from '../lib/tensor.js';
import { arithmeticIn, EXACT } from '../test/arithmetic.js';
import {
  attentionCases,
  linearCases,
  linearCrossEntropyCases,
  quantizeCases,
  ternaryMatmulCases,
  ternarySparsityBench,
  varlenAttentionCases,
  type AttentionCase,
  type AttentionOptionsCase,
  type Case,
  type LinearCase,
  type LinearCrossEntropyCase,
  type QuantizeCase,
} from '../test/cases.js';
import { expectWithinTolerance, FORWARD_FACTOR, largestError } from '../test/compare.js';
import { attentionForward, type Problem } from '../test/formulas/attention-rows.js';
import { attentionProblem, flashAttentionSpec } from '../test/formulas/flash-attention.js';
import { flashAttentionVarlenSpec, varlenProblem } from '../test/formulas/flash-attention-varlen.js';
import { mapSpecs } from '../test/formulas/index.js';
import { ternaryOf, thresholdedOf } from '../test/formulas/ternary.js';
import type { OpSpec } from '../test/op-spec.js';
import { Random } from '../test/random.js';
import { adamwCase } from './adamw.js';
import { layerCases } from './attention-layer.js';
import type { GpuCase } from './gpu-case.js';
import { DEVICE } from './options.js';
import { subject, type Subject, type Unit } from './schema.js';

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
  subject: Subject;
  /** Of `amount`. */
  unit: Unit;
  prepare(): BenchCase;
}

const OPTIONS = { device: DEVICE, seed: 7 } as const;
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
    subject: subject('linear', 'float32'),
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

/** Which of random trits are set to 0, and whether rows of zeros have a scale of 0, as `pruneRows` leaves them. */
interface Sparsity {
  name: string;
  isZero(row: number, col: number, generator: Generator): boolean;
  pruned?: boolean;
}

const unstructured = (name: string, probability: number): Sparsity => ({
  name,
  isZero: (_row, _col, generator) => generator.uniform(1)[0] < probability,
});
const zeroRows = (name: string, share: number, pruned: boolean): Sparsity => ({
  name,
  isZero: (row) => ((row * 7919) % 20) / 20 < share,
  pruned,
});

/** docs/ternary-sparsity.md. A third of random trits is 0 anyway. */
const SPARSITY: readonly Sparsity[] = [
  unstructured('a third zeros', 0),
  unstructured('half zeros', 0.25),
  unstructured('80 % zeros', 0.7),
  unstructured('95 % zeros', 0.925),
  zeroRows('half of the rows zeros', 0.5, false),
  zeroRows('90 % of the rows zeros', 0.9, false),
  zeroRows('half of the rows pruned (zeros)', 0.5, true),
  zeroRows('90 % of the rows pruned (zeros)', 0.9, true),
  { name: 'half of the feature blocks zeros', isZero: (_row, col) => Math.floor(col / 256) % 2 === 0 },
  { name: '80 % of the feature blocks zeros', isZero: (_row, col) => Math.floor(col / 256) % 5 !== 0 },
];

function sparseWeight(n: number, k: number, { isZero, pruned }: Sparsity): TernaryTensor {
  const generator = new Generator(8);
  const trits = new Int8Array(n * k);
  for (let i = 0; i < trits.length; i++) {
    const trit = generator.integer(3) - 1;
    if (!isZero(Math.floor(i / k), i % k, generator)) trits[i] = trit;
  }
  const scale = pruned ? Array.from({ length: n }, (_, row) => (isZero(row, 0, generator) ? 0 : 0.5)) : 0.5;
  return TernaryTensor.fromTrits(trits, [n, k], scale, { device: DEVICE });
}

/** int8 activations, their rounding included. The result has to be exact. */
function ternaryCase(c: LinearCase, sparsity?: Sparsity): NamedCase {
  const name = `ternary-matmul int8 ${c.name}${sparsity ? `, ${sparsity.name}` : ''}`;
  const { m, n, k } = sizes(c);
  return {
    name,
    subject: subject('ternaryMatmul', 'int8'),
    unit: 'integer operations',
    prepare() {
      const x = randn([m, k], OPTIONS);
      let packed: TernaryTensor;
      if (sparsity === undefined) {
        using weight = randn([n, k], { ...OPTIONS, seed: 8 });
        packed = quantizeTernary(weight);
      } else {
        packed = sparseWeight(n, k, sparsity);
      }
      return {
        amount: 2 * m * n * k,
        async check() {
          const [values, trits, scales] = [await x.data(), await packed.trits(), await packed.scale.data()];
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
            const expected = Math.fround(
              Math.fround(sum) * Math.fround((scales.length === 1 ? scales[0] : scales[col]) / s),
            );
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

/** Rounding of a weight, checked to the bit. */
function quantizeCase({ name: size, rows, cols }: QuantizeCase, options: QuantizeTernaryOptions): NamedCase {
  const name = `quantize-ternary ${options.method} ${options.granularity ?? ''} ${size}`.replace('  ', ' ');
  return {
    name,
    subject: subject('quantizeTernary', 'float32'),
    unit: 'bytes',
    prepare() {
      const weight = randn([rows, cols], OPTIONS);
      return {
        amount: rows * cols * 4.25,
        async check() {
          const values = Float64Array.from(await weight.data());
          using result = quantizeTernary(weight, options);
          const [trits, scales] = [await result.trits(), await result.scale.data()];
          const size = values.length / scales.length;
          scales.forEach((scale, group) => {
            const part = values.subarray(group * size, (group + 1) * size);
            const { method = 'absmean', percentile, k } = options;
            const expected = method === 'absmean' ? ternaryOf(part) : thresholdedOf(part, method, percentile ?? k ?? 0);
            expectClose(name, scale, expected.scale, 0);
            expected.trits.forEach((trit, i) => expectClose(name, trits[group * size + i], trit, 0));
          });
        },
        run: () => quantizeTernary(weight, options).dispose(),
        dispose: () => weight.dispose(),
      };
    },
  };
}

/** One draw from the logits of a large vocabulary, on the JavaScript thread. */
function samplingCase(options: SamplingOptions): NamedCase {
  const vocabulary = 2 ** 17;
  const name = `sample ${JSON.stringify(options)} of ${vocabulary}`;
  return {
    name,
    subject: subject('sample', 'float32'),
    unit: 'bytes',
    prepare() {
      const generator = new Generator(7);
      const logits = generator.normal(vocabulary).map((value) => 3 * value);
      return {
        amount: 4 * vocabulary,
        async check() {
          // A draw is among the likeliest, as many as the filters can leave.
          const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
          const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
          const { topK = vocabulary, topP = 1 } = options;
          let [count, sum] = [0, 0];
          while (count < topK && sum < topP * total) sum += Math.exp(logits[order[count++]]);
          const allowed = new Set(order.slice(0, count + 1));
          for (let i = 0; i < SAMPLES; i++) {
            const id = sample(logits, options, generator);
            if (!allowed.has(id)) throw new Error(`bench ${name}: expected one of the ${count} likeliest, got ${id}`);
          }
        },
        run: () => void sample(logits, options, generator),
        dispose: () => undefined,
      };
    },
  };
}

function bitLinearStepCase(m: number, n: number, k: number): NamedCase {
  const name = `bit-linear forward and backward ${m}x${n}x${k}`;
  return {
    name,
    subject: subject('bitLinear', 'int8', { pass: 'forward+backward' }),
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

/** Query-key pairs that are seen, by all heads. */
function attentionPairs({ c, sequences }: Problem): number {
  const [left, right] = [c.window?.[0] ?? -1, c.causal ? 0 : (c.window?.[1] ?? -1)];
  let pairs = 0;
  for (const { queries, keys } of sequences) {
    for (let i = 0; i < queries; i++) {
      const diagonal = c.causal === 'top-left' ? i : i + keys - queries;
      const first = left < 0 ? 0 : Math.max(0, diagonal - left);
      const last = right < 0 ? keys - 1 : Math.min(keys - 1, diagonal + right);
      pairs += Math.max(0, last - first + 1);
    }
  }
  return pairs * c.heads;
}

/** Of all rows, that of a few queries is compared with the plain formula. */
async function checkAttention<C extends AttentionOptionsCase>(
  name: string,
  spec: OpSpec<C>,
  c: C,
  problem: Problem,
  tensors: Record<string, Tensor>,
): Promise<void> {
  const random = new Generator(3);
  const queries = problem.sequences.reduce((sum, each) => sum + each.queries, 0);
  const only = new Set(Array.from({ length: 20 }, () => random.integer(queries * c.heads)));
  const values: Record<string, Float64Array> = {};
  for (const [input, each] of Object.entries(tensors)) values[input] = Float64Array.from(await each.data());
  const exact = attentionForward(EXACT, values, { ...problem, only });
  const plain = attentionForward(arithmeticIn('float32'), values, { ...problem, only });
  const results = tidy(() => spec.call(tensors, c));
  const computed = exact.lse.map((_, place) => (only.has(place) ? 1 : 0));
  for (const [output, result] of Object.entries(results)) {
    const got = Float64Array.from(await result.data());
    // Rows that were not computed are taken for right. Those of out are found by what the formula left at 0.
    got.forEach((_, i) => {
      if (output === 'lse' ? computed[i] === 0 : exact.out[i] === 0) got[i] = exact[output][i];
    });
    expectWithinTolerance({
      name: `${name} ${output}`,
      got,
      exact: exact[output],
      plainError: largestError(plain[output], exact[output]),
      factor: FORWARD_FACTOR,
      dtype: 'float32',
      shape: result.shape,
    });
    result.dispose();
  }
}

function attentionCase<C extends AttentionOptionsCase>(
  spec: OpSpec<C>,
  c: C,
  problemOf: (c: C) => Problem,
  backward: boolean,
  shape: Partial<Subject> = {},
): NamedCase {
  const name = `flash-attention ${c.name}, ${backward ? 'forward and backward' : 'forward'}`;
  return {
    name,
    subject: subject(spec.op, 'float32', { pass: backward ? 'forward+backward' : 'forward', ...shape }),
    unit: 'float operations',
    prepare() {
      const problem = problemOf(c);
      const tensors: Record<string, Tensor> = {};
      for (const [input, { shape, values, dtype }] of Object.entries(spec.inputs(c, new Random(name)))) {
        const requiresGrad = backward && !dtype;
        tensors[input] = tensor(values, { shape, device: DEVICE, dtype: dtype ?? 'float32', requiresGrad });
      }
      const dOut = randn(tensors.q.shape, { ...OPTIONS, seed: 10 });
      return {
        amount: 4 * c.headDim * attentionPairs(problem) * (backward ? 3.5 : 1),
        check: () => checkAttention(name, spec, c, problem, tensors),
        run() {
          tidy(() => {
            const { out } = spec.call(tensors, c);
            if (backward) out.backward(dOut);
          });
          for (const each of Object.values(tensors)) each.clearGrad();
        },
        dispose() {
          for (const each of [...Object.values(tensors), dOut]) each.dispose();
        },
      };
    },
  };
}

/** The batch and sequence of self-attention; its options are the name of the line. */
const shapeOf = ({ name, batch, queries, keys }: AttentionCase): Partial<Subject> =>
  queries === keys
    ? { batch, sequence: queries, alongSequence: name === `${queries}` ? 'full' : name.replace(`${queries}, `, '') }
    : { batch };

/** Forward and backward, fused and as the pair of ops that holds the logits. Both are counted as the three products of the pair. */
function lossCase(c: LinearCrossEntropyCase, fused: boolean): NamedCase {
  const { rows: m, vocabulary: n, features: k } = c;
  const name = `${fused ? 'linear-cross-entropy' : 'linear, cross-entropy'} ${c.name}, forward and backward`;
  return {
    name,
    subject: subject(fused ? 'linearCrossEntropy' : 'linear, crossEntropy', 'float32', { pass: 'forward+backward' }),
    unit: 'float operations',
    prepare() {
      const x = randn([m, k], { ...OPTIONS, requiresGrad: true });
      const weight = randn([n, k], { ...OPTIONS, seed: 8, std: c.spread ?? 1, requiresGrad: true });
      const random = new Generator(9);
      const targets = tensor(
        Int32Array.from({ length: m }, () => random.integer(n)),
        { device: DEVICE },
      );
      const loss = (): Tensor =>
        fused ? linearCrossEntropy(x, weight, targets) : crossEntropy(linear(x, weight), targets);
      const clear = (): void => [x, weight].forEach((each) => each.clearGrad());
      return {
        amount: 6 * m * n * k,
        /** The gradient of some rows of x against float64. */
        async check() {
          tidy(() => loss().backward());
          const [xs, ws, wanted] = [await x.data(), await weight.data(), await targets.data()];
          const got = await (x.grad as Tensor).data();
          clear();
          for (let sample = 0; sample < 3; sample++) {
            const row = random.integer(m);
            const logits = Float64Array.from({ length: n }, (_, j) => {
              let sum = 0;
              for (let i = 0; i < k; i++) sum += xs[row * k + i] * ws[j * k + i];
              return sum;
            });
            const largest = logits.reduce((most, value) => Math.max(most, value), -Infinity);
            const exponentials = logits.map((value) => Math.exp(value - largest));
            const total = exponentials.reduce((sum, value) => sum + value, 0);
            const expected = new Float64Array(k);
            exponentials.forEach((value, j) => {
              const g = (value / total - (j === wanted[row] ? 1 : 0)) / m;
              for (let i = 0; i < k; i++) expected[i] += g * ws[j * k + i];
            });
            const size = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
            expected.forEach((value, i) => expectClose(name, got[row * k + i], value, 1e-5 * size));
          }
        },
        run() {
          tidy(() => loss().backward());
          clear();
        },
        dispose() {
          for (const each of [x, weight, targets]) each.dispose();
        },
      };
    },
  };
}

/** The forward pass of an op whose time goes into reading and writing memory, checked whole against its plain formula. */
function memoryCase<C extends Case>(spec: OpSpec<C>, c: C): NamedCase {
  return {
    name: `${spec.op} ${c.name}`,
    subject: subject(spec.op, 'float32', { pass: 'forward' }),
    unit: 'bytes',
    prepare() {
      const inputs = spec.inputs(c, new Random(c.name));
      const tensors: Record<string, Tensor> = {};
      for (const [name, { shape, values, dtype }] of Object.entries(inputs)) {
        tensors[name] = tensor(values, { shape, device: DEVICE, ...(dtype && { dtype }) });
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
const OWN_CASES = [
  'linear',
  'ternaryMatmul',
  'ternaryMatmul, float activations',
  'bitLinear',
  'flashAttention',
  'flashAttentionVarlen',
  'linearCrossEntropy',
];

const QUANTIZE_METHODS: readonly QuantizeTernaryOptions[] = [
  { method: 'absmean' },
  { method: 'twn' },
  { method: 'meanStd', k: 0.5 },
  { method: 'percentile', percentile: 90 },
  { method: 'percentile', percentile: 90, granularity: 'tensor' },
];

/** A case that both suites have. */
const onCpu = ({ name, subject: about, prepare }: GpuCase): NamedCase => ({
  name,
  subject: about,
  unit: 'float operations',
  prepare() {
    const { flops: amount, check, run, dispose } = prepare();
    return { amount, check, run, dispose };
  },
});

/** Every case, made only when it is its turn. */
export function benchCases(): NamedCase[] {
  return [
    ...linearCases.bench.map(linearCase),
    ...ternaryMatmulCases.bench.map((c) => ternaryCase(c)),
    ...ternarySparsityBench.flatMap((c) => SPARSITY.map((sparsity) => ternaryCase(c, sparsity))),
    ...quantizeCases.bench.flatMap((c) => QUANTIZE_METHODS.map((options) => quantizeCase(c, options))),
    ...[{}, { topK: 40 }, { topP: 0.9 }].map(samplingCase),
    bitLinearStepCase(2048, 512, 192),
    ...FLOAT_DTYPES.map(adamwCase),
    ...layerCases(['float32']).map(onCpu),
    ...attentionCases.bench.map((c) => attentionCase(flashAttentionSpec, c, attentionProblem, false, shapeOf(c))),
    ...attentionCases.bench
      .filter((c) => c.queries === 1024)
      .map((c) => attentionCase(flashAttentionSpec, c, attentionProblem, true, shapeOf(c))),
    ...[false, true].flatMap((backward) =>
      varlenAttentionCases.bench.map((c) => attentionCase(flashAttentionVarlenSpec, c, varlenProblem, backward)),
    ),
    ...linearCrossEntropyCases.bench.flatMap((c) => [lossCase(c, true), lossCase(c, false)]),
    ...mapSpecs((spec) => (OWN_CASES.includes(spec.op) ? [] : spec.cases.bench.map((c) => memoryCase(spec, c)))).flat(),
  ];
}
