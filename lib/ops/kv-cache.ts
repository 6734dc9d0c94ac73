// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { refuseInCapture } from '../capturing.js';
import type { KeyPages, TensorArg } from '../backend.js';
import {
  checkFloat,
  checkInteger,
  checkObject,
  checkOptions,
  checkShape,
  checkTensor,
  checkTogether,
  showShape,
} from '../check.js';
import type { Device } from '../device.js';
import { FLOAT_DTYPES } from '../dtype.js';
import { OptionError, ShapeError } from '../errors.js';
import { tidy } from '../scope.js';
import { empty, type Tensor } from '../tensor.js';
import { ATTENTION_OPTIONS, checkAttention, checkHeadDim, type AttentionOptions } from './attention-options.js';

/**
 * The keys and values of the tokens seen so far, for decoding. They may be of another dtype than q: a number that is appended is rounded to it, or, for int8,
 * becomes a code with a scale for each token and key head, its largest magnitude / 127, so that it is off by at most half of that.
 */
export interface KvCache {
  /** [B, capacity, G, D], or with `pages` [pages, size, G, D] with a size that is a multiple of 16; float dtype or int8. */
  readonly keys: Tensor;
  /** Of the same shape and dtype. */
  readonly values: Tensor;
  /** float32 [B, capacity, G] or [pages, size, G]: a number is its code times this. Exactly of an int8 cache. */
  readonly keyScales?: Tensor;
  /** The same of values. */
  readonly valueScales?: Tensor;
  /**
   * int32 [B, P]: the page with tokens p · size to (p + 1) · size − 1 of each batch entry, −1 for none; entries then share one pool of pages and take as much of it as they
   * need. The numbers are the caller's to change; one beyond the pool fails the op. Tokens of a page that is none are not kept, and what a query that sees such
   * gives is not defined. Default none: each entry has rows of its own.
   */
  readonly pages?: Tensor;
  /** Tokens held; they fill rows 0..length-1 of each batch entry. Not looked at where there are `lengths`. */
  length: number;
  /**
   * int32 [B]: the tokens that each batch entry holds before the call, where entries differ or a captured step is to be replayed as they grow. They are
   * read when the op runs, and are the caller's to change. A length without room for the new tokens fails the op: reading a result rejects
   * with KernelError. Default none: all entries hold `length` tokens.
   */
  readonly lengths?: Tensor;
}

/** Options of {@link flashAttentionWithKvCache}. */
export interface KvCacheAttentionOptions extends AttentionOptions {
  /** [B, S, G, D] of the dtype of q, appended to the cache first; both or neither. Default none. */
  newK?: Tensor;
  /** Of the same shape and dtype as `newK`. */
  newV?: Tensor;
}

/**
 * Attention of new tokens over a cache: appends `newK` and `newV` to the cache, then lets `q` attend to all tokens it holds. In place on the
 * cache; carries no gradient.
 *
 * @param q [B, Sq, H, D], float dtype.
 * @param cache keys and values of the tokens so far, read as they are stored; `length` grows by the number of new tokens and is then Sk. With `lengths`,
 * the Sk of an entry is its length and the number of new tokens.
 * @param options `newK`, `newV`: the new tokens. `causal`: default true. The others as for {@link flashAttention}.
 * @returns [B, Sq, H, D].
 * @throws ShapeError if the new tokens do not fit into the cache or it is empty; CaptureError for new tokens inside {@link capture} without
 * `lengths`, as `length` would not grow with the replays; otherwise as {@link flashAttention}. The cache is then unchanged.
 */
