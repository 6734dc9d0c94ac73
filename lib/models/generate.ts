// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { setImmediate as nextTurn } from 'node:timers/promises';
import { noGrad } from '../autograd/tape.js';
import { capture, type CapturedGraph } from '../capture.js';
import { checkArray, checkBoolean, checkInteger, checkOptions, checkPositive, checkSignal } from '../check.js';
import { describe } from '../describe.js';
import { DeviceError, OptionError, ShapeError } from '../errors.js';
import { DecodingCache, type CacheOptions } from '../nn/decoding-cache.js';
import { cast } from '../ops/cast.js';
import { argmax } from '../ops/softmax.js';
import { sum } from '../ops/sum.js';
import { checkSeed, Generator } from '../random.js';
import { outsideScopes, tidy } from '../scope.js';
import { tensor, type Tensor } from '../tensor.js';
import { CausalLM } from './causal-lm.js';
import { checkSamplingOptions, logProbabilities, sample, SAMPLING_OPTIONS, type SamplingOptions } from './sampling.js';

/** Options of {@link generate}. */
export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to make. Default 256. */
  maxTokens?: number;
  /** Seed of the draws. Default 0. */
  seed?: number;
  /** Stop after one of these tokens. Default none. */
  stopTokens?: readonly number[];
  /**
   * Above 1, tokens of the prompt and those made so far become less likely: before everything else their logits are divided by it, or multiplied where they
   * are negative (Keskar et al., "CTRL", 2019). Default 1: off.
   */
  repetitionPenalty?: number;
  /** Stops the loop when aborted. */
  signal?: AbortSignal;
  /**
   * Of one sequence, or as many as there are prompts: the prompt follows the tokens it holds, and it holds all but the last token made afterwards, so
   * that a conversation goes on without being read again. It stays the caller's to dispose. Default: a new one.
   */
  cache?: DecodingCache;
  /** Of the keys and values of a new cache: a float dtype or int8, see {@link CacheOptions}. Default: the dtype of the model. */
  cacheDtype?: CacheOptions['dtype'];
  /**
   * Tokens of a page of a new cache, a multiple of 16: prompts of different lengths then take memory for their own tokens and `maxTokens` each, and not for those of the
   * longest. Default none.
   */
  pageSize?: number;
}

/** Options of {@link generateBatch}. */
export interface GenerateBatchOptions extends GenerateOptions {
  /** Also give the log of each token's probability, before temperature and filters. Default false. */
  logProbabilities?: boolean;
}

/** A token that {@link generateBatch} made. */
export interface GeneratedToken {
  /** Which prompt it continues. */
  sequence: number;
  /** Its id. */
  token: number;
  /** Why the sequence ends with this token: a stop token, or `maxTokens`; null if it goes on. */
  finish: 'stop' | 'length' | null;
  /** The natural log of its probability under the model; present if asked for. */
  logProbability?: number;
}

/** Tokens of a prompt that are run at once: enough to keep the device busy, few enough to look at the signal in between and to need little memory. */
const PROMPT_TOKENS = 512;

/**
 * Continues a prompt, one token at a time, through a key/value cache. Yields each token as it is made; the same seed gives the same tokens.
 *
 * @param prompt at least one token.
 * @throws OptionError, ShapeError if the cache has no room, OutOfMemoryError.
 */
