// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { AttentionShape } from '../backend.js';
import { remember } from '../autograd/remember.js';
import { record } from '../autograd/tape.js';
import {
  checkBoolean,
  checkFloat,
  checkInteger,
  checkOptions,
  checkPositive,
  checkShape,
  checkTogether,
  showShape,
} from '../check.js';
import { OptionError, ShapeError } from '../errors.js';
import { empty, workspace, type Tensor } from '../tensor.js';

/** Options of {@link flashAttention}. */
export interface FlashAttentionOptions {
  /** Query i sees keys j ≤ i + Sk − Sq only (bottom-right aligned, so that the last query sees all keys). Default false. */
  causal?: boolean;
  /**
   * `[left, right]`: query i sees keys from i + Sk − Sq − left to i + Sk − Sq + right; −1 is unlimited. With `causal`, right counts as 0.
   * Default [-1, -1].
   */
  window?: readonly [number, number];
  /** Factor of the scores. Default 1/√D. */
  scale?: number;
  /** Also give the log of the sum of exponentials of each query's scores. Default false. */
  returnLse?: boolean;
}

const MAX_HEAD_DIM = 256;

/** The checks shared with attention over a cache: k and v are [B, capacity, G, D]. */
function attentionShape(
  op: string,
  q: Tensor,
  k: Tensor,
  options: FlashAttentionOptions,
  keys: number,
): AttentionShape {
  const [batch, queries, heads, headDim] = q.shape;
  const keyHeads = k.shape[2];
  if (heads % keyHeads !== 0) {
    throw new ShapeError(
      `${op}: expected a number of key heads that divides the ${heads} query heads, got ${keyHeads}`,
    );
  }
  const causal = checkBoolean(op, 'causal', options.causal ?? false);
  const window = options.window ?? [-1, -1];
  if (!Array.isArray(window) || window.length !== 2) {
    throw new OptionError(`${op}: expected [left, right] for window, got ${JSON.stringify(window)}`);
  }
  const windowLeft = checkInteger(op, 'window[0]', window[0] as number, -1, 2 ** 31 - 1);
  const windowRight = checkInteger(op, 'window[1]', window[1] as number, -1, 2 ** 31 - 1);
  return {
    batch,
    queries,
    keys,
    heads,
    keyHeads,
    headDim,
    keyCapacity: k.shape[1],
    scale: checkPositive(op, 'scale', options.scale ?? 1 / Math.sqrt(headDim)),
    windowLeft,
    windowRight: causal ? 0 : windowRight,
  };
}

function checkQueryKeyValue(
  op: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  keyName: string,
  valueName: string,
): Tensor['device'] {
  checkFloat(op, 'q', q);
  checkFloat(op, keyName, k);
  checkFloat(op, valueName, v);
  checkShape(op, 'q', q, ['B', 'Sq', 'H', 'D']);
  const [batch, , , headDim] = q.shape;
  if (headDim > MAX_HEAD_DIM)
    throw new ShapeError(`${op}: expected a head dim of 1 to ${MAX_HEAD_DIM}, got ${headDim}`);
  checkShape(op, keyName, k, [batch, 'Sk', 'G', headDim], `to match q ${showShape(q.shape)}`);
  checkShape(op, valueName, v, k.shape, `to match ${keyName}`);
  return checkTogether(op, { q, [keyName]: k, [valueName]: v });
}

