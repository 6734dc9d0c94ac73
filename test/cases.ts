// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FLOAT_DTYPES, type DType } from '../lib/dtype.js';

/**
 * The one list of what is tested and timed: shapes, dtypes, options and tolerance families of every op. Tests run every case on every backend
 * present; the benchmark times those under `bench`, having checked them first.
 *
 * Sizes that bite: 1, 3, 9, 63, 64, 65, 127, 129 lie on both sides of every vector width and tile in use.
 */

/**
 * How a result is judged. `exact`: equal to the float64 result rounded once, to the bit. `rounded`: the tolerance rule of CONTRIBUTING.md.
 * `integer`: equal to the integer rule, float epilogue included, to the bit.
 */
export type ToleranceFamily = 'exact' | 'rounded' | 'integer';

/** Every case has a name, by which it is reported and its inputs are seeded. */
export interface Case {
  readonly name: string;
}

export interface OpCases<C> {
  readonly dtypes: readonly DType[];
  readonly tolerance: ToleranceFamily;
  readonly cases: readonly C[];
  /** Larger ones, for timing. */
  readonly bench: readonly C[];
}

export interface BinaryCase extends Case {
  readonly a: readonly number[];
  readonly b: readonly number[];
}

export const binaryCases: OpCases<BinaryCase> = {
  dtypes: ['float32', 'float16', 'bfloat16', 'int8', 'uint8', 'int32'],
  tolerance: 'exact',
  cases: [
    { name: 'scalars', a: [], b: [] },
    { name: 'one row', a: [129], b: [129] },
    { name: 'equal shapes', a: [3, 9, 65], b: [3, 9, 65] },
    { name: 'a scalar to all', a: [9, 63], b: [] },
    { name: 'one element to all', a: [9, 63], b: [1] },
    { name: 'a bias', a: [9, 127], b: [127] },
    { name: 'a column', a: [9, 65], b: [9, 1] },
    { name: 'a inner axis', a: [3, 5, 7], b: [3, 1, 7] },
    { name: 'a column by a row', a: [63, 1], b: [1, 65] },
    { name: 'a smaller than b', a: [3], b: [2, 9, 3] },
    { name: 'five axes, alternating', a: [2, 1, 3, 1, 5], b: [1, 4, 1, 2, 1] },
  ],
  bench: [{ name: '2048x2048', a: [2048, 2048], b: [2048, 2048] }],
};

export interface ScaleCase extends Case {
  readonly shape: readonly number[];
  readonly factor: number;
}

export const scaleCases: OpCases<ScaleCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'a scalar', shape: [], factor: 3 },
    { name: 'minus a half', shape: [3, 129], factor: -0.5 },
    { name: 'zero', shape: [65], factor: 0 },
    { name: 'a factor no float holds', shape: [9, 63], factor: 0.1 },
  ],
  bench: [{ name: '2048x2048', shape: [2048, 2048], factor: 0.5 }],
};

export interface ReduceCase extends Case {
  readonly shape: readonly number[];
  readonly axis?: number;
  readonly keepDims?: boolean;
}

export const reduceCases: OpCases<ReduceCase> = {
  dtypes: ['float32', 'float16', 'bfloat16', 'int32'],
  tolerance: 'rounded',
  cases: [
    { name: 'a scalar', shape: [] },
    { name: 'everything', shape: [9, 65] },
    { name: 'everything, axes kept', shape: [3, 63], keepDims: true },
    { name: 'a long row', shape: [5000] },
    { name: 'the first axis', shape: [129, 63], axis: 0 },
    { name: 'the last axis', shape: [63, 127], axis: -1 },
    { name: 'a middle axis', shape: [3, 65, 9], axis: 1 },
    { name: 'a middle axis, kept', shape: [3, 64, 9], axis: -2, keepDims: true },
    { name: 'an axis of one', shape: [9, 1, 3], axis: 1 },
    ...[1024, 1025, 2047, 2048, 2049, 5000].map((cols) => ({
      name: `columns of 3x${cols}`,
      shape: [3, cols],
      axis: 0,
    })),
  ],
  bench: [
    { name: '2048x2048 rows', shape: [2048, 2048], axis: 1 },
    { name: '2048x2048 columns', shape: [2048, 2048], axis: 0 },
  ],
};

