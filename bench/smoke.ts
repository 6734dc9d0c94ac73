// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Calls every op on small tensors, forward and backward, in every float dtype, and compares nothing: for a tool that looks on, such as
 * compute-sanitizer (scripts/gpu-sanitize.sh).
 *
 *   node .out/bench/smoke.js [--device cuda] [--part 1/4] [--seconds N] [name …]     a name picks the ops that contain it
 *
 * A part is every so-many-th call, so that several processes share the work. After N seconds no op is begun any more; the last line says how many were left out.
 */
import { parseArgs } from 'node:util';
import { device, type DeviceName } from '../lib/device.js';
import { FLOAT_DTYPES, type FloatDType } from '../lib/dtype.js';
import { argmax } from '../lib/ops/softmax.js';
import { cast } from '../lib/ops/cast.js';
import { dequantizeTernary, quantizeTernary } from '../lib/ops/quantize-ternary.js';
import { flashAttention } from '../lib/ops/flash-attention.js';
import { flashAttentionVarlen } from '../lib/ops/flash-attention-varlen.js';
import { flashAttentionWithKvCache } from '../lib/ops/kv-cache.js';
import { transpose } from '../lib/ops/transpose.js';
import { tidy } from '../lib/scope.js';
import { randn, tensor, zeros, type Tensor } from '../lib/tensor.js';
import { AdamW } from '../lib/train/adamw.js';
import { clipGradNorm } from '../lib/train/grad-norm.js';
import type { Case } from '../test/cases.js';
import { mapSpecs } from '../test/formulas/index.js';
import type { OpSpec } from '../test/op-spec.js';
import { Random } from '../test/random.js';

const { values, positionals: filters } = parseArgs({
  options: {
    device: { type: 'string', default: 'cpu' },
    part: { type: 'string', default: '1/1' },
    seconds: { type: 'string', default: 'Infinity' },
  },
  allowPositionals: true,
});
const DEVICE = values.device as DeviceName;
const [PART, PARTS] = values.part.split('/').map(Number);
if (!(Number.isInteger(PART) && Number.isInteger(PARTS) && PART >= 1 && PART <= PARTS))
  throw new Error(`smoke: expected --part 1/4 or the like, got ${values.part}`);
const MOST_CASES = 8;
/** Of all inputs of a case: what makes a kernel run all its paths, and is bearable under a tool that slows it down a hundred times. */
const MOST_ELEMENTS = 100_000;

interface Smoke {
  name: string;
  run(): void;
}

/** Cases spread over the list, which begins with the least sizes and ends with the options. */
function casesOf<C extends Case>(spec: OpSpec<C>): C[] {
  const bearable = spec.cases.cases.filter((c) => {
    const inputs = Object.values(spec.inputs(c, new Random(c.name)));
    return inputs.reduce((sum, { values }) => sum + values.length, 0) <= MOST_ELEMENTS;
  });
  if (spec.op.startsWith('flashAttention')) return bearable;
  const count = Math.min(MOST_CASES, bearable.length);
  return Array.from(
    { length: count },
    (_, i) => bearable[Math.round((i * (bearable.length - 1)) / Math.max(1, count - 1))],
  );
}

function specSmokes<C extends Case>(spec: OpSpec<C>): Smoke[] {
  return FLOAT_DTYPES.flatMap((dtype) =>
    casesOf(spec).map((c) => ({
      name: `${spec.op} ${dtype} ${c.name}`,
      run() {
        const inputs = spec.inputs(c, new Random(c.name));
        const tensors: Record<string, Tensor> = {};
        for (const [name, { shape, values: numbers, dtype: own }] of Object.entries(inputs)) {
          const options = { shape, device: DEVICE, dtype: own ?? dtype };
          tensors[name] = tensor(numbers, { ...options, requiresGrad: !own });
        }
        tidy(() => {
          const [out] = Object.values(spec.call(tensors, c));
          out.backward(randn(out.shape, { device: DEVICE, dtype: out.dtype, seed: 1 }));
        });
        for (const each of Object.values(tensors)) {
          each.clearGrad();
          each.dispose();
        }
      },
    })),
  );
}

