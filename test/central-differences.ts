// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** A derivative found by central differences, and how far it may be off. */
export interface Derivative {
  value: number;
  uncertainty: number;
}

/** Bounds the rounding error of a sum: how many numbers it was added up from, and the sum of their magnitudes. */
export interface SumSize {
  terms: number;
  magnitude: number;
}

const STEP = 2 ** -12;
const UNIT_ROUNDOFF = 2 ** -53;

/**
 * The derivative of `f` at 0 from two central differences, extrapolated (Richardson). The truncation error is below the difference of the two;
 * the rounding error is that of `f`, which is bounded by its `size`, divided by the step.
 */
export function derivative(f: (t: number) => number, size: SumSize): Derivative {
  const difference = (step: number): number => (f(step) - f(-step)) / (2 * step);
  const wide = difference(STEP);
  const narrow = difference(STEP / 2);
  const rounding = (size.terms * UNIT_ROUNDOFF * size.magnitude) / (STEP / 2);
  return { value: (4 * narrow - wide) / 3, uncertainty: Math.abs(narrow - wide) + rounding };
}
