// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Tokenizer } from './tokenizer.js';

/** How {@link LoadedTextModel.generate} goes on; what is absent is the model's to choose. */
export interface TextGenerationOptions {
  /** Most tokens to make. */
  maxTokens: number;
  /** Divides the logits; 0 takes the likeliest token always. */
  temperature?: number;
  /** Draw from the likeliest topK tokens; 0 is all. */
  topK?: number;
  /** Draw from the fewest likeliest tokens whose probabilities add up to topP. */
  topP?: number;
  /** Draw from the tokens with at least minP times the largest probability. */
  minP?: number;
  /** Seed of the draws. */
  seed?: number;
  /** Stop after one of these tokens, whether it is given or not. */
  stopTokens?: readonly number[];
  /** Ends the tokens when aborted, with an error or without. */
  signal?: AbortSignal;
}

/** A language model and its tokenizer, as far as text goes: what the commands `generate` and `chat` need of one. */
export interface LoadedTextModel {
  /** Its tokenizer. */
  readonly tokenizer: Tokenizer;
  /** Most tokens of a prompt and its continuation together; Infinity if there is no limit. */
  readonly contextLength: number;
  /** One line: what it is, and where it is computed. */
  readonly description: string;
  /** The tokens that follow the prompt. A caller that has enough leaves the loop. */
  generate(promptIds: readonly number[], options: TextGenerationOptions): AsyncIterable<number>;
  /** Frees its memory. */
  dispose(): void;
}

/**
 * Loads the model of a folder or file. `cacheDtype`: of the keys and values of the tokens so far. `onWarning`: called with what looks wrong and keeps nothing from
 * running.
 */
export type LoadTextModel = (
  path: string,
  options: { device?: string; dtype?: string; cacheDtype?: string; onWarning?: (warning: string) => void },
) => Promise<LoadedTextModel>;
