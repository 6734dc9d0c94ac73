// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkOneOf } from '../check.js';
import type { DeviceName } from '../device.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import type { CausalLM } from '../models/causal-lm.js';
import { generate } from '../models/generate.js';
import { loadModel } from '../models/load-model.js';
import { tokenizerPlace } from '../models/text-files.js';
import type { CacheOptions, DecodingCache } from '../nn/decoding-cache.js';
import type { LoadTextModel, TextGenerationOptions } from '../text/text-model.js';
import { Tokenizer } from '../text/tokenizer.js';

/** A published checkpoint, or a model that `CausalLM.save` wrote, and the tokenizer beside it. */
export const loadTextModel: LoadTextModel = async (location, { device, dtype, cacheDtype, onWarning }) => {
  const chosen =
    dtype === undefined ? {} : { dtype: checkOneOf('loadModel', 'dtype', dtype as FloatDType, FLOAT_DTYPES) };
  const tokenizer = await Tokenizer.load(await tokenizerPlace(location));
  const placement = device === undefined ? {} : { device: device as DeviceName };
  const model = await loadModel(location, { ...placement, ...chosen, ...(onWarning && { onWarning }) });
  const { layers, hidden, contextLength } = model.config;
  const reader = new Reader(model, cacheDtype as CacheOptions['dtype']);
  return {
    tokenizer,
    contextLength: contextLength || Infinity, // positions are rotations: there is no last one
    description: `${location}: ${layers} layers of ${hidden} in ${model.config.dtype} on ${model.device.id}`,
    generate: (promptIds, options) => reader.generate(promptIds, options),
    dispose: () => {
      reader.dispose();
      model.dispose();
    },
  };
};

/** A cache is made for a multiple of so many tokens, so that a conversation seldom outgrows it. */
const ROOM = 1024;

/** Reads of a prompt what it does not hold already: of a conversation, the last message. */
class Reader {
  private cache: DecodingCache | null = null;
  /** The tokens that the cache holds. */
  private held: number[] = [];

  constructor(
    private readonly model: CausalLM,
    private readonly dtype: CacheOptions['dtype'],
  ) {}

  async *generate(promptIds: readonly number[], options: TextGenerationOptions): AsyncGenerator<number> {
    const needed = promptIds.length + options.maxTokens;
    if (this.cache === null || this.cache.capacity < needed) {
      this.dispose();
      const options = this.dtype === undefined ? {} : { dtype: this.dtype };
      this.cache = this.model.createCache(1, Math.ceil(needed / ROOM) * ROOM, options);
    }
    const { cache } = this;
    // At least the last token is read again, for what follows it.
    let common = 0;
    while (common < promptIds.length - 1 && promptIds[common] === this.held[common]) common++;
    cache.setLengths(common);
    this.held = [...promptIds];
    try {
      for await (const token of generate(this.model, promptIds.slice(common), { ...options, cache })) {
        this.held.push(token);
        yield token;
      }
    } finally {
      this.held.length = Math.min(this.held.length, cache.lengths[0]);
    }
  }

  dispose(): void {
    this.cache?.dispose();
    this.cache = null;
    this.held = [];
  }
}
