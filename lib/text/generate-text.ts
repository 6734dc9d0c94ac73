// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkObject } from '../check.js';
import { describe } from '../describe.js';
import { OptionError } from '../errors.js';
import type { CausalLM } from '../models/causal-lm.js';
import { generate, type GenerateOptions } from '../models/generate.js';
import type { ChatMessage } from './chat-template.js';
import { TextStream } from './text-stream.js';
import { Tokenizer } from './tokenizer.js';

/** Options of {@link generateText}. */
export interface GenerateTextOptions extends Omit<GenerateOptions, 'stopTokens' | 'cache'> {
  /** Ends the text before one of these. Default none. */
  stop?: string | readonly string[];
}

/**
 * Continues a text, or answers the last message of a conversation, through the model's chat template. Yields the text as it comes, never half a character;
 * it ends with the tokenizer's end tokens, a stop string, or `maxTokens`.
 *
 * @param prompt a text, or messages.
 * @throws OptionError, also if there is no chat template for messages; DependencyError; what {@link generate} throws.
 */
export async function* generateText(
  model: CausalLM,
  tokenizer: Tokenizer,
  prompt: string | readonly ChatMessage[],
  options: GenerateTextOptions = {},
): AsyncGenerator<string> {
  const op = 'generateText';
  checkObject(op, 'options', options);
  const { stop = [], ...rest } = options;
  if (!(tokenizer instanceof Tokenizer))
    throw new OptionError(`${op}: expected a Tokenizer for tokenizer, got ${describe(tokenizer)}`);
  const isText = typeof prompt === 'string';
  if (!isText && !Array.isArray(prompt))
    throw new OptionError(`${op}: expected a text or messages for prompt, got ${describe(prompt)}`);
  const ids = isText ? tokenizer.encode(prompt) : tokenizer.encodeChat([...prompt]);
  const { stopTokens } = tokenizer;
  const stream = new TextStream(tokenizer, { stop, context: isText ? ids : [] });
  for await (const id of generate(model, ids, { ...rest, stopTokens })) {
    if (stopTokens.includes(id)) break;
    const piece = stream.push(id);
    if (piece !== '') yield piece;
    if (stream.stopped) break;
  }
  const piece = stream.flush();
  if (piece !== '') yield piece;
}
