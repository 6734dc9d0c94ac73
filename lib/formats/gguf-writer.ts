// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { FileHandle } from 'node:fs/promises';
import { checkObject, checkOptions, checkPath, checkString, checkTensor, showShape } from '../check.js';
import type { DType } from '../dtype.js';
import { DTypeError, OptionError, ShapeError } from '../errors.js';
import { TernaryTensor } from '../ops/ternary-tensor.js';
import { elementCount, Tensor } from '../tensor.js';
import { describe, shorten } from '../describe.js';
import { writeAtomically } from './atomic-file.js';
import { encodeTernary, type TernaryLayout } from './encode-ternary.js';
import {
  bytesOf,
  DEFAULT_ALIGNMENT,
  hasI2S,
  I2_S_FILE_TYPE,
  isAlignment,
  MAGIC,
  MAX_DIMS,
  MAX_KEY_BYTES,
  typeNamed,
  type GgufType,
} from './gguf-types.js';
import { textBytes, u32Bytes, u64Bytes, valueBytes, type GgufValue } from './gguf-values.js';
import type { StoredTensor } from './stored-tensor.js';

// What is in memory of a tensor that comes from another file.
const PIECE_BYTES = 2 ** 24;
// ggml has room for 64, with a zero behind the name.
const MAX_TENSOR_NAME_BYTES = 63;

/** A ternary matrix, in a ternary type. */
export interface GgufTernary {
  /** [N, K] */
  readonly weight: TernaryTensor;
  /** See {@link encodeTernary}. */
  readonly type: Exclude<TernaryLayout, 'transformers'>;
}

/**
 * A tensor for a GGUF file: a tensor of this library, written as its dtype (float32, float16, bfloat16, int8, int32); a ternary one, in a ternary type; or
 * one of another file, whose bytes are copied.
 */
export type GgufTensor = Tensor | GgufTernary | Pick<StoredTensor, 'type' | 'shape' | 'read'>;

/** What goes into a GGUF file. */
export interface GgufContent {
  /** By key. `general.architecture` says how to read the rest; `general.alignment`, `{ type: 'u32', … }`, where tensors begin. */
  metadata?: Readonly<Record<string, GgufValue>>;
  /** By name, in the order of the file. */
  tensors: ReadonlyMap<string, GgufTensor> | Readonly<Record<string, GgufTensor>>;
}

const TYPES: Partial<Record<DType, string>> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  int8: 'I8',
  int32: 'I32',
};

