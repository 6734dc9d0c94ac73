// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { describe } from '../describe.js';
import type { GgufValue } from '../formats/gguf-values.js';
import { GGUF_SPLITS } from '../text/gguf-splits.js';
import { readJsonIfThere, readTextIfThere } from '../formats/json.js';

/** The metadata of a GGUF file's tokenizer, and why it is none. */
export interface GgufTokenizer {
  metadata: Record<string, GgufValue>;
  /** What was found in place of a tokenizer that a GGUF file can hold; null if it holds this one. */
  missing: string | null;
}

type Json = Record<string, unknown>;

/** llama.cpp's token types (llama.h: enum llama_token_type). */
const [NORMAL, CONTROL, USER_DEFINED, UNUSED] = [1, 3, 4, 5];

/**
 * The tokenizer of a folder as a GGUF file has it: byte-level BPE, as Llama 3, Qwen, SmolLM and BitNet b1.58 2B-4T have, with the chat template. Others are not
 * converted; llama.cpp then takes and gives tokens only.
 *
 * @param vocabulary tokens of the model, which may have more than its tokenizer.
 * @throws FormatError if a file is no JSON; the error of the file system.
 */
export async function readGgufTokenizer(folder: string, vocabulary: number): Promise<GgufTokenizer> {
  const none = (missing: string): GgufTokenizer => ({ metadata: { 'tokenizer.ggml.model': 'no_vocab' }, missing });
  const json = await readJsonIfThere(path.join(folder, 'tokenizer.json'));
  if (!json) return none('no tokenizer.json');
  const model = objectOf(json.model);
  const parts = [...partsOf(json.pre_tokenizer), ...partsOf(json.decoder)];
  const isByteLevel = parts.some(({ type }) => type === 'ByteLevel');
  if (model.type !== 'BPE' || model.byte_fallback === true || !isByteLevel)
    return none(`a tokenizer that is no byte-level BPE, but ${describe(model.type)}`);
  const split = splitOf(json);
  if (split === null) return none('a way to split texts that has no name in llama.cpp');
  const round = tokensRound(json);
  if (round === null) return none('other tokens round a text than one that begins it and one that ends it');
  const tokens: string[] = Array.from({ length: vocabulary }, (_, id) => `[PAD${id}]`);
  const types = new Int32Array(vocabulary).fill(UNUSED);
  const put = (token: string, id: unknown, type: number): boolean => {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= vocabulary) return false;
    tokens[id as number] = token;
    types[id as number] = type;
    return true;
  };
  const added = (Array.isArray(json.added_tokens) ? json.added_tokens : []).map(objectOf);
  const fits =
    Object.entries(objectOf(model.vocab)).every(([token, id]) => put(token, id, NORMAL)) &&
    added.every(({ content, id, special }) => put(String(content), id, special === true ? CONTROL : USER_DEFINED));
  if (!fits) return none(`a tokenizer with more than the model's ${vocabulary} tokens`);
  const merges = (Array.isArray(model.merges) ? model.merges : []).map((merge: unknown) =>
    Array.isArray(merge) ? merge.join(' ') : String(merge),
  );
  const metadata: Record<string, GgufValue> = {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': split,
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': types,
    'tokenizer.ggml.merges': merges,
  };
  return { metadata: { ...metadata, ...(await specialTokens(folder, round, tokens)) }, missing: null };
}

const objectOf = (value: unknown): Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : {};

/** A step of the tokenizer, or the steps of a sequence. */
function partsOf(step: unknown): Json[] {
  const part = objectOf(step);
  if (part.type !== 'Sequence') return [part];
  const inside = part.normalizers ?? part.pretokenizers ?? part.decoders ?? part.processors;
  return Array.isArray(inside) ? inside.flatMap(partsOf) : [];
}

