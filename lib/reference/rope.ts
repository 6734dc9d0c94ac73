// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { RopeParams } from '../backend.js';
import { load, store, view } from './buffer.js';

/**
 * Turns each pair of features (a, b) by the angle t = positions[token] * frequencies[pair]: (a cos t - b sin t, a sin t
 * + b cos t), or by -t if inverse (Su et al., "RoFormer", 2021, section 3.2.2). x and out are [tokens, heads, headDim];
 * features beyond the pairs are copied.
 */
export function rope({
  x,
  positions,
  out,
  tokens,
  heads,
  headDim,
  frequencies,
  interleaved,
  inverse,
}: RopeParams): void {
  const values = load(x);
  const position = view(positions);
  const pairs = frequencies.length;
  // Where a pair's first feature lies and how far behind it the second one.
  const pairStep = interleaved ? 2 : 1;
  const partner = interleaved ? 1 : pairs;
  for (let token = 0; token < tokens; token++) {
    for (let pair = 0; pair < pairs; pair++) {
      const angle = position[token] * frequencies[pair] * (inverse ? -1 : 1);
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      for (let head = 0; head < heads; head++) {
        const first = (token * heads + head) * headDim + pair * pairStep;
        const [a, b] = [values[first], values[first + partner]];
        values[first] = a * cos - b * sin;
        values[first + partner] = a * sin + b * cos;
      }
    }
  }
  store(out, values);
}
