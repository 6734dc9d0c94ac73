// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** A derivative found by central differences, and how far it may be off. */
export interface Derivative {
  value: number;
  uncertainty: number;
}

const STEP = 2 ** -12;
const UNIT_ROUNDOFF = 2 ** -53;

/**
 * The derivative of `f` at 0 from two central differences, extrapolated (Richardson). The truncation error is below the difference of the two;
 * the rounding error is that of `f` divided by the step.
 *
 * @param f gives its value, and the sum of the magnitudes of the `terms` numbers it was added up from.
 */
export function derivative(f: (t: number) => { value: number; magnitude: number; terms: number }): Derivative {
  const difference = (step: number): number => (f(step).value - f(-step).value) / (2 * step);
  const wide = difference(STEP);
  const narrow = difference(STEP / 2);
  const { magnitude, terms } = f(0);
  const rounding = (terms * UNIT_ROUNDOFF * magnitude) / (STEP / 2);
  return { value: (4 * narrow - wide) / 3, uncertainty: Math.abs(narrow - wide) + rounding };
}
