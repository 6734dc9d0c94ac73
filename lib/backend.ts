// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { DType } from './dtype.js';

/**
 * The contract between the library and whoever computes. Three satisfy it: `reference` (lib/reference), `cpu` and
 * `cuda` (the addon; binding/ops.h states the same structs in C++). Every argument has been validated by lib/ops when a
 * method is called; outputs are allocated by the caller and are written whole, whatever they held before.
 *
 * Letters: B batch, S sequence (Sq queries, Sk keys), H query heads, G key/value heads, D head dim, M tokens,
 * N output features, K input features, V vocabulary.
 */

/** A backend's own name for a block of device memory. Opaque to everyone else. */
export type BufferHandle = unknown;

/** A backend's own name for a block of host memory that device memory was moved to. */
export type HostHandle = unknown;

/** A backend's own name for ops that were captured. */
export type GraphHandle = unknown;

/** A backend's own name for a moment in the order of its stream. */
export type MomentHandle = unknown;

/** A block on its way to another thread, in a form that `postMessage` takes. An ArrayBuffer has to be in the transfer list. */
export type Parcel = string | ArrayBuffer;

/** A dense row-major block of `length` elements; its shape is in the comment beside each use. */
export interface TensorArg {
  readonly buffer: BufferHandle;
  readonly dtype: DType;
  readonly length: number;
}

/**
 * Random dropping of elements. Each element has a 16-bit number from Philox 4x32-10 keyed by `seed` (lib/random.ts); it is dropped if that
 * number is below `threshold`, else multiplied by 65536 / (65536 - threshold). The op says which number is whose; its blocks begin at
 * counter `offset`. A word of a block holds two numbers, the low half first.
 */
export interface DropoutMask {
  /** 0 (nothing is dropped) to 65535 */
  threshold: number;
  seed: number;
  offset: number;
}

export interface DropoutParams extends DropoutMask {
  /** Any length. Element e has number e % 8 of block offset + floor(e / 8): word (e % 8) >> 1, half e & 1. */
  x: TensorArg;
  /**
   * Same dtype and length: 0 where dropped, even if x is NaN; else fround(x * fround(65536 / (65536 - threshold))), rounded to the dtype.
   * May be the buffer of x.
   */
  out: TensorArg;
}

export interface FillParams {
  out: TensorArg;
  value: number;
}

export interface CastParams {
  x: TensorArg;
  /** Same length as x, any dtype; float to integer truncates and saturates, NaN gives 0. */
  out: TensorArg;
}

export interface TransposeParams {
  x: TensorArg;
  /** Same dtype and length as x. */
  out: TensorArg;
  /** The shape of out. */
  shape: number[];
  /** Per axis of out, the stride in x, in elements. */
  strides: number[];
}

export interface BinaryParams {
  kind: 'add' | 'mul';
  a: TensorArg;
  b: TensorArg;
  /** [shape], same dtype as a and b. May be the very buffer of a or b if that one is not broadcast. */
  out: TensorArg;
  shape: number[];
  /** Strides of a and b over shape, in elements; 0 where broadcast. */
  aStrides: number[];
  bStrides: number[];
}

export interface ScaleParams {
  x: TensorArg;
  /** x * factor * (factorTensor ? factorTensor[0] : 1). May be the buffer of x. */
  out: TensorArg;
  factor: number;
  /** float32 [1] */
  factorTensor: TensorArg | null;
}

export interface SumParams {
  /** [outer, reduce, inner] */
  x: TensorArg;
  /** [outer, inner], same dtype as x: factor * the sum over reduce. */
  out: TensorArg;
  outer: number;
  reduce: number;
  inner: number;
  factor: number;
}

export interface SoftmaxParams {
  /** [rows, cols] */
  x: TensorArg;
  out: TensorArg;
  rows: number;
  cols: number;
}

export interface SoftmaxBackwardParams {
  /** The result of the forward pass, [rows, cols]. */
  out: TensorArg;
  dOut: TensorArg;
  dX: TensorArg;
  rows: number;
  cols: number;
}

