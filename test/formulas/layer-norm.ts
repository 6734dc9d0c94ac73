// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { layerNorm, Tensor } from '../../lib/index.js';
import { sumOf, type Arithmetic } from '../arithmetic.js';
import { layerNormCases, type LayerNormCase } from '../cases.js';
import type { OpSpec, Values } from '../op-spec.js';
import { sumWith } from './rms-norm.js';

/** A row less its mean and divided by the root of its variance, and what it was multiplied by. */
function normalise(a: Arithmetic, row: Values, eps = 1e-5): { normal: Values; factor: number } {
  const n = row.length;
  const mean = a.round(sumOf(a, n, (i) => row[i]) / n);
  const centered = row.map((value) => a.round(value - mean));
  const variance = a.round(sumOf(a, n, (i) => a.round(centered[i] ** 2)) / n);
  const factor = a.round(1 / a.round(Math.sqrt(a.round(variance + eps))));
  return { normal: centered.map((value) => a.round(value * factor)), factor };
}

export const layerNormSpec: OpSpec<LayerNormCase> = {
  op: 'layerNorm',
  cases: layerNormCases,
  inputs(c, random) {
    const n = c.shape[c.shape.length - 1];
    const count = c.shape.reduce((p, size) => p * size, 1);
    return {
      x: { shape: c.shape, values: random.normals(count).map((value) => value + (c.mean ?? 0)) },
      ...(c.residual && { residual: { shape: c.shape, values: random.normals(count) } }),
      ...(c.weight && { weight: { shape: [n], values: random.normals(n) } }),
      ...(c.bias && { bias: { shape: [n], values: random.normals(n) } }),
    };
  },
  call({ x, residual, weight, bias }, { eps }) {
    const options = { ...(eps !== undefined && { eps }), ...(residual && { residual }) };
    const result = layerNorm(x, weight, bias, options);
    return result instanceof Tensor ? { out: result } : { ...result };
  },
  forward(a, { x, residual, weight, bias }, c) {
    const n = c.shape[c.shape.length - 1];
    const sum = sumWith(a, x, residual);
    const out = new Float64Array(x.length);
    for (let at = 0; at < x.length; at += n) {
      const { normal } = normalise(a, sum.subarray(at, at + n), c.eps);
      for (let i = 0; i < n; i++) {
        const scaled = weight ? a.round(normal[i] * weight[i]) : normal[i];
        out[at + i] = bias ? a.round(scaled + bias[i]) : scaled;
      }
    }
    return { out, ...(residual && { sum }) };
  },
  backward(a, { x, residual, weight, bias }, { out: dOut, sum: dSum }, c) {
    const n = c.shape[c.shape.length - 1];
    const sum = sumWith(a, x, residual);
    const dX = new Float64Array(x.length);
    const dWeight = new Float64Array(n);
    const dBias = new Float64Array(n);
    for (let at = 0; at < x.length; at += n) {
      const { normal, factor } = normalise(a, sum.subarray(at, at + n), c.eps);
      const dNormal = normal.map((_, i) => (weight ? a.round(dOut[at + i] * weight[i]) : dOut[at + i]));
      const mean = a.round(sumOf(a, n, (i) => dNormal[i]) / n);
      const meanProduct = a.round(sumOf(a, n, (i) => a.round(dNormal[i] * normal[i])) / n);
      for (let i = 0; i < n; i++) {
        const centered = a.round(dNormal[i] - mean);
        dX[at + i] = a.round(factor * a.round(centered - a.round(normal[i] * meanProduct)));
        dWeight[i] = a.accumulate(dWeight[i] + a.round(dOut[at + i] * normal[i]));
        dBias[i] = a.accumulate(dBias[i] + dOut[at + i]);
      }
    }
    const dInput = sumWith(a, dX, dSum);
    return {
      x: dInput,
      ...(residual && { residual: dInput }),
      ...(weight && { weight: dWeight.map((total) => a.round(total)) }),
      ...(bias && { bias: dBias.map((total) => a.round(total)) }),
    };
  },
};
