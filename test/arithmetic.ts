// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { DType, FloatDType } from '../lib/dtype.js';

/**
 * How a plain formula computes. The formulas in test/formulas are written once and evaluated twice: in float64, for the truth, and as
 * someone would who held every intermediate tensor in the dtype under test, for the error that a kernel is measured against.
 */
export interface Arithmetic {
  readonly name: 'float64' | FloatDType;
  /** An intermediate result as a tensor would hold it. */
  round(value: number): number;
  /**
   * A partial sum. Float32 at least, also for 16-bit dtypes: every library accumulates those in float32, and a running sum in 16
   * bits would make an error so large that any kernel stays below it.
   */
  accumulate(value: number): number;
}

const FRACTION_BITS: Record<FloatDType, number> = { float32: 23, float16: 10, bfloat16: 7 };
const SMALLEST_EXPONENT: Record<FloatDType, number> = { float32: -126, float16: -14, bfloat16: -126 };
const LARGEST: Record<FloatDType, number> = {
  float32: (2 - 2 ** -23) * 2 ** 127,
  float16: (2 - 2 ** -10) * 2 ** 15,
  bfloat16: (2 - 2 ** -7) * 2 ** 127,
};
const LIMITS = { int8: [-128, 127], uint8: [0, 255], int32: [-(2 ** 31), 2 ** 31 - 1] } as const;

/** By the exponent of a float64, as it is stored: the rounding step there. */
const stepsOf = (dtype: FloatDType): Float64Array =>
  Float64Array.from(
    { length: 2048 },
    (_, stored) => 2 ** (Math.max(stored - 1023, SMALLEST_EXPONENT[dtype]) - FRACTION_BITS[dtype]),
  );
const STEPS: Record<FloatDType, Float64Array> = {
  float32: stepsOf('float32'),
  float16: stepsOf('float16'),
  bfloat16: stepsOf('bfloat16'),
};

const scratch = new Float64Array(1);
const words = new Uint32Array(scratch.buffer);
const HIGH = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1 ? 1 : 0; // the word that comes second on a little-endian machine

/** The distance between neighbouring numbers of the dtype around `value`: one rounding step. */
export function roundingStep(dtype: FloatDType, value: number): number {
  scratch[0] = value;
  return STEPS[dtype][(words[HIGH] >>> 20) & 0x7ff];
}

/**
 * `value` as a tensor of the dtype holds it: to nearest, ties to even; integers truncated and saturated, NaN as 0. By arithmetic, and not by the
 * bits as the library does it, which is under test.
 */
export function roundedTo(dtype: DType, value: number): number {
  if (dtype === 'int8' || dtype === 'uint8' || dtype === 'int32') {
    const [low, high] = LIMITS[dtype];
    return Number.isNaN(value) ? 0 : Math.trunc(Math.min(Math.max(value, low), high)) + 0;
  }
  if (dtype === 'float32') return Math.fround(value);
  if (!Number.isFinite(value) || value === 0) return value;
  const step = roundingStep(dtype, value);
  const steps = value / step;
  const below = Math.floor(steps);
  const rest = steps - below;
  const up = rest > 0.5 || (rest === 0.5 && below % 2 !== 0);
  const rounded = (up ? below + 1 : below) * step;
  if (Math.abs(rounded) > LARGEST[dtype]) return Math.sign(value) * Infinity;
  return rounded === 0 ? Math.sign(value) * 0 : rounded;
}

const identity = (value: number): number => value;

export const EXACT: Arithmetic = { name: 'float64', round: identity, accumulate: identity };

const IN_DTYPE: Record<FloatDType, Arithmetic> = {
  float32: { name: 'float32', round: Math.fround, accumulate: Math.fround },
  float16: { name: 'float16', round: (value) => roundedTo('float16', value), accumulate: Math.fround },
  bfloat16: { name: 'bfloat16', round: (value) => roundedTo('bfloat16', value), accumulate: Math.fround },
};

export function arithmeticIn(dtype: FloatDType): Arithmetic {
  return IN_DTYPE[dtype];
}

/** The sum of x[xStart + i * xStep] * y[yStart + i * yStep] over n, rounded once at the end. */
export function dot(
  a: Arithmetic,
  n: number,
  x: Float64Array,
  xStart: number,
  xStep: number,
  y: Float64Array,
  yStart: number,
  yStep: number,
): number {
  let sum = 0;
  if (a.name === 'float64') {
    for (let i = 0; i < n; i++) sum += x[xStart + i * xStep] * y[yStart + i * yStep];
    return sum;
  }
  for (let i = 0; i < n; i++) sum = Math.fround(sum + Math.fround(x[xStart + i * xStep] * y[yStart + i * yStep]));
  return a.round(sum);
}

/** The sum of term(0) to term(n - 1), rounded once at the end. */
export function sumOf(a: Arithmetic, n: number, term: (i: number) => number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum = a.accumulate(sum + term(i));
  return a.round(sum);
}
