// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { FormatError } from '../errors.js';
import type { GgufValue } from '../formats/gguf-values.js';

/** The metadata of a GGUF file's tokenizer, and why it is none. */
export interface GgufTokenizer {
  metadata: Record<string, GgufValue>;
  /** What was found in place of a tokenizer that a GGUF file can hold; null if it holds this one. */
  missing: string | null;
}

type Json = Record<string, unknown>;

/** llama.cpp's token types (llama.h: enum llama_token_type). */
const [NORMAL, CONTROL, USER_DEFINED, UNUSED] = [1, 3, 4, 5];

/** llama.cpp knows ways to split a text by names; which is meant, patterns of tokenizer.json tell. */
const SPLITS: readonly { name: string; pattern: string }[] = [
  { name: 'llama-bpe', pattern: '|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|' },
  { name: 'qwen2', pattern: '|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|' },
];

/**
 * The tokenizer of a folder as a GGUF file has it: byte-level BPE, as Llama 3, Qwen, SmolLM and BitNet b1.58 2B-4T have, with the chat template. Others are not
 * converted; llama.cpp then takes and gives tokens only.
 *
 * @param vocabulary tokens of the model, which may have more than its tokenizer.
 * @throws FormatError if a file is no JSON; the error of the file system.
 */
export async function readGgufTokenizer(folder: string, vocabulary: number): Promise<GgufTokenizer> {
  const none = (missing: string): GgufTokenizer => ({ metadata: { 'tokenizer.ggml.model': 'no_vocab' }, missing });
  const json = await readJson(path.join(folder, 'tokenizer.json'));
  if (!json) return none('no tokenizer.json');
  const model = objectOf(json.model);
  const parts = [...partsOf(json.pre_tokenizer), ...partsOf(json.decoder)];
  const isByteLevel = parts.some(({ type }) => type === 'ByteLevel');
  if (model.type !== 'BPE' || model.byte_fallback === true || !isByteLevel)
    return none(`a tokenizer that is no byte-level BPE, but ${String(model.type)}`);
  const split = splitOf(partsOf(json.pre_tokenizer));
  if (split === null) return none('a way to split texts that has no name in llama.cpp');
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
  return { metadata: { ...metadata, ...(await specialTokens(folder, json, tokens)) }, missing: null };
}

async function readJson(file: string): Promise<Json | null> {
  try {
    return objectOf(JSON.parse(await readFile(file, 'utf8')));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    if (error instanceof SyntaxError) throw new FormatError(`${file}: expected JSON, got ${error.message}`, file, 0);
    throw error;
  }
}

const objectOf = (value: unknown): Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : {};

/** A step of the tokenizer, or the steps of a sequence. */
function partsOf(step: unknown): Json[] {
  const part = objectOf(step);
  if (part.type !== 'Sequence') return [part];
  const inside = part.pretokenizers ?? part.decoders ?? part.processors;
  return Array.isArray(inside) ? inside.flatMap(partsOf) : [];
}

function splitOf(parts: readonly Json[]): string | null {
  const patterns = parts.filter(({ type }) => type === 'Split').map(({ pattern }) => String(objectOf(pattern).Regex));
  if (patterns.length > 0)
    return SPLITS.find(({ pattern }) => patterns.length === 1 && patterns[0].includes(pattern))?.name ?? null;
  if (parts.some(({ type }) => type === 'Digits')) return 'smollm';
  return parts.some(({ type, use_regex }) => type === 'ByteLevel' && use_regex !== false) ? 'gpt-2' : null;
}

async function specialTokens(
  folder: string,
  json: Json,
  tokens: readonly string[],
): Promise<Record<string, GgufValue>> {
  const config = (await readJson(path.join(folder, 'tokenizer_config.json'))) ?? {};
  const found: Record<string, GgufValue> = {};
  for (const [name, key] of [
    ['bos_token', 'bos_token_id'],
    ['eos_token', 'eos_token_id'],
    ['pad_token', 'padding_token_id'],
  ]) {
    const token = typeof config[name] === 'string' ? config[name] : objectOf(config[name]).content;
    const id = typeof token === 'string' ? tokens.indexOf(token) : -1;
    if (id >= 0) found[`tokenizer.ggml.${key}`] = { type: 'u32', value: id };
  }
  // Llama 3 puts its first token there by a template, others by a flag.
  const template = partsOf(json.post_processor).find(({ type }) => type === 'TemplateProcessing');
  const single: unknown = Array.isArray(template?.single) ? template.single[0] : null;
  const begins = config.add_bos_token ?? 'SpecialToken' in objectOf(single);
  found['tokenizer.ggml.add_bos_token'] = begins === true;
  const chat =
    typeof config.chat_template === 'string'
      ? config.chat_template
      : await readText(path.join(folder, 'chat_template.jinja'));
  if (chat !== null) found['tokenizer.chat_template'] = chat;
  return found;
}

async function readText(file: string): Promise<string | null> {
  return readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
}
