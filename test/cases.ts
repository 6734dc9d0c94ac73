// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FLOAT_DTYPES, type DType } from '../lib/dtype.js';
import type { RopeScaling } from '../lib/index.js';

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
  readonly residual?: boolean;
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
    { name: 'one element and a residual', shape: [1], weight: true, residual: true },
    { name: '9x65, a residual, no weight', shape: [9, 65], weight: false, residual: true },
    { name: '2x3x64, a residual', shape: [2, 3, 64], weight: true, residual: true },
    { name: '129x131, a residual', shape: [129, 131], weight: true, residual: true },
  ],
  bench: [
    { name: '2048x2048', shape: [2048, 2048], weight: true },
    { name: '2048x2048, a residual', shape: [2048, 2048], weight: true, residual: true },
  ],
};

export interface LayerNormCase extends RmsNormCase {
  readonly bias: boolean;
  /** Mean of x. Default 0. */
  readonly mean?: number;
}

export const layerNormCases: OpCases<LayerNormCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'a vector of 3', shape: [3], weight: true, bias: true },
    { name: 'a vector, no weight', shape: [9], weight: false, bias: true },
    { name: '9x63', shape: [9, 63], weight: true, bias: true },
    { name: '3x64, neither', shape: [3, 64], weight: false, bias: false },
    { name: '2x3x65, no bias', shape: [2, 3, 65], weight: true, bias: false },
    { name: '129x127', shape: [129, 127], weight: true, bias: true },
    { name: '63x129, eps 0.1', shape: [63, 129], weight: true, bias: true, eps: 0.1 },
    { name: 'a mean of 8', shape: [9, 65], weight: true, bias: true, mean: 8 },
    { name: '9x65, a residual, no weight', shape: [9, 65], weight: false, bias: true, residual: true },
    { name: '2x3x64, a residual', shape: [2, 3, 64], weight: true, bias: true, residual: true },
    { name: '129x131, a residual', shape: [129, 131], weight: true, bias: true, residual: true },
  ],
  bench: [
    { name: '2048x2048', shape: [2048, 2048], weight: true, bias: true },
    { name: '2048x2048, a residual', shape: [2048, 2048], weight: true, bias: true, residual: true },
  ],
};

export interface DropoutCase extends Case {
  readonly shape: readonly number[];
  readonly p: number;
  /** Where the library's generator stands. */
  readonly seed: number;
  readonly offset: number;
}

export const dropoutCases: OpCases<DropoutCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'a scalar', shape: [], p: 0.5, seed: 1, offset: 0 },
    { name: '3', shape: [3], p: 0.5, seed: 2, offset: 7 },
    { name: '9x7', shape: [9, 7], p: 0.1, seed: 3, offset: 2 ** 32 - 3 },
    { name: '64', shape: [64], p: 0.9, seed: 2 ** 53 - 1, offset: 1 },
    { name: '3x1x65', shape: [3, 1, 65], p: 0.25, seed: 2 ** 32, offset: 2 ** 40 },
    { name: '127x129', shape: [127, 129], p: 0.17, seed: 6, offset: 2 ** 32 - 1000 },
    { name: 'a task and one', shape: [16385], p: 0.5, seed: 7, offset: 0 },
  ],
  bench: [{ name: '2048x2048', shape: [2048, 2048], p: 0.1, seed: 1, offset: 0 }],
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
  readonly scaling?: RopeScaling;
}

/** Of a small model: with theta 10000, 5 pairs, or 3, have wavelengths kept, between, and divided. */
const LLAMA3 = { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 512 } as const;
const LINEAR = { type: 'linear', factor: 4 } as const;

const FACTORS = { type: 'factors', factors: [1, 1.5, 8, 0.25, 32] } as const;

