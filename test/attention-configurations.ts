// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FLOAT_DTYPES, type FloatDType } from '../lib/dtype.js';
import type { AttentionCase, AttentionOptionsCase, VarlenAttentionCase } from './cases.js';
import { sees } from './formulas/attention-rows.js';
import { Random } from './random.js';

/**
 * Random shapes, dtypes and options of attention; a number always draws the same. Left to test/cases.ts is what the tolerance rule needs chosen
 * sizes for: large scores, whose errors a few elements have alone, and queries of which most see one key or none (dropped ones do not count),
 * where the plain formula makes no error that a kernel could be measured by.
 */

export type AttentionConfiguration = { readonly dtype: FloatDType } & (
  | { readonly op: 'flashAttention'; readonly c: AttentionCase }
  | { readonly op: 'flashAttentionVarlen'; readonly c: VarlenAttentionCase }
);

// Both sides of vectors and tiles.
const LENGTHS = [1, 2, 3, 7, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 95, 127, 128, 129, 191, 193, 255, 256, 257];
const HEAD_DIMS = [1, 2, 3, 8, 9, 16, 24, 31, 33, 40, 48, 63, 65, 72, 80, 100, 127, 129, 160, 192, 200, 224, 255];
const USUAL_HEAD_DIMS = [32, 64, 96, 128, 256];
const DECODE_KEYS = [63, 129, 257, 513, 700];
const WINDOW_SIDES = [-1, 0, 1, 3, 17, 63, 64, 65, 200];
/** Multiply-adds of a product of queries and keys: the plain formula takes about a tenth of a microsecond for each. */
const WORK = 1.2e6;
/** Where hardly a query saw several keys: that many are put there beside the dropped ones, and all are seen. */
const FEWEST_KEYS = 9;
const LARGE_WORK = 1e7;
const LARGE_SHARE = 0.12;
/** A result of fewer elements is judged by several draws of its inputs, see op-tests.ts. */
const SAMPLES = 64;

interface Sizes {
  keyHeads: number;
  group: number;
  headDim: number;
  /** Queries and keys of each sequence. */
  sequences: { queries: number; keys: number }[];
}

class Draw {
  readonly random: Random;
  constructor(name: string) {
    this.random = new Random(name);
    // The first numbers of neighbouring seeds are alike.
    for (let i = 0; i < 8; i++) this.random.next();
  }
  chance = (probability: number): boolean => this.random.next() < probability;
  pick = <T>(values: readonly T[]): T => values[this.random.integer(0, values.length - 1)];
  length = (): number => (this.chance(0.75) ? this.pick(LENGTHS) : this.random.integer(1, 300));
}

function drawSizes(draw: Draw, packed: boolean): Sizes {
  const { chance, pick, random } = draw;
  const headDim = chance(0.45) ? pick(USUAL_HEAD_DIMS) : chance(0.5) ? pick(HEAD_DIMS) : random.integer(1, 256);
  const decode = chance(0.12);
  const pair = (): { queries: number; keys: number } => {
    if (decode) return { queries: random.integer(1, 4), keys: pick(DECODE_KEYS) };
    const queries = draw.length();
    return { queries, keys: chance(0.3) ? queries : draw.length() };
  };
  const count = packed ? random.integer(1, 5) : pick([1, 1, 2, 3]);
  const sequences = Array.from({ length: count }, pair);
  if (packed) {
    // Some have no queries, some no keys; the tensors themselves are never empty.
    for (const each of sequences.slice(1)) {
      if (chance(0.1)) each.queries = 0;
      if (chance(0.1)) each.keys = 0;
    }
  } else {
    sequences.fill(sequences[0]);
  }
  return { keyHeads: pick([1, 1, 2, 3, 4]), group: pick([1, 1, 2, 3, 4, 8]), headDim, sequences };
}

function workOf({ keyHeads, group, headDim, sequences }: Sizes, sinks: boolean): number {
  const heads = keyHeads * group;
  const sum = (of: (each: Sizes['sequences'][number]) => number): number =>
    sequences.reduce((total, each) => total + of(each), 0);
  const smallest = Math.min(
    sum(({ queries }) => queries) * heads,
    sum(({ keys }) => keys) * keyHeads * headDim,
    sinks ? heads : Infinity,
  );
  return (
    sum(({ queries, keys }) => queries * keys) * heads * headDim * Math.ceil(SAMPLES / Math.min(smallest, SAMPLES))
  );
}

