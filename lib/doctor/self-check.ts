// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { DeviceName } from '../device.js';
import { roundTo, type FloatDType } from '../dtype.js';
import { flashAttention } from '../ops/flash-attention.js';
import { linear } from '../ops/linear.js';
import { quantizeTernary } from '../ops/quantize-ternary.js';
import { ternaryMatmul } from '../ops/ternary-matmul.js';
import { tidy } from '../scope.js';
import { randn, tensor, type Tensor } from '../tensor.js';
import { causalAttention, FLOAT64, matmul, type Rounding } from './formulas.js';

/** A few small ops on a device, held to the rules of the library's tests. */
export interface Check {
  /** Id of the device. */
  device: string;
  /** `matmul float32`. */
  name: string;
  passed: boolean;
  /** What was wrong; null if it passed. */
  error: string | null;
  /** From the call to its result on the host; the first use of a kernel takes longer. */
  milliseconds: number;
}

const FACTOR = 2;
const FRACTION_BITS: Record<FloatDType, number> = { float32: 23, float16: 10, bfloat16: 7 };
const FLOAT_DTYPES: readonly FloatDType[] = ['float32', 'float16', 'bfloat16'];

const inDType = (dtype: FloatDType): Rounding => ({
  round: (value) => roundTo(dtype, value),
  accumulate: Math.fround,
});

/** The same numbers on every call, as the dtype holds them. */
async function draw(dtype: FloatDType, seed: number, count: number): Promise<Float64Array> {
  const made = randn([count], { dtype, seed, device: 'reference' });
  const values = Float64Array.from(await made.data());
  made.dispose();
  return values;
}

/**
 * The tolerance rule of the tests: the error is at most twice the largest of the plain formula in the same dtype, plus one rounding step.
 * Gives what is wrong, or null.
 */
export function outOfTolerance(
  got: ArrayLike<number>,
  exact: Float64Array,
  plain: Float64Array,
  dtype: FloatDType,
): string | null {
  if (got.length !== exact.length) return `expected ${exact.length} elements, got ${got.length}`;
  const plainError = exact.reduce((worst, value, i) => Math.max(worst, Math.abs(plain[i] - value)), 0);
  for (let i = 0; i < exact.length; i++) {
    const step = 2 ** (Math.floor(Math.log2(Math.abs(exact[i]) || 2 ** -14)) - FRACTION_BITS[dtype]);
    const bound = FACTOR * plainError + step;
    // Written so that NaN is out of tolerance.
    if (!(Math.abs(got[i] - exact[i]) <= bound))
      return `expected ${exact[i]} within ${bound.toExponential(1)} for element ${i} of ${exact.length}, got ${got[i]}`;
  }
  return null;
}

/** Something to compute on a device, and a judge of what came, who says what is wrong with it, or null. */
interface Trial {
  call: () => Tensor;
  judge: (got: ArrayLike<number>) => string | null;
}

/** What `call` gives, read back. */
async function resultOf(call: () => Tensor): Promise<ArrayLike<number>> {
  const out = tidy(call);
  try {
    return await out.data();
  } finally {
    out.dispose();
  }
}

async function matmulTrial(device: DeviceName, dtype: FloatDType): Promise<Trial> {
  const [m, n, k] = [33, 65, 129]; // whole tiles and remainders
  const [x, w] = [await draw(dtype, 1, m * k), await draw(dtype, 2, n * k)];
  const exact = matmul(FLOAT64, x, w, m, n, k);
  const plain = matmul(inDType(dtype), x, w, m, n, k);
  return {
    call: () => linear(tensor(x, { shape: [m, k], dtype, device }), tensor(w, { shape: [n, k], dtype, device })),
    judge: (got) => outOfTolerance(got, exact, plain, dtype),
  };
}

async function attentionTrial(device: DeviceName, dtype: FloatDType): Promise<Trial> {
  const [s, d] = [65, 64];
  const [q, k, v] = [await draw(dtype, 3, s * d), await draw(dtype, 4, s * d), await draw(dtype, 5, s * d)];
  const exact = causalAttention(FLOAT64, q, k, v, s, d);
  const plain = causalAttention(inDType(dtype), q, k, v, s, d);
  return {
    call: () => {
      const [queries, keys, values] = [q, k, v].map((each) => tensor(each, { shape: [1, s, 1, d], dtype, device }));
      return flashAttention(queries, keys, values, { causal: true });
    },
    judge: (got) => outOfTolerance(got, exact, plain, dtype),
  };
}

/** What differs from the reference device, to the bit; null if nothing does. */
export function differsFromReference(got: ArrayLike<number>, expected: ArrayLike<number>): string | null {
  if (got.length !== expected.length) return `expected ${expected.length} elements, got ${got.length}`;
  for (let i = 0; i < expected.length; i++)
    if (!Object.is(got[i], expected[i]))
      return `expected ${expected[i]} for element ${i} of ${expected.length}, as on reference, got ${got[i]}`;
  return null;
}

/** The integer path. */
async function ternaryTrial(device: DeviceName): Promise<Trial> {
  const [m, n, k] = [5, 65, 260];
  const [x, w] = [await draw('float32', 6, m * k), await draw('float32', 7, n * k)];
  const on = (where: DeviceName) => (): Tensor => {
    const weight = quantizeTernary(tensor(w, { shape: [n, k], dtype: 'float32', device: where }));
    return ternaryMatmul(tensor(x, { shape: [m, k], dtype: 'float32', device: where }), weight);
  };
  const expected = await resultOf(on('reference'));
  return { call: on(device), judge: (got) => differsFromReference(got, expected) };
}

/** The checks of a device, in the order they run in. */
function trialsOf(device: DeviceName): { name: string; prepare: () => Promise<Trial> }[] {
  const ofDTypes = FLOAT_DTYPES.flatMap((dtype) => [
    { name: `matmul ${dtype}`, prepare: () => matmulTrial(device, dtype) },
    { name: `attention ${dtype}`, prepare: () => attentionTrial(device, dtype) },
  ]);
  // That of the reference is what others are compared with.
  return device === 'reference'
    ? ofDTypes
    : [...ofDTypes, { name: 'ternary matmul int8', prepare: () => ternaryTrial(device) }];
}

/**
 * Checks the device of that id.
 *
 * @param starting is told the name of each check before it runs.
 */
export async function selfCheck(id: string, starting: (name: string) => void): Promise<Check[]> {
  const device = id as DeviceName;
  const done: Check[] = [];
  for (const { name, prepare } of trialsOf(device)) {
    starting(name);
    const { call, judge } = await prepare();
    const start = performance.now();
    let end = start;
    let error: string | null;
    try {
      const got = await resultOf(call);
      end = performance.now();
      error = judge(got);
    } catch (thrown) {
      end = performance.now();
      error = thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
    }
    done.push({ device: id, name, passed: error === null, error, milliseconds: end - start });
  }
  return done;
}