/** Every combination of the options with a scaling. */
const SCALED_ROPE_CASES: readonly RopeCase[] = [LINEAR, LLAMA3, FACTORS].flatMap((scaling) =>
  (scaling === FACTORS ? [10] : [10, 6]).flatMap((rotaryDim) =>
    [false, true].flatMap((interleaved) =>
      ([1000, 'each', 'shared'] as const).map((positions) => ({
        name: `${scaling.type}, ${rotaryDim} of 10, ${interleaved ? 'interleaved' : 'halves'}, positions ${positions}`,
        batch: 2,
        sequence: 9,
        heads: 3,
        headDim: 10,
        positions,
        rotaryDim,
        interleaved,
        scaling,
      })),
    ),
  ),
);

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
    {
      name: 'far positions, scaled',
      batch: 1,
      sequence: 3,
      heads: 1,
      headDim: 256,
      positions: 100000,
      scaling: LLAMA3,
    },
    ...SCALED_ROPE_CASES,
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
  readonly reduction?: 'mean' | 'sum' | 'none';
  readonly labelSmoothing?: number;
  readonly zLoss?: number;
  readonly softcap?: number;
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
    { name: '65x127, a loss for each row', rows: 65, vocabulary: 127, reduction: 'none', ignoreEvery: 4 },
    { name: '9x65, smoothed', rows: 9, vocabulary: 65, labelSmoothing: 0.1 },
    { name: '9x63, smoothed over all', rows: 9, vocabulary: 63, labelSmoothing: 1, reduction: 'sum' },
    { name: '9x129, z-loss', rows: 9, vocabulary: 129, zLoss: 0.01 },
    { name: '9x64, softcap', rows: 9, vocabulary: 64, softcap: 2, spread: 3 },
    { name: '1x1025, softcap', rows: 1, vocabulary: 1025, softcap: 30 },
    {
      name: '65x129, everything',
      rows: 65,
      vocabulary: 129,
      labelSmoothing: 0.2,
      zLoss: 0.001,
      softcap: 15,
      ignoreEvery: 5,
      spread: 8,
    },
    {
      name: '3x2049, everything, a loss for each row',
      rows: 3,
      vocabulary: 2049,
      labelSmoothing: 0.05,
      zLoss: 0.0001,
      softcap: 5,
      reduction: 'none',
    },
  ],
  bench: [{ name: '128x32000', rows: 128, vocabulary: 32000 }],
};

export interface LinearCrossEntropyCase extends CrossEntropyCase {
  readonly features: number;
  readonly bias?: boolean;
}

const ALL_LOSS_OPTIONS = { labelSmoothing: 0.1, zLoss: 0.001, softcap: 10 };

export const linearCrossEntropyCases: OpCases<LinearCrossEntropyCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: '1x1x1', rows: 1, vocabulary: 1, features: 1 },
    { name: '1x129x9', rows: 1, vocabulary: 129, features: 9 },
    { name: '3x1x64', rows: 3, vocabulary: 1, features: 64, bias: true },
    { name: '9x63x65', rows: 9, vocabulary: 63, features: 65 },
    { name: '64x65x33, every third ignored', rows: 64, vocabulary: 65, features: 33, ignoreEvery: 3, bias: true },
    { name: '65x64x17, summed', rows: 65, vocabulary: 64, features: 17, reduction: 'sum' },
    { name: '127x9x3, a loss for each row', rows: 127, vocabulary: 9, features: 3, reduction: 'none', ignoreEvery: 4 },
    { name: '3x127x9, all ignored', rows: 3, vocabulary: 127, features: 9, ignoreEvery: 1, bias: true },
    { name: '9x129x64, smoothed', rows: 9, vocabulary: 129, features: 64, labelSmoothing: 0.1 },
    { name: '9x64x63, z-loss', rows: 9, vocabulary: 64, features: 63, zLoss: 0.01 },
    { name: '9x65x16, softcap', rows: 9, vocabulary: 65, features: 16, softcap: 5 },
    { name: '63x129x9, everything', rows: 63, vocabulary: 129, features: 9, bias: true, ...ALL_LOSS_OPTIONS },
    { name: 'large logits', rows: 9, vocabulary: 65, features: 16, spread: 8 },
    { name: '1027x9x3, two blocks of rows', rows: 1027, vocabulary: 9, features: 3, reduction: 'none', bias: true },
  ],
  bench: [
    { name: '1024x2048x192', rows: 1024, vocabulary: 2048, features: 192 },
    { name: '1024x32768x512', rows: 1024, vocabulary: 32768, features: 512, spread: 0.02 },
  ],
};

export interface MergeCase extends Case {
  /** Of out: [B, S, H, D] or [total, H, D]. */
  readonly shape: readonly number[];
  /** Standard deviation of the lse. Default 1. */
  readonly spread?: number;
  /** Every how many-th query saw no key on the one side, and as many on the other; every fifth none at all. Default none. */
  readonly missing?: number;
}

export const mergeAttentionStatesCases: OpCases<MergeCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    { name: 'one number', shape: [1, 1, 1, 1] },
    { name: 'packed', shape: [9, 3, 64] },
    { name: 'packed, queries without keys', shape: [65, 2, 9], missing: 3 },
    { name: '2x9x3x63', shape: [2, 9, 3, 63] },
    { name: '3x65x2x65, far apart', shape: [3, 65, 2, 65], spread: 8 },
    { name: '2x63x3x16, queries without keys', shape: [2, 63, 3, 16], missing: 4 },
    { name: '1x3x129x127', shape: [1, 3, 129, 127] },
    { name: '1x1x3x300', shape: [1, 1, 3, 300] },
  ],
  bench: [{ name: '1x1024x12x64', shape: [1, 1024, 12, 64] }],
};