export interface RowsCase extends Case {
  readonly shape: readonly number[];
  /** Standard deviation of the inputs. Default 1. */
  readonly spread?: number;
}

export const softmaxCases: OpCases<RowsCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'one element', shape: [1] },
    { name: 'one row', shape: [9] },
    { name: 'columns of one', shape: [3, 1] },
    { name: '3x63', shape: [3, 63] },
    { name: '9x64', shape: [9, 64] },
    { name: '2x3x65', shape: [2, 3, 65] },
    { name: '65x129', shape: [65, 129] },
    { name: 'large scores', shape: [9, 127], spread: 30 },
  ],
  bench: [{ name: '2048x2048', shape: [2048, 2048] }],
};

export interface LinearCase extends Case {
  /** Leading axes of x; their product is M. */
  readonly lead: readonly number[];
  readonly n: number;
  readonly k: number;
  readonly bias?: boolean;
  /** A ternary weight with a scale for each row instead of one. */
  readonly rowScales?: boolean;
}

const LINEAR_CASES: readonly LinearCase[] = [
  { name: '1x1x1', lead: [1], n: 1, k: 1 },
  { name: 'a vector', lead: [], n: 9, k: 65 },
  { name: 'a vector and a bias', lead: [], n: 65, k: 9, bias: true },
  { name: '1x129x64', lead: [1], n: 129, k: 64 },
  { name: '3x9x1', lead: [3], n: 9, k: 1, bias: true },
  { name: '9x3x127', lead: [9], n: 3, k: 127 },
  { name: '63x65x64', lead: [63], n: 65, k: 64, bias: true },
  { name: '64x64x64', lead: [64], n: 64, k: 64 },
  { name: '65x63x129', lead: [65], n: 63, k: 129 },
  { name: '127x129x65', lead: [127], n: 129, k: 65, bias: true },
  { name: '129x1x127', lead: [129], n: 1, k: 127 },
  { name: '2x5x9x33, three axes', lead: [2, 5], n: 9, k: 33, bias: true },
  { name: '3x5x2051', lead: [3], n: 5, k: 2051 },
];

export const linearCases: OpCases<LinearCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: LINEAR_CASES,
  bench: [
    { name: '1024x1024x1024', lead: [1024], n: 1024, k: 1024 },
    { name: '128x2560x2560', lead: [128], n: 2560, k: 2560 },
    { name: '1x2560x2560', lead: [1], n: 2560, k: 2560 },
  ],
};

export const ternaryMatmulCases: OpCases<LinearCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'integer',
  cases: [
    ...LINEAR_CASES,
    { name: '2x3x2', lead: [2], n: 3, k: 2 },
    { name: '2x3x3', lead: [2], n: 3, k: 3, bias: true },
    { name: '4x17x66', lead: [4], n: 17, k: 66 },
    { name: '5x33x131', lead: [5], n: 33, k: 131, bias: true },
    { name: '2x7x4100', lead: [2], n: 7, k: 4100 },
    { name: 'scales for each row', lead: [9], n: 65, k: 63, rowScales: true, bias: true },
    { name: 'scales for each row, one token', lead: [1], n: 129, k: 64, rowScales: true },
    { name: 'scales for each row, many tokens', lead: [33], n: 65, k: 129, rowScales: true, bias: true },
  ],
  bench: [
    { name: '1x2560x2560', lead: [1], n: 2560, k: 2560 },
    { name: '8x2560x2560', lead: [8], n: 2560, k: 2560 },
    { name: '128x2560x2560', lead: [128], n: 2560, k: 2560 },
    { name: '512x2560x2560', lead: [512], n: 2560, k: 2560 },
    { name: '2048x512x192', lead: [2048], n: 512, k: 192 },
  ],
};