export interface ArgmaxParams {
  /** [rows, cols] */
  x: TensorArg;
  /** int32 [rows]: the first index of the largest value; a NaN counts as the largest. */
  out: TensorArg;
  rows: number;
  cols: number;
}

export interface MatmulParams {
  /** [m, k], or [k, m] if transposeA */
  a: TensorArg;
  /** [k, n], or [n, k] if transposeB */
  b: TensorArg;
  /** [n] or null, added to every row */
  bias: TensorArg | null;
  /** [m, n]. k may be 0: then out is the bias or 0. */
  out: TensorArg;
  m: number;
  n: number;
  k: number;
  transposeA: boolean;
  transposeB: boolean;
}

export interface EmbeddingParams {
  /** [V, K] */
  weight: TensorArg;
  /** int32 [M]; an id outside 0..V-1 is a kernel error */
  ids: TensorArg;
  /** [M, K] */
  out: TensorArg;
  rows: number;
  cols: number;
  vocabulary: number;
}

export interface EmbeddingBackwardParams {
  /** [M, K] */
  dOut: TensorArg;
  /** int32 [M]; an id outside 0..V-1 is a kernel error */
  ids: TensorArg;
  /** [V, K]; rows that no id names get 0 */
  dWeight: TensorArg;
  rows: number;
  cols: number;
  vocabulary: number;
}

export interface RmsNormParams {
  /** [M, K] */
  x: TensorArg;
  /** [M, K] or null. With it, `sum` takes the place of x below. */
  residual: TensorArg | null;
  /** [M, K] = x + residual, rounded to the dtype; null exactly if residual is */
  sum: TensorArg | null;
  /** [K] or null for all ones */
  weight: TensorArg | null;
  /** [M, K] = x / sqrt(mean(x^2) + eps) * weight */
  out: TensorArg;
  /** float32 [M]: 1 / sqrt(mean(x^2) + eps) */
  rstd: TensorArg;
  rows: number;
  cols: number;
  eps: number;
}

export interface RmsNormBackwardParams {
  dOut: TensorArg;
  /** [M, K] or null: gradient of the forward pass's `sum`, added to dX */
  dSum: TensorArg | null;
  /** What was normalised: x, or `sum` if there was a residual */
  x: TensorArg;
  weight: TensorArg | null;
  rstd: TensorArg;
  /** [M, K]: gradient of what was normalised, so of x and of the residual */
  dX: TensorArg;
  /** [K], null exactly if weight is null */
  dWeight: TensorArg | null;
  rows: number;
  cols: number;
}

export interface LayerNormParams {
  /** [M, K] */
  x: TensorArg;
  /** [M, K] or null. With it, `sum` takes the place of x below. */
  residual: TensorArg | null;
  /** [M, K] = x + residual, rounded to the dtype; null exactly if residual is */
  sum: TensorArg | null;
  /** [K] or null for all ones */
  weight: TensorArg | null;
  /** [K] or null for all zeros */
  bias: TensorArg | null;
  /** [M, K] = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias */
  out: TensorArg;
  /** float32 [M]: mean(x) */
  mean: TensorArg;
  /** float32 [M]: 1 / sqrt(mean((x - mean(x))^2) + eps). The variance keeps its digits where the mean is large against it. */
  rstd: TensorArg;
  rows: number;
  cols: number;
  eps: number;
}

export interface LayerNormBackwardParams {
  dOut: TensorArg;
  /** [M, K] or null: gradient of the forward pass's `sum`, added to dX */
  dSum: TensorArg | null;
  /** What was normalised: x, or `sum` if there was a residual */
  x: TensorArg;
  weight: TensorArg | null;
  mean: TensorArg;
  rstd: TensorArg;
  /** [M, K]: gradient of what was normalised, so of x and of the residual */
  dX: TensorArg;
  /** [K], null exactly if weight is null */
  dWeight: TensorArg | null;
  /** [K], null exactly if the forward pass had no bias */
  dBias: TensorArg | null;
  rows: number;
  cols: number;
}

