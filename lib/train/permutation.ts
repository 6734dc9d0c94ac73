// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { Generator } from '../random.js';

// The Philox blocks of an epoch's permutation begin at this times the epoch: more than any permutation takes.
const BLOCKS_PER_EPOCH = 2 ** 32;

/** The numbers below `count` in an order that seed and epoch decide (Fisher and Yates). */
export function permutationOf(count: number, seed: number, epoch: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  const random = new Generator(seed);
  random.state = { seed, offset: epoch * BLOCKS_PER_EPOCH };
  for (let i = count - 1; i > 0; i--) {
    const j = random.integer(i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