/** Timed with weights of several kinds of sparsity. */
export const ternarySparsityBench: readonly LinearCase[] = [
  { name: '1x2560x2560', lead: [1], n: 2560, k: 2560 },
  { name: '16x2560x2560', lead: [16], n: 2560, k: 2560 },
  { name: '512x2560x2560', lead: [512], n: 2560, k: 2560 },
];

export interface EmbeddingCase extends Case {
  readonly vocabulary: number;
  readonly cols: number;
  readonly ids: readonly number[];
}

export const embeddingCases: OpCases<EmbeddingCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'exact',
  cases: [
    { name: 'one of one', vocabulary: 1, cols: 1, ids: [1] },
    { name: 'a scalar id', vocabulary: 9, cols: 65, ids: [] },
    { name: 'a row of ids', vocabulary: 65, cols: 63, ids: [129] },
    { name: 'batches, every id many times', vocabulary: 3, cols: 9, ids: [3, 65] },
    { name: 'more rows than ids', vocabulary: 129, cols: 3, ids: [2, 3] },
  ],
  bench: [{ name: '8192x1024, 4096 ids', vocabulary: 8192, cols: 1024, ids: [4096] }],
};

export interface RmsNormCase extends Case {
  readonly shape: readonly number[];
  readonly weight: boolean;
  readonly eps?: number;
}

export const rmsNormCases: OpCases<RmsNormCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'one element', shape: [1], weight: true },
    { name: 'a vector, no weight', shape: [9], weight: false },
    { name: '3x1', shape: [3, 1], weight: true },
    { name: '9x63', shape: [9, 63], weight: true },
    { name: '3x64, no weight', shape: [3, 64], weight: false },
    { name: '2x3x65', shape: [2, 3, 65], weight: true },
    { name: '129x127', shape: [129, 127], weight: true },
    { name: '63x129, eps 0.1', shape: [63, 129], weight: true, eps: 0.1 },
  ],
  bench: [{ name: '2048x2048', shape: [2048, 2048], weight: true }],
};

export interface RopeCase extends Case {
  readonly batch: number;
  readonly sequence: number;
  readonly heads: number;
  readonly headDim: number;
  /** A number, or `each` for a tensor [B, S], or `shared` for a tensor [S]. Default 0. */
  readonly positions?: number | 'each' | 'shared';
  readonly theta?: number;
  readonly rotaryDim?: number;
  readonly interleaved?: boolean;
}

export const ropeCases: OpCases<RopeCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'one pair', batch: 1, sequence: 3, heads: 1, headDim: 2 },
    { name: 'one pair of three features', batch: 1, sequence: 3, heads: 2, headDim: 3, rotaryDim: 2 },
    { name: 'halves', batch: 2, sequence: 9, heads: 3, headDim: 64 },
    { name: 'interleaved', batch: 2, sequence: 9, heads: 3, headDim: 64, interleaved: true },
    { name: 'part of the head', batch: 1, sequence: 65, heads: 2, headDim: 80, rotaryDim: 32 },
    {
      name: 'part of the head, interleaved',
      batch: 1,
      sequence: 9,
      heads: 1,
      headDim: 9,
      rotaryDim: 6,
      interleaved: true,
    },
    { name: 'from position 129', batch: 2, sequence: 3, heads: 1, headDim: 32, positions: 129 },
    { name: 'positions for each token', batch: 3, sequence: 9, heads: 1, headDim: 18, positions: 'each' },
    { name: 'positions for all entries', batch: 3, sequence: 9, heads: 1, headDim: 18, positions: 'shared' },
    { name: 'theta 500000', batch: 1, sequence: 63, heads: 1, headDim: 128, theta: 500000 },
    { name: 'far positions', batch: 1, sequence: 3, heads: 1, headDim: 256, positions: 100000 },
  ],
  bench: [{ name: '4x1024x16x64', batch: 4, sequence: 1024, heads: 16, headDim: 64 }],
};

