// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { describe, shorten } from '../describe.js';
import { checkPath } from '../check.js';
import { GgufCursor } from './gguf-cursor.js';
import { bytesOf, DEFAULT_ALIGNMENT, findType, isAlignment, MAGIC, MAX_DIMS, type GgufOrigin } from './gguf-types.js';
import { malformed } from './malformed.js';
import { OpenFile } from './open-file.js';
import { FileTensor, type TensorFile } from './stored-tensor.js';

// What a pair of metadata and a description of a tensor take at least: name, type and one byte; name, number of sizes, type and offset.
const LEAST_PAIR_BYTES = 8 + 4 + 1;
const LEAST_TENSOR_BYTES = 8 + 4 + 4 + 8;

/**
 * Opens a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), version 2 or 3, little endian: reads and checks metadata and the
 * descriptions of tensors, and no tensor. A file that is one part of several is opened alone.
 *
 * Of `metadata`, numbers are numbers, or bigints beyond 2^53; arrays of numbers are typed arrays of the file's type, those of 64-bit integers arrays of
 * numbers and bigints; other arrays are arrays. Tensors of every type of ggml are listed, also those that nothing here reads. Type 36 is I2_S of
 * Microsoft's fork of llama.cpp if `general.file_type` is 40 or the architecture begins with `bitnet`.
 *
 * @returns the file, open until its `close()`.
 * @throws FormatError with file and offset if it is not well formed: among others, if a tensor is of an unknown type, lies over another one or beyond
 * the end; the error of the file system.
 */
export async function openGguf(path: string): Promise<TensorFile> {
  const file = await OpenFile.open(checkPath('openGguf', 'path', path));
  try {
    const { metadata, tensors } = await readGgufHeader(file);
    return { path, format: 'gguf', tensors, metadata, close: () => file.close() };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readGgufHeader(
  file: OpenFile,
): Promise<{ metadata: Record<string, unknown>; tensors: Map<string, FileTensor> }> {
  const cursor = new GgufCursor(file);
  const counts = await cursor.item(() => readCounts(cursor));

  const pairs = new Map<string, unknown>();
  for (let i = 0; i < counts.pairs; i++) {
    const [key, value] = await cursor.item(() => readPair(cursor, pairs));
    pairs.set(key, value);
  }
  const alignment = alignmentOf(file, pairs.get('general.alignment'));
  const origin = { architecture: pairs.get('general.architecture'), fileType: pairs.get('general.file_type') };

  const described = new Map<string, Description>();
  for (let i = 0; i < counts.tensors; i++) {
    const description = await cursor.item(() => readDescription(cursor, described, alignment, origin));
    described.set(description.name, description);
  }
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  checkPlaces(file, [...described.values()], dataStart);
  const tensors = new Map(
    [...described.values()].map(({ name, type, shape, offset, bytes }) => [
      name,
      new FileTensor(file, name, type, shape, dataStart + offset, bytes),
    ]),
  );
  return { metadata: Object.fromEntries(pairs), tensors };
}

function readCounts(cursor: GgufCursor): { tensors: number; pairs: number } {
  const magic = cursor.u32('GGUF');
  if (magic !== MAGIC) throw cursor.fail(0, 'GGUF', `bytes 0x${magic.toString(16).padStart(8, '0')}, little endian`);
  const version = cursor.u32('a version');
  if (version !== 2 && version !== 3) {
    const bigEndian = version === 0x02000000 || version === 0x03000000;
    throw cursor.fail(4, 'version 2 or 3, little endian', bigEndian ? 'a file in big endian' : String(version));
  }
  return {
    tensors: cursor.count('a number of tensors', LEAST_TENSOR_BYTES),
    pairs: cursor.count('a number of pairs of metadata', LEAST_PAIR_BYTES),
  };
}

function readPair(cursor: GgufCursor, pairs: ReadonlyMap<string, unknown>): [string, unknown] {
  const { position } = cursor;
  const key = cursor.name('a key');
  if (pairs.has(key)) throw cursor.fail(position, 'keys that differ', `${describe(key)} again`);
  return [key, cursor.typedValue(shorten(key))];
}

/** A tensor as the header describes it. */
interface Description {
  name: string;
  type: string;
  shape: readonly number[];
  /** Counted from where the tensors begin. */
  offset: number;
  bytes: number;
  /** Where in the file the description begins. */
  position: number;
}

function readDescription(
  cursor: GgufCursor,
  described: ReadonlyMap<string, Description>,
  alignment: number,
  origin: GgufOrigin,
): Description {
  const { position } = cursor;
  const fail = (expected: string, got: unknown) => cursor.fail(position, expected, String(got));
  const name = cursor.name('the name of a tensor');
  if (described.has(name)) throw fail('names that differ', `${describe(name)} again`);
  const shown = shorten(name);
  const rank = cursor.u32(`a number of sizes of ${shown}`);
  if (rank > MAX_DIMS) throw fail(`at most ${MAX_DIMS} sizes of ${shown}`, rank);
  const sizes = Array.from({ length: rank }, () => cursor.size(`a size of ${shown}`));
  const type = findType(cursor.u32(`a type of ${shown}`), origin);
  const offset = cursor.size(`an offset of ${shown}`);

  if (typeof type === 'string') throw fail(`a type that ggml has for ${shown}`, type);
  if (sizes.some((size) => size === 0)) throw fail(`positive sizes of ${shown}`, describe(sizes));
  // The innermost axis comes first.
  if ((sizes[0] ?? 1) % type.block !== 0)
    throw fail(`a first size of ${shown}, ${type.name}, in blocks of ${type.block}`, sizes[0] ?? 1);
  const elements = sizes.reduce((product, size) => product * size, 1);
  if (!Number.isSafeInteger(elements)) throw fail(`fewer than 2^53 elements of ${shown}`, describe(sizes));
  if (offset % alignment !== 0) throw fail(`an offset of ${shown} in steps of ${alignment}`, offset);
  const shape = Object.freeze(sizes.reverse());
  return { name, type: type.name, shape, offset, bytes: bytesOf(type, elements), position };
}

/** Throws FormatError unless all tensors lie within the file and none over another one. */
function checkPlaces(file: OpenFile, tensors: readonly Description[], dataStart: number): void {
  let end = 0;
  for (const { name, offset, bytes, position } of [...tensors].sort((a, b) => a.offset - b.offset)) {
    if (offset < end) {
      throw malformed(
        file.path,
        position,
        `an offset of ${shorten(name)} behind the tensor before it, ${end}`,
        String(offset),
      );
    }
    end = offset + bytes;
    if (dataStart + end > file.size) {
      const most = Math.max(file.size - dataStart, 0);
      throw malformed(file.path, position, `${shorten(name)} to end within ${most} bytes of data`, `an end at ${end}`);
    }
  }
}

function alignmentOf(file: OpenFile, value: unknown): number {
  if (value === undefined) return DEFAULT_ALIGNMENT;
  if (!isAlignment(value))
    throw malformed(file.path, 0, 'a power of two from 8 on for general.alignment', describe(value));
  return value;
}
