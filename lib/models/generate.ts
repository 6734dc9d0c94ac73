// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { noGrad } from '../autograd/tape.js';
import { checkInteger, checkNumber, checkOptions } from '../check.js';
import { OptionError } from '../errors.js';
import { Generator } from '../random.js';
import { tidy } from '../scope.js';
import { tensor } from '../tensor.js';
import type { CausalLM } from './causal-lm.js';

/** Options of {@link generate}. */
export interface GenerateOptions {
  /** Most tokens to make. Default 256. */
  maxTokens?: number;
  /** Divides the logits; 0 takes the likeliest token always. Default 1. */
  temperature?: number;
  /** Draw from the likeliest topK tokens only; 0 is all. Default 0. */
  topK?: number;
  /** Seed of the draws. Default 0. */
  seed?: number;
  /** Stop after one of these tokens. Default none. */
  stopTokens?: readonly number[];
  /** Stops the loop when aborted. */
  signal?: AbortSignal;
}

/** Index drawn from softmax(logits / temperature) over the topK largest. */
function draw(logits: Float32Array, temperature: number, topK: number, random: Generator): number {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  if (temperature === 0) return order[0];
  const candidates = topK > 0 ? order.slice(0, topK) : order;
  const weights = candidates.map((id) => Math.exp((logits[id] - logits[order[0]]) / temperature));
  let rest = random.uniform(1)[0] * weights.reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < candidates.length; i++) {
    rest -= weights[i];
    if (rest < 0) return candidates[i];
  }
  return candidates[candidates.length - 1];
}

/**
 * Continues a prompt, one token at a time, through a key/value cache. Yields each token as it is made; the same seed gives the same tokens.
 *
 * @param prompt at least one token.
 * @throws OptionError, OutOfMemoryError.
 */
export async function* generate(
  model: CausalLM,
  prompt: readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<number> {
  const op = 'generate';
  checkOptions(op, options, ['maxTokens', 'temperature', 'topK', 'seed', 'stopTokens', 'signal']);
  const { vocabulary } = model.config;
  const maxTokens = checkInteger(op, 'maxTokens', options.maxTokens ?? 256, 1, 2 ** 24);
  const temperature = checkNumber(op, 'temperature', options.temperature ?? 1, 0);
  const topK = checkInteger(op, 'topK', options.topK ?? 0, 0, vocabulary);
  if (!Array.isArray(prompt) || prompt.length === 0)
    throw new OptionError(`${op}: expected a prompt of at least one token`);
  for (const id of prompt as number[]) checkInteger(op, 'prompt', id, 0, vocabulary - 1);
  const random = new Generator(options.seed ?? 0);

  const cache = model.createCache(1, prompt.length + maxTokens);
  try {
    let next: number[] = [...(prompt as number[])];
    for (let made = 0; made < maxTokens && !options.signal?.aborted; made++) {
      const logits = noGrad(() =>
        tidy(() => model.forward(tensor([next], { dtype: 'int32', device: model.device }), cache)),
      );
      const values = (await logits.data()) as Float32Array;
      logits.dispose();
      const id = draw(values.subarray(values.length - vocabulary), temperature, topK, random);
      yield id;
      if (options.stopTokens?.includes(id)) return;
      next = [id];
    }
  } finally {
    for (const layer of cache) {
      layer.keys.dispose();
      layer.values.dispose();
    }
  }
}
