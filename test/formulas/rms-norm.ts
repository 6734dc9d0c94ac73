// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { rmsNorm } from '../../lib/index.js';
import { sumOf, type Arithmetic } from '../arithmetic.js';
import { rmsNormCases, type RmsNormCase } from '../cases.js';
import type { OpSpec, Values } from '../op-spec.js';

function inverseRms(a: Arithmetic, x: Values, row: number, c: RmsNormCase): number {
  const n = c.shape[c.shape.length - 1];
  const meanSquare = a.round(sumOf(a, n, (i) => a.round(x[row * n + i] ** 2)) / n);
  return a.round(1 / a.round(Math.sqrt(a.round(meanSquare + (c.eps ?? 1e-5)))));
}

export const rmsNormSpec: OpSpec<RmsNormCase> = {
  op: 'rmsNorm',
  cases: rmsNormCases,
  inputs(c, random) {
    const n = c.shape[c.shape.length - 1];
    return {
      x: { shape: c.shape, values: random.normals(c.shape.reduce((p, size) => p * size, 1)) },
      ...(c.weight && { weight: { shape: [n], values: random.normals(n) } }),
    };
  },
  call: ({ x, weight }, { eps }) => ({ out: rmsNorm(x, weight ?? null, eps === undefined ? {} : { eps }) }),
  forward(a, { x, weight }, c) {
    const n = c.shape[c.shape.length - 1];
    const out = new Float64Array(x.length);
    for (let row = 0; row < x.length / n; row++) {
      const factor = inverseRms(a, x, row, c);
      for (let i = 0; i < n; i++) {
        const normal = a.round(x[row * n + i] * factor);
        out[row * n + i] = weight ? a.round(normal * weight[i]) : normal;
      }
    }
    return { out };
  },
  backward(a, { x, weight }, { out: dOut }, c) {
    const n = c.shape[c.shape.length - 1];
    const dX = new Float64Array(x.length);
    const dWeight = new Float64Array(n);
    for (let row = 0; row < x.length / n; row++) {
      const at = row * n;
      const factor = inverseRms(a, x, row, c);
      const normal = x.subarray(at, at + n).map((value) => a.round(value * factor));
      const dNormal = normal.map((_, i) => (weight ? a.round(dOut[at + i] * weight[i]) : dOut[at + i]));
      const mean = a.round(sumOf(a, n, (i) => a.round(dNormal[i] * normal[i])) / n);
      for (let i = 0; i < n; i++) {
        dX[at + i] = a.round(factor * a.round(dNormal[i] - a.round(normal[i] * mean)));
        dWeight[i] = a.accumulate(dWeight[i] + a.round(dOut[at + i] * normal[i]));
      }
    }
    return { x: dX, ...(weight && { weight: dWeight.map((sum) => a.round(sum)) }) };
  },
};
