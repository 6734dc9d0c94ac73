// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mean, sum } from '../../lib/index.js';
import { sumOf } from '../arithmetic.js';
import { reduceCases, type ReduceCase } from '../cases.js';
import type { OpSpec } from '../op-spec.js';

/** The shape as [outer, reduced, inner]. */
export function reduction(c: ReduceCase): { outer: number; length: number; inner: number } {
  const count = (sizes: readonly number[]): number => sizes.reduce((product, size) => product * size, 1);
  if (c.axis === undefined) return { outer: 1, length: count(c.shape), inner: 1 };
  const axis = c.axis < 0 ? c.axis + c.shape.length : c.axis;
  return { outer: count(c.shape.slice(0, axis)), length: c.shape[axis], inner: count(c.shape.slice(axis + 1)) };
}

export function reducedShape(c: ReduceCase): number[] {
  const axis = c.axis !== undefined && c.axis < 0 ? c.axis + c.shape.length : c.axis;
  const reduced = (i: number): boolean => axis === undefined || i === axis;
  return c.keepDims ? c.shape.map((size, i) => (reduced(i) ? 1 : size)) : c.shape.filter((_, i) => !reduced(i));
}

function reduceSpec(op: 'sum' | 'mean'): OpSpec<ReduceCase> {
  return {
    op,
    cases: reduceCases,
    inputs: (c, random) => ({
      x: { shape: c.shape, values: random.normals(c.shape.reduce((p, size) => p * size, 1)) },
    }),
    call({ x }, { axis, keepDims }) {
      const options = { ...(axis !== undefined && { axis }), ...(keepDims && { keepDims }) };
      return { out: op === 'sum' ? sum(x, options) : mean(x, options) };
    },
    forward(a, { x }, c) {
      const { outer, length, inner } = reduction(c);
      const out = new Float64Array(outer * inner).map((_, i) => {
        const start = Math.floor(i / inner) * length * inner + (i % inner);
        const total = sumOf(a, length, (j) => x[start + j * inner]);
        return op === 'sum' ? total : a.round(total / length);
      });
      return { out };
    },
    backward(a, { x }, { out }, c) {
      const { length, inner } = reduction(c);
      const dX = new Float64Array(x.length).map((_, i) => {
        const dOut = out[Math.floor(i / (length * inner)) * inner + (i % inner)];
        return op === 'sum' ? dOut : a.round(dOut / length);
      });
      return { x: dX };
    },
  };
}

export const sumSpec = reduceSpec('sum');
export const meanSpec = reduceSpec('mean');
