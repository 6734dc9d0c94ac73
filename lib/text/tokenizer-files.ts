// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readdir, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { FormatError } from '../errors.js';
import { readJsonIfThere, readTextIfThere } from '../formats/json.js';

/** A JSON object of a checkpoint's folder. */
export type JsonObject = Record<string, unknown>;

/** What a checkpoint's folder says of text; an absent file is an empty object. */
export interface TokenizerFiles {
  /** The folder, as it was named, or the GGUF file. */
  folder: string;
  /** The file with the tokenizer. */
  source: string;
  /** tokenizer.json */
  tokenizer: JsonObject;
  /** tokenizer_config.json */
  tokenizerConfig: JsonObject;
  /** special_tokens_map.json */
  specialTokensMap: JsonObject;
  /** generation_config.json */
  generationConfig: JsonObject;
  /** config.json */
  modelConfig: JsonObject;
  /** chat_template.jinja; null if there is none. */
  chatTemplate: string | null;
}

/** Says what there is instead of tokenizer.json, and what to do about it. */
async function withoutTokenizer(op: string, folder: string): Promise<FormatError> {
  const fail = (got: string): FormatError =>
    new FormatError(`${op}: expected a folder with tokenizer.json or a GGUF file, got ${got}`, folder, 0);
  const found = await stat(folder).catch(() => null);
  if (found === null) return fail(`${folder}, which is not there`);
  if (!found.isDirectory()) return fail(`${folder}, which is neither`);
  const others = (await readdir(folder)).filter((name) =>
    ['tokenizer.model', 'vocab.json', 'vocab.txt', 'spiece.model', 'tekken.json'].includes(name),
  );
  if (others.length === 0) return fail(`${folder} without one`);
  return fail(
    `${folder} with ${others.join(', ')} only; AutoTokenizer.from_pretrained(…).save_pretrained(…) of Python's transformers writes tokenizer.json`,
  );
}

/** Reads what a folder says of text. */
export async function readTokenizerFiles(op: string, folder: string): Promise<TokenizerFiles> {
  const read = (name: string): Promise<JsonObject | null> => readJsonIfThere(path.join(folder, name));
  // A folder that is a file reads as ENOTDIR, of which withoutTokenizer says more.
  const tokenizer = await read('tokenizer.json').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOTDIR') return null;
    throw error;
  });
  if (tokenizer === null) throw await withoutTokenizer(op, folder);
  const [tokenizerConfig, specialTokensMap, generationConfig, modelConfig, chatTemplate] = await Promise.all([
    read('tokenizer_config.json'),
    read('special_tokens_map.json'),
    read('generation_config.json'),
    read('config.json'),
    readTextIfThere(path.join(folder, 'chat_template.jinja')),
  ]);
  return {
    folder,
    source: path.join(folder, 'tokenizer.json'),
    tokenizer,
    tokenizerConfig: tokenizerConfig ?? {},
    specialTokensMap: specialTokensMap ?? {},
    generationConfig: generationConfig ?? {},
    modelConfig: modelConfig ?? {},
    chatTemplate: chatTemplate && new TextDecoder().decode(chatTemplate),
  };
}
