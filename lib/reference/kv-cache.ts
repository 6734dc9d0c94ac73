// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { KvCacheAppendParams } from '../backend.js';
import { view } from './buffer.js';

/** cache[b, position + s] = x[b, s]; x [batch, rows, rowSize], cache [batch, capacity, rowSize]. Moves bits. */
export function kvCacheAppend({ x, cache, batch, rows, rowSize, capacity, position }: KvCacheAppendParams): void {
  const from = view(x);
  const to = view(cache);
  const block = rows * rowSize;
  for (let b = 0; b < batch; b++)
    to.set(from.subarray(b * block, (b + 1) * block), (b * capacity + position) * rowSize);
}
