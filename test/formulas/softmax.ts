// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { softmax } from '../../lib/index.js';
import { sumOf, type Arithmetic } from '../arithmetic.js';
import { softmaxCases, type RowsCase } from '../cases.js';
import type { OpSpec, Values } from '../op-spec.js';

/** `row` of a [rows, n] matrix through the softmax; also the log of its sum of exponentials. */
export function softmaxOf(a: Arithmetic, x: Values, row: number, n: number): { p: Values; lse: number } {
  const values = x.subarray(row * n, (row + 1) * n);
  const largest = values.reduce((left, right) => Math.max(left, right), -Infinity);
  const exponentials = values.map((value) => a.round(Math.exp(a.round(value - largest))));
  const total = sumOf(a, n, (i) => exponentials[i]);
  return { p: exponentials.map((e) => a.round(e / total)), lse: a.round(largest + a.round(Math.log(total))) };
}

export const softmaxSpec: OpSpec<RowsCase> = {
  op: 'softmax',
  cases: softmaxCases,
  inputs: (c, random) => ({
    x: {
      shape: c.shape,
      values: random.normals(
        c.shape.reduce((p, size) => p * size, 1),
        c.spread,
      ),
    },
  }),
  call: ({ x }) => ({ out: softmax(x) }),
  forward(a, { x }, c) {
    const n = c.shape[c.shape.length - 1];
    const out = new Float64Array(x.length);
    for (let row = 0; row < x.length / n; row++) out.set(softmaxOf(a, x, row, n).p, row * n);
    return { out };
  },
  backward(a, { x }, { out: dOut }, c) {
    const n = c.shape[c.shape.length - 1];
    const dX = new Float64Array(x.length);
    for (let row = 0; row < x.length / n; row++) {
      const { p } = softmaxOf(a, x, row, n);
      const mean = sumOf(a, n, (i) => a.round(p[i] * dOut[row * n + i]));
      for (let i = 0; i < n; i++) dX[row * n + i] = a.round(p[i] * a.round(dOut[row * n + i] - mean));
    }
    return { x: dX };
  },
};