export interface RopeParams {
  /** [tokens, heads, headDim] */
  x: TensorArg;
  /** int32 [tokens] */
  positions: TensorArg;
  out: TensorArg;
  tokens: number;
  heads: number;
  headDim: number;
  /**
   * Angle per position of each rotated pair, rotaryDim / 2 numbers in float64. Pair p rotates by positions[t] *
   * frequencies[p]; the features beyond rotaryDim are copied.
   */
  frequencies: number[];
  /** Pairs are (2p, 2p+1) if true, else (p, p + rotaryDim/2). */
  interleaved: boolean;
  /** Rotate the other way: the gradient. */
  inverse: boolean;
}

/**
 * f(gate) * up with f = silu (swiglu), relu squared (relu2Glu), gelu (geglu: x Phi(x), Phi the normal distribution function) or its approximation
 * 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (gegluTanh).
 */
export type GatedActivationKind = 'swiglu' | 'relu2Glu' | 'geglu' | 'gegluTanh';

export interface GatedActivationParams {
  kind: GatedActivationKind;
  gate: TensorArg;
  up: TensorArg;
  out: TensorArg;
}

export interface GatedActivationBackwardParams {
  kind: GatedActivationKind;
  dOut: TensorArg;
  gate: TensorArg;
  up: TensorArg;
  dGate: TensorArg;
  dUp: TensorArg;
}

/**
 * What a row of logits costs. With z = softcap * tanh(logits / softcap), or z = logits if softcap is 0, and lse = log(sum(exp(z))):
 * (1 - labelSmoothing) * (lse - z[target]) + labelSmoothing * (lse - mean(z)) + zLoss * lse^2; a term whose factor is 0 is left out. A row
 * with target ignoreIndex costs 0.
 */
export interface CrossEntropyRule {
  ignoreIndex: number;
  reduction: 'mean' | 'sum' | 'none';
  /** 0 to 1 */
  labelSmoothing: number;
  /** At least 0. */
  zLoss: number;
  /** At least 0. */
  softcap: number;
}

export interface CrossEntropyParams extends CrossEntropyRule {
  /** [M, V] */
  logits: TensorArg;
  /** int32 [M]; equal to ignoreIndex or in 0..V-1, anything else is a kernel error */
  targets: TensorArg;
  /** float32 [1]: sum of the rows' losses, divided by count if the reduction is mean, 0 if every row is ignored; or [M], each row's own */
  loss: TensorArg;
  /** float32 [1]: rows that are not ignored */
  count: TensorArg;
  /** float32 [M, 2]: the largest z of the row and sum(exp(z - largest)), not their lse, which rounds if it is large; ignored rows: 0, 0 */
  statistics: TensorArg;
  rows: number;
  cols: number;
}

export interface CrossEntropyBackwardParams extends CrossEntropyRule {
  logits: TensorArg;
  /** as for the forward pass, a kernel error included */
  targets: TensorArg;
  count: TensorArg;
  statistics: TensorArg;
  /** float32 [1], or [M] without a reduction */
  dLoss: TensorArg;
  /** [M, V]; 0 in ignored rows */
  dLogits: TensorArg;
  rows: number;
  cols: number;
}

/**
 * The loss of logits = x weight^T + bias, which are never there whole: at most blockRows x blockCols of them are held at a time, in float32.
 */
export interface LinearCrossEntropyShape {
  /** M */
  rows: number;
  /** V */
  vocabulary: number;
  /** K */
  features: number;
  blockRows: number;
  blockCols: number;
}

export interface LinearCrossEntropyParams extends CrossEntropyRule, LinearCrossEntropyShape {
  /** [M, K] */
  x: TensorArg;
  /** [V, K] */
  weight: TensorArg;
  /** [V] or null */
  bias: TensorArg | null;
  /** int32 [M]; equal to ignoreIndex or in 0..V-1, anything else is a kernel error */
  targets: TensorArg;
  /** loss, count and statistics are as for {@link CrossEntropyParams} */
  loss: TensorArg;
  count: TensorArg;
  statistics: TensorArg;
  /** float32 [blockRows * (blockCols + 8)]: 32 bytes about each row of a block, and its logits */
  workspace: TensorArg;
}

