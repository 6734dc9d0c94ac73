// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Device } from '../device.js';
import { bytesPerElement, type DType } from '../dtype.js';
import { FormatError } from '../errors.js';
import { elementCount, workspace, type Tensor } from '../tensor.js';
import { shorten } from '../describe.js';
import type { StoredTensor } from './stored-tensor.js';

// What is in host memory of a tensor on its way to the device, as the file has it and as the device wants it. 656 MB of bfloat16 reach the cpu device
// in 0.6 to 0.8 s, with 2^20 as well, with 2^24 in 1.0 to 1.4, for then all of it is fresh memory.
const PIECE_BYTES = 2 ** 22;

/** How the bytes of a file become elements. */
export interface Conversion {
  /** What `convert` takes a multiple of. */
  blockBytes: number;
  /** Elements of the wanted dtype, of these bytes of the file. Absent if those are the elements. */
  convert?: (bytes: Uint8Array, begin: number) => Uint8Array;
  /** The bytes of the tensor that hold elements. Default all. */
  byteLength?: number;
}

/**
 * Reads a stored tensor onto a device, piece by piece, so that the host never holds more of it than that.
 *
 * @returns a tensor of the stored shape, outside every scope.
 * @throws FormatError if it has no elements; what reading it throws; OutOfMemoryError; KernelError.
 */
export async function load(
  op: string,
  stored: StoredTensor,
  dtype: DType,
  device: Device,
  { blockBytes, convert, byteLength = stored.byteLength }: Conversion,
): Promise<Tensor> {
  const { file, name, offset, shape } = stored;
  if (elementCount(shape) === 0) {
    throw new FormatError(
      `${file}: expected elements in ${shorten(name)}, got shape [${shape.join(', ')}]`,
      file,
      offset,
    );
  }
  const out = workspace(op, shape, dtype, device);
  try {
    // Blocks may take less in the file than their elements take here.
    const blockSpace = Math.max(blockBytes, Math.ceil((out.bytes / byteLength) * blockBytes));
    const pieceBytes = Math.floor(PIECE_BYTES / blockSpace) * blockBytes;
    const read = (begin: number) => stored.read(begin, Math.min(pieceBytes, byteLength - begin));
    let bytes = await read(0);
    for (let begin = 0, written = 0; bytes.length > 0; begin += pieceBytes) {
      const elements = convert ? convert(bytes, begin) : bytes;
      device.write(op, out.arg.buffer, elements, written);
      written += elements.length;
      // The device copies what it is given, and has one piece in its queue at most.
      const next = Math.min(begin + pieceBytes, byteLength);
      [bytes] = await Promise.all([read(next), device.synchronize()]);
    }
    return out;
  } catch (error) {
    out.dispose();
    throw error;
  }
}

/** The conversion of elements that stay what they are. */
export function asStored(dtype: DType): Conversion {
  return { blockBytes: bytesPerElement(dtype) };
}
