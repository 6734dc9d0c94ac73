// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** A way of byte-level BPE to come from a text to words, by the name that llama.cpp has for it (`tokenizer.ggml.pre`). */
export interface GgufSplit {
  name: string;
  /** What tells it from others in the pattern of tokenizer.json; null if it has none. */
  pattern: string | null;
  /** The same as a whole; null for GPT-2's, which the step ByteLevel has built in. */
  regex: string | null;
  /** Digits are words of their own before that. */
  digits: boolean;
  /** The Unicode form that texts are brought into first, in the tokenizer that the name is from. llama.cpp leaves them as they are. */
  normalizer: 'NFC' | null;
  /** A word that is a token is not merged from letters. */
  ignoreMerges: boolean;
  /** What stands for an absent `tokenizer.ggml.add_bos_token`. */
  addsBos: boolean;
}

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const LLAMA_3 = '|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|';
const QWEN_2 = '|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|';
const [UPPER, LOWER] = ['[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]', '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'];
const TEKKEN = `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*|\\p{N}|`;

const GPT_2 = { pattern: null, regex: null, digits: false, normalizer: null, ignoreMerges: false, addsBos: false };
const byPattern = (pattern: string): Omit<GgufSplit, 'name'> => ({
  ...GPT_2,
  pattern,
  regex: `${CONTRACTIONS}${pattern} ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${SPACES}`,
});
const tekken = { ...GPT_2, pattern: TEKKEN, regex: `${TEKKEN} ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${SPACES}` };
const likeLlama3 = { ...byPattern(LLAMA_3), ignoreMerges: true, addsBos: true };

/** Of several that split alike the first is the one to write. Names: src/llama-vocab.cpp of llama.cpp; patterns: tokenizer.json of the models. */
export const GGUF_SPLITS: readonly GgufSplit[] = [
  { name: 'llama-bpe', ...likeLlama3 },
  { name: 'llama3', ...likeLlama3 },
  { name: 'llama-v3', ...likeLlama3 },
  { name: 'falcon3', ...likeLlama3 },
  { name: 'smaug-bpe', ...byPattern(LLAMA_3) },
  { name: 'dbrx', ...byPattern(LLAMA_3) },
  { name: 'qwen2', ...byPattern(QWEN_2), normalizer: 'NFC' },
  { name: 'deepseek-r1-qwen', ...byPattern(QWEN_2) },
  { name: 'tekken', ...tekken, ignoreMerges: true, addsBos: true },
  { name: 'smollm', ...GPT_2, digits: true },
  { name: 'starcoder', ...GPT_2, digits: true },
  { name: 'refact', ...GPT_2, digits: true },
  { name: 'gpt-2', ...GPT_2 },
];
