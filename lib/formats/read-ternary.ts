// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkOptions, showShape } from '../check.js';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import { OptionError, ShapeError } from '../errors.js';
import { scalesOf, TernaryTensor } from '../ops/ternary-tensor.js';
import { fromBytes } from '../tensor.js';
import { shorten } from '../describe.js';
import { malformed } from './malformed.js';
import { scaleOfI2S } from './read-floats.js';
import { checkStored, type StoredTensor } from './stored-tensor.js';
import {
  BLOCK_BYTES,
  FOUR_ZEROS,
  fromI2S,
  fromTq1,
  fromTq2,
  fromTransformers,
  I2S_TAIL_BYTES,
  type Codes,
} from './ternary-layouts.js';

/** What {@link readTernary} found. */
export interface StoredTernary {
  /**
   * The matrix. Null if it needs more scales than a TernaryTensor has: if blocks of one row differ in theirs, or if one is negative or not finite. It can
   * be read with {@link readFloats}.
   */
  weight: TernaryTensor | null;
  /** How many codes were 3, which stands for no trit; read as 0. A whole file has none. */
  invalidCodes: number;
  /** Whether every trit is 0: there are published checkpoints with such matrices, and nothing that they could be good for. */
  isZero: boolean;
}

/** How {@link readTernary} reads. */
export interface ReadTernaryOptions {
  /** Default the default device. */
  device?: DeviceName | Device;
  /** U8 only: N, up to 3 less than the bytes have room for. Default all of it, 4 · ⌈N/4⌉. */
  rows?: number;
  /**
   * U8 only, and needed there: what multiplies the trits, one number or one for each row. Transformers stores it as `weight_scale`, or its inverse, as
   * `linear_class` of the model's `quantization_config` says.
   */
  scale?: number | ArrayLike<number>;
}

/** Codes and the scales that a TernaryTensor would have. */
interface Matrix extends Codes {
  rows: number;
  cols: number;
  /** One, or one for each row, or null. */
  scales: Float32Array | null;
}

/**
 * Reads a stored matrix [N, K] of trits: GGUF's types TQ1_0, TQ2_0 and I2_S (as bitnet.cpp writes it for x86), or U8 as Transformers packs it, [⌈N/4⌉, K].
 *
 * Blocks of zeros have scale 0 in TQ1_0 and TQ2_0, and fit any scale. If all others of the matrix have the same, it is the scale of the tensor;
 * if those of each row have, a scale for each row.
 *
 * @throws FormatError if it is of another type; ShapeError if it is no matrix; OptionError; what {@link StoredTensor.read} throws; DeviceError,
 * OutOfMemoryError.
 */
export async function readTernary(stored: StoredTensor, options: ReadTernaryOptions = {}): Promise<StoredTernary> {
  const op = 'readTernary';
  checkStored(op, stored);
  const isPacked = stored.type === 'U8';
  checkOptions(op, options, isPacked ? ['device', 'rows', 'scale'] : ['device']);
  const device = deviceNamed(options.device ?? 'auto');
  const { shape, name } = stored;
  if (shape.length !== 2 || shape.includes(0)) {
    throw new ShapeError(`${op}: expected a matrix for ${shorten(name)}, got shape ${showShape(shape)}`);
  }
  const { rows, cols, packed, scales, invalidCodes } = isPacked
    ? await readTransformers(op, stored, options)
    : await readBlocks(stored);
  const isZero = packed.every((byte) => byte === FOUR_ZEROS);
  if (scales === null) return { weight: null, invalidCodes, isZero };
  const codes = fromBytes(op, packed, [rows, Math.ceil(cols / 4)], 'uint8', device, false);
  try {
    const scale = fromBytes(op, new Uint8Array(scales.buffer), [scales.length], 'float32', device, false);
    return { weight: new TernaryTensor(codes, scale, [rows, cols]), invalidCodes, isZero };
  } catch (error) {
    codes.dispose();
    throw error;
  }
}

async function readTransformers(op: string, stored: StoredTensor, options: ReadTernaryOptions): Promise<Matrix> {
  const [stride, cols] = stored.shape;
  const rows = checkInteger(op, 'rows', options.rows ?? 4 * stride, 4 * stride - 3, 4 * stride);
  const { scale } = options;
  if (scale === undefined) throw new OptionError(`${op}: expected a scale for ${shorten(stored.name)}, got none`);
  const scales = scalesOf(op, scale, rows);
  return { rows, cols, scales, ...fromTransformers(await stored.read(), rows, cols) };
}

async function readBlocks(stored: StoredTensor): Promise<Matrix> {
  const [rows, cols] = stored.shape;
  switch (stored.type) {
    case 'I2_S': {
      const scale = await scaleOfI2S(stored);
      const codes = fromI2S(await stored.read(0, stored.byteLength - I2S_TAIL_BYTES));
      return { rows, cols, scales: isScale(scale) ? Float32Array.of(scale) : null, ...codes };
    }
    case 'TQ1_0':
    case 'TQ2_0': {
      const unpack = stored.type === 'TQ1_0' ? fromTq1 : fromTq2;
      const { packed, invalidCodes, scales } = unpack(await stored.read());
      for (const [block, scale] of scales.entries()) {
        // Its values are 0, whatever its codes are.
        if (scale === 0) packed.fill(FOUR_ZEROS, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      }
      const whole = oneScale(scales);
      return {
        rows,
        cols,
        packed,
        invalidCodes,
        scales: whole === null ? rowScales(scales, rows) : Float32Array.of(whole),
      };
    }
    default: {
      const expected = `one of TQ1_0, TQ2_0, I2_S, U8 as type of ${shorten(stored.name)}`;
      throw malformed(stored.file, stored.offset, expected, stored.type);
    }
  }
}

/** What a TernaryTensor takes. */
function isScale(scale: number): boolean {
  return Number.isFinite(scale) && scale >= 0;
}

/** The scale of all these blocks, but those of zeros; null if they have no one. */
function oneScale(scales: Float32Array): number | null {
  const scale = scales.find((each) => each !== 0) ?? 0;
  return isScale(scale) && scales.every((each) => each === 0 || each === scale) ? scale : null;
}

function rowScales(scales: Float32Array, rows: number): Float32Array | null {
  const perRow = scales.length / rows;
  const result = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    const scale = oneScale(scales.subarray(row * perRow, (row + 1) * perRow));
    if (scale === null) return null;
    result[row] = scale;
  }
  return result;
}