/**
 * softmax(scale · q kᵀ + mask) v, tiled so that no Sq × Sk matrix is ever held, forward or backward (Dao, "FlashAttention-2", 2023). A query
 * that sees no key gives output 0, lse −Infinity and zero gradients. Bit-equal on repeated runs.
 *
 * @param q [B, Sq, H, D], float dtype, D from 1 to 256.
 * @param k [B, Sk, G, D], same dtype. G divides H; query head h reads key head ⌊h·G/H⌋.
 * @param v [B, Sk, G, D], same dtype.
 * @returns out [B, Sq, H, D], or with `returnLse` also lse, float32 [B, H, Sq] (natural log); gradients flow through both.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: FlashAttentionOptions & { returnLse?: false },
): Tensor;
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: FlashAttentionOptions & { returnLse: true },
): { out: Tensor; lse: Tensor };
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: FlashAttentionOptions,
): Tensor | { out: Tensor; lse: Tensor };
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: FlashAttentionOptions = {},
): Tensor | { out: Tensor; lse: Tensor } {
  const op = 'flashAttention';
  const device = checkQueryKeyValue(op, q, k, v, 'k', 'v');
  checkOptions(op, options, ['causal', 'window', 'scale', 'returnLse']);
  const returnLse = checkBoolean(op, 'returnLse', options.returnLse ?? false);
  const shape = attentionShape(op, q, k, options, k.shape[1]);
  const { batch, heads, queries } = shape;
  const [out, lse] = remember(op, [q, k, v], shape, () => {
    const result = empty(op, q.shape, q.dtype, device);
    const rowLse = (returnLse ? empty : workspace)(op, [batch, heads, queries], 'float32', device);
    device.backend.flashAttention({ ...shape, q: q.arg, k: k.arg, v: v.arg, out: result.arg, lse: rowLse.arg });
    return [result, rowLse];
  });

  record(
    op,
    [q, k, v],
    returnLse ? [out, lse] : out,
    [q, k, v, out, lse],
    ([dOut, dLse], [query, key, value, result, rowLse]) => {
      const dQ = empty(op, query.shape, query.dtype, device);
      const dK = empty(op, key.shape, key.dtype, device);
      const dV = empty(op, value.shape, value.dtype, device);
      const delta = empty(op, rowLse.shape, 'float32', device);
      let incoming = dOut;
      if (!incoming) {
        incoming = empty(op, result.shape, result.dtype, device);
        device.backend.fill({ out: incoming.arg, value: 0 });
      }
      device.backend.flashAttentionBackward({
        ...shape,
        q: query.arg,
        k: key.arg,
        v: value.arg,
        out: result.arg,
        lse: rowLse.arg,
        dOut: incoming.arg,
        dLse: dLse ? dLse.arg : null,
        dQ: dQ.arg,
        dK: dK.arg,
        dV: dV.arg,
        delta: delta.arg,
      });
      return [dQ, dK, dV];
    },
  );
  if (returnLse) return { out, lse };
  lse.dispose();
  return out;
}

/** The keys and values of the tokens seen so far, for decoding. */
export interface KvCache {
  /** [B, capacity, G, D] */
  readonly keys: Tensor;
  /** [B, capacity, G, D] */
  readonly values: Tensor;
  /** Tokens held; they fill rows 0..length-1 of each batch entry. */
  length: number;
}

/**
 * Attention of new tokens over a cache: appends `newK` and `newV` to the cache, then lets `q` attend to all tokens it holds. In place on the
 * cache; carries no gradient.
 *
 * @param q [B, Sq, H, D], float dtype.
 * @param cache keys and values [B, capacity, G, D] of the same dtype; `length` grows by the number of new tokens.
 * @param options `newK`, `newV`: [B, S, G, D], appended first; both or neither. `causal`: default true. `window`, `scale`: as for
 * {@link flashAttention}.
 * @returns [B, Sq, H, D].
 * @throws ShapeError if the new tokens do not fit into the cache or it is empty; otherwise as {@link flashAttention}. The cache is then
 * unchanged.
 */
export function flashAttentionWithKvCache(
  q: Tensor,
  cache: KvCache,
  options: Omit<FlashAttentionOptions, 'returnLse'> & { newK?: Tensor; newV?: Tensor } = {},
): Tensor {
  const op = 'flashAttentionWithKvCache';
  const device = checkQueryKeyValue(op, q, cache.keys, cache.values, 'cache.keys', 'cache.values');
  checkOptions(op, options, ['newK', 'newV', 'causal', 'window', 'scale']);
  const [batch, capacity, keyHeads, headDim] = cache.keys.shape;
  const { newK, newV } = options;
  if ((newK === undefined) !== (newV === undefined))
    throw new OptionError(`${op}: expected both newK and newV or neither, got one`);
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
  const shape = attentionShape(op, q, cache.keys, { ...options, causal: options.causal ?? true }, length);
  const out = empty(op, q.shape, q.dtype, device);
  const lse = workspace(op, [batch, shape.heads, shape.queries], 'float32', device);
  if (newK && newV) {
    const rows = { batch, rows: newK.shape[1], rowSize: keyHeads * headDim, capacity, position: cache.length };
    device.backend.kvCacheAppend({ ...rows, x: newK.arg, cache: cache.keys.arg });
    device.backend.kvCacheAppend({ ...rows, x: newV.arg, cache: cache.values.arg });
    cache.length = length;
  }
  device.backend.flashAttention({
    ...shape,
    q: q.arg,
    k: cache.keys.arg,
    v: cache.values.arg,
    out: out.arg,
    lse: lse.arg,
  });
  lse.dispose();
  return out;
}