export interface LinearCrossEntropyBackwardParams extends CrossEntropyRule, LinearCrossEntropyShape {
  x: TensorArg;
  weight: TensorArg;
  bias: TensorArg | null;
  /** as for the forward pass, a kernel error included */
  targets: TensorArg;
  count: TensorArg;
  statistics: TensorArg;
  /** float32 [1], or [M] without a reduction */
  dLoss: TensorArg;
  /** [M, K] or null if not wanted */
  dX: TensorArg | null;
  /** [V, K] or null if not wanted */
  dWeight: TensorArg | null;
  /** [V] or null if not wanted */
  dBias: TensorArg | null;
  workspace: TensorArg;
  /** float32 [M, K], workspace: where dX is summed over blocks of columns. Null if it is float32 itself or there is one such block. */
  dXSum: TensorArg | null;
  /** float32 [blockCols, K], workspace: where dWeight is summed over blocks of rows. Null if it is float32 itself or there is one such block. */
  dWeightSum: TensorArg | null;
  /** float32 [blockCols], workspace: the same for dBias */
  dBiasSum: TensorArg | null;
}

/** How thresholds and scales of trits are found: see quantizeTernary. */
export type TernaryMethod = 'absmean' | 'twn' | 'percentile' | 'meanStd' | 'threshold';

/**
 * Ternary codes are packed four to a byte along K: byte [n, k >> 2] holds trit + 1 of feature k in bits 2 * (k & 3);
 * a row takes ceil(K / 4) bytes and the unused bits of its last byte hold code 1 (trit 0).
 */
export interface QuantizeTernaryParams {
  /** [N, K] */
  weight: TensorArg;
  /** uint8 [N, ceil(K/4)] */
  packed: TensorArg;
  /** float32 [1] or [N]. The n weights that share a scale, the whole matrix or a row, are a group; each is rounded by itself. */
  scale: TensorArg;
  /**
   * With a = |W| and float64 operations as written, only where fround is named rounded to float32:
   *
   * absmean: scale = fround(max(sum(a) / n, 1e-5)), trit = clip(roundHalfEven(fround(W * fround(1 / scale))), -1, 1).
   *
   * The others: trit = 1 if W > d, -1 if W < -d, else 0; scale = fround(sum of the a > d / their number), 1 if there are none. d is fround of
   * - twn: 0.7 * (sum(a) / n)
   * - percentile: the a of index floor(parameter / 100 * (n - 1)) in ascending order
   * - meanStd: max(m + parameter * sqrt(sum((a - m) * (a - m)) / n), 0), m = sum(a) / n
   * - threshold: parameter
   *
   * With these, if one of the group is NaN or infinite, all its trits are 0 and its scale is NaN.
   *
   * So that every backend gets the same bits, a sum is taken in float64 in one fixed order: over the index in the group, chunks of 4096;
   * within a chunk 16 lanes, lane l adding the elements whose index in the chunk is l mod 16 in ascending order; the lanes added 0..15 to
   * the chunk's sum, the chunks' sums added in ascending order.
   */
  method: TernaryMethod;
  /** percentile: from 0 to 100; meanStd: any; threshold: not negative; 0 for the others */
  parameter: number;
  rows: number;
  cols: number;
}

export interface DequantizeTernaryParams {
  packed: TensorArg;
  /** float32 [1] or [N] */
  scale: TensorArg;
  /** [N, K] = trit * scale */
  out: TensorArg;
  rows: number;
  cols: number;
}

export interface QuantizeActivationsParams {
  /** [M, K] */
  x: TensorArg;
  /**
   * int8 [M, K rounded up to 64]: clip(roundHalfEven(fround(x * s)), -128, 127), in an order of the backend's own, which its other ops know
   */
  codes: TensorArg;
  /** float32 [M]: s = fround(127 / max(max|x|, fround(1e-5))) */
  scales: TensorArg;
  rows: number;
  cols: number;
}

/** A ternary weight and what is made with it. */
export interface TernaryProductArg {
  /** uint8 [N, ceil(K/4)] */
  packed: TensorArg;
  /** float32 [1] or [N] */
  weightScale: TensorArg;
  /** [N], dtype of out, or null */
  bias: TensorArg | null;
  /**
   * [M, N]. acc = sum_k codes * trits exactly in int32, 0 for a row whose weightScale is 0; y = fround(fround(acc) * fround(weightScale / activationScale)); then, with a
   * bias, fround(y + bias); rounded to out's dtype.
   */
  out: TensorArg;
  n: number;
}

