// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { stat } from 'node:fs/promises';
import { isAbsolute, join, win32 } from 'node:path';
import { checkPath } from '../check.js';
import { FormatError } from '../errors.js';
import { describe, shorten } from '../describe.js';
import { malformed } from './malformed.js';
import { isObject } from './json.js';
import { OpenFile } from './open-file.js';
import { MAX_HEADER_BYTES, parseHeader, readHeader } from './safetensors-header.js';
import type { StoredTensor, TensorFile } from './stored-tensor.js';

/** The names that Transformers gives the files of a checkpoint. */
const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';

/**
 * Opens a safetensors checkpoint: reads and checks what its headers say, and no tensor.
 *
 * @param path a file; or a folder with `model.safetensors`, or with `model.safetensors.index.json` and the files ("shards") it names, as Transformers
 * writes them. Of such a folder `tensors` are those of the index, in its order, and `metadata` is the index's; of a file, `metadata` is the header's
 * `__metadata__`.
 * @returns the checkpoint, open until its `close()`. Tensors of any dtype of the format are listed, also those that no tensor of this library can hold.
 * @throws FormatError with file and offset if a file is not well formed, if the index names a file outside the folder or one that is not there, or a
 * tensor that is not in its file; the error of the file system.
 */
export async function openSafetensors(path: string): Promise<TensorFile> {
  checkPath('openSafetensors', 'path', path);
  if (!(await stat(path)).isDirectory()) return openOne(path, path);
  for (const [name, open] of [
    [SINGLE, openOne],
    [INDEX, openSharded],
  ] as const) {
    const file = join(path, name);
    if (await isThere(file)) return open(path, file);
  }
  throw new FormatError(`${path}: expected ${SINGLE} or ${INDEX} in the folder, got neither`, path, 0);
}

async function openOne(path: string, name: string): Promise<TensorFile> {
  const file = await OpenFile.open(name);
  try {
    const { tensors, metadata } = await readHeader(file);
    return { path, format: 'safetensors', tensors, metadata, close: () => file.close() };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function openSharded(folder: string, index: string): Promise<TensorFile> {
  const { weightMap, metadata } = await readIndex(index);
  const shards = new Map<string, TensorFile>();
  const close = async (): Promise<void> => {
    for (const shard of shards.values()) await shard.close();
  };
  try {
    const tensors = new Map<string, StoredTensor>();
    for (const [name, shardName] of weightMap) {
      let shard = shards.get(shardName);
      if (!shard) {
        shard = await openShard(folder, index, shardName);
        shards.set(shardName, shard);
      }
      const tensor = shard.tensors.get(name);
      if (!tensor) throw malformed(shard.path, 8, `a tensor ${shorten(name)}, which ${INDEX} says is here`, 'none');
      tensors.set(name, tensor);
    }
    return { path: folder, format: 'safetensors', tensors, metadata, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function openShard(folder: string, index: string, name: string): Promise<TensorFile> {
  const file = join(folder, name);
  const outside = name.includes('\0') || isAbsolute(name) || win32.isAbsolute(name);
  if (outside || name.split(/[/\\]/).includes('..')) {
    throw malformed(index, 0, 'names of files in its folder', describe(name));
  }
  if (!(await isThere(file))) throw malformed(index, 0, 'names of files that are there', describe(name));
  return openOne(file, file);
}

async function readIndex(index: string): Promise<{ weightMap: [string, string][]; metadata: Record<string, unknown> }> {
  const file = await OpenFile.open(index);
  try {
    if (file.size > MAX_HEADER_BYTES) throw malformed(index, 0, `at most ${MAX_HEADER_BYTES} bytes`, String(file.size));
    const { weight_map: weightMap, metadata = {} } = parseHeader(index, 0, await file.read(0, file.size));
    if (!isObject(weightMap)) throw malformed(index, 0, 'an object for weight_map', describe(weightMap));
    if (!isObject(metadata)) throw malformed(index, 0, 'an object for metadata', describe(metadata));
    for (const [name, shard] of Object.entries(weightMap)) {
      if (typeof shard !== 'string') throw malformed(index, 0, `a file name for ${shorten(name)}`, describe(shard));
    }
    return { weightMap: Object.entries(weightMap) as [string, string][], metadata };
  } finally {
    await file.close();
  }
}

/** Whether there is something of that name, whatever it is. A name that no file can have is that of none. */
async function isThere(file: string): Promise<boolean> {
  try {
    await stat(file);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENAMETOOLONG' || code === 'EINVAL') return false;
    throw error;
  }
}
