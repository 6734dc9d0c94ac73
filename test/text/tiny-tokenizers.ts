// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Contents of small tokenizer.json files of the kinds that checkpoints have. Ids are chosen to be told at a glance: byte b of a byte-level
 * vocabulary is token b, merges follow in order, then special tokens.
 */

type Pair = readonly [string, string];

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
}

const added = (content: string, id: number, special = true): AddedToken => ({
  id,
  content,
  special,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
});

/** GPT-2's letters for bytes: those of Latin-1 that can be seen stand for themselves, the others for 256 and up. */
export const BYTE_LETTERS: readonly string[] = (() => {
  const seen = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(seen(byte) ? byte : next++));
})();

/** A text as byte letters. */
export const inByteLetters = (text: string): string[] =>
  Array.from(new TextEncoder().encode(text), (byte) => BYTE_LETTERS[byte]);

/** The pairs that byte-pair encoding merges, most frequent first, counted in one text; of equals that which comes first. */
export function learnMerges(text: string, count: number): Pair[] {
  let word = inByteLetters(text);
  const merges: Pair[] = [];
  while (merges.length < count) {
    const counts = new Map<string, number>();
    for (let i = 0; i + 1 < word.length; i++) {
      const key = `${word[i]} ${word[i + 1]}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    const [best] = [...counts].sort((a, b) => b[1] - a[1])[0];
    const [left, right] = best.split(' ');
    merges.push([left, right]);
    const merged: string[] = [];
    for (let i = 0; i < word.length; i++) {
      const fits = word[i] === left && word[i + 1] === right;
      merged.push(fits ? left + right : word[i]);
      if (fits) i++;
    }
    word = merged;
  }
  return merges;
}

const template = (bos: string, id: number): object => ({
  type: 'TemplateProcessing',
  single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
  pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
  special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
});

/**
 * Byte-level BPE, as of Llama 3 and GPT-2, with one token a byte (id = byte), the merges (256 and up) and then the special tokens
 * `<|begin|>`, which begins texts, `<|end|>`, `<|eot|>` and, not special, `<tool>`.
 */
export function byteLevelTokenizer(merges: readonly Pair[]): { json: object; specialIds: Record<string, number> } {
  const vocab = Object.fromEntries(
    [...BYTE_LETTERS, ...merges.map((pair) => pair.join(''))].map((token, id) => [token, id]),
  );
  const first = Object.keys(vocab).length;
  const specials = ['<|begin|>', '<|end|>', '<|eot|>', '<tool>'];
  const json = {
    version: '1.0',
    added_tokens: specials.map((content, i) => added(content, first + i, content !== '<tool>')),
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: {
      type: 'Sequence',
      processors: [{ type: 'ByteLevel', add_prefix_space: true, trim_offsets: false }, template('<|begin|>', first)],
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', unk_token: null, byte_fallback: false, vocab, merges: merges.map((pair) => pair.join(' ')) },
  };
  return { json, specialIds: Object.fromEntries(specials.map((content, i) => [content, first + i])) };
}

/** Of a SentencePiece-style vocabulary: `<unk>`, `<s>` and `</s>` are 0, 1, 2, byte b is 3 + b, then the pieces. */
const pieceIds = (pieces: readonly string[]): Record<string, number> => {
  const bytes = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`);
  return Object.fromEntries(['<unk>', '<s>', '</s>', ...bytes, ...pieces].map((piece, id) => [piece, id]));
};

/** The id of the first piece. */
export const FIRST_PIECE = 259;

/** As of Llama 2: BPE on `▁` for a space, bytes for what is no piece, and a decoder that drops the space that encoding put first. */
export function llamaTokenizer(pieces: readonly string[], merges: readonly Pair[]): object {
  return {
    version: '1.0',
    added_tokens: ['<unk>', '<s>', '</s>'].map((content, id) => added(content, id)),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: template('<s>', 1),
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab: pieceIds(pieces),
      merges: merges.map((pair) => pair.join(' ')),
    },
  };
}

/** The same with the Metaspace pre-tokenizer and decoder. */
export function metaspaceTokenizer(pieces: readonly string[], merges: readonly Pair[]): object {
  return {
    ...llamaTokenizer(pieces, merges),
    normalizer: null,
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'ByteFallback' },
        { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false },
      ],
    },
  };
}

/** The steps before the merges, of a tokenizer that splits texts by a pattern. */
export const split = (Regex: string): object => ({
  type: 'Sequence',
  pretokenizers: [
    { type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false },
    { type: 'ByteLevel', use_regex: false },
  ],
});

const LLAMA_3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN_2 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const TEKKEN =
  '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';

/** How byte-level tokenizers of published models come from a text to words, as their tokenizer.json has it, by llama.cpp's name for it. */
export const SPLITS: readonly { name: string; parts: object; ignore_merges: boolean }[] = [
  { name: 'llama-bpe', parts: { pre_tokenizer: split(LLAMA_3) }, ignore_merges: true },
  { name: 'smaug-bpe', parts: { pre_tokenizer: split(LLAMA_3) }, ignore_merges: false },
  { name: 'qwen2', parts: { pre_tokenizer: split(QWEN_2), normalizer: { type: 'NFC' } }, ignore_merges: false },
  {
    name: 'deepseek-r1-qwen',
    parts: { pre_tokenizer: split(QWEN_2), normalizer: { type: 'Sequence', normalizers: [] } },
    ignore_merges: false,
  },
  { name: 'tekken', parts: { pre_tokenizer: split(TEKKEN) }, ignore_merges: true },
  {
    name: 'smollm',
    parts: {
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [{ type: 'Digits', individual_digits: true }, { type: 'ByteLevel' }],
      },
    },
    ignore_merges: false,
  },
  { name: 'gpt-2', parts: {}, ignore_merges: false },
];