export const gatedActivationCases: OpCases<RowsCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'a scalar', shape: [] },
    { name: '3', shape: [3] },
    { name: '9x63', shape: [9, 63] },
    { name: '64', shape: [64] },
    { name: '3x1x65', shape: [3, 1, 65] },
    { name: '127x129', shape: [127, 129] },
    { name: 'large values', shape: [129], spread: 8 },
  ],
  bench: [{ name: '2048x2048', shape: [2048, 2048] }],
};

export interface CrossEntropyCase extends Case {
  readonly rows: number;
  readonly vocabulary: number;
  readonly ignoreIndex?: number;
  /** Every how many-th row is ignored. Default none. */
  readonly ignoreEvery?: number;
  readonly reduction?: 'mean' | 'sum';
  readonly spread?: number;
}

export const crossEntropyCases: OpCases<CrossEntropyCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'one class', rows: 3, vocabulary: 1 },
    { name: '1x9', rows: 1, vocabulary: 9 },
    { name: '9x63', rows: 9, vocabulary: 63 },
    { name: '65x129, every third ignored', rows: 65, vocabulary: 129, ignoreEvery: 3 },
    { name: '9x65, summed', rows: 9, vocabulary: 65, reduction: 'sum' },
    { name: '9x64, an ignored class', rows: 9, vocabulary: 64, ignoreIndex: 5, ignoreEvery: 2 },
    { name: '3x127, all ignored', rows: 3, vocabulary: 127, ignoreEvery: 1 },
    { name: '3x127, summed, all ignored', rows: 3, vocabulary: 127, ignoreEvery: 1, reduction: 'sum' },
    { name: 'large logits', rows: 9, vocabulary: 65, spread: 30 },
    { name: '3x2051', rows: 3, vocabulary: 2051 },
  ],
  bench: [{ name: '128x32000', rows: 128, vocabulary: 32000 }],
};

export interface AttentionCase extends Case {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number;
  readonly keyHeads: number;
  readonly headDim: number;
  readonly causal?: boolean;
  readonly window?: readonly [number, number];
  readonly scale?: number;
  /** Standard deviation of the queries and keys. Default 1. */
  readonly spread?: number;
}

const attentionCase = (
  name: string,
  [batch, queries, keys, heads, keyHeads, headDim]: readonly [number, number, number, number, number, number],
  options: Pick<AttentionCase, 'causal' | 'window' | 'scale' | 'spread'> = {},
): AttentionCase => ({ name, batch, queries, keys, heads, keyHeads, headDim, ...options });

const CAUSAL = { causal: true };

