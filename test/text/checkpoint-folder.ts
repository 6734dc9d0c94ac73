// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { Tokenizer } from '../../lib/index.js';

const folders: string[] = [];

/** A folder with these files, which goes with the process that asked for it; objects are written as JSON. */
export function checkpointFolder(files: Record<string, unknown>): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'ternflash-text-'));
  folders.push(folder);
  for (const [name, content] of Object.entries(files))
    writeFileSync(path.join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  return folder;
}

export function removeCheckpointFolders(): void {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
}

/** The tokenizer of a folder with these files. */
export const tokenizerOf = (files: Record<string, unknown>): Promise<Tokenizer> =>
  Tokenizer.load(checkpointFolder(files));
