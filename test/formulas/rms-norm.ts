// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { rmsNorm, Tensor } from '../../lib/index.js';
import { sumOf, type Arithmetic } from '../arithmetic.js';
import { rmsNormCases, type RmsNormCase } from '../cases.js';
import type { OpSpec, Values } from '../op-spec.js';

/** x + y, or x alone. */
export function sumWith(a: Arithmetic, x: Values, y: Values | undefined): Values {
  return y ? x.map((value, i) => a.round(value + y[i])) : x;
}

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
    const count = c.shape.reduce((p, size) => p * size, 1);
    return {
      x: { shape: c.shape, values: random.normals(count) },
      ...(c.residual && { residual: { shape: c.shape, values: random.normals(count) } }),
      ...(c.weight && { weight: { shape: [n], values: random.normals(n) } }),
    };
  },
  call({ x, residual, weight }, { eps }) {
    const result = rmsNorm(x, weight ?? null, { ...(eps !== undefined && { eps }), ...(residual && { residual }) });
    return result instanceof Tensor ? { out: result } : { ...result };
  },
  forward(a, { x: given, residual, weight }, c) {
    const n = c.shape[c.shape.length - 1];
    const x = sumWith(a, given, residual);
    const out = new Float64Array(x.length);
    for (let row = 0; row < x.length / n; row++) {
      const factor = inverseRms(a, x, row, c);
      for (let i = 0; i < n; i++) {
        const normal = a.round(x[row * n + i] * factor);
        out[row * n + i] = weight ? a.round(normal * weight[i]) : normal;
      }
    }
    return { out, ...(residual && { sum: x }) };
  },
  backward(a, { x: given, residual, weight }, { out: dOut, sum: dSum }, c) {
    const n = c.shape[c.shape.length - 1];
    const x = sumWith(a, given, residual);
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
    const dInput = sumWith(a, dX, dSum);
    return {
      x: dInput,
      ...(residual && { residual: dInput }),
      ...(weight && { weight: dWeight.map((sum) => a.round(sum)) }),
    };
  },
};