export interface TernaryMatmulInt8Params extends TernaryProductArg {
  /** as quantizeActivations gave them */
  codes: TensorArg;
  /** float32 [M] */
  activationScales: TensorArg;
  m: number;
  k: number;
  /** Further products with the same codes, whose outputs have the same dtype. */
  also?: readonly TernaryProductArg[];
}

export interface TernaryMatmulParams {
  /** [M, K] float */
  x: TensorArg;
  packed: TensorArg;
  weightScale: TensorArg;
  bias: TensorArg | null;
  /** [M, N] = x (trits * weightScale)^T + bias */
  out: TensorArg;
  m: number;
  n: number;
  k: number;
}

export interface TernaryMatmulBackwardParams {
  /** [M, N] */
  dOut: TensorArg;
  packed: TensorArg;
  weightScale: TensorArg;
  /** [M, K] = dOut (trits * weightScale) */
  dX: TensorArg;
  m: number;
  n: number;
  k: number;
}

export interface BitLinearWeightBackwardParams {
  /** [M, N] */
  dOut: TensorArg;
  /** as quantizeActivations gave them */
  codes: TensorArg;
  /** float32 [M] */
  activationScales: TensorArg;
  /** [N, K] = dOut^T (codes / activationScales) */
  dWeight: TensorArg;
  m: number;
  n: number;
  k: number;
}

/** Where the tokens of a cache are that is made of pages, which its batch entries share. */
export interface KeyPages {
  /** int32 [B, perEntry]: the page with tokens p * size to (p + 1) * size - 1 of the entry, or -1 for none. Another number fails the op. */
  table: TensorArg;
  perEntry: number;
  /** Tokens of a page, a multiple of 16. */
  size: number;
  /** Pages there are: the cache is [count, size, G, D]. */
  count: number;
}

export interface AttentionShape {
  batch: number;
  /** Of each batch entry; of the longest where lengths differ (`packed`). */
  queries: number;
  keys: number;
  heads: number;
  keyHeads: number;
  headDim: number;
  /** Rows of k and v per batch entry: k and v are [B, keyCapacity, G, D] of which the first `keys` are used. Unused with `packed`. */
  keyCapacity: number;
  /**
   * Sequences of different lengths end to end, or null. Then [B, Sq, …] and [B, Sk, …] stand for [totalQueries, …] and [totalKeys, …],
   * [B, H, Sq] stands for [H, totalQueries], and entry b has queries cuSeqlens[0][b] to cuSeqlens[0][b + 1] - 1 and keys cuSeqlens[1][b] to
   * cuSeqlens[1][b + 1] - 1, either of which may be none; Sq, Sk, i and j below are the entry's own. cuSeqlens: int32 [2, B + 1].
   */
  packed: { cuSeqlens: TensorArg; totalQueries: number; totalKeys: number } | null;
  /**
   * Null, or how many of its keyCapacity rows each batch entry uses, known on the device only: held[b] + added, Sk below; `keys` is the most
   * there may be. held: int32 [B]. Not with `packed`, and not in a backward pass. An entry outside 0..keys fails the op.
   */
  keyLengths: { held: TensorArg; added: number } | null;
  /**
   * Null, or k and v are pages and keyCapacity is perEntry * size. Of a page that is none any finite row may be taken. Not with `packed`, and not in a
   * backward pass.
   */
  pages: KeyPages | null;
  /** s = scale * q.k */
  scale: number;
  /** If not 0, s becomes softcap * tanh(s / softcap). */
  softcap: number;
  /** float32 [H], or [B, H] if `alibiPerBatch`, or null. s then loses slope * |diagonal - j|. */
  alibiSlopes: TensorArg | null;
  alibiPerBatch: boolean;
  /** The diagonal, the key beside query i, is i if true, else i + Sk - Sq. */
  topLeft: boolean;
  /** Query i sees keys j with diagonal - windowLeft <= j <= diagonal + windowRight; -1 is unlimited. Causal is windowRight 0. */
  windowLeft: number;
  windowRight: number;
  /** [H], float32 or the dtype of q, or null: one more score in the softmax of every query of the head, which brings no value. */
  sinks: TensorArg | null;
  /**
   * Drops probabilities: out = sum of dropped(p) v, with p and lse as without. The number of (row, j), row being the query's place in lse, is in
   * block offset + (row * ceil(keys / 32) + floor(j / 32)) * 4 + floor((j % 8) / 2), word floor((j % 32) / 8), half j % 2; `keys` as above, so of the
   * longest. Threshold 0 for none.
   */
  dropout: DropoutMask;
}

