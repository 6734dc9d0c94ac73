// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { KeyPages, KvCacheAppendParams } from '../backend.js';
import { load, storeAt, view, type Fail } from './buffer.js';
import { quantize } from './trits.js';

/** The row of the cache that holds a token of an entry; -1 if no page does. */
export type RowOf = (entry: number, token: number) => number;

/** @param capacity rows of an entry, where there are no pages. */
export function cacheRows(pages: KeyPages | null, capacity: number): RowOf {
  if (!pages) return (entry, token) => entry * capacity + token;
  const table = view(pages.table);
  const { perEntry, size } = pages;
  return (entry, token) => {
    const page = table[entry * perEntry + Math.floor(token / size)];
    return page < 0 ? -1 : page * size + (token % size);
  };
}

/** False if a page is none of the cache's. */
export function checkPages(pages: KeyPages | null, fail: Fail): boolean {
  const within = !pages || view(pages.table).every((page) => page >= -1 && page < pages.count);
  if (!within) fail('expected pages of the cache, got one outside');
  return within;
}

/** cache[b, position + s] = x[b, s]; x [batch, rows, rowSize], cache [batch, capacity, rowSize] or pages. Moves bits, rounds or makes codes. */
export function kvCacheAppend(params: KvCacheAppendParams, fail: Fail): void {
  const { x, cache, batch, rows, rowSize, capacity, position, pages } = params;
  const positions = typeof position === 'number' ? new Int32Array(batch).fill(position) : view(position);
  const rowOf = cacheRows(pages, capacity);
  if (!checkPages(pages, fail)) return;
  for (let b = 0; b < batch; b++) {
    if (positions[b] < 0 || positions[b] + rows > capacity) {
      fail('expected positions in the cache, got one outside');
      continue;
    }
    for (let s = 0; s < rows; s++) {
      const to = rowOf(b, positions[b] + s);
      const from = (b * rows + s) * rowSize;
      if (to < 0) continue;
      if (x.dtype === cache.dtype) view(cache).set(view(x).subarray(from, from + rowSize), to * rowSize);
      else if (!params.scales) storeAt(cache, to * rowSize, load(x, from, rowSize));
      else writeCodes(params, load(x, from, rowSize), to);
    }
  }
}

const LEAST = 2 ** -100;

/** One row of an int8 cache, and the scale of each head. */
function writeCodes({ cache, scales, rowSize, headDim }: KvCacheAppendParams, values: Float64Array, row: number): void {
  if (!scales) return;
  for (let begin = 0; begin < rowSize; begin += headDim) {
    const head = values.subarray(begin, begin + headDim);
    const finite = head.every(Number.isFinite);
    const max = head.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const isZero = !finite || max < LEAST;
    const inverse = Math.fround(127 / max);
    const codes = head.map((value) => (isZero ? 0 : quantize(Math.fround(value * inverse), -127, 127)));
    const scale = finite ? (isZero ? 0 : Math.fround(max / 127)) : NaN;
    storeAt(cache, row * rowSize + begin, codes);
    storeAt(scales, row * (rowSize / headDim) + begin / headDim, [scale]);
  }
}
