// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkNumber, checkOptions, checkRange } from '../check.js';
import { describe } from '../describe.js';
import { OptionError } from '../errors.js';
import { Generator } from '../random.js';

/**
 * How the next token is drawn from logits. The filters work in this order, that of Transformers (llama.cpp puts the temperature last): logits /
 * temperature, top-k, top-p, min-p. Each sees the probabilities of what the ones before it have left. Of equal logits the lower index is the larger.
 */
export interface SamplingOptions {
  /** Divides the logits; 0 takes the likeliest token always. Default 1. */
  temperature?: number;
  /** Keep the likeliest topK tokens; 0 is all. Default 0. */
  topK?: number;
  /** Keep the fewest likeliest tokens whose probabilities add up to topP, at least one; 1 is all (Holtzman et al., 2020). Default 1. */
  topP?: number;
  /** Keep the tokens with at least minP times the largest probability, from 0, which is all, to 1 (Nguyen et al., 2024). Default 0. */
  minP?: number;
}

/** @internal */
export const SAMPLING_OPTIONS = ['temperature', 'topK', 'topP', 'minP'];

/** @internal The options with their defaults. */
export function checkSamplingOptions(
  op: string,
  options: SamplingOptions,
  vocabulary: number,
): Required<SamplingOptions> {
  return {
    temperature: checkNumber(op, 'temperature', options.temperature ?? 1, 0),
    topK: checkInteger(op, 'topK', options.topK ?? 0, 0, vocabulary),
    topP: checkRange(op, 'topP', options.topP ?? 1, 0, 1),
    minP: checkRange(op, 'minP', options.minP ?? 0, 0, 1),
  };
}

/** What is left to draw from: the first `count` ids, ascending, with weights proportional to their probabilities. */
interface Candidates {
  count: number;
  ids: Int32Array;
  weights: Float64Array;
  /** For the selection: the logits as numbers that order as they do. */
  keys: Uint32Array;
}

/** Kept from call to call, because fresh pages of memory take longer than the work itself. */
let workspace: Candidates = newCandidates(0);

function newCandidates(room: number): Candidates {
  return { count: 0, ids: new Int32Array(room), weights: new Float64Array(room), keys: new Uint32Array(room) };
}

/**
 * Draws the index of a token. Takes time proportional to the number of logits: nothing is sorted.
 *
 * @param logits one number a token; −Infinity is never drawn.
 * @param generator gives the draw; not used at temperature 0.
 * @throws OptionError if an option is out of range, if a logit is NaN or +Infinity, or if there is none above −Infinity.
 */
export function sample(logits: Float32Array, options: SamplingOptions, generator: Generator): number {
  const op = 'sample';
  if (!(logits instanceof Float32Array))
    throw new OptionError(`${op}: expected a Float32Array for logits, got ${describe(logits)}`);
  checkOptions(op, options, SAMPLING_OPTIONS);
  if (!(generator instanceof Generator))
    throw new OptionError(`${op}: expected a Generator for generator, got ${describe(generator)}`);
  const checked = checkSamplingOptions(op, options, logits.length);
  if (checked.temperature === 0) return indexOfLargest(op, logits);
  const { count, ids, weights } = candidates(op, logits, checked);
  let total = 0;
  for (let i = 0; i < count; i++) total += weights[i];
  // 53 random bits: rare tokens of a large vocabulary have probabilities far below 2^-24.
  let rest = ((generator.integer(2 ** 27) * 2 ** 26 + generator.integer(2 ** 26)) / 2 ** 53) * total;
  let last = 0;
  for (let i = 0; i < count; i++) {
    if (weights[i] === 0) continue;
    rest -= weights[i];
    last = i;
    if (rest < 0) break;
  }
  return ids[last];
}

/** The first index of the largest logit. */
function indexOfLargest(op: string, logits: Float32Array): number {
  let best = -1;
  let largest = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i];
    if (logit > largest) {
      largest = logit;
      best = i;
    } else if (logit !== logit) {
      best = i;
      break;
    }
  }
  if (best < 0) throw new OptionError(`${op}: expected a logit above -Infinity, got none`);
  if (!Number.isFinite(logits[best])) {
    throw new OptionError(
      `${op}: expected finite numbers or -Infinity as logits, got ${logits[best]} at index ${best}`,
    );
  }
  return best;
}

/** @internal The natural log of each token's probability under the softmax of logits as they are now. */
export function logProbabilities(logits: Float32Array): (token: number) => number {
  const largest = logits[indexOfLargest('logProbabilities', logits)];
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - largest);
  const before = logits.slice();
  return (token) => before[token] - largest - Math.log(sum);
}

