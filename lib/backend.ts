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
  x: TensorArg;
  weight: TensorArg | null;
  rstd: TensorArg;
  dX: TensorArg;
  /** [K], null exactly if weight is null */
  dWeight: TensorArg | null;
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

export interface GatedActivationParams {
  /** swiglu: silu(gate) * up; relu2Glu: relu(gate)^2 * up */
  kind: 'swiglu' | 'relu2Glu';
  gate: TensorArg;
  up: TensorArg;
  out: TensorArg;
}

export interface GatedActivationBackwardParams {
  kind: 'swiglu' | 'relu2Glu';
  dOut: TensorArg;
  gate: TensorArg;
  up: TensorArg;
  dGate: TensorArg;
  dUp: TensorArg;
}

export interface CrossEntropyParams {
  /** [M, V] */
  logits: TensorArg;
  /** int32 [M]; equal to ignoreIndex or in 0..V-1, anything else is a kernel error */
  targets: TensorArg;
  /** float32 [1]: sum of the rows' losses, divided by count if mean. 0 if every row is ignored. */
  loss: TensorArg;
  /** float32 [1]: rows that are not ignored */
  count: TensorArg;
  rows: number;
  cols: number;
  ignoreIndex: number;
  mean: boolean;
}

export interface CrossEntropyBackwardParams {
  logits: TensorArg;
  /** as for the forward pass, a kernel error included */
  targets: TensorArg;
  count: TensorArg;
  /** float32 [1] */
  dLoss: TensorArg;
  /** [M, V] */
  dLogits: TensorArg;
  rows: number;
  cols: number;
  ignoreIndex: number;
  mean: boolean;
}

/**
 * Ternary codes are packed four to a byte along K: byte [n, k >> 2] holds trit + 1 of feature k in bits 2 * (k & 3);
 * a row takes ceil(K / 4) bytes and the unused bits of its last byte hold code 1 (trit 0).
 */
export interface QuantizeTernaryParams {
  /** [N, K] */
  weight: TensorArg;
  /** uint8 [N, ceil(K/4)] */
  packed: TensorArg;
  /**
   * float32 [1]: g = fround(max(mean |W|, 1e-5)). trit = clip(roundHalfEven(fround(W * fround(1 / g))), -1, 1).
   * So that every backend gets the same bits, mean |W| is summed in float64 in one fixed order: over the flat index, chunks
   * of 4096; within a chunk 16 lanes, lane l adding the elements whose index in the chunk is l mod 16 in ascending order; the
   * lanes added 0..15 to the chunk's sum, the chunks' sums added in ascending order; then divided by N * K.
   */
  scale: TensorArg;
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
  /** int8 [M, K] = clip(roundHalfEven(fround(x * s)), -128, 127) */
  codes: TensorArg;
  /** float32 [M]: s = fround(127 / max(max|x|, fround(1e-5))) */
  scales: TensorArg;
  rows: number;
  cols: number;
}

export interface TernaryMatmulInt8Params {
  /** int8 [M, K] */
  codes: TensorArg;
  /** float32 [M] */
  activationScales: TensorArg;
  /** uint8 [N, ceil(K/4)] */
  packed: TensorArg;
  /** float32 [1] or [N] */
  weightScale: TensorArg;
  /** [N], dtype of out, or null */
  bias: TensorArg | null;
  /**
   * [M, N]. acc = sum_k codes * trits exactly in int32; y = fround(fround(acc) * fround(weightScale / activationScale)); then, with a
   * bias, fround(y + bias); rounded to out's dtype.
   */
  out: TensorArg;
  m: number;
  n: number;
  k: number;
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
  /** int8 [M, K] */
  codes: TensorArg;
  /** float32 [M] */
  activationScales: TensorArg;
  /** [N, K] = dOut^T (codes / activationScales) */
  dWeight: TensorArg;
  m: number;
  n: number;
  k: number;
}

export interface AttentionShape {
  batch: number;
  queries: number;
  keys: number;
  heads: number;
  keyHeads: number;
  headDim: number;
  /** Rows of k and v per batch entry: k and v are [B, keyCapacity, G, D] of which the first `keys` are used. */
  keyCapacity: number;
  scale: number;
  /**
   * Query i sees keys j with i + keys - queries - windowLeft <= j <= i + keys - queries + windowRight; -1 is unlimited. Causal is
   * windowRight 0.
   */
  windowLeft: number;
  windowRight: number;
}

export interface FlashAttentionParams extends AttentionShape {
  /** [B, Sq, H, D] */
  q: TensorArg;
  k: TensorArg;
  v: TensorArg;
  /** [B, Sq, H, D]; 0 for a query that sees no key */
  out: TensorArg;
  /** float32 [B, H, Sq]; -Infinity for a query that sees no key */
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
  /** float32 [B, H, Sq], workspace: sum(out * dOut) of each query */
  delta: TensorArg;
}

export interface KvCacheAppendParams {
  /** [B, S, rowSize] */
  x: TensorArg;
  /** [B, capacity, rowSize], same dtype; rows position..position+S-1 of each batch entry are overwritten */
  cache: TensorArg;
  batch: number;
  rows: number;
  rowSize: number;
  capacity: number;
  position: number;
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
  rope(params: RopeParams): void;
  gatedActivation(params: GatedActivationParams): void;
  gatedActivationBackward(params: GatedActivationBackwardParams): void;
  crossEntropy(params: CrossEntropyParams): void;
  crossEntropyBackward(params: CrossEntropyBackwardParams): void;
  quantizeTernary(params: QuantizeTernaryParams): void;
  dequantizeTernary(params: DequantizeTernaryParams): void;
  quantizeActivations(params: QuantizeActivationsParams): void;
  ternaryMatmulInt8(params: TernaryMatmulInt8Params): void;
  ternaryMatmul(params: TernaryMatmulParams): void;
  ternaryMatmulBackward(params: TernaryMatmulBackwardParams): void;
  bitLinearWeightBackward(params: BitLinearWeightBackwardParams): void;
  flashAttention(params: FlashAttentionParams): void;
  flashAttentionBackward(params: FlashAttentionBackwardParams): void;
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
  free(buffer: BufferHandle): void;
  /** Copies host bytes into the buffer, after the ops already queued; `bytes` may be changed as soon as the call returns. */
  write(buffer: BufferHandle, bytes: Uint8Array): void;
  /**
   * Copies the first destination.byteLength bytes of the buffer into `destination` once the ops queued so far are done, then calls
   * `done`, with the first failure since the device was last waited for, or null.
   */
  read(buffer: BufferHandle, destination: Uint8Array, done: (failure: KernelFailure | null) => void): void;
  /** Calls `done` once the ops queued so far are done. */
  synchronize(done: (failure: KernelFailure | null) => void): void;
}