export function flashAttentionWithKvCache(q: Tensor, cache: KvCache, options: KvCacheAttentionOptions = {}): Tensor {
  const op = 'flashAttentionWithKvCache';
  checkObject(op, 'cache', cache);
  checkOptions(op, options, ['newK', 'newV', ...ATTENTION_OPTIONS]);
  const { device, capacity, keyHeads, pages, keyScales, valueScales } = checkCache(op, q, cache);
  const [batch, queries, heads, headDim] = q.shape;
  const { newK, newV } = options;
  const lengths = cache.lengths ?? null;
  if ((newK === undefined) !== (newV === undefined))
    throw new OptionError(`${op}: expected both newK and newV or neither, got one`);
  if (newK && !lengths) refuseInCapture(op, 'count', device);
  const held = lengths ? 0 : checkInteger(op, 'cache.length', cache.length, 0, capacity);
  let added = 0;
  if (newK !== undefined && newV !== undefined) {
    checkFloat(op, 'newK', newK);
    checkFloat(op, 'newV', newV);
    checkShape(op, 'newK', newK, [batch, 'S', keyHeads, headDim], 'to match the cache');
    added = newK.shape[1];
    checkShape(op, 'newV', newV, newK.shape, 'to match newK');
    checkTogether(op, { q, newK, newV });
    if (held + added > capacity)
      throw new ShapeError(`${op}: expected at most ${capacity} tokens in the cache, got ${held + added}`);
  }
  if (!lengths && held + added === 0)
    throw new ShapeError(`${op}: expected a cache of at least one token, got an empty one`);
  const keys = lengths ? capacity : held + added;
  const sizes = { batch, queries, keys, heads, keyHeads, headDim, keyCapacity: capacity };
  const { shape, alibiSlopes, sinks } = checkAttention(op, q, sizes, { ...options, causal: options.causal ?? true });
  return tidy(() => {
    const out = empty(op, q.shape, q.dtype, device);
    const lse = empty(op, [batch, heads, queries], 'float32', device);
    if (newK && newV) {
      const position = lengths ? lengths.arg : held;
      const rows = { batch, rows: added, rowSize: keyHeads * headDim, headDim, capacity, pages, position };
      const { backend } = device;
      backend.kvCacheAppend({ ...rows, x: newK.arg, cache: cache.keys.arg, scales: keyScales });
      backend.kvCacheAppend({ ...rows, x: newV.arg, cache: cache.values.arg, scales: valueScales });
      if (!lengths) cache.length = held + added;
    }
    device.backend.flashAttention({
      ...shape,
      packed: null,
      keyLengths: lengths && { held: lengths.arg, added },
      pages,
      alibiSlopes: alibiSlopes && alibiSlopes.arg,
      sinks: sinks && sinks.arg,
      dropout: { threshold: 0, seed: 0, offset: 0 },
      q: q.arg,
      k: cache.keys.arg,
      v: cache.values.arg,
      keyScales,
      valueScales,
      out: out.arg,
      lse: lse.arg,
    });
    return out;
  });
}

/** A cache as kernels take it. */
interface CheckedCache {
  device: Device;
  /** Tokens that there is room for in each batch entry. */
  capacity: number;
  keyHeads: number;
  pages: KeyPages | null;
  keyScales: TensorArg | null;
  valueScales: TensorArg | null;
}

/** @internal Tokens in a page are a multiple of that many, so that kernels read as many at a time. */
export const PAGE_STEP = 16;

function checkCache(op: string, q: Tensor, cache: KvCache): CheckedCache {
  const { keys, values, pages, lengths, keyScales, valueScales } = cache;
  checkFloat(op, 'q', q);
  checkShape(op, 'q', q, ['B', 'Sq', 'H', 'D']);
  const [batch, , , headDim] = q.shape;
  checkHeadDim(op, headDim);
  for (const [name, each] of Object.entries({ 'cache.keys': keys, 'cache.values': values }))
    checkTensor(op, name, each, CACHE_DTYPES);
  const rows = pages ? ['pages', 'size'] : [batch, 'Sk'];
  checkShape(op, 'cache.keys', keys, [...rows, 'G', headDim], `to match q ${showShape(q.shape)}`);
  checkShape(op, 'cache.values', values, keys.shape, 'to match cache.keys');
  checkTogether(op, { 'cache.keys': keys, 'cache.values': values });
  const isInt8 = keys.dtype === 'int8';
  for (const [name, scales] of Object.entries({ keyScales, valueScales })) {
    if (isInt8 !== (scales !== undefined))
      throw new OptionError(
        `${op}: expected ${isInt8 ? '' : 'no '}cache.${name} for a cache of ${keys.dtype}, got ${scales ? 'some' : 'none'}`,
      );
    if (!scales) continue;
    checkTensor(op, `cache.${name}`, scales, ['float32']);
    checkShape(op, `cache.${name}`, scales, keys.shape.slice(0, 3), 'to match cache.keys');
  }
  const integers = { 'cache.pages': [pages, [batch, 'P']], 'cache.lengths': [lengths, [batch]] } as const;
  for (const [name, [given, shape]] of Object.entries(integers)) {
    if (!given) continue;
    checkTensor(op, name, given, ['int32']);
    checkShape(op, name, given, shape, 'to match q');
  }
  const all = { q, 'cache.keys': keys, 'cache.values': values, keyScales, valueScales, pages, lengths };
  const device = checkTogether(op, all, false);
  const [count, size, keyHeads] = keys.shape;
  if (pages && size % PAGE_STEP !== 0)
    throw new ShapeError(`${op}: expected pages of a multiple of ${PAGE_STEP} tokens, got ${size}`);
  return {
    device,
    capacity: pages ? pages.shape[1] * size : size,
    keyHeads,
    pages: pages ? { table: pages.arg, perEntry: pages.shape[1], size, count } : null,
    keyScales: keyScales?.arg ?? null,
    valueScales: valueScales?.arg ?? null,
  };
}

const CACHE_DTYPES = [...FLOAT_DTYPES, 'int8'] as const;