export interface AttentionOptionsCase extends Case {
  readonly heads: number;
  readonly keyHeads: number;
  readonly headDim: number;
  readonly causal?: boolean | 'top-left';
  readonly window?: readonly [number, number];
  readonly scale?: number;
  readonly softcap?: number;
  /** Slopes for each head, or for each head of each batch entry. */
  readonly alibi?: 'heads' | 'batch';
  readonly sinks?: boolean;
  readonly dropout?: number;
  readonly deterministic?: boolean;
}

export interface AttentionCase extends AttentionOptionsCase {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  /** Standard deviation of the queries and keys. Default 1. */
  readonly spread?: number;
}

type OptionsOf<C extends AttentionOptionsCase> = Omit<C, keyof Case | 'heads' | 'keyHeads' | 'headDim'>;

const attentionCase = (
  name: string,
  [batch, queries, keys, heads, keyHeads, headDim]: readonly [number, number, number, number, number, number],
  options: Omit<OptionsOf<AttentionCase>, 'batch' | 'queries' | 'keys'> = {},
): AttentionCase => ({ name, batch, queries, keys, heads, keyHeads, headDim, ...options });

const CAUSAL = { causal: true };
const TOP_LEFT = { causal: 'top-left' } as const;

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
    attentionCase('top-left, fewer queries than keys', [1, 65, 129, 2, 1, 16], TOP_LEFT),
    attentionCase('top-left, more queries than keys', [1, 129, 65, 1, 1, 16], TOP_LEFT),
    attentionCase('top-left with a window: the last queries see none', [1, 127, 33, 2, 1, 8], {
      causal: 'top-left',
      window: [9, 0],
    }),
    attentionCase('softcap, scores on both sides of it', [1, 65, 65, 1, 1, 16], { softcap: 2, spread: 2 }),
    attentionCase('softcap, causal, grouped', [1, 63, 129, 4, 2, 8], { causal: true, softcap: 5 }),
    attentionCase('ALiBi, causal', [1, 65, 65, 4, 4, 8], { causal: true, alibi: 'heads' }),
    attentionCase('ALiBi on both sides, slopes of each batch entry', [2, 9, 65, 3, 1, 8], { alibi: 'batch' }),
    attentionCase('ALiBi, top-left, a window', [1, 129, 65, 2, 1, 8], {
      causal: 'top-left',
      alibi: 'heads',
      window: [63, 0],
    }),
    attentionCase('sinks', [1, 33, 33, 16, 16, 4], { sinks: true }),
    attentionCase('sinks, causal: some queries see nothing else', [2, 33, 9, 16, 2, 4], { causal: true, sinks: true }),
    attentionCase('dropout', [1, 65, 65, 2, 2, 8], { dropout: 0.2 }),
    attentionCase('dropout, causal, one key head', [2, 63, 127, 4, 1, 8], { causal: true, dropout: 0.5 }),
    attentionCase('dropout, one query: the keys are split', [1, 1, 257, 6, 1, 16], { dropout: 0.1 }),
    attentionCase('dropout and a window on both sides', [1, 129, 127, 1, 1, 8], { dropout: 0.3, window: [40, 11] }),
    attentionCase('few queries of many keys, many heads', [1, 2, 201, 64, 16, 8]),
    attentionCase('few queries of many keys, part of a vector, causal', [2, 2, 230, 6, 3, 20], CAUSAL),
    attentionCase('few queries of many keys: softcap, ALiBi, sinks', [1, 1, 257, 16, 8, 8], {
      softcap: 3,
      alibi: 'heads',
      sinks: true,
    }),
    attentionCase('few queries of many keys, causal, window, ALiBi of each batch entry', [2, 3, 257, 8, 8, 9], {
      causal: true,
      window: [129, 0],
      softcap: 3,
      alibi: 'batch',
    }),
    attentionCase('everything, causal', [2, 9, 65, 16, 4, 8], {
      causal: true,
      window: [20, 0],
      softcap: 3,
      alibi: 'batch',
      sinks: true,
      dropout: 0.3,
    }),
    attentionCase('everything, a window on both sides', [1, 33, 31, 8, 8, 9], {
      window: [7, 11],
      scale: 0.5,
      softcap: 2,
      alibi: 'heads',
      sinks: true,
      dropout: 0.1,
    }),
    attentionCase('everything, top-left, one key head', [1, 33, 65, 8, 1, 4], {
      causal: 'top-left',
      softcap: 4,
      alibi: 'heads',
      sinks: true,
      dropout: 0.2,
    }),
  ],
  bench: [
    attentionCase('512', [1, 512, 512, 12, 12, 64]),
    attentionCase('512, causal', [1, 512, 512, 12, 12, 64], CAUSAL),
    attentionCase('1024', [1, 1024, 1024, 12, 12, 64]),
    attentionCase('1024, causal', [1, 1024, 1024, 12, 12, 64], CAUSAL),
    attentionCase('2048', [1, 2048, 2048, 12, 12, 64]),
    attentionCase('2048, causal', [1, 2048, 2048, 12, 12, 64], CAUSAL),
    attentionCase('1024, causal, softcap', [1, 1024, 1024, 12, 12, 64], { causal: true, softcap: 30 }),
    attentionCase('1024, causal, ALiBi', [1, 1024, 1024, 12, 12, 64], { causal: true, alibi: 'heads' }),
    attentionCase('1024, causal, sinks', [1, 1024, 1024, 12, 12, 64], { causal: true, sinks: true }),
    attentionCase('1024, causal, dropout', [1, 1024, 1024, 12, 12, 64], { causal: true, dropout: 0.1 }),
    attentionCase('decode over 4096 keys, 12 heads of 64', [1, 1, 4096, 12, 12, 64], CAUSAL),
    attentionCase('decode over 4096 keys, 32/8 heads of 128', [1, 1, 4096, 32, 8, 128], CAUSAL),
  ],
};

