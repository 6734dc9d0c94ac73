// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { open, type FileHandle } from 'node:fs/promises';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import { bytesPerElement, type DType } from '../dtype.js';
import { FormatError } from '../errors.js';
import { elementCount, fromBytes, type Tensor } from '../tensor.js';
import { writeAtomically } from './atomic-file.js';

/**
 * The safetensors format (https://github.com/huggingface/safetensors): 8 bytes of header length, little endian; a JSON object that gives dtype, shape
 * and place of each tensor; the tensors, densely.
 */

const NAMES: Record<DType, string> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  int8: 'I8',
  uint8: 'U8',
  int32: 'I32',
};
const DTYPES = new Map(Object.entries(NAMES).map(([dtype, name]) => [name, dtype as DType]));
// The limit of the format's own reader.
const MAX_HEADER_BYTES = 100_000_000;

/** What a safetensors file holds. */
export interface SafetensorsFile {
  /** By name, in the file's order. */
  tensors: Map<string, Tensor>;
  /** The header's `__metadata__`: strings by name. */
  metadata: Record<string, string>;
}

interface Entry {
  name: string;
  dtype: DType;
  shape: number[];
  begin: number;
  end: number;
}

/**
 * Reads a safetensors file onto a device. Tensors keep the dtype of the file; those other than F32, F16, BF16, I8, U8 and I32, and tensors without
 * elements, are refused.
 *
 * @param options `device`: default the default device.
 * @throws FormatError with file and offset if the file is not well formed; the error of the file system if it cannot be read; OutOfMemoryError.
 */
export async function readSafetensors(
  file: string,
  options: { device?: DeviceName | Device } = {},
): Promise<SafetensorsFile> {
  const target = deviceNamed(options.device ?? 'auto');
  const handle = await open(file, 'r');
  const tensors = new Map<string, Tensor>();
  try {
    const { size } = await handle.stat();
    const { entries, metadata, dataStart } = await readHeader(file, handle, size);
    for (const { name, dtype, shape, begin, end } of entries) {
      const bytes = await readExactly(file, handle, dataStart + begin, end - begin);
      tensors.set(name, fromBytes('readSafetensors', bytes, shape, dtype, target, false));
    }
    return { tensors, metadata };
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    throw error;
  } finally {
    await handle.close();
  }
}

async function readExactly(file: string, handle: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, length - done, offset + done);
    if (bytesRead === 0)
      throw new FormatError(`${file}: expected ${length} bytes at ${offset}, got ${done}`, file, offset + done);
    done += bytesRead;
  }
  return bytes;
}

async function readHeader(
  file: string,
  handle: FileHandle,
  size: number,
): Promise<{ entries: Entry[]; metadata: Record<string, string>; dataStart: number }> {
  const fail = (expected: string, got: string, offset: number): never => {
    throw new FormatError(`${file}: expected ${expected} at byte ${offset}, got ${got}`, file, offset);
  };
  if (size < 8) fail('an 8-byte header length', `a file of ${size} bytes`, 0);
  const prefix = await readExactly(file, handle, 0, 8);
  const headerLength = Number(new DataView(prefix.buffer).getBigUint64(0, true));
  if (headerLength > MAX_HEADER_BYTES || 8 + headerLength > size) {
    fail(`a header length of at most ${Math.min(MAX_HEADER_BYTES, size - 8)}`, String(headerLength), 0);
  }
  const text = new TextDecoder().decode(await readExactly(file, handle, 8, headerLength));
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (error) {
    fail('a JSON header', (error as Error).message, 8);
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header)) fail('a JSON object', typeof header, 8);

  const dataStart = 8 + headerLength;
  const dataBytes = size - dataStart;
  const metadata: Record<string, string> = {};
  const entries: Entry[] = [];
  for (const [name, value] of Object.entries(header as Record<string, unknown>)) {
    if (name === '__metadata__') {
      if (typeof value !== 'object' || value === null) fail('an object for __metadata__', typeof value, 8);
      for (const [key, each] of Object.entries(value as object)) metadata[key] = String(each);
      continue;
    }
    const { dtype: dtypeName, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
    const dtype = DTYPES.get(String(dtypeName));
    if (!dtype) {
      throw new FormatError(
        `${file}: expected one of ${[...DTYPES.keys()].join(', ')} as dtype of ${name}, got ${String(dtypeName)}`,
        file,
        8,
      );
    }
    const isSize = (each: unknown): each is number => Number.isSafeInteger(each) && (each as number) >= 0;
    if (!Array.isArray(shape) || shape.length > 8 || !shape.every((each) => isSize(each) && each > 0)) {
      return fail(`at most 8 positive sizes as shape of ${name}`, JSON.stringify(shape), 8);
    }
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
      return fail(`two offsets for ${name}`, JSON.stringify(offsets), 8);
    }
    const [begin, end] = offsets as [number, number];
    const bytes = elementCount(shape as number[]) * bytesPerElement(dtype);
    if (end - begin !== bytes) fail(`${bytes} bytes for ${name}`, `offsets ${begin} to ${end}`, 8);
    if (end > dataBytes)
      fail(`${name} to end within ${dataBytes} bytes of data`, `an end at ${end}`, dataStart + begin);
    entries.push({ name, dtype, shape: shape as number[], begin, end });
  }
  let expected = 0;
  for (const entry of [...entries].sort((a, b) => a.begin - b.begin)) {
    if (entry.begin !== expected)
      fail(`${entry.name} to begin at ${expected}`, String(entry.begin), dataStart + expected);
    expected = entry.end;
  }
  if (expected !== dataBytes) fail(`${expected} bytes of data`, String(dataBytes), dataStart + expected);
  return { entries, metadata, dataStart };
}

/**
 * Writes tensors to a safetensors file. The file is written beside its place, moved there when it is whole, and on the disk when this returns: a crash
 * leaves the former file as it was.
 *
 * @param tensors any dtype, by name; written in their order.
 * @param metadata strings by name, for the header's `__metadata__`. Default none.
 * @throws DisposedError, KernelError; the error of the file system.
 */
export async function writeSafetensors(
  file: string,
  tensors: ReadonlyMap<string, Tensor> | Record<string, Tensor>,
  metadata: Record<string, string> = {},
): Promise<void> {
  const list =
    tensors instanceof Map ? [...(tensors as Map<string, Tensor>)] : Object.entries(tensors as Record<string, Tensor>);
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  let offset = 0;
  for (const [name, tensor] of list) {
    header[name] = { dtype: NAMES[tensor.dtype], shape: tensor.shape, data_offsets: [offset, offset + tensor.bytes] };
    offset += tensor.bytes;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = new Uint8Array(Math.ceil(json.length / 8) * 8).fill(0x20);
  headerBytes.set(json);
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(headerBytes.length), true);

  await writeAtomically(file, async (handle) => {
    await handle.writeFile(prefix);
    await handle.writeFile(headerBytes);
    for (const [, tensor] of list) {
      const bits = await tensor.raw();
      await handle.writeFile(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
    }
  });
}
