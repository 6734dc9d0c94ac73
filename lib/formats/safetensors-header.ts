// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { elementCount } from '../tensor.js';
import { describe, shorten } from '../describe.js';
import { isObject, parseJson, type BracketLimits } from './json.js';
import { malformed } from './malformed.js';
import type { OpenFile } from './open-file.js';
import { FileTensor } from './stored-tensor.js';

/**
 * The header of a safetensors file (https://github.com/huggingface/safetensors): 8 bytes of its length, little endian; a JSON object that gives dtype,
 * shape and place of each tensor. The tensors follow, densely.
 */

/** Bits of one element, by the format's names. */
const BITS: ReadonlyMap<string, number> = new Map([
  ['BOOL', 8],
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['F8_E4M3FNUZ', 8],
  ['F8_E5M2FNUZ', 8],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['C64', 64],
  ['F64', 64],
  ['I64', 64],
  ['U64', 64],
]);

// The limit of the format's own reader.
export const MAX_HEADER_BYTES = 100_000_000;

/** What a file's header says. */
export interface SafetensorsHeader {
  /** By name, in the file's order. */
  tensors: Map<string, FileTensor>;
  /** `__metadata__` */
  metadata: Record<string, string>;
}

/** Reads and checks a header. Throws FormatError. */
export async function readHeader(file: OpenFile): Promise<SafetensorsHeader> {
  const { path, size } = file;
  if (size < 8) throw malformed(path, 0, 'an 8-byte header length', `a file of ${size} bytes`);
  const prefix = await file.read(0, 8);
  const headerLength = Number(new DataView(prefix.buffer).getBigUint64(0, true));
  const most = Math.min(MAX_HEADER_BYTES, size - 8);
  if (headerLength > most) throw malformed(path, 0, `a header length of at most ${most}`, String(headerLength));
  const header = parseHeader(path, 8, await file.read(8, headerLength));
  const { __metadata__: metadata = {}, ...entries } = header;

  const dataStart = 8 + headerLength;
  const tensors = new Map<string, FileTensor>();
  for (const [name, entry] of Object.entries(entries)) tensors.set(name, tensorOf(file, name, entry, dataStart));
  let end = dataStart;
  for (const tensor of [...tensors.values()].sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)) {
    if (tensor.offset !== end)
      throw malformed(
        path,
        end,
        `${shorten(tensor.name)} to begin at ${end - dataStart}`,
        String(tensor.offset - dataStart),
      );
    end += tensor.byteLength;
  }
  if (end !== size) throw malformed(path, end, `${end - dataStart} bytes of data`, String(size - dataStart));
  return { tensors, metadata: metadataOf(path, metadata) };
}

/** Twice what a header or an index needs in each other. Of an entry with a name of one letter, with three brackets, it is 16 bytes to a bracket. */
const BRACKETS: BracketLimits = { nesting: 6, free: 8, bytesPerBracket: 8 };

/** A header, or an index. Throws FormatError. */
export function parseHeader(file: string, offset: number, bytes: Uint8Array): Record<string, unknown> {
  return parseJson(file, offset, bytes, BRACKETS);
}

function metadataOf(file: string, value: unknown): Record<string, string> {
  if (!isObject(value)) throw malformed(file, 8, 'an object for __metadata__', describe(value));
  for (const [key, each] of Object.entries(value)) {
    if (typeof each !== 'string')
      throw malformed(file, 8, `a string for ${shorten(key)} of __metadata__`, describe(each));
  }
  return value as Record<string, string>;
}

function tensorOf(source: OpenFile, name: string, entry: unknown, dataStart: number): FileTensor {
  const shown = shorten(name);
  const fail = (expected: string, got: string) => malformed(source.path, 8, expected, got);
  const { dtype, shape, data_offsets: offsets } = isObject(entry) ? entry : {};
  const bits = typeof dtype === 'string' ? BITS.get(dtype) : undefined;
  if (bits === undefined) throw fail(`one of ${[...BITS.keys()].join(', ')} as dtype of ${shown}`, describe(dtype));
  const isSize = (each: unknown): boolean => Number.isSafeInteger(each) && (each as number) >= 0;
  if (!Array.isArray(shape) || shape.length > 8 || !shape.every(isSize)) {
    throw fail(`at most 8 sizes as shape of ${shown}`, describe(shape));
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
    throw fail(`two offsets for ${shown}`, describe(offsets));
  }
  const [begin, end] = offsets as [number, number];
  const bytes = (elementCount(shape as number[]) * bits) / 8;
  if (end - begin !== bytes) throw fail(`${bytes} bytes for ${shown}`, `offsets ${begin} to ${end}`);
  const dataBytes = source.size - dataStart;
  if (end > dataBytes) {
    const expected = `${shown} to end within ${dataBytes} bytes of data`;
    throw malformed(source.path, dataStart + begin, expected, `an end at ${end}`);
  }
  return new FileTensor(source, name, dtype as string, Object.freeze(shape as number[]), dataStart + begin, bytes);
}
