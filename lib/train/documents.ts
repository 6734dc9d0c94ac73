// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkArray, checkInteger } from '../check.js';
import { OptionError } from '../errors.js';
import type { ChatMessage } from '../text/chat-template.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { checkTokenizer, encodeConversation, encodeWithCuts, type EncodedDocument } from './conversation.js';

/**
 * A document to learn from: a text, all of which is learnt; a completion, learnt after its prompt; or a conversation, of which the messages of the
 * role `assistant` are learnt.
 */
export type TrainingDocument =
  | {
      /** All of it is learnt. */
      readonly text: string;
    }
  | {
      /** Is read, and not learnt. */
      readonly prompt: string;
      /** Goes on from the prompt, without anything in between. */
      readonly completion: string;
    }
  | {
      /** From the first to the last. */
      readonly messages: readonly ChatMessage[];
    };

/** How documents become tokens: see {@link documentEncoder} for a tokenizer's way. */
export interface DocumentEncoder {
  /** The tokens of a text, with those that stand round a text for the model or, where it goes on from another, without. */
  encode(text: string, options: { addSpecialTokens: boolean }): readonly number[];
  /** The tokens of a conversation, and which of them are learnt. Default: there may be no conversations. */
  encodeChat?(messages: readonly ChatMessage[]): EncodedDocument;
  /** Ends texts and completions, and is learnt with them; a text that has it at its end gets no second one. Default none. */
  readonly endToken?: number | null;
}

/** Encodes documents as a checkpoint's tokenizer and chat template say. Throws OptionError unless it is a tokenizer. */
export function documentEncoder(
  tokenizer: Pick<Tokenizer, 'encode' | 'applyChatTemplate' | 'eosToken'>,
): DocumentEncoder {
  checkTokenizer('documentEncoder', tokenizer);
  return {
    encode: (text, options) => tokenizer.encode(text, options),
    encodeChat: (messages) => encodeConversation(tokenizer, messages),
    endToken: tokenizer.eosToken,
  };
}

/**
 * @internal The document that a value is; null if it is none. Other keys than those of its form are ignored; of several forms, a conversation
 * goes before a completion, and that before a text.
 */
export function documentOf(value: unknown): TrainingDocument | null {
  if (typeof value !== 'object' || value === null) return null;
  const { text, prompt, completion, messages } = value as Record<string, unknown>;
  if (messages !== undefined) {
    const isMessage = (each: unknown): each is ChatMessage => {
      const { role, content } = (each ?? {}) as Record<string, unknown>;
      return typeof role === 'string' && typeof content === 'string';
    };
    return Array.isArray(messages) && messages.length > 0 && messages.findIndex((each) => !isMessage(each)) < 0
      ? { messages }
      : null;
  }
  if (prompt !== undefined || completion !== undefined)
    return typeof prompt === 'string' && typeof completion === 'string' ? { prompt, completion } : null;
  return typeof text === 'string' ? { text } : null;
}

/** @internal What {@link documentOf} wants, in words. */
export const DOCUMENT_FORMS = '{text}, {prompt, completion} or {messages: [{role, content}, …]}';

/** @internal @throws OptionError if the encoder gives no tokens, or cannot encode conversations and is given one. */
export function encodeDocument(op: string, document: TrainingDocument, encoder: DocumentEncoder): EncodedDocument {
  const encoded = tokensOf(op, document, encoder);
  checkArray(op, 'trained of encodeChat', checkTokens(op, encoded).trained);
  if (encoded.ids.length !== encoded.trained.length) {
    throw new OptionError(
      `${op}: expected as many trained as ids of encodeChat, got ${encoded.trained.length} and ${encoded.ids.length}`,
    );
  }
  return encoded;
}

function checkTokens(op: string, encoded: EncodedDocument): EncodedDocument {
  const ids = (encoded as Partial<EncodedDocument> | null)?.ids as readonly number[];
  for (const id of checkArray(op, 'the tokens of a document', ids)) checkInteger(op, 'a token', id, 0, 2 ** 31 - 1);
  return encoded;
}

function tokensOf(op: string, document: TrainingDocument, encoder: DocumentEncoder): EncodedDocument {
  if ('messages' in document) {
    if (!encoder.encodeChat)
      throw new OptionError(`${op}: expected an encoder with encodeChat for {messages}, got one without`);
    return encoder.encodeChat(document.messages);
  }
  const { endToken = null } = encoder;
  // Some tokenizers end texts themselves. In the middle of a document that would be wrong.
  if (endToken !== null) checkInteger(op, 'endToken', endToken, 0, 2 ** 31 - 1);
  const tokens = (text: string, addSpecialTokens: boolean): readonly number[] =>
    checkArray(op, 'what encode gives', encoder.encode(text, { addSpecialTokens }));
  const ends = endToken !== null && tokens('', true).at(-1) === endToken;
  const encode = (text: string, addSpecialTokens: boolean): readonly number[] => {
    const ids = tokens(text, addSpecialTokens);
    return ends && addSpecialTokens ? ids.slice(0, -1) : ids;
  };
  const isCompletion = 'completion' in document;
  const text = isCompletion ? document.prompt + document.completion : document.text;
  const { ids, at } = encodeWithCuts(encode, text, isCompletion ? [document.prompt.length] : []);
  const all = endToken === null || ids.at(-1) === endToken ? ids : [...ids, endToken];
  return { ids: all, trained: all.map((_, i) => i >= (at[0] ?? 0)) };
}
