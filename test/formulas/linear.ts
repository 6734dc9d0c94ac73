// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { linear } from '../../lib/index.js';
import { dot, sumOf, type Arithmetic } from '../arithmetic.js';
import { linearCases, type LinearCase } from '../cases.js';
import type { Input, NamedValues, OpSpec, Values } from '../op-spec.js';
import type { Random } from '../random.js';

export function rowsOf(c: LinearCase): number {
  return c.lead.reduce((product, size) => product * size, 1);
}

/** x W^T + bias, [M, N]. */
export function product(a: Arithmetic, x: Values, weight: Values, bias: Values | undefined, c: LinearCase): Values {
  const { n, k } = c;
  const out = new Float64Array(rowsOf(c) * n);
  for (let i = 0; i < out.length; i++) {
    const sum = dot(a, k, x, Math.floor(i / n) * k, 1, weight, (i % n) * k, 1);
    out[i] = bias ? a.round(sum + bias[i % n]) : sum;
  }
  return out;
}

/** dOut W, [M, K]. */
export function inputGradient(a: Arithmetic, dOut: Values, weight: Values, { n, k }: LinearCase): Values {
  return new Float64Array((dOut.length / n) * k).map((_, i) =>
    dot(a, n, dOut, Math.floor(i / k) * n, 1, weight, i % k, k),
  );
}

/** dOut^T x, [N, K]. */
export function weightGradient(a: Arithmetic, dOut: Values, x: Values, { n, k }: LinearCase): Values {
  return new Float64Array(n * k).map((_, i) => dot(a, dOut.length / n, dOut, Math.floor(i / k), n, x, i % k, k));
}

/** The sum of dOut over the rows, [N]. */
export function biasGradient(a: Arithmetic, dOut: Values, { n }: LinearCase): Values {
  return new Float64Array(n).map((_, i) => sumOf(a, dOut.length / n, (row) => dOut[row * n + i]));
}

export function linearInputs(c: LinearCase, random: Random): Record<string, Input> {
  return {
    x: { shape: [...c.lead, c.k], values: random.normals(rowsOf(c) * c.k) },
    weight: { shape: [c.n, c.k], values: random.normals(c.n * c.k) },
    ...(c.bias && { bias: { shape: [c.n], values: random.normals(c.n) } }),
  };
}

export const linearSpec: OpSpec<LinearCase> = {
  op: 'linear',
  cases: linearCases,
  inputs: linearInputs,
  call: ({ x, weight, bias }) => ({ out: linear(x, weight, bias ?? null) }),
  forward: (a, { x, weight, bias }, c) => ({ out: product(a, x, weight, bias, c) }),
  backward(a, { x, weight, bias }, { out }, c): NamedValues {
    return {
      x: inputGradient(a, out, weight, c),
      weight: weightGradient(a, out, x, c),
      ...(bias && { bias: biasGradient(a, out, c) }),
    };
  },
};