export interface VarlenAttentionCase extends AttentionOptionsCase {
  readonly queryLengths: readonly number[];
  readonly keyLengths: readonly number[];
}

/** The three numbers: H, G, D. */
const varlenCase = (
  name: string,
  queryLengths: readonly number[],
  keyLengths: readonly number[],
  [heads, keyHeads, headDim]: readonly [number, number, number],
  options: Omit<OptionsOf<VarlenAttentionCase>, 'queryLengths' | 'keyLengths'> = {},
): VarlenAttentionCase => ({ name, queryLengths, keyLengths, heads, keyHeads, headDim, ...options });

export const varlenAttentionCases: OpCases<VarlenAttentionCase> = {
  dtypes: FLOAT_DTYPES,
  tolerance: 'rounded',
  cases: [
    varlenCase('one sequence', [9], [9], [2, 1, 16]),
    varlenCase('lengths of one', [1, 1, 1], [1, 3, 1], [2, 2, 8], CAUSAL),
    varlenCase('tiles and one, causal', [65, 1, 129, 63], [65, 1, 129, 63], [2, 1, 16], CAUSAL),
    varlenCase('other lengths of keys', [33, 9, 64], [9, 127, 64], [4, 2, 8], CAUSAL),
    varlenCase('none of queries, none of keys, none of either', [9, 0, 3, 0, 5], [9, 65, 0, 0, 3], [2, 2, 8]),
    varlenCase('empty at both ends', [0, 33, 0], [3, 33, 9], [3, 1, 9], TOP_LEFT),
    varlenCase('a window on both sides', [65, 9], [33, 127], [1, 1, 8], { window: [7, 3] }),
    varlenCase('few queries of many keys', [1, 0, 2, 1], [9, 3, 65, 257], [2, 1, 64], CAUSAL),
    varlenCase('sinks, sequences without keys', [9, 5, 33], [65, 0, 9], [16, 8, 4], { sinks: true, causal: true }),
    varlenCase('dropout', [33, 65, 3], [65, 31, 127], [2, 1, 32], { dropout: 0.3 }),
    varlenCase('everything, slopes of each sequence', [9, 0, 33, 3], [33, 9, 65, 0], [16, 4, 8], {
      causal: true,
      window: [30, 0],
      softcap: 2,
      alibi: 'batch',
      sinks: true,
      dropout: 0.2,
    }),
    varlenCase('everything, top-left, slopes of each head', [31, 9], [9, 65], [16, 1, 8], {
      causal: 'top-left',
      softcap: 3,
      alibi: 'heads',
      sinks: true,
      dropout: 0.4,
    }),
  ],
  bench: [
    varlenCase(
      '8 sequences of 64 to 512',
      [64, 128, 192, 256, 320, 384, 448, 512],
      [64, 128, 192, 256, 320, 384, 448, 512],
      [12, 12, 64],
      CAUSAL,
    ),
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
