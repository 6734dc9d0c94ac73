// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkOneOf, checkOptions } from '../check.js';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import { bitsView, decode, encode, float16BitsToFloat, FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import type { Tensor } from '../tensor.js';
import { shorten } from '../describe.js';
import { asStored, load, type Conversion } from './load.js';
import { malformed } from './malformed.js';
import { checkStored, type StoredTensor } from './stored-tensor.js';
import { BLOCK_BYTES, fromI2S, fromTq1, fromTq2, I2S_TAIL_BYTES, type Codes } from './ternary-layouts.js';

/** Types of files that are dtypes here. */
const FLOATS: ReadonlyMap<string, FloatDType> = new Map([
  ['F32', 'float32'],
  ['F16', 'float16'],
  ['BF16', 'bfloat16'],
]);

/** Turns bytes of a stored tensor, whole blocks, into floats. */
type Dequantize = (bytes: Uint8Array, begin: number) => Float32Array;

/** A block type: the bytes of a block, and how they become floats. */
interface Blocks {
  blockBytes: number;
  dequantizer: (stored: StoredTensor) => Dequantize;
}

/** Without I2_S, whose scale is not in its blocks. */
const BLOCKS: ReadonlyMap<string, Blocks> = new Map<string, Blocks>([
  ['Q8_0', { blockBytes: 34, dequantizer: () => dequantizeQ8 }],
  ['TQ1_0', { blockBytes: 54, dequantizer: (stored) => ternary(stored, 54, fromTq1) }],
  ['TQ2_0', { blockBytes: 66, dequantizer: (stored) => ternary(stored, 66, fromTq2) }],
]);

/**
 * Reads a stored tensor as floats: F32, F16, BF16, or one of GGUF's types Q8_0, TQ1_0, TQ2_0 and I2_S, whose numbers are multiplied by their scales. Large
 * ones are read and converted in pieces: the host never holds more of them than that.
 *
 * @param options `device`: default the default device. `dtype`: default the file's own, float32 for block types; rounded to nearest, ties to even.
 * @returns the tensor, of the stored shape.
 * @throws FormatError if it is of another type, if it has no elements, or if a code of a ternary type is 3, which stands for nothing; what
 * {@link StoredTensor.read} throws; OptionError, DeviceError, OutOfMemoryError.
 */
export async function readFloats(
  stored: StoredTensor,
  options: { device?: DeviceName | Device; dtype?: FloatDType } = {},
): Promise<Tensor> {
  const op = 'readFloats';
  checkStored(op, stored);
  checkOptions(op, options, ['device', 'dtype']);
  const device = deviceNamed(options.device ?? 'auto');
  const own = FLOATS.get(stored.type);
  const dtype = checkOneOf(op, 'dtype', options.dtype ?? own ?? 'float32', FLOAT_DTYPES);
  if (own === dtype) return load(op, stored, dtype, device, asStored(dtype));
  return load(op, stored, dtype, device, own ? between(own, dtype) : await dequantization(stored, dtype));
}

function between(from: FloatDType, to: FloatDType): Conversion {
  if (from === 'float32') return { blockBytes: 4, convert: (bytes) => encode(to, decode(from, bytes)) };
  // All there are of 16 bits, converted once.
  const every = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
  const table = bitsView(to, encode(to, decode(from, new Uint8Array(every.buffer))));
  return {
    blockBytes: 2,
    convert: (bytes) => {
      const bits = bitsView(from, bytes);
      const out = to === 'float32' ? new Float32Array(bits.length) : new Uint16Array(bits.length);
      for (let i = 0; i < out.length; i++) out[i] = table[bits[i]];
      return new Uint8Array(out.buffer);
    },
  };
}

async function dequantization(stored: StoredTensor, dtype: FloatDType): Promise<Conversion> {
  const asBytes =
    (dequantize: Dequantize): Conversion['convert'] =>
    (bytes, begin) => {
      const values = dequantize(bytes, begin);
      return dtype === 'float32' ? new Uint8Array(values.buffer) : encode(dtype, values);
    };
  const blocks = BLOCKS.get(stored.type);
  if (blocks) return { blockBytes: blocks.blockBytes, convert: asBytes(blocks.dequantizer(stored)) };
  if (stored.type !== 'I2_S') {
    const known = [...FLOATS.keys(), ...BLOCKS.keys(), 'I2_S'].join(', ');
    throw malformed(stored.file, stored.offset, `one of ${known} as type of ${shorten(stored.name)}`, stored.type);
  }
  const scale = await scaleOfI2S(stored);
  const dequantize = ternary(stored, 32, (bytes) => ({ ...fromI2S(bytes), scales: Float32Array.of(scale) }));
  return { blockBytes: 32, convert: asBytes(dequantize), byteLength: stored.byteLength - I2S_TAIL_BYTES };
}

/** The float32 that multiplies the trits of an I2_S tensor. */
export async function scaleOfI2S(stored: StoredTensor): Promise<number> {
  const { buffer, byteOffset } = await stored.read(stored.byteLength - I2S_TAIL_BYTES, 4);
  return new DataView(buffer, byteOffset).getFloat32(0, true);
}

/** Blocks of a float16 scale and 32 int8. */
function dequantizeQ8(bytes: Uint8Array): Float32Array {
  const values = new Float32Array((bytes.length / 34) * 32);
  const quants = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let block = 0; block < bytes.length / 34; block++) {
    const at = block * 34;
    const scale = float16BitsToFloat(bytes[at] | (bytes[at + 1] << 8));
    for (let i = 0; i < 32; i++) values[block * 32 + i] = scale * quants[at + 2 + i];
  }
  return values;
}

/** The four trits of a byte of ours. */
const TRITS = Int8Array.from({ length: 1024 }, (_, i) => (((i >> 2) >> (2 * (i & 3))) & 3) - 1);

/** @param unpack codes and their scales: one for all of a piece, or one for each block of 256. */
function ternary(
  stored: StoredTensor,
  blockBytes: number,
  unpack: (bytes: Uint8Array) => Codes & { scales: Float32Array },
): Dequantize {
  return (bytes, begin) => {
    const { packed, invalidCodes, scales } = unpack(bytes);
    if (invalidCodes > 0) {
      const expected = `codes from 0 to 2 in ${bytes.length / blockBytes} blocks of ${shorten(stored.name)}`;
      throw malformed(stored.file, stored.offset + begin, expected, `${invalidCodes} of 3`);
    }
    const perScale = scales.length === 1 ? packed.length : BLOCK_BYTES;
    const values = new Float32Array(packed.length * 4);
    for (const [block, scale] of scales.entries()) {
      for (let i = block * perScale; i < (block + 1) * perScale; i++) {
        for (let j = 0; j < 4; j++) values[4 * i + j] = TRITS[4 * packed[i] + j] * scale;
      }
    }
    return values;
  };
}
