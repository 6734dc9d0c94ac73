// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { KvCacheAppendParams } from '../backend.js';
import { view, type Fail } from './buffer.js';

/** cache[b, position + s] = x[b, s]; x [batch, rows, rowSize], cache [batch, capacity, rowSize]. Moves bits. */
export function kvCacheAppend(params: KvCacheAppendParams, fail: Fail): void {
  const { x, cache, batch, rows, rowSize, capacity, position } = params;
  const from = view(x);
  const to = view(cache);
  const positions = typeof position === 'number' ? new Int32Array(batch).fill(position) : view(position);
  const block = rows * rowSize;
  for (let b = 0; b < batch; b++) {
    if (positions[b] < 0 || positions[b] + rows > capacity) fail('expected positions in the cache, got one outside');
    else to.set(from.subarray(b * block, (b + 1) * block), (b * capacity + positions[b]) * rowSize);
  }
}