/** Halves what is largest until the plain formula can do it; rounding up keeps sizes of one above a tile what they are. */
function shrink(sizes: Sizes, sinks: boolean, limit: number, keepHeadDim: boolean): void {
  const half = (value: number): number => Math.ceil(value / 2);
  while (workOf(sizes, sinks) > limit) {
    const longest = Math.max(...sizes.sequences.flatMap(({ queries, keys }) => [queries, keys]));
    if (sizes.sequences.length > 2) sizes.sequences.length = half(sizes.sequences.length);
    else if (sizes.group > 4 || (sizes.group > 1 && longest < 34)) sizes.group = half(sizes.group);
    else if (sizes.keyHeads > 2 || (sizes.keyHeads > 1 && longest < 34)) sizes.keyHeads = half(sizes.keyHeads);
    else if (longest > 16) {
      sizes.sequences = sizes.sequences.map(({ queries, keys }) => ({
        queries: queries === longest ? half(queries) : queries,
        keys: keys === longest && queries !== longest ? half(keys) : keys,
      }));
    } else if (keepHeadDim) return;
    else sizes.headDim = half(sizes.headDim);
  }
}

function drawOptions({ chance, pick }: Draw, headDim: number, sinks: boolean): Partial<AttentionOptionsCase> {
  const causal = pick([false, false, true, true, 'top-left'] as const);
  return {
    ...(causal && { causal }),
    ...(chance(0.3) && { window: [pick(WINDOW_SIDES), pick(WINDOW_SIDES)] as const }),
    ...(chance(0.15) && { scale: Number((pick([0.25, 0.5, 1.5]) / Math.sqrt(headDim)).toPrecision(3)) }),
    ...(chance(0.25) && { softcap: pick([1, 5, 30]) }),
    ...(chance(0.25) && { alibi: pick(['heads', 'batch'] as const) }),
    ...(sinks && { sinks }),
    ...(chance(0.2) && { dropout: pick([0.1, 0.5, 0.9]) }),
    ...(chance(0.25) && { deterministic: true }),
  };
}

function mostSeeSeveral(c: AttentionOptionsCase, sequences: Sizes['sequences']): boolean {
  let [all, several] = [0, 0];
  for (const { queries, keys } of sequences) {
    for (let i = 0; i < queries; i++) {
      const diagonal = c.causal === 'top-left' ? i : i + keys - queries;
      const seen = Array.from({ length: keys }, (_, j) => sees(c, diagonal, j)).filter(Boolean).length;
      all++;
      if (seen * (1 - (c.dropout ?? 0)) > 1) several++;
    }
  }
  return 2 * several >= all;
}

/** What the kernels for compute capability 9.0 take. */
const HOPPER_HEAD_DIMS = [64, 96, 128, 192, 256];
const SIXTEEN_BITS: readonly FloatDType[] = ['float16', 'bfloat16'];

/** `hopper`: only what the kernels for compute capability 9.0 take. */
export function drawAttention(number: number, hopper = false): AttentionConfiguration {
  const draw = new Draw(`attention ${number}`);
  const packed = draw.chance(0.3);
  const sinks = draw.chance(0.2);
  const dtype = draw.pick(hopper ? SIXTEEN_BITS : FLOAT_DTYPES);
  const sizes = drawSizes(draw, packed);
  if (hopper) sizes.headDim = draw.pick(HOPPER_HEAD_DIMS);
  shrink(sizes, sinks, draw.chance(LARGE_SHARE) ? LARGE_WORK : WORK, hopper);
  const { keyHeads, group, headDim, sequences } = sizes;
  const drawn = { heads: keyHeads * group, keyHeads, headDim, ...drawOptions(draw, headDim, sinks) };
  const c = { name: `random ${number}`, ...drawn };
  if (hopper) {
    delete c.alibi;
    delete c.dropout;
  }
  if (!mostSeeSeveral(c, sequences)) {
    delete c.causal;
    delete c.window;
    const fewest = Math.ceil(FEWEST_KEYS / (1 - (c.dropout ?? 0)));
    for (const each of sequences) each.keys = Math.max(each.keys, fewest);
  }
  if (packed) {
    const queryLengths = sequences.map(({ queries }) => queries);
    const keyLengths = sequences.map(({ keys }) => keys);
    return { op: 'flashAttentionVarlen', dtype, c: { ...c, queryLengths, keyLengths } };
  }
  const { queries, keys } = sequences[0];
  return { op: 'flashAttention', dtype, c: { ...c, batch: sequences.length, queries, keys } };
}
