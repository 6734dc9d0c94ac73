// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { FloatDType } from '../lib/dtype.js';
import { roundedTo, roundingStep } from './arithmetic.js';

/** How far from the truth a result may be: this many times the error of the plain formula (CONTRIBUTING.md, Rules). */
export const FORWARD_FACTOR = 2;
export const GRADIENT_FACTOR = 3;

function place(index: number, shape: readonly number[]): string {
  const indices: number[] = [];
  let rest = index;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    indices.unshift(rest % shape[axis]);
    rest = Math.floor(rest / shape[axis]);
  }
  return `[${indices.join(', ')}]`;
}

/** The largest error of the plain formula over the tensor. */
export function largestError(plain: ArrayLike<number>, exact: ArrayLike<number>): number {
  let worst = 0;
  for (let i = 0; i < exact.length; i++) {
    if (Object.is(plain[i], exact[i])) continue; // infinities too
    const error = Math.abs(plain[i] - exact[i]);
    if (!Number.isFinite(error))
      throw new Error(`the plain formula gives ${plain[i]} for ${exact[i]}: this case cannot be judged in this dtype`);
    worst = Math.max(worst, error);
  }
  return worst;
}

export interface Comparison {
  /** What is compared, for the report. */
  name: string;
  got: ArrayLike<number>;
  /** The truth, in float64. */
  exact: ArrayLike<number>;
  /** The largest error of the plain formula run in the same dtype. */
  plainError: number;
  factor: number;
  dtype: FloatDType;
  shape: readonly number[];
}

/**
 * The tolerance rule: every element's error against float64 is at most `factor` times the largest error of the plain formula run in the same
 * dtype, plus one rounding step of the result. What is not finite must be the same.
 */
export function expectWithinTolerance({ name, got, exact, plainError, factor, dtype, shape }: Comparison): void {
  if (got.length !== exact.length) throw new Error(`${name}: expected ${exact.length} elements, got ${got.length}`);
  let failures = 0;
  let worst = -1;
  let worstRatio = 1;
  for (let i = 0; i < exact.length; i++) {
    let ratio: number;
    if (Number.isFinite(exact[i])) {
      const bound = factor * plainError + roundingStep(dtype, exact[i]);
      const error = Math.abs(got[i] - exact[i]);
      ratio = Number.isNaN(error) ? Infinity : error / bound;
    } else {
      ratio = Object.is(got[i], exact[i]) ? 0 : Infinity;
    }
    if (ratio <= 1) continue;
    failures++;
    if (worst < 0 || ratio > worstRatio) {
      worst = i;
      worstRatio = ratio;
    }
  }
  if (failures === 0) return;
  const bound = factor * plainError + roundingStep(dtype, exact[worst]);
  throw new Error(
    `${name}: ${failures} of ${exact.length} elements are out of tolerance; the worst is ${place(worst, shape)}: expected ${exact[worst]}, ` +
      `got ${got[worst]}, error ${Math.abs(got[worst] - exact[worst])}, bound ${bound} ` +
      `(${factor} x ${plainError} of the plain formula in ${dtype}, and one rounding step)`,
  );
}

/** Equality to the bit, except that NaNs are all alike. */
export function expectIdentical(
  name: string,
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  shape: readonly number[],
): void {
  if (got.length !== expected.length)
    throw new Error(`${name}: expected ${expected.length} elements, got ${got.length}`);
  let failures = 0;
  let first = -1;
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(got[i], expected[i])) continue;
    if (failures++ === 0) first = i;
  }
  if (failures === 0) return;
  throw new Error(
    `${name}: ${failures} of ${expected.length} elements differ; the first is ${place(first, shape)}: expected ${expected[first]}, got ${got[first]}`,
  );
}

/** Equality with the float64 result rounded once to the dtype. The sign of a zero does not count. */
export function expectCorrectlyRounded({
  name,
  got,
  exact,
  dtype,
  shape,
}: Omit<Comparison, 'plainError' | 'factor'>): void {
  const expected = Float64Array.from(exact, (value) => roundedTo(dtype, value) + 0);
  expectIdentical(
    name,
    Float64Array.from(got, (value) => value + 0),
    expected,
    shape,
  );
}

/**
 * Two float64 evaluations of a formula, the second stored as float32: apart by one rounding to float32, and by the rounding errors of float64,
 * which show only where terms cancel and are bounded by the number of elements times the largest.
 */
export function expectSameFloat64(name: string, got: ArrayLike<number>, stored: ArrayLike<number>): void {
  const largest = Array.from(stored).reduce(
    (most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most),
    0,
  );
  for (let i = 0; i < stored.length; i++) {
    const bound = roundingStep('float32', stored[i]) + stored.length * 2 ** -53 * largest;
    if (Object.is(got[i], stored[i]) || Math.abs(got[i] - stored[i]) <= bound) continue;
    throw new Error(`${name}: element ${i} of ${stored.length}: expected ${stored[i]}, got ${got[i]}, bound ${bound}`);
  }
}
