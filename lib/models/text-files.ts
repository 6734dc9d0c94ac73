// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync } from 'node:fs';
import { copyFile, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { isGguf } from '../formats/open-tensors.js';

/** What belongs to the text of a checkpoint and is the same in every folder of Transformers. */
const TEXT_FILES = [
  ...['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'generation_config.json'],
  ...['chat_template.jinja', 'tokenizer.model', 'vocab.json', 'merges.txt', 'added_tokens.json'],
];

/** @internal The folder of a checkpoint, which may be named by its file. */
export async function folderOf(location: string): Promise<string> {
  return (await stat(location)).isDirectory() ? location : path.dirname(location);
}

/** @internal Where the tokenizer of a checkpoint is: the files of its folder, which go before what a GGUF file says itself. */
export async function tokenizerPlace(location: string): Promise<string> {
  const folder = await folderOf(location);
  return existsSync(path.join(folder, 'tokenizer.json')) || !(await isGguf(location)) ? folder : location;
}

/** @internal Copies them from one checkpoint's folder to another's; gives the names of those that were there. Does nothing if either is a file. */
export async function copyTextFiles(from: string, to: string): Promise<string[]> {
  const isFolder = async (place: string): Promise<boolean> => (await stat(place)).isDirectory();
  if (!(await isFolder(from)) || !(await isFolder(to))) return [];
  const copied: string[] = [];
  for (const name of TEXT_FILES) {
    try {
      await copyFile(path.join(from, name), path.join(to, name));
      copied.push(name);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return copied;
}
