// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { refuseInCapture } from '../capturing.js';
import { checkFloat, checkInteger, checkOptions, checkShape, checkTensor, checkTogether } from '../check.js';
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
 * @param cache keys and values [B, capacity, G, D] of the same dtype; `length` grows by the number of new tokens and is then Sk. With `lengths`,
 * the Sk of an entry is its length and the number of new tokens.
 * @param options `newK`, `newV`: the new tokens. `causal`: default true. The others as for {@link flashAttention}.
 * @returns [B, Sq, H, D].
 * @throws ShapeError if the new tokens do not fit into the cache or it is empty; CaptureError for new tokens inside {@link capture} without
 * `lengths`, as `length` would not grow with the replays; otherwise as {@link flashAttention}. The cache is then unchanged.
 */
export function flashAttentionWithKvCache(q: Tensor, cache: KvCache, options: KvCacheAttentionOptions = {}): Tensor {
  const op = 'flashAttentionWithKvCache';
  const tensors = { q, 'cache.keys': cache.keys, 'cache.values': cache.values };
  const device = checkQueryKeyValue(op, tensors, ['B', 'Sq', 'H', 'D'], ({ shape }) => [shape[0], 'Sk', 'G', shape[3]]);
  checkOptions(op, options, ['newK', 'newV', ...ATTENTION_OPTIONS]);
  const [batch, capacity, keyHeads, headDim] = cache.keys.shape;
  const { newK, newV } = options;
  const lengths = cache.lengths ?? null;
  if ((newK === undefined) !== (newV === undefined))
    throw new OptionError(`${op}: expected both newK and newV or neither, got one`);
  if (lengths) {
    checkTensor(op, 'cache.lengths', lengths, ['int32']);
    checkShape(op, 'cache.lengths', lengths, [batch], 'to match the cache');
    checkTogether(op, { q, 'cache.lengths': lengths }, false);
  } else if (newK) refuseInCapture(op, 'count', device);
  const held = lengths ? 0 : checkInteger(op, 'cache.length', cache.length, 0, capacity);
  const added = newK ? newK.shape[1] : 0;
  if (newK && newV) {
    checkFloat(op, 'newK', newK);
    checkFloat(op, 'newV', newV);
    checkShape(op, 'newK', newK, [batch, 'S', keyHeads, headDim], 'to match the cache');
    checkShape(op, 'newV', newV, newK.shape, 'to match newK');
    checkTogether(op, { q, newK, newV });
    if (held + added > capacity)
      throw new ShapeError(`${op}: expected at most ${capacity} tokens in the cache, got ${held + added}`);
  }
  if (!lengths && held + added === 0)
    throw new ShapeError(`${op}: expected a cache of at least one token, got an empty one`);
  const [, queries, heads] = q.shape;
  const keys = lengths ? capacity : held + added;
  const sizes = { batch, queries, keys, heads, keyHeads, headDim, keyCapacity: capacity };
  const { shape, alibiSlopes, sinks } = checkAttention(op, q, sizes, { ...options, causal: options.causal ?? true });
  return tidy(() => {
    const out = empty(op, q.shape, q.dtype, device);
    const lse = empty(op, [batch, heads, queries], 'float32', device);
    if (newK && newV) {
      const position = lengths ? lengths.arg : held;
      const rows = { batch, rows: added, rowSize: keyHeads * headDim, capacity, position };
      device.backend.kvCacheAppend({ ...rows, x: newK.arg, cache: cache.keys.arg });
      device.backend.kvCacheAppend({ ...rows, x: newV.arg, cache: cache.values.arg });
      if (!lengths) cache.length = held + added;
    }
    device.backend.flashAttention({
      ...shape,
      packed: null,
      keyLengths: lengths && { held: lengths.arg, added },
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
