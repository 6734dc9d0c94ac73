// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { open, stat } from 'node:fs/promises';
import { checkPath } from '../check.js';
import { openGguf } from './gguf.js';
import { openSafetensors } from './open-safetensors.js';
import type { TensorFile } from './stored-tensor.js';

/**
 * Opens a checkpoint of either format: a file that begins with `GGUF` with {@link openGguf}, any other file and every folder with
 * {@link openSafetensors}.
 *
 * @throws FormatError with file and offset if it is not well formed; the error of the file system.
 */
export async function openTensors(path: string): Promise<TensorFile> {
  checkPath('openTensors', 'path', path);
  return (await isGguf(path)) ? openGguf(path) : openSafetensors(path);
}

/** @internal Whether there is a GGUF file. */
export async function isGguf(path: string): Promise<boolean> {
  // Nothing there is no GGUF file; who opens it tells.
  const found = await stat(path).catch(() => null);
  if (!found?.isFile()) return false;
  const handle = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(4), 0, 4, 0);
    return buffer.toString('latin1', 0, bytesRead) === 'GGUF';
  } finally {
    await handle.close();
  }
}
