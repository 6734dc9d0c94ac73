// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Tensor } from '../lib/index.js';
import type { Arithmetic } from './arithmetic.js';
import type { Case, OpCases } from './cases.js';
import type { Random } from './random.js';

/** Numbers of a tensor, row-major; as float64, so that a formula can be evaluated exactly. */
export type Values = Float64Array;
export type NamedValues = Record<string, Values>;

/** An input of an op. Inputs without a dtype of their own take the one under test and are differentiated. */
export interface Input {
  readonly shape: readonly number[];
  readonly values: Values;
  readonly dtype?: 'int32' | 'float32';
}

/**
 * An op as the tests see it: how to make inputs for a case, how to call the library, and the plain formula with its gradient, written to be
 * compared with the paper and not to be fast. `backward` itself is checked against central differences of `forward`.
 */
export interface OpSpec<C extends Case> {
  readonly op: string;
  readonly cases: OpCases<C>;
  /** Outputs that are float32 whatever the dtype of the inputs; the others have the dtype under test. */
  readonly float32Outputs?: readonly string[];
  inputs(c: C, random: Random): Record<string, Input>;
  /** The library's results, by name. */
  call(tensors: Record<string, Tensor>, c: C): Record<string, Tensor>;
  /** `float64` arithmetic gives the truth. Outputs by the names that `call` uses. */
  forward(a: Arithmetic, inputs: NamedValues, c: C): NamedValues;
  /** Gradients by the names of the inputs. `dOut` lacks the outputs that get no gradient. */
  backward(a: Arithmetic, inputs: NamedValues, dOut: NamedValues, c: C): NamedValues;
  /**
   * For ops whose gradient passes straight through a rounding: the function without it around the point `at`, which central differences can
   * differentiate.
   */
  straightThrough?(inputs: NamedValues, at: NamedValues, c: C): NamedValues;
}
