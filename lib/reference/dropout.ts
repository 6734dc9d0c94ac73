// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { DropoutParams } from '../backend.js';
import { philox } from '../random.js';
import { load, store } from './buffer.js';

/** Elements that one block of Philox serves: four words of two numbers each. */
const BLOCK = 8;

/**
 * out = 0 if the element's number is below the threshold, else x * factor (Srivastava et al., "Dropout", 2014, section 10: "inverted"
 * dropout). The product is rounded to float32 first, as every backend does.
 */
export function dropout({ x, out, threshold, seed, offset }: DropoutParams): void {
  const values = load(x);
  const factor = Math.fround(65536 / (65536 - threshold));
  const words = new Uint32Array(4);
  for (let i = 0; i < values.length; i++) {
    const inBlock = i % BLOCK;
    if (inBlock === 0) philox(words, offset + i / BLOCK, seed);
    const number = (words[inBlock >> 1] >>> (16 * (inBlock & 1))) & 0xffff;
    values[i] = number < threshold ? 0 : Math.fround(values[i] * factor);
  }
  store(out, values);
}