/** The name of the way in which a tokenizer comes from a text to words; null if it has none. */
function splitOf(json: Json): string | null {
  const steps = partsOf(json.pre_tokenizer);
  const patterns = steps.flatMap(({ type, pattern }) => (type === 'Split' ? [String(objectOf(pattern).Regex)] : []));
  const normalizers = partsOf(json.normalizer).flatMap(({ type }) => type ?? []);
  const digits = steps.some(({ type, individual_digits }) => type === 'Digits' && individual_digits === true);
  const byteLevel = steps.find(({ type }) => type === 'ByteLevel');
  const isUnknown = (type: unknown): boolean => !['Split', 'Digits', 'ByteLevel'].includes(type as string);
  if (steps.some(({ type }) => isUnknown(type)) || byteLevel?.add_prefix_space === true) return null;
  const found = GGUF_SPLITS.find(
    (split) =>
      (split.pattern === null ? patterns.length === 0 : patterns.length === 1 && patterns[0].includes(split.pattern)) &&
      (split.pattern === null) === (byteLevel?.use_regex !== false) &&
      split.digits === digits &&
      [split.normalizer ?? []].flat().join() === normalizers.join() &&
      split.ignoreMerges === (objectOf(json.model).ignore_merges === true),
  );
  return found?.name ?? null;
}

/** The tokens that a tokenizer puts before and behind a text; null if they are more than a GGUF file can say. */
function tokensRound(json: Json): { begin: string | null; end: string | null } | null {
  const template = partsOf(json.post_processor).find(({ type }) => type === 'TemplateProcessing');
  if (!template) return { begin: null, end: null };
  const pieces = (Array.isArray(template.single) ? template.single : []).map(objectOf);
  const text = pieces.findIndex((piece) => 'Sequence' in piece);
  const before = pieces.slice(0, text).map(({ SpecialToken }) => String(objectOf(SpecialToken).id));
  const behind = pieces.slice(text + 1).map(({ SpecialToken }) => String(objectOf(SpecialToken).id));
  if (text < 0 || before.length > 1 || behind.length > 1) return null;
  return { begin: before[0] ?? null, end: behind[0] ?? null };
}

async function specialTokens(
  folder: string,
  round: { begin: string | null; end: string | null },
  tokens: readonly string[],
): Promise<Record<string, GgufValue>> {
  const read = async (name: string): Promise<Json> => (await readJsonIfThere(path.join(folder, name))) ?? {};
  const [config, map] = [await read('tokenizer_config.json'), await read('special_tokens_map.json')];
  const found: Record<string, GgufValue> = {};
  const put = (key: string, token: unknown): void => {
    const id = typeof token === 'string' ? tokens.indexOf(token) : -1;
    if (id >= 0) found[`tokenizer.ggml.${key}_token_id`] = { type: 'u32', value: id };
  };
  const textOf = (name: string): unknown =>
    [config[name], map[name]].map((each) => (typeof each === 'string' ? each : objectOf(each).content)).find(Boolean);
  // A flag says that they are put there, and not which.
  put('bos', round.begin ?? textOf('bos_token'));
  put('eos', round.end ?? textOf('eos_token'));
  put('unknown', textOf('unk_token'));
  put('padding', textOf('pad_token'));
  found['tokenizer.ggml.add_bos_token'] = config.add_bos_token === true || round.begin !== null;
  found['tokenizer.ggml.add_eos_token'] = round.end !== null;
  // Where generation ends besides: of one that a conversation's turns end with, and of a second, the file can say so.
  const ends = [await read('generation_config.json'), await read('config.json')].flatMap(
    (each) => each.eos_token_id ?? [],
  );
  const others = [...new Set(ends.flat())].filter((id) => tokens[Number(id)] !== textOf('eos_token'));
  ['eot', 'eom'].forEach((key, i) => put(key, tokens[Number(others[i])]));
  const chat =
    typeof config.chat_template === 'string'
      ? config.chat_template
      : await textIfThere(path.join(folder, 'chat_template.jinja'));
  if (chat !== null) found['tokenizer.chat_template'] = chat;
  return found;
}

async function textIfThere(file: string): Promise<string | null> {
  const bytes = await readTextIfThere(file);
  return bytes && new TextDecoder().decode(bytes);
}