/** A tensor whose place in the file is known. */
interface Payload {
  name: string;
  type: GgufType;
  shape: readonly number[];
  bytes: number;
  read(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

/**
 * Writes a GGUF file, version 3. It is written beside its place, moved there when it is whole, and on the disk when this returns. In memory are the
 * metadata and one tensor at a time, or a piece of one that comes from another file.
 *
 * @throws OptionError, ShapeError, DTypeError if something is there that the format, or ggml, does not hold: more than 4 axes, a name of more than 63
 * bytes, rows that are no whole blocks; I2_S in a file whose metadata would not say that it is, see {@link openGguf}. What {@link encodeTernary} and
 * {@link StoredTensor.read} throw; DisposedError, KernelError; the error of the file system. The former file is then as it was.
 */
export async function writeGguf(file: string, content: GgufContent): Promise<void> {
  const op = 'writeGguf';
  checkPath(op, 'file', file);
  checkOptions(op, content, ['metadata', 'tensors']);
  const { metadata = {}, tensors } = content;
  checkObject(op, 'metadata', metadata);
  if (!(tensors instanceof Map)) checkObject(op, 'tensors', tensors);
  const list =
    tensors instanceof Map
      ? [...(tensors as Map<string, GgufTensor>)]
      : Object.entries(tensors as Record<string, GgufTensor>);
  const payloads = list.map(([name, tensor]) => payloadOf(op, name, tensor));
  const pairs = Object.entries(metadata).map(([key, value]) => pairBytes(op, key, value));
  checkI2S(op, metadata, payloads);
  const alignment = alignmentOf(op, metadata);
  const header = headerBytes(pairs, payloads, alignment);
  await writeAtomically(file, async (handle) => {
    await handle.writeFile(header);
    await pad(handle, header.length, alignment);
    for (const payload of payloads) {
      let written = 0;
      for await (const bytes of payload.read()) {
        await handle.writeFile(bytes);
        written += bytes.length;
      }
      if (written !== payload.bytes) {
        throw new OptionError(`${op}: expected ${payload.bytes} bytes of ${shorten(payload.name)}, got ${written}`);
      }
      await pad(handle, written, alignment);
    }
  });
}

function payloadOf(op: string, name: string, tensor: GgufTensor): Payload {
  const shown = shorten(checkString(op, 'a name of tensors', name));
  if (tensor instanceof Tensor) {
    checkTensor(op, shown, tensor);
    const type = TYPES[tensor.dtype];
    if (!type)
      throw new DTypeError(`${op}: expected ${shown} of dtype ${Object.keys(TYPES).join(', ')}, got ${tensor.dtype}`);
    return placed(op, name, type, tensor.shape, () => bytesOfTensor(tensor));
  }
  const { weight, type, shape, read } = (tensor ?? {}) as Partial<StoredTensor & { weight: TernaryTensor }>;
  if (typeof type === 'string' && weight instanceof TernaryTensor) {
    return placed(op, name, type, weight.shape, () => encoded(weight, type as TernaryLayout));
  }
  if (typeof type !== 'string' || !Array.isArray(shape) || typeof read !== 'function') {
    throw new OptionError(`${op}: expected a tensor for ${shown}, got ${describe(tensor)}`);
  }
  const payload = placed(op, name, type, shape as number[], () => pieces(tensor as StoredTensor, payload.bytes));
  return payload;
}

function placed(op: string, name: string, typeName: string, shape: readonly number[], read: Payload['read']): Payload {
  const shown = shorten(name);
  const nameBytes = new TextEncoder().encode(name).length;
  if (nameBytes > MAX_TENSOR_NAME_BYTES) {
    throw new OptionError(
      `${op}: expected names of at most ${MAX_TENSOR_NAME_BYTES} bytes, got ${shown} of ${nameBytes}`,
    );
  }
  const type = typeNamed(typeName);
  if (!type) throw new OptionError(`${op}: expected a type that GGUF has for ${shown}, got ${shorten(typeName)}`);
  const cols = shape.at(-1) ?? 1;
  if (shape.length > MAX_DIMS || shape.includes(0) || cols % type.block !== 0) {
    const expected = `at most ${MAX_DIMS} axes for ${shown}, the last in blocks of ${type.block} for ${typeName}`;
    throw new ShapeError(`${op}: expected ${expected}, got ${showShape(shape)}`);
  }
  return { name, type, shape, bytes: bytesOf(type, elementCount(shape)), read };
}

function checkI2S(op: string, metadata: Readonly<Record<string, GgufValue>>, payloads: readonly Payload[]): void {
  const fileType = metadata['general.file_type'];
  const origin = {
    architecture: metadata['general.architecture'],
    fileType: typeof fileType === 'object' && 'value' in fileType ? Number(fileType.value) : undefined,
  };
  const payload = payloads.find(({ type }) => type.name === 'I2_S');
  if (payload && !hasI2S(origin)) {
    throw new OptionError(
      `${op}: expected general.file_type ${I2_S_FILE_TYPE} or an architecture bitnet… with ${shorten(payload.name)} of type I2_S, got neither`,
    );
  }
}

function alignmentOf(op: string, metadata: Readonly<Record<string, GgufValue>>): number {
  const value = metadata['general.alignment'];
  if (value === undefined) return DEFAULT_ALIGNMENT;
  const number = typeof value === 'object' && 'type' in value && value.type === 'u32' ? Number(value.value) : value;
  if (!isAlignment(number)) {
    throw new OptionError(
      `${op}: expected a power of two from 8 on, of type u32, for general.alignment, got ${describe(number)}`,
    );
  }
  return number;
}

function pairBytes(op: string, key: string, value: GgufValue): Uint8Array[] {
  const name = textBytes(key);
  if (name[1].length > MAX_KEY_BYTES) {
    throw new OptionError(
      `${op}: expected keys of at most ${MAX_KEY_BYTES} bytes, got ${shorten(key)} of ${name[1].length}`,
    );
  }
  return [...name, ...valueBytes(op, key, value)];
}

function headerBytes(pairs: readonly Uint8Array[][], payloads: readonly Payload[], alignment: number): Uint8Array {
  const parts = [u32Bytes(MAGIC), u32Bytes(3), u64Bytes(payloads.length), u64Bytes(pairs.length), ...pairs.flat()];
  let offset = 0;
  for (const { name, type, shape, bytes } of payloads) {
    const sizes = [...shape].reverse().map(u64Bytes);
    parts.push(...textBytes(name), u32Bytes(shape.length), ...sizes, u32Bytes(type.id), u64Bytes(offset));
    offset += Math.ceil(bytes / alignment) * alignment;
  }
  return Buffer.concat(parts);
}

async function* bytesOfTensor(tensor: Tensor): AsyncIterable<Uint8Array> {
  const bits = await tensor.raw();
  yield new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
}

async function* encoded(weight: TernaryTensor, type: TernaryLayout): AsyncIterable<Uint8Array> {
  yield await encodeTernary(weight, type);
}

async function* pieces(stored: Pick<StoredTensor, 'read'>, bytes: number): AsyncIterable<Uint8Array> {
  for (let begin = 0; begin < bytes; begin += PIECE_BYTES) {
    yield await stored.read(begin, Math.min(PIECE_BYTES, bytes - begin));
  }
}

/** Zeros up to the next place where something may begin. ggml wants them behind the last tensor too. */
async function pad(handle: FileHandle, written: number, alignment: number): Promise<void> {
  await handle.writeFile(new Uint8Array((alignment - (written % alignment)) % alignment));
}
