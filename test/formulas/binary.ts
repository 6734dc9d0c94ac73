// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { add, mul } from '../../lib/index.js';
import { binaryCases, type BinaryCase } from '../cases.js';
import type { OpSpec } from '../op-spec.js';

const count = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

/** Shapes aligned at their last axis; an axis of size 1 or missing is repeated. */
export function broadcastShape({ a, b }: BinaryCase): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, axis) =>
    Math.max(a[axis - rank + a.length] ?? 1, b[axis - rank + b.length] ?? 1),
  );
}

/** Which element of an operand of shape `from` stands at each place of the result. */
export function broadcastIndex(from: readonly number[], shape: readonly number[]): number[] {
  return Array.from({ length: count(shape) }, (_, flat) => {
    let rest = flat;
    let index = 0;
    let stride = 1;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const at = rest % shape[axis];
      rest = Math.floor(rest / shape[axis]);
      const size = from[axis - shape.length + from.length] ?? 1;
      if (size > 1) index += at * stride;
      stride *= size;
    }
    return index;
  });
}

function binarySpec(op: 'add' | 'mul'): OpSpec<BinaryCase> {
  return {
    op,
    cases: binaryCases,
    inputs: (c, random) => ({
      a: { shape: c.a, values: random.normals(count(c.a)) },
      b: { shape: c.b, values: random.normals(count(c.b)) },
    }),
    call: ({ a, b }) => ({ out: op === 'add' ? add(a, b) : mul(a, b) }),
    forward(arithmetic, { a, b }, c) {
      const shape = broadcastShape(c);
      const [left, right] = [broadcastIndex(c.a, shape), broadcastIndex(c.b, shape)];
      return {
        out: Float64Array.from(left, (_, i) => {
          const [x, y] = [a[left[i]], b[right[i]]];
          return arithmetic.round(op === 'add' ? x + y : x * y);
        }),
      };
    },
    backward(arithmetic, { a, b }, { out }, c) {
      const shape = broadcastShape(c);
      const [left, right] = [broadcastIndex(c.a, shape), broadcastIndex(c.b, shape)];
      const dA = new Float64Array(a.length);
      const dB = new Float64Array(b.length);
      out.forEach((dOut, i) => {
        const toA = op === 'add' ? dOut : arithmetic.round(dOut * b[right[i]]);
        const toB = op === 'add' ? dOut : arithmetic.round(dOut * a[left[i]]);
        dA[left[i]] = arithmetic.accumulate(dA[left[i]] + toA);
        dB[right[i]] = arithmetic.accumulate(dB[right[i]] + toB);
      });
      return { a: dA.map((sum) => arithmetic.round(sum)), b: dB.map((sum) => arithmetic.round(sum)) };
    },
  };
}

export const addSpec = binarySpec('add');
export const mulSpec = binarySpec('mul');
