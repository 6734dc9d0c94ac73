// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { refuseInCapture } from '../capturing.js';
import { checkFloat, checkInteger, checkOptions, checkShape, checkTogether } from '../check.js';
import { OptionError, ShapeError } from '../errors.js';
import { tidy } from '../scope.js';
import { empty, type Tensor } from '../tensor.js';
import { ATTENTION_OPTIONS, checkAttention, checkQueryKeyValue, type AttentionOptions } from './attention-options.js';

/** The keys and values of the tokens seen so far, for decoding. */
export interface KvCache {
  /** [B, capacity, G, D] */
  readonly keys: Tensor;
  /** [B, capacity, G, D] */
  readonly values: Tensor;
  /** Tokens held; they fill rows 0..length-1 of each batch entry. */
  length: number;
}

/** Options of {@link flashAttentionWithKvCache}. */
export interface KvCacheAttentionOptions extends AttentionOptions {
  /** [B, S, G, D], appended to the cache first; both or neither. Default none. */
  newK?: Tensor;
  /** Of the same shape and dtype as `newK`. */
  newV?: Tensor;
}

/**
 * Attention of new tokens over a cache: appends `newK` and `newV` to the cache, then lets `q` attend to all tokens it holds. In place on the
 * cache; carries no gradient.
 *
 * @param q [B, Sq, H, D], float dtype.
 * @param cache keys and values [B, capacity, G, D] of the same dtype; `length` grows by the number of new tokens and is then Sk.
 * @param options `newK`, `newV`: the new tokens. `causal`: default true. The others as for {@link flashAttention}.
 * @returns [B, Sq, H, D].
 * @throws ShapeError if the new tokens do not fit into the cache or it is empty; CaptureError for new tokens inside {@link capture}, as `length`
 * would not grow with the replays; otherwise as {@link flashAttention}. The cache is then unchanged.
 */
export function flashAttentionWithKvCache(q: Tensor, cache: KvCache, options: KvCacheAttentionOptions = {}): Tensor {
  const op = 'flashAttentionWithKvCache';
  const tensors = { q, 'cache.keys': cache.keys, 'cache.values': cache.values };
  const device = checkQueryKeyValue(op, tensors, ['B', 'Sq', 'H', 'D'], ({ shape }) => [shape[0], 'Sk', 'G', shape[3]]);
  checkOptions(op, options, ['newK', 'newV', ...ATTENTION_OPTIONS]);
  const [batch, capacity, keyHeads, headDim] = cache.keys.shape;
  const { newK, newV } = options;
  if ((newK === undefined) !== (newV === undefined))
    throw new OptionError(`${op}: expected both newK and newV or neither, got one`);
  if (newK) refuseInCapture(op, 'count', device);
  let length = checkInteger(op, 'cache.length', cache.length, 0, capacity);
  if (newK && newV) {
    checkFloat(op, 'newK', newK);
    checkFloat(op, 'newV', newV);
    checkShape(op, 'newK', newK, [batch, 'S', keyHeads, headDim], 'to match the cache');
    checkShape(op, 'newV', newV, newK.shape, 'to match newK');
    checkTogether(op, { q, newK, newV });
    length += newK.shape[1];
    if (length > capacity)
      throw new ShapeError(`${op}: expected at most ${capacity} tokens in the cache, got ${length}`);
  }
  if (length === 0) throw new ShapeError(`${op}: expected a cache of at least one token, got an empty one`);
  const [, queries, heads] = q.shape;
  const sizes = { batch, queries, keys: length, heads, keyHeads, headDim, keyCapacity: capacity };
  const { shape, alibiSlopes, sinks } = checkAttention(op, q, sizes, { ...options, causal: options.causal ?? true });
  return tidy(() => {
    const out = empty(op, q.shape, q.dtype, device);
    const lse = empty(op, [batch, heads, queries], 'float32', device);
    if (newK && newV) {
      const rows = { batch, rows: newK.shape[1], rowSize: keyHeads * headDim, capacity, position: cache.length };
      device.backend.kvCacheAppend({ ...rows, x: newK.arg, cache: cache.keys.arg });
      device.backend.kvCacheAppend({ ...rows, x: newV.arg, cache: cache.values.arg });
      cache.length = length;
    }
    device.backend.flashAttention({
      ...shape,
      packed: null,
      alibiSlopes: alibiSlopes && alibiSlopes.arg,
      sinks: sinks && sinks.arg,
      dropout: { threshold: 0, seed: 0, offset: 0 },
      q: q.arg,
      k: cache.keys.arg,
      v: cache.values.arg,
      out: out.arg,
      lse: lse.arg,
    });
    return out;
  });
}