export interface FlashAttentionParams extends AttentionShape {
  /** [B, Sq, H, D] */
  q: TensorArg;
  /** Of the dtype of q, or k and v together of another float dtype, or int8 */
  k: TensorArg;
  v: TensorArg;
  /** float32 [rows of k, G], null unless k and v are int8: a number is its code times the scale of its row and head */
  keyScales: TensorArg | null;
  valueScales: TensorArg | null;
  /** [B, Sq, H, D]; 0 for a query that sees no key */
  out: TensorArg;
  /** float32 [B, H, Sq]: log of the sum of e^s over the keys seen and the sink; for a query that sees no key the sink, or -Infinity */
  lse: TensorArg;
}

export interface FlashAttentionBackwardParams extends AttentionShape {
  q: TensorArg;
  k: TensorArg;
  v: TensorArg;
  out: TensorArg;
  lse: TensorArg;
  dOut: TensorArg;
  /** float32 [B, H, Sq] or null: gradient of lse */
  dLse: TensorArg | null;
  dQ: TensorArg;
  /** [B, Sk, G, D]: summed over the query heads that share a key head. keyCapacity equals keys here. */
  dK: TensorArg;
  dV: TensorArg;
  /** [H], dtype of sinks; null exactly if sinks is */
  dSinks: TensorArg | null;
  /** float32 [B, H, Sq], workspace: sum(out * dOut) of each query */
  delta: TensorArg;
  /** Bit-equal results on repeated runs, at any cost. reference and cpu always give them. */
  deterministic: boolean;
}

/** Two results of attention over disjoint keys become that over all; D is any size. */
export interface MergeAttentionStatesParams {
  /** [B, S, H, D] */
  outA: TensorArg;
  /** float32 [B, H, S]; -Infinity: no key, and outA of that query is not looked at */
  lseA: TensorArg;
  outB: TensorArg;
  lseB: TensorArg;
  /** [B, S, H, D] = exp(lseA - lse) outA + exp(lseB - lse) outB; 0 where lse is -Infinity */
  out: TensorArg;
  /** float32 [B, H, S] = log(exp(lseA) + exp(lseB)) */
  lse: TensorArg;
  batch: number;
  queries: number;
  heads: number;
  headDim: number;
}

export interface MergeAttentionStatesBackwardParams {
  outA: TensorArg;
  lseA: TensorArg;
  outB: TensorArg;
  lseB: TensorArg;
  dOut: TensorArg;
  /** float32 [B, H, S] or null: gradient of lse */
  dLse: TensorArg | null;
  dOutA: TensorArg;
  /** float32 [B, H, S] */
  dLseA: TensorArg;
  dOutB: TensorArg;
  dLseB: TensorArg;
  batch: number;
  queries: number;
  heads: number;
  headDim: number;
}

export interface KvCacheAppendParams {
  /** [B, S, rowSize] */
  x: TensorArg;
  /**
   * [B, capacity, rowSize], or pages; rows position..position+S-1 of each batch entry are overwritten, but for those whose page is none. Same dtype, or another
   * float dtype, to which it is rounded, or int8 of floats.
   */
  cache: TensorArg;
  /**
   * float32 [rows of the cache, rowSize / headDim], null unless the cache is int8. Of the headDim numbers of a head, in float32: m = max |x|, scale = m / 127,
   * code = clip(roundHalfEven(x * (127 / m)), -127, 127); all 0 if m < 2^-100; scale NaN and codes 0 if any is not finite.
   */
  scales: TensorArg | null;
  batch: number;
  rows: number;
  rowSize: number;
  headDim: number;
  capacity: number;
  pages: KeyPages | null;
  /** Of all entries, or int32 [B], one for each. One that leads outside the cache fails the op, and nothing of its entry is written. */
  position: number | TensorArg;
}

