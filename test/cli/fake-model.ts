// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Tokenizer } from '../../lib/index.js';
import type { LoadedTextModel, LoadTextModel, TextGenerationOptions } from '../../lib/text/text-model.js';

/** What a model was asked. */
export interface Asked extends TextGenerationOptions {
  /** The prompt as text, with special tokens. */
  prompt: string;
}

/** A model that says what `reply` gives, and what it was asked. */
export interface FakeModel extends LoadedTextModel {
  asked: Asked[];
  disposed: boolean;
}

/** @param reply the tokens of the answer, which end when the model is to end. */
export function fakeModel(
  tokenizer: Tokenizer,
  reply: (asked: Asked) => AsyncIterable<number> | Iterable<number>,
  contextLength = 1000,
): FakeModel {
  const model: FakeModel = {
    tokenizer,
    contextLength,
    description: 'a fake',
    asked: [],
    disposed: false,
    async *generate(promptIds, options) {
      const asked = { ...options, prompt: tokenizer.decode(promptIds, { skipSpecialTokens: false }) };
      model.asked.push(asked);
      yield* reply(asked);
    },
    dispose: () => {
      model.disposed = true;
    },
  };
  return model;
}

export const loaderOf =
  (model: LoadedTextModel): LoadTextModel =>
  () =>
    Promise.resolve(model);

/** The tokens of a text whose tokenizer has one token a byte. */
export const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Waits for Ctrl-C, and fails as Node's own functions do then. */
export async function untilAborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    const end = (): void => reject(signal?.reason as Error);
    if (signal?.aborted) end();
    signal?.addEventListener('abort', end);
  });
}