/** Ops without a formula: they only move numbers or round them, or have no gradient. */
function otherSmokes(dtype: FloatDType): Smoke[] {
  const make = (shape: readonly number[], seed = 1): Tensor => randn(shape, { device: DEVICE, dtype, seed });
  const smoke = (name: string, run: () => void): Smoke => ({ name: `${name} ${dtype}`, run: () => tidy(run) });
  return [
    smoke('argmax', () => void argmax(make([9, 129]))),
    smoke('cast', () => {
      for (const target of ['float32', 'float16', 'bfloat16', 'int8', 'uint8', 'int32'] as const)
        cast(make([3, 129]), target);
    }),
    smoke('transpose', () => void transpose(make([33, 65, 3]), [2, 0, 1])),
    smoke('quantizeTernary', () => {
      for (const method of ['absmean', 'twn', 'percentile', 'meanStd', 'threshold'] as const) {
        for (const granularity of ['tensor', 'row'] as const) {
          const options = { percentile: { percentile: 90 }, meanStd: { k: 0.5 }, threshold: { threshold: 0.5 } };
          const parameter = method in options ? options[method as keyof typeof options] : {};
          const packed = quantizeTernary(make([33, 65]), { method, granularity, ...parameter });
          dequantizeTernary(packed);
          packed.dispose();
        }
      }
    }),
    smoke('flashAttentionWithKvCache', () => {
      const [keys, values] = [1, 2].map(() => zeros([2, 70, 2, 64], { device: DEVICE, dtype }));
      const cache = { keys, values, length: 0 };
      for (const count of [65, 1, 3]) {
        const [newK, newV] = [2, 3].map((seed) => make([2, count, 2, 64], seed));
        flashAttentionWithKvCache(make([2, count, 4, 64]), cache, { newK, newV });
      }
    }),
    // In sizes of several tiles of the kernels for compute capability 9.0; two batch entries of which one has fewer queries than a warpgroup.
    ...[64, 96, 128, 192, 256].map((headDim) =>
      smoke(`flashAttention tiles of head dim ${headDim}`, () => {
        for (const options of [{}, { causal: true }, { window: [30, 7] as const }, { softcap: 5 }]) {
          const [q, k, v] = [2, 1, 1].map((heads, i) => make([2, i === 0 ? 130 : 200, heads, headDim], i));
          flashAttention(q, k, v, options);
          const [pq, pk, pv] = [2, 1, 1].map((heads, i) => make([i === 0 ? 173 : 250, heads, headDim], i));
          flashAttentionVarlen(pq, pk, pv, { ...options, cuSeqlensQ: [0, 40, 173], cuSeqlensK: [0, 50, 250] });
        }
      }),
    ),
    smoke('AdamW and clipGradNorm', () => {
      const parameters = [[129], [33, 65]].map((shape) =>
        randn(shape, { device: DEVICE, dtype, seed: 1, requiresGrad: true }),
      );
      const optimizer = new AdamW(parameters);
      for (const each of parameters) each.grad = make(each.shape, 2);
      clipGradNorm(parameters, 1);
      optimizer.step();
      optimizer.dispose();
      for (const each of parameters) each.clearGrad();
    }),
  ];
}

async function main(): Promise<void> {
  const seconds = Number(values.seconds);
  const begin = performance.now();
  const smokes = [...mapSpecs(specSmokes).flat(), ...FLOAT_DTYPES.flatMap(otherSmokes)];
  const named = smokes.filter(({ name }) => filters.length === 0 || filters.some((filter) => name.includes(filter)));
  if (named.length === 0) throw new Error(`smoke: expected names of ops, got ${filters.join(' ')}`);
  const wanted = named.filter((_, i) => i % PARTS === PART - 1);
  // In turns over the ops, so that every op was there if time runs out.
  const byOp = new Map<string, Smoke[]>();
  for (const each of wanted) {
    const op = each.name.split(' ')[0];
    byOp.set(op, [...(byOp.get(op) ?? []), each]);
  }
  let [done, failed] = [0, 0];
  for (let round = 0; done + failed < wanted.length && performance.now() - begin < seconds * 1000; round++) {
    for (const list of byOp.values()) {
      const each = list[round];
      if (each === undefined || performance.now() - begin >= seconds * 1000) continue;
      try {
        each.run();
        await device(DEVICE).synchronize();
        done++;
      } catch (error) {
        failed++;
        console.error(`${each.name}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  }
  const took = ((performance.now() - begin) / 1000).toFixed(0);
  console.log(`${done} of ${wanted.length} calls of ${byOp.size} ops done on ${DEVICE}, ${failed} failed, ${took} s`);
  if (failed > 0 || (done === 0 && wanted.length > 0)) process.exitCode = 1;
}

void main();
