// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { defaultGenerator, dropout } from '../../lib/index.js';
import { philox } from '../../lib/random.js';
import type { Arithmetic } from '../arithmetic.js';
import { dropoutCases, type DropoutCase } from '../cases.js';
import type { OpSpec, Values } from '../op-spec.js';

/** The 16-bit numbers of `count` elements; test/core/random.test.ts holds `philox` to the paper. */
export function numbersOf(count: number, seed: number, offset: number): number[] {
  const words = new Uint32Array(4);
  const numbers: number[] = [];
  for (let block = 0; block * 8 < count; block++) {
    philox(words, offset + block, seed);
    for (const word of words) numbers.push(word & 0xffff, word >>> 16);
  }
  return numbers.slice(0, count);
}

function dropped(a: Arithmetic, x: Values, { p, seed, offset }: DropoutCase): Values {
  const threshold = Math.round(p * 65536);
  const factor = a.round(65536 / (65536 - threshold));
  const numbers = numbersOf(x.length, seed, offset);
  return x.map((value, i) => (numbers[i] < threshold ? 0 : a.round(value * factor)));
}

export const dropoutSpec: OpSpec<DropoutCase> = {
  op: 'dropout',
  cases: dropoutCases,
  inputs: (c, random) => ({ x: { shape: c.shape, values: random.normals(c.shape.reduce((p, size) => p * size, 1)) } }),
  call({ x }, { p, seed, offset }) {
    defaultGenerator().state = { seed, offset };
    return { out: dropout(x, p) };
  },
  forward: (a, { x }, c) => ({ out: dropped(a, x, c) }),
  backward: (a, _inputs, { out }, c) => ({ x: dropped(a, out, c) }),
};