export interface AdamWParams {
  /**
   * Per parameter: value (any float dtype, updated in place), gradient (the same dtype or float32), moments (float32, updated in place).
   */
  parameters: TensorArg[];
  /** float32 or null: if there, this is what is updated, and the parameter becomes its rounding. */
  masters: (TensorArg | null)[];
  gradients: TensorArg[];
  firstMoments: TensorArg[];
  secondMoments: TensorArg[];
  weightDecays: number[];
  /** float32 [1] or null: what every gradient is multiplied by first */
  coefficient: TensorArg | null;
  learningRate: number;
  beta1: number;
  beta2: number;
  eps: number;
  /** 1 for the first step */
  step: number;
}

export interface GlobalNormParams {
  tensors: TensorArg[];
  /** float32 [1]: factor * sqrt of the sum of squares over all tensors, summed in float64 */
  norm: TensorArg;
  /** float32 [1]: factor * min(1, maxNorm / (norm + 1e-6)); a norm that is not finite gives NaN */
  coefficient: TensorArg;
  /** Above 0, may be Infinity. */
  maxNorm: number;
  /** Above 0: the gradients are the tensors times this. */
  factor: number;
}

export interface BackendOps {
  fill(params: FillParams): void;
  cast(params: CastParams): void;
  transpose(params: TransposeParams): void;
  binary(params: BinaryParams): void;
  scale(params: ScaleParams): void;
  sum(params: SumParams): void;
  softmax(params: SoftmaxParams): void;
  softmaxBackward(params: SoftmaxBackwardParams): void;
  argmax(params: ArgmaxParams): void;
  matmul(params: MatmulParams): void;
  embedding(params: EmbeddingParams): void;
  embeddingBackward(params: EmbeddingBackwardParams): void;
  rmsNorm(params: RmsNormParams): void;
  rmsNormBackward(params: RmsNormBackwardParams): void;
  layerNorm(params: LayerNormParams): void;
  layerNormBackward(params: LayerNormBackwardParams): void;
  dropout(params: DropoutParams): void;
  rope(params: RopeParams): void;
  gatedActivation(params: GatedActivationParams): void;
  gatedActivationBackward(params: GatedActivationBackwardParams): void;
  crossEntropy(params: CrossEntropyParams): void;
  crossEntropyBackward(params: CrossEntropyBackwardParams): void;
  linearCrossEntropy(params: LinearCrossEntropyParams): void;
  linearCrossEntropyBackward(params: LinearCrossEntropyBackwardParams): void;
  quantizeTernary(params: QuantizeTernaryParams): void;
  dequantizeTernary(params: DequantizeTernaryParams): void;
  quantizeActivations(params: QuantizeActivationsParams): void;
  ternaryMatmulInt8(params: TernaryMatmulInt8Params): void;
  ternaryMatmul(params: TernaryMatmulParams): void;
  ternaryMatmulBackward(params: TernaryMatmulBackwardParams): void;
  bitLinearWeightBackward(params: BitLinearWeightBackwardParams): void;
  flashAttention(params: FlashAttentionParams): void;
  flashAttentionBackward(params: FlashAttentionBackwardParams): void;
  mergeAttentionStates(params: MergeAttentionStatesParams): void;
  mergeAttentionStatesBackward(params: MergeAttentionStatesBackwardParams): void;
  kvCacheAppend(params: KvCacheAppendParams): void;
  adamw(params: AdamWParams): void;
  globalNorm(params: GlobalNormParams): void;
}

/** A failed kernel, found when the device was next waited for. */
export interface KernelFailure {
  op: string;
  message: string;
}

