// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

const TWO_OVER_SQRT_PI = 2 / Math.sqrt(Math.PI);

/** Where the series is left for the continued fraction. */
const FAR = 2;
/** Levels of the continued fraction, enough for float64 from there on. */
const LEVELS = 100;

/**
 * The complementary error function 1 - erf(x), of small relative error on both sides. Up to 2 by the series erf x = 2/sqrt(pi) e^(-x^2) sum
 * over n of 2^n x^(2n+1) / (1 3 5 ... (2n+1)), all of whose terms have one sign (DLMF 7.6.2); beyond by the continued fraction sqrt(pi)
 * e^(x^2) erfc x = 1 / (x + (1/2) / (x + 1 / (x + (3/2) / (x + ...)))) (DLMF 7.9.1).
 */
export function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  const bell = Math.exp(-x * x);
  if (!(x > FAR)) {
    let term = x;
    let sum = 0;
    for (let n = 1; term > sum * 2 ** -60; n++) {
      sum += term;
      term *= (2 * x * x) / (2 * n + 1);
    }
    return 1 - TWO_OVER_SQRT_PI * bell * sum;
  }
  let fraction = x;
  for (let level = LEVELS; level > 0; level--) fraction = x + level / 2 / fraction;
  return (TWO_OVER_SQRT_PI / 2) * (bell / fraction);
}
