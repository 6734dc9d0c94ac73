// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { ChatMessage, Tokenizer } from '../../lib/index.js';

/** What training needs of a tokenizer. */
export type TrainingTokenizer = Pick<Tokenizer, 'encode' | 'applyChatTemplate' | 'eosToken'>;

export const BEGIN = 256;
export const END = 257;
const SPECIALS: Record<string, number> = { '<s>': BEGIN, '</s>': END, '<|im_start|>': 258, '<|im_end|>': 259 };

/** Byte b is token b, and some texts are one token; `<s>` stands before texts. */
export function encodeBytes(text: string, { addSpecialTokens = true } = {}): number[] {
  const parts = text.split(/(<s>|<\/s>|<\|im_start\|>|<\|im_end\|>)/);
  const ids = parts.flatMap((part) => SPECIALS[part] ?? [...Buffer.from(part)]);
  return addSpecialTokens ? [BEGIN, ...ids] : ids;
}

/** The text of tokens. */
export function decodeBytes(ids: Iterable<number>): string {
  const names = new Map(Object.entries(SPECIALS).map(([text, id]) => [id, text]));
  return [...ids].map((id) => names.get(id) ?? String.fromCharCode(id)).join('');
}

/** ChatML, as of Qwen. */
export function chatMl(messages: readonly ChatMessage[], { addGenerationPrompt = true } = {}): string {
  const said = messages.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join('');
  return said + (addGenerationPrompt ? '<|im_start|>assistant\n' : '');
}

/** Bytes, with that template. */
export function byteTokenizer(template = chatMl): TrainingTokenizer {
  return { encode: encodeBytes, applyChatTemplate: template, eosToken: END };
}
