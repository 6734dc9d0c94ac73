// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkObject, checkOptions, checkPath, checkString, checkTensor } from '../check.js';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import type { DType } from '../dtype.js';
import type { Tensor } from '../tensor.js';
import { shorten } from '../describe.js';
import { writeAtomically } from './atomic-file.js';
import { asStored, load } from './load.js';
import { malformed } from './malformed.js';
import { openSafetensors } from './open-safetensors.js';

/** The format's names of the dtypes. */
const NAMES: Record<DType, string> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  int8: 'I8',
  uint8: 'U8',
  int32: 'I32',
};
const DTYPES = new Map(Object.entries(NAMES).map(([dtype, name]) => [name, dtype as DType]));

/** What a safetensors file holds. */
export interface SafetensorsFile {
  /** By name, in the file's order. */
  tensors: Map<string, Tensor>;
  /** The header's `__metadata__`: strings by name. Of a folder with an index, what that says in strings, numbers and booleans. */
  metadata: Record<string, string>;
}

/**
 * Reads a safetensors file onto a device. Tensors keep the dtype of the file; those other than F32, F16, BF16, I8, U8 and I32, and tensors without
 * elements, are refused. To read some of the tensors only, see {@link openSafetensors}.
 *
 * @param file a file, or a folder as {@link openSafetensors} takes.
 * @param options `device`: default the default device.
 * @throws FormatError with file and offset if the file is not well formed; the error of the file system if it cannot be read; OutOfMemoryError.
 */
export async function readSafetensors(
  file: string,
  options: { device?: DeviceName | Device } = {},
): Promise<SafetensorsFile> {
  const op = 'readSafetensors';
  checkOptions(op, options, ['device']);
  const target = deviceNamed(options.device ?? 'auto');
  checkPath(op, 'file', file);
  const source = await openSafetensors(file);
  const tensors = new Map<string, Tensor>();
  try {
    const dtypes = [...source.tensors.values()].map((stored) => {
      const dtype = DTYPES.get(stored.type);
      if (dtype) return dtype;
      const expected = `one of ${[...DTYPES.keys()].join(', ')} as dtype of ${shorten(stored.name)}`;
      throw malformed(stored.file, stored.offset, expected, stored.type);
    });
    for (const [i, [name, stored]] of [...source.tensors].entries()) {
      tensors.set(name, await load(op, stored, dtypes[i], target, asStored(dtypes[i])));
    }
    // An index may say anything; a header says strings.
    const said = Object.entries(source.metadata).filter(([, value]) => typeof value !== 'object');
    return { tensors, metadata: Object.fromEntries(said.map(([key, value]) => [key, String(value)])) };
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    throw error;
  } finally {
    await source.close();
  }
}

/**
 * Writes tensors to a safetensors file. The file is written beside its place, moved there when it is whole, and on the disk when this returns: a crash
 * leaves the former file as it was.
 *
 * @param tensors any dtype, by name; written in their order.
 * @param metadata strings by name, for the header's `__metadata__`. Default none.
 * @throws OptionError, DisposedError, KernelError; the error of the file system.
 */
export async function writeSafetensors(
  file: string,
  tensors: ReadonlyMap<string, Tensor> | Record<string, Tensor>,
  metadata: Record<string, string> = {},
): Promise<void> {
  const op = 'writeSafetensors';
  checkPath(op, 'file', file);
  if (!(tensors instanceof Map)) checkObject(op, 'tensors', tensors);
  checkObject(op, 'metadata', metadata);
  for (const [key, value] of Object.entries(metadata)) checkString(op, `${shorten(key)} of metadata`, value);
  const list =
    tensors instanceof Map ? [...(tensors as Map<string, Tensor>)] : Object.entries(tensors as Record<string, Tensor>);
  for (const [name, each] of list) checkTensor(op, shorten(checkString(op, 'a name of tensors', name)), each);
  await writePayloads(file, new Map(list.map(([name, each]) => [name, payloadOf(each)])), metadata);
}

/** A tensor of a file that is written: its bytes are made when it is its turn, so that the host never holds all of them. */
export interface TensorPayload {
  /** As the format names it. */
  readonly type: string;
  readonly shape: readonly number[];
  readonly byteLength: number;
  bytes(): Promise<Uint8Array>;
}

/** @internal What a safetensors file holds of a tensor. */
export function payloadOf(tensor: Tensor): TensorPayload {
  return {
    type: NAMES[tensor.dtype],
    shape: tensor.shape,
    byteLength: tensor.bytes,
    async bytes() {
      const bits = await tensor.raw();
      return new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
    },
  };
}

/** @internal {@link writeSafetensors} of anything. */
export async function writePayloads(
  file: string,
  payloads: ReadonlyMap<string, TensorPayload>,
  metadata: Record<string, string>,
): Promise<void> {
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  let offset = 0;
  for (const [name, { type, shape, byteLength }] of payloads) {
    header[name] = { dtype: type, shape, data_offsets: [offset, offset + byteLength] };
    offset += byteLength;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = new Uint8Array(Math.ceil(json.length / 8) * 8).fill(0x20);
  headerBytes.set(json);
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(headerBytes.length), true);

  await writeAtomically(file, async (handle) => {
    await handle.writeFile(prefix);
    await handle.writeFile(headerBytes);
    for (const payload of payloads.values()) await handle.writeFile(await payload.bytes());
  });
}
