// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError } from '../errors.js';
import { TextStream } from '../text/text-stream.js';
import type { LoadedTextModel } from '../text/text-model.js';
import type { TextOptions } from './text-options.js';

/** How an answer came to its end. */
export interface AnswerEnd {
  /** `stop`: the model ended it, or a stop string; `length`: as many tokens as were asked for or fit; `cancelled`: by Ctrl-C. */
  finishReason: 'stop' | 'length' | 'cancelled';
  /** The stop string that ended it; null if none did. */
  stopString: string | null;
  /** Tokens of the prompt. */
  promptTokens: number;
  /** Tokens that the model made, the one that ends a text included. */
  tokens: number;
  /** Seconds to the first token: those of the prompt. Null without one. */
  promptSeconds: number | null;
  /** Seconds from then to the last token. */
  seconds: number;
  /** Tokens after the first, a second; null if there is none. */
  tokensPerSecond: number | null;
}

/** How {@link answer} goes on. */
export interface AnswerRequest extends Pick<TextOptions, 'sampling' | 'stop'> {
  signal: AbortSignal;
  /** Whether the answer continues the prompt's text, so that a space between them counts. */
  continues: boolean;
}

/** The text that follows a prompt, piece by piece as it is made; then how it ended. */
export async function* answer(
  op: string,
  model: LoadedTextModel,
  promptIds: readonly number[],
  { sampling, stop, continues, signal }: AnswerRequest,
): AsyncGenerator<string, AnswerEnd> {
  const { tokenizer, contextLength } = model;
  if (promptIds.length >= contextLength) {
    throw new OptionError(
      `${op}: expected a prompt of fewer than ${contextLength} tokens, the model's context, got ${promptIds.length}`,
    );
  }
  const maxTokens = Math.min(sampling.maxTokens, contextLength - promptIds.length);
  const { stopTokens } = tokenizer;
  const stream = new TextStream(tokenizer, { stop, context: continues ? promptIds : [] });
  let tokens = 0;
  let ended = false;
  const start = performance.now();
  let [first, last] = [start, start];
  try {
    for await (const id of model.generate(promptIds, { ...sampling, maxTokens, stopTokens, signal })) {
      last = performance.now();
      if (tokens++ === 0) first = last;
      ended = stopTokens.includes(id);
      if (ended) break;
      const piece = stream.push(id);
      if (piece !== '') yield piece;
      if (stream.stopped || signal.aborted || tokens >= maxTokens) break;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  const rest = stream.flush();
  if (rest !== '') yield rest;
  const seconds = (last - first) / 1000;
  ended ||= stream.stopped || tokens < maxTokens;
  return {
    finishReason: signal.aborted ? 'cancelled' : ended ? 'stop' : 'length',
    stopString: stream.stopString,
    promptTokens: promptIds.length,
    tokens,
    promptSeconds: tokens === 0 ? null : (first - start) / 1000,
    seconds,
    tokensPerSecond: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
  };
}

/** The end of an answer in one line. */
export function summaryOf({ finishReason, promptTokens, promptSeconds, tokens, tokensPerSecond }: AnswerEnd): string {
  const prompt = promptSeconds === null ? '' : ` in ${promptSeconds.toFixed(2)} s`;
  const rate = tokensPerSecond === null ? '' : `, ${tokensPerSecond.toFixed(1)} tokens/s`;
  return `prompt ${promptTokens} tokens${prompt}; answer ${tokens} tokens${rate}; ${finishReason}`;
}