export interface Backend extends BackendOps {
  /**
   * Takes device memory; its contents are unspecified. Returns null if there is not enough. Memory is reused in the order of the
   * device's stream: a buffer may be freed while ops that use it are still queued.
   */
  allocate(bytes: number): BufferHandle | null;
  /** Bytes that could still be taken: what the device has, and the limit allows. */
  freeBytes(): number;
  /** Why the device can do nothing any more in this process; null while it can. */
  fault(): string | null;
  /** Bytes held of the device for this thread: in use, used by graphs, and kept for reuse. */
  reservedBytes(): number;
  /**
   * From now on `allocate`, and ops for their workspace, take no more than this from the device; null: no limit. What is kept for reuse is given
   * back as far as that is needed. The default is null.
   */
  setMemoryLimit(bytes: number | null): void;
  /** Gives what is kept for reuse back to the system. */
  emptyCache(): void;
  /** The most that one op took as workspace since the last reset. Absent where that is not known. */
  peakWorkspaceBytes?(): number;
  resetPeakWorkspace?(): void;
  free(buffer: BufferHandle): void;
  /**
   * Copies host bytes into the buffer, from its byte `offset` on (default 0), after the ops already queued; `bytes` may be changed as soon as the
   * call returns.
   */
  write(buffer: BufferHandle, bytes: Uint8Array, offset?: number): void;
  /**
   * Copies the first destination.byteLength bytes of the buffer into `destination` once the ops queued so far are done, then calls
   * `done`, with the first failure since the device was last waited for, or null.
   */
  read(buffer: BufferHandle, destination: Uint8Array, done: (failure: KernelFailure | null) => void): void;
  /** Calls `done` once the ops queued so far are done. */
  synchronize(done: (failure: KernelFailure | null) => void): void;
  /** The moment when the ops queued so far are done. Not called in a capture. */
  mark(): MomentHandle;
  /** The device's time from one moment to another, both of which have come. */
  milliseconds(from: MomentHandle, to: MomentHandle): number;
  /**
   * Copies the first `bytes` bytes of the buffer into new host memory, after the ops already queued. Waits for nothing; the buffer may be
   * freed as soon as the call returns. Returns null, and does nothing, if the host has too little memory.
   */
  offload(buffer: BufferHandle, bytes: number): HostHandle | null;
  /** Copies all of it back into a buffer at least as large, after the ops already queued. Waits for nothing. */
  restore(host: HostHandle, buffer: BufferHandle): void;
  /** May be called while copies from or to it are queued. */
  freeHost(host: HostHandle): void;

  /**
   * From now on ops and `write` are captured instead of run: `write` with a copy of its bytes, to be written at every replay. `read`,
   * `synchronize`, `offload`, `restore`, `send`, `emptyCache` and `setMemoryLimit` are not called until `endCapture`. Returns null, or why this
   * backend cannot capture; nothing has happened then.
   */
  beginCapture(): string | null;
  /**
   * Ends that. Returns the graph, or why there is none. As long as a graph lives, buffers that its ops use are given to nobody else, also after
   * they are freed.
   */
  endCapture(): { graph: GraphHandle } | { failure: KernelFailure };
  /** Queues the ops of the graph. */
  replay(graph: GraphHandle): void;
  /** May be called while replays are queued. */
  freeGraph(graph: GraphHandle): void;
  /** Whether a live graph uses the buffer. */
  isUsedByGraph(buffer: BufferHandle): boolean;

  /**
   * Takes the buffer away from this thread, which must not use it again. Calls `done` when the ops queued so far are done: from then on
   * the parcel can be received by this backend of any thread of the process, once. What nobody receives is freed by `discard`, or by `reclaim`
   * after this thread has ended.
   */
  send(buffer: BufferHandle, bytes: number, done: (failure: KernelFailure | null) => void): Parcel;
  /** The buffer is now this thread's. Returns null, and does nothing, for a parcel that is not there (any more) or not of that many bytes. */
  receive(parcel: Parcel, bytes: number): BufferHandle | null;
  /** Frees a parcel instead of receiving it. False if it is not there (any more). */
  discard(parcel: Parcel): boolean;
  /** Parcels of all devices of the addon that can be received, and their bytes, over all threads; without an addon none: its parcels own their memory. */
  pending(): { tensors: number; bytes: number };
  /** Frees those of them whose sending thread has ended; says which that were. */
  reclaim(): { tensors: number; bytes: number };
}