export async function* generate(
  model: CausalLM,
  prompt: readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<number> {
  const op = 'generate';
  checkOptions(op, options, GENERATE_OPTIONS);
  for await (const { token } of run(op, model, [prompt], options)) yield token;
}

/**
 * Continues prompts of any lengths together, a token of each at a time: the weights are read once for all of them. Sequences that have ended cost no
 * more but their place. The draws of a sequence depend on the seed and its number alone, not on the others.
 *
 * @param prompts at least one, each of at least one token.
 * @throws OptionError, ShapeError if the cache has no room, OutOfMemoryError.
 */
export async function* generateBatch(
  model: CausalLM,
  prompts: readonly (readonly number[])[],
  options: GenerateBatchOptions = {},
): AsyncGenerator<GeneratedToken> {
  const op = 'generateBatch';
  checkOptions(op, options, [...GENERATE_OPTIONS, 'logProbabilities']);
  if (!Array.isArray(prompts) || prompts.length === 0)
    throw new OptionError(`${op}: expected an array of at least one prompt`);
  yield* run(op, model, prompts, options);
}

const GENERATE_OPTIONS = [
  ...['maxTokens', ...SAMPLING_OPTIONS, 'seed', 'stopTokens', 'repetitionPenalty', 'signal', 'cache'],
  ...['cacheDtype', 'pageSize'],
];

async function* run(
  op: string,
  model: CausalLM,
  prompts: readonly (readonly number[])[],
  options: GenerateBatchOptions,
): AsyncGenerator<GeneratedToken> {
  if (!(model instanceof CausalLM))
    throw new OptionError(`${op}: expected a CausalLM for model, got ${describe(model)}`);
  const { vocabulary } = model.config;
  const maxTokens = checkInteger(op, 'maxTokens', options.maxTokens ?? 256, 1, 2 ** 24);
  const sampling = checkSamplingOptions(op, options, vocabulary);
  const penalty = checkPositive(op, 'repetitionPenalty', options.repetitionPenalty ?? 1);
  const withLog = checkBoolean(op, 'logProbabilities', options.logProbabilities ?? false);
  checkSignal(op, options.signal);
  const seed = checkSeed(op, options.seed ?? 0);
  const stops = new Set<number>();
  for (const id of checkArray(op, 'stopTokens', options.stopTokens ?? []))
    stops.add(checkInteger(op, 'stopTokens', id, 0, 2 ** 31 - 1)); // each before the next is looked at: a list may be long
  if (options.cache !== undefined && !(options.cache instanceof DecodingCache))
    throw new OptionError(`${op}: expected a DecodingCache for cache, got ${describe(options.cache)}`);
  for (const prompt of prompts) {
    if (!Array.isArray(prompt) || prompt.length === 0)
      throw new OptionError(`${op}: expected a prompt of at least one token`);
    for (const id of prompt as number[]) checkInteger(op, 'prompt', id, 0, vocabulary - 1);
  }
  const batch = prompts.length;
  const cache = options.cache ?? newCache(model, prompts, maxTokens, options);
  if (options.cache && (options.cacheDtype !== undefined || options.pageSize !== undefined))
    throw new OptionError(`${op}: expected cacheDtype and pageSize without cache, which has its own, got both`);
  if (cache.batch !== batch) throw new OptionError(`${op}: expected a cache of ${batch} sequences, got ${cache.batch}`);
  if (cache.device !== model.device)
    throw new DeviceError(`${op}: expected a cache on ${model.device.id}, got one on ${cache.device.id}`);
  const generators = prompts.map((_, sequence) => new Generator(seed + sequence));
  const seen = prompts.map((prompt) => new Set(prompt));
  const going = prompts.map(() => true);
  let step: DecodingStep | null = null;
  try {
    const first = await readPrompts(model, prompts, cache, options.signal);
    let found: Found | null = first && { logits: first };
    const likeliest = sampling.temperature === 0 && penalty === 1 && !withLog;
    for (let made = 1; found; made++) {
      const next = new Array<number>(batch).fill(0);
      for (let sequence = 0; sequence < batch; sequence++) {
        if (!going[sequence]) continue;
        let token: number;
        let logOf: ((token: number) => number) | null = null;
        if ('tokens' in found) token = found.tokens[sequence];
        else {
          const own = found.logits.subarray(sequence * vocabulary, (sequence + 1) * vocabulary);
          logOf = withLog ? logProbabilities(own) : null;
          if (penalty !== 1) penalize(own, seen[sequence], penalty);
          token = sample(own, sampling, generators[sequence]);
        }
        seen[sequence].add(token);
        const finish = stops.has(token) ? 'stop' : made === maxTokens ? 'length' : null;
        going[sequence] = finish === null;
        next[sequence] = token;
        yield { sequence, token, finish, ...(logOf && { logProbability: logOf(token) }) };
      }
      if (!going.includes(true) || (await isAborted(options.signal))) return;
      step ??= new DecodingStep(op, model, cache, likeliest);
      found = await step.run(next, going);
    }
  } finally {
    step?.dispose();
    if (!options.cache) cache.dispose();
  }
}

function newCache(
  model: CausalLM,
  prompts: readonly (readonly number[])[],
  maxTokens: number,
  { cacheDtype, pageSize }: GenerateOptions,
): DecodingCache {
  const lengths = prompts.map((each) => each.length + maxTokens);
  const pages = pageSize !== undefined && lengths.reduce((sum, length) => sum + Math.ceil(length / pageSize), 0);
  return model.createCache(prompts.length, Math.max(...lengths), {
    ...(cacheDtype !== undefined && { dtype: cacheDtype }),
    ...(pages !== false && { pageSize: pageSize as number, pages }),
  });
}

function penalize(logits: Float32Array, tokens: Iterable<number>, penalty: number): void {
  for (const token of tokens) logits[token] = logits[token] > 0 ? logits[token] / penalty : logits[token] * penalty;
}

/** Runs the prompts in pieces; gives the logits [B, V] after the last token of each, or null if aborted. */
async function readPrompts(
  model: CausalLM,
  prompts: readonly (readonly number[])[],
  cache: DecodingCache,
  signal: AbortSignal | undefined,
): Promise<Float32Array | null> {
  const { vocabulary } = model.config;
  const longest = Math.max(...prompts.map((each) => each.length));
  const all = new Float32Array(prompts.length * vocabulary);
  for (let begin = 0; begin < longest; begin += PROMPT_TOKENS) {
    if (await isAborted(signal)) return null;
    const tokens = Math.min(PROMPT_TOKENS, longest - begin);
    const counts = prompts.map((each) => Math.max(0, Math.min(tokens, each.length - begin)));
    const ids = prompts.flatMap((each) => Array.from({ length: tokens }, (_, i) => each[begin + i] ?? 0));
    const before = cache.lengths;
    const logits = inference(() =>
      model.nextLogits(
        tensor(Int32Array.from(ids), { shape: [prompts.length, tokens], device: model.device }),
        cache,
        counts.map((count) => Math.max(1, count)),
      ),
    );
    cache.setLengths(before.map((held, sequence) => held + counts[sequence]));
    const ends = prompts.map((each) => each.length > begin && each.length <= begin + tokens);
    if (ends.includes(true)) {
      const values = (await logits.data()) as Float32Array;
      ends.forEach((end, sequence) => {
        const [from, to] = [sequence * vocabulary, (sequence + 1) * vocabulary];
        if (end) all.set(values.subarray(from, to), from);
      });
    } else await model.device.synchronize(); // so that a signal is not looked at long before its time
    logits.dispose();
  }
  return (await isAborted(signal)) ? null : all;
}

/** Lets the event loop turn first: a device that computes at the call leaves it no time, and the signal would not be aborted. */
async function isAborted(signal: AbortSignal | undefined): Promise<boolean> {
  if (signal) await nextTurn();
  return signal?.aborted ?? false;
}

/** What a step has come to: the likeliest token of each sequence, or the logits [B, V] that one is to be drawn from. */
type Found = { readonly tokens: Int32Array } | { readonly logits: Float32Array };

/** What a captured step writes. */
interface StepTensors {
  /** [B, V] */
  logits: Tensor;
  /** int32 [B]: the first of the largest logits, and the sums of all. Where that is finite, no logit was NaN or infinite. */
  likeliest: { tokens: Tensor; sums: Tensor } | null;
}

/** One more token of each sequence. Captured at first, where the device can do that, and replayed then. */
class DecodingStep {
  private readonly ids: Tensor;
  private graph: CapturedGraph<StepTensors> | null = null;

  constructor(
    private readonly op: string,
    private readonly model: CausalLM,
    private readonly cache: DecodingCache,
    /** Whether the likeliest tokens are all that is asked for: the device finds them, and the logits stay there. */
    likeliest: boolean,
  ) {
    const { device } = model;
    this.ids = outsideScopes(() => tensor(new Int32Array(cache.batch), { shape: [cache.batch, 1], device }));
    if (device.type !== 'reference') {
      try {
        const step = (): StepTensors => {
          const logits = inference(() => model.nextLogits(this.ids, cache));
          return { logits, likeliest: likeliest ? { tokens: argmax(logits), sums: sum(logits, { axis: 1 }) } : null };
        };
        this.graph = outsideScopes(() => capture(() => noGrad(step), { device }));
      } catch (error) {
        this.ids.dispose();
        throw error;
      }
    }
  }

  /** What follows `tokens`, one of each sequence; a sequence that is not `going` does not grow. */
  async run(tokens: readonly number[], going: readonly boolean[]): Promise<Found> {
    const { model, cache, graph, ids } = this;
    const room = cache.capacity - Math.max(...cache.lengths);
    if (room < 1) throw new ShapeError(`${this.op}: expected a cache with room for one more token, got a full one`);
    const lengths = cache.lengths.map((held, sequence) => held + (going[sequence] ? 1 : 0));
    cache.reserve(going.map(Number));
    ids.write(Int32Array.from(tokens));
    if (!graph) {
      const logits = inference(() => model.nextLogits(ids, cache));
      cache.setLengths(lengths);
      const values = (await logits.data()) as Float32Array;
      logits.dispose();
      return { logits: values };
    }
    const { logits, likeliest } = graph.result;
    graph.enqueue();
    // Whichever is waited for first tells of a failure.
    const done = Promise.all(likeliest ? [likeliest.tokens.data(), likeliest.sums.data()] : [logits.data()]);
    cache.setLengths(lengths);
    const [values, sums] = await done;
    if (!likeliest) return { logits: values as Float32Array };
    // Elsewhere the logits themselves say what is wrong with them, or that nothing is.
    const usable = (sums as Float32Array).every((each) => Number.isFinite(each));
    return usable ? { tokens: values as Int32Array } : { logits: (await logits.data()) as Float32Array };
  }

  dispose(): void {
    const made = this.graph?.result;
    for (const each of [made?.logits, made?.likeliest?.tokens, made?.likeliest?.sums]) each?.dispose();
    this.graph?.dispose();
    this.ids.dispose();
  }
}

/** Logits as they are read: float32, for JavaScript turns 16-bit floats into numbers ten times slower than the device. */
const inference = (logits: () => Tensor): Tensor =>
  noGrad(() => outsideScopes(() => tidy(() => cast(logits(), 'float32'))));