/** @internal What the filters leave, for temperatures above 0; until the next call. */
export function candidates(
  op: string,
  logits: Float32Array,
  { temperature, topK, topP, minP }: Required<SamplingOptions>,
): Candidates {
  const largest = logits[indexOfLargest(op, logits)];
  if (workspace.ids.length < logits.length) workspace = newCandidates(logits.length);
  const left = workspace;
  const { ids, weights } = left;
  left.count = logits.length;
  if (topK > 0 && topK <= MOST_IN_HEAP && topK < left.count) {
    left.count = topK;
    ids.set(idsOfLargest(logits, topK));
  } else {
    for (let i = 0; i < left.count; i++) ids[i] = i;
    if (topK > 0 && topK < left.count) keepLargest(left, logits, topK, false);
  }
  let total = 0;
  for (let i = 0; i < left.count; i++) {
    weights[i] = Math.exp((logits[ids[i]] - largest) / temperature);
    total += weights[i];
  }
  if (topP < 1) {
    // All weights below this add up to no more than half of what may go.
    keepHeavy(left, ((1 - topP) * total) / (2 * left.count));
    keepLargest(left, logits, topP * total, true);
  }
  if (minP > 0) keepHeavy(left, minP); // the largest weight is 1
  return left;
}

/** Up to so many of the largest logits are found with a heap, which takes one comparison for nearly every logit. */
const MOST_IN_HEAP = 1024;

/** The ids of the `count` largest logits, ascending; of equal logits the first. */
function idsOfLargest(logits: Float32Array, count: number): Int32Array {
  // The root is the one that goes next: the smallest logit, of equal ones the last.
  const heap = new Int32Array(count);
  const goesBefore = (a: number, b: number): boolean => logits[a] < logits[b] || (logits[a] === logits[b] && a > b);
  const sink = (id: number, from: number): void => {
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= count) break;
      if (child + 1 < count && goesBefore(heap[child + 1], heap[child])) child++;
      if (!goesBefore(heap[child], id)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = id;
  };
  for (let id = 0; id < count; id++) heap[id] = id;
  for (let at = (count >> 1) - 1; at >= 0; at--) sink(heap[at], at);
  let least = logits[heap[0]];
  for (let id = count; id < logits.length; id++) {
    if (logits[id] <= least) continue; // also equal ones: they come later
    sink(id, 0);
    least = logits[heap[0]];
  }
  return heap.sort();
}

/** Keeps the candidates of at least this weight. */
function keepHeavy(left: Candidates, least: number): void {
  const { count, ids, weights } = left;
  let kept = 0;
  for (let i = 0; i < count; i++) {
    if (weights[i] < least) continue;
    ids[kept] = ids[i];
    weights[kept++] = weights[i];
  }
  left.count = kept;
}

/** Digits of 32 bits from the highest on. */
const DIGITS = [
  { shift: 21, width: 11 },
  { shift: 10, width: 11 },
  { shift: 0, width: 10 },
];

/**
 * Keeps the fewest of the largest logits that reach `target`: by their weights if `weighted`, else by their number; at least one, at most all.
 * Of equal logits, which have equal weights, the first.
 *
 * The smallest logit that is needed is found digit by digit, as in a radix sort: each pass adds up the weights by the next digit of the logits
 * that agree with it so far.
 */
function keepLargest(left: Candidates, logits: Float32Array, target: number, weighted: boolean): void {
  const { count, ids, weights, keys } = left;
  const floats = new Float32Array(keys.buffer);
  const bits = new Int32Array(keys.buffer);
  for (let i = 0; i < count; i++) {
    floats[i] = logits[ids[i]] + 0; // -0 becomes 0, its equal
    keys[i] = bits[i] ^ ((bits[i] >> 31) | 0x80000000);
  }
  let rest = target;
  let cut = 0;
  for (const { shift, width } of DIGITS) {
    const sums = new Float64Array(2 ** width);
    const counts = new Int32Array(2 ** width);
    for (let i = 0; i < count; i++) {
      const key = keys[i] >>> shift;
      if (key >>> width !== cut) continue;
      const bin = key & (2 ** width - 1);
      counts[bin]++;
      if (weighted) sums[bin] += weights[i];
    }
    if (!weighted) sums.set(counts);
    // If rounding keeps the sum below the target, the last bin that holds anything is taken.
    let bin = -1;
    for (let next = sums.length - 1; next >= 0; next--) {
      if (counts[next] === 0) continue;
      if (bin >= 0) rest -= sums[bin];
      bin = next;
      if (rest <= sums[bin]) break;
    }
    cut = ((cut << width) | bin) >>> 0;
  }
  let ties = Math.max(1, Math.ceil(rest / (weighted ? weights[keys.indexOf(cut)] : 1)));
  let kept = 0;
  for (let i = 0; i < count; i++) {
    if (keys[i] < cut || (keys[i] === cut && ties-- <= 0)) continue;
    ids[kept] = ids[i];
    weights[kept++] = weights[i];
  }
  left.count = kept;
}
