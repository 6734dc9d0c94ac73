// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { bitLinear } from '../../lib/index.js';
import { EXACT, type Arithmetic } from '../arithmetic.js';
import { ternaryMatmulCases, type LinearCase } from '../cases.js';
import type { NamedValues, OpSpec, Values } from '../op-spec.js';
import { biasGradient, inputGradient, linearInputs, product, weightGradient } from './linear.js';
import { int8Of, int8Product, ternaryOf } from './ternary.js';

/** What the rounded activations stand for. */
function roundedInput(a: Arithmetic, x: Values, k: number): Values {
  const { codes, scales } = int8Of(x, k);
  return codes.map((code, i) => a.round(code / scales[Math.floor(i / k)]));
}

/** What the rounded weight stands for. */
function roundedWeight(a: Arithmetic, weight: Values): Values {
  const { trits, scale } = ternaryOf(weight);
  return trits.map((trit) => a.round(trit * scale));
}

export const bitLinearSpec: OpSpec<LinearCase> = {
  op: 'bitLinear',
  cases: { ...ternaryMatmulCases, cases: ternaryMatmulCases.cases.filter((c) => !c.rowScales) },
  inputs: linearInputs,
  call: ({ x, weight, bias }) => ({ out: bitLinear(x, weight, bias ?? null) }),
  forward: (a, { x, weight, bias }, c) => ({
    out: int8Product(int8Of(x, c.k), ternaryOf(weight), bias, c.n, c.k).map((y) => a.round(y)),
  }),
  backward(a, { x, weight, bias }, { out }, c): NamedValues {
    return {
      x: inputGradient(a, out, roundedWeight(a, weight), c),
      weight: weightGradient(a, out, roundedInput(a, x, c.k), c),
      ...(bias && { bias: biasGradient(a, out, c) }),
    };
  },
  /** x + (round(at.x) - at.x), the difference held constant; so for the weight. */
  straightThrough({ x, weight, bias }, at, c) {
    const xHere = roundedInput(EXACT, at.x, c.k).map((value, i) => value + (x[i] - at.x[i]));
    const weightHere = roundedWeight(EXACT, at.weight).map((value, i) => value + (weight[i] - at.weight[i]));
    return { out: product(EXACT, xHere, weightHere, bias, c) };
  },
};