/** The six numbers: B, Sq, Sk, H, G, D. */
export const attentionCases: OpCases<AttentionCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    attentionCase('one of everything', [1, 1, 1, 1, 1, 1]),
    attentionCase('one query, one key, causal', [2, 1, 1, 3, 1, 9], CAUSAL),
    attentionCase('head dim 1', [1, 9, 9, 2, 2, 1]),
    attentionCase('head dim 2', [2, 3, 3, 1, 1, 2], CAUSAL),
    attentionCase('head dim 3, one key head', [1, 9, 9, 3, 1, 3], CAUSAL),
    attentionCase('head dim 32', [1, 63, 63, 2, 2, 32]),
    attentionCase('head dim 64, grouped', [1, 64, 64, 4, 2, 64], CAUSAL),
    attentionCase('head dim 80', [1, 65, 65, 1, 1, 80], CAUSAL),
    attentionCase('head dim 96, one key head', [1, 65, 63, 2, 1, 96]),
    attentionCase('head dim 128', [1, 64, 65, 1, 1, 128], CAUSAL),
    attentionCase('head dim 255', [1, 9, 65, 1, 1, 255]),
    attentionCase('head dim 256', [1, 65, 65, 1, 1, 256], CAUSAL),
    attentionCase('127', [1, 127, 127, 1, 1, 16], CAUSAL),
    attentionCase('129, grouped', [1, 129, 129, 4, 2, 8], CAUSAL),
    attentionCase('fewer queries than keys', [1, 63, 129, 2, 1, 32]),
    attentionCase('fewer queries than keys, causal', [1, 65, 129, 2, 1, 32], CAUSAL),
    attentionCase('more queries than keys', [2, 129, 65, 1, 1, 32]),
    attentionCase('more queries than keys, causal: some see none', [1, 129, 65, 2, 1, 32], CAUSAL),
    attentionCase('one key, causal: all queries but the last see none', [2, 9, 1, 2, 2, 8], CAUSAL),
    attentionCase('one query, grouped', [3, 1, 129, 6, 2, 64], CAUSAL),
    attentionCase('one query, one key head', [1, 1, 65, 9, 1, 64]),
    attentionCase('a window of the key itself', [1, 65, 65, 1, 1, 16], { window: [0, 0] }),
    attentionCase('a window to the left, causal', [1, 129, 129, 2, 1, 16], { causal: true, window: [9, 0] }),
    attentionCase('a window to the left', [1, 65, 129, 1, 1, 16], { window: [63, -1] }),
    attentionCase('a window to the right', [1, 65, 65, 1, 1, 16], { window: [-1, 3] }),
    attentionCase('a window on both sides', [2, 127, 129, 2, 2, 16], { window: [7, 11] }),
    attentionCase('a window that leaves queries without keys', [1, 129, 9, 2, 1, 16], { window: [3, 1] }),
    attentionCase('a window wider than the sequence', [1, 9, 9, 1, 1, 16], { window: [1000, 1000] }),
    attentionCase('causal overrides the right side', [1, 65, 65, 1, 1, 16], { causal: true, window: [5, 9] }),
    attentionCase('scale 0.5', [1, 9, 65, 1, 1, 16], { scale: 0.5 }),
    attentionCase('large scores', [1, 65, 65, 1, 1, 64], { causal: true, spread: 4 }),
  ],
  bench: [
    attentionCase('512', [1, 512, 512, 12, 12, 64]),
    attentionCase('512, causal', [1, 512, 512, 12, 12, 64], CAUSAL),
    attentionCase('1024', [1, 1024, 1024, 12, 12, 64]),
    attentionCase('1024, causal', [1, 1024, 1024, 12, 12, 64], CAUSAL),
    attentionCase('2048', [1, 2048, 2048, 12, 12, 64]),
    attentionCase('2048, causal', [1, 2048, 2048, 12, 12, 64], CAUSAL),
    attentionCase('decode over 4096 keys, 12 heads of 64', [1, 1, 4096, 12, 12, 64], CAUSAL),
    attentionCase('decode over 4096 keys, 32/8 heads of 128', [1, 1, 4096, 32, 8, 128], CAUSAL),
  ],
};

export interface QuantizeCase extends Case {
  readonly rows: number;
  readonly cols: number;
  /** Standard deviation of the values. Default 1. */
  readonly spread?: number;
}

/** Of quantizeTernary and of the rounding of activations. 4096 elements are a chunk of the sum that gives the scale. */
export const quantizeCases: OpCases<QuantizeCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'integer',
  cases: [
    { name: '1x1', rows: 1, cols: 1 },
    { name: '1x3', rows: 1, cols: 3 },
    { name: '3x9', rows: 3, cols: 9 },
    { name: '9x63', rows: 9, cols: 63 },
    { name: '64x64, one chunk', rows: 64, cols: 64 },
    { name: '65x127', rows: 65, cols: 127 },
    { name: '129x129', rows: 129, cols: 129 },
    { name: '3x2050', rows: 3, cols: 2050 },
    { name: 'a chunk and one', rows: 1, cols: 4097 },
    { name: 'all below the smallest scale', rows: 9, cols: 65, spread: 1e-7 },
    { name: 'large', rows: 9, cols: 65, spread: 1000 },
  ],
  bench: [{ name: '2048x2048', rows: 2048, cols: 2048 }],
};
