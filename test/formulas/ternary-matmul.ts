// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { TernaryTensor, ternaryMatmul } from '../../lib/index.js';
import { EXACT, type Arithmetic } from '../arithmetic.js';
import { ternaryMatmulCases, type LinearCase } from '../cases.js';
import type { NamedValues, OpSpec, Values } from '../op-spec.js';
import { Random } from '../random.js';
import { biasGradient, inputGradient, linearInputs, product } from './linear.js';
import { int8Of, int8Product } from './ternary.js';

/** The ternary weight of a case. */
function weightOf(c: LinearCase): { trits: Values; scale: number | Values } {
  const random = new Random(`ternary weight ${c.name}`);
  const trits = random.integers(c.n * c.k, -1, 1);
  const positive = (): number => Math.fround(0.5 + random.next());
  return { trits, scale: c.rowScales ? Float64Array.from({ length: c.n }, positive) : positive() };
}

/** trits times scale as an ordinary matrix. */
function matrixOf(a: Arithmetic, { trits, scale }: ReturnType<typeof weightOf>, k: number): Values {
  return trits.map((trit, i) => a.round(trit * (typeof scale === 'number' ? scale : scale[Math.floor(i / k)])));
}

function ternarySpec(op: string, activations: 'int8' | 'none'): OpSpec<LinearCase> {
  return {
    op,
    cases: { ...ternaryMatmulCases, tolerance: activations === 'int8' ? 'integer' : 'rounded' },
    inputs(c, random) {
      const { x, bias } = linearInputs(c, random);
      return { x, ...(bias && { bias }) };
    },
    call({ x, bias }, c) {
      const { trits, scale } = weightOf(c);
      const weight = TernaryTensor.fromTrits(trits, [c.n, c.k], scale, { device: x.device });
      try {
        return {
          out: ternaryMatmul(x, weight, { ...(activations === 'none' && { activations }), ...(bias && { bias }) }),
        };
      } finally {
        weight.dispose(); // what is queued and what the gradient needs holds on to the memory
      }
    },
    forward(a, { x, bias }, c): NamedValues {
      if (activations === 'none') return { out: product(a, x, matrixOf(a, weightOf(c), c.k), bias, c) };
      return { out: int8Product(int8Of(x, c.k), weightOf(c), bias, c.n, c.k).map((y) => a.round(y)) };
    },
    backward(a, { bias }, { out }, c): NamedValues {
      return {
        x: inputGradient(a, out, matrixOf(a, weightOf(c), c.k), c),
        ...(bias && { bias: biasGradient(a, out, c) }),
      };
    },
    straightThrough: ({ x, bias }, _at, c) => ({ out: product(EXACT, x, matrixOf(EXACT, weightOf(c), c.k), bias, c) }),
  };
}

export const ternaryMatmulSpec = ternarySpec('ternaryMatmul', 'int8');
export const ternaryMatmulFloatSpec = ternarySpec('ternaryMatmul, float activations', 'none');
