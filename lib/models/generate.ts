// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { noGrad } from '../autograd/tape.js';
import { checkInteger, checkOptions } from '../check.js';
import { OptionError } from '../errors.js';
import { Generator } from '../random.js';
import { tidy } from '../scope.js';
import { tensor } from '../tensor.js';
import type { CausalLM } from './causal-lm.js';
import { checkSamplingOptions, sample, SAMPLING_OPTIONS, type SamplingOptions } from './sampling.js';

/** Options of {@link generate}. */
export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to make. Default 256. */
  maxTokens?: number;
  /** Seed of the draws. Default 0. */
  seed?: number;
  /** Stop after one of these tokens. Default none. */
  stopTokens?: readonly number[];
  /** Stops the loop when aborted. */
  signal?: AbortSignal;
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
  checkOptions(op, options, ['maxTokens', ...SAMPLING_OPTIONS, 'seed', 'stopTokens', 'signal']);
  const { vocabulary } = model.config;
  const maxTokens = checkInteger(op, 'maxTokens', options.maxTokens ?? 256, 1, 2 ** 24);
  const sampling = checkSamplingOptions(op, options, vocabulary);
  if (!Array.isArray(prompt) || prompt.length === 0)
    throw new OptionError(`${op}: expected a prompt of at least one token`);
  for (const id of prompt as number[]) checkInteger(op, 'prompt', id, 0, vocabulary - 1);
  const random = new Generator(options.seed ?? 0);

  const cache = model.createCache(1, prompt.length + maxTokens);
  try {
    let next: number[] = [...(prompt as number[])];
    for (let made = 0; made < maxTokens && !options.signal?.aborted; made++) {
      const logits = noGrad(() =>
        tidy(() => model.nextLogits(tensor([next], { dtype: 'int32', device: model.device }), cache)),
      );
      const values = (await logits.data()) as Float32Array;
      logits.dispose();
      const id = sample(values, sampling, random);
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
