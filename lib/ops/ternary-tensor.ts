// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkArray, checkFloat, checkInteger, checkNumber, checkOneOf, checkOptions, checkShape } from '../check.js';
import { describe } from '../describe.js';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import { bytesPerElement, FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { OptionError, ShapeError } from '../errors.js';
import { fromBytes, type Tensor } from '../tensor.js';

/** Counts of a {@link TernaryTensor}. */
export interface TernaryStatistics {
  /** Share of zeros, from 0 to 1. */
  sparsity: number;
  /** Share of ones. */
  positiveRatio: number;
  /** Share of minus ones. */
  negativeRatio: number;
  /** Rows of zeros only. */
  zeroRows: number;
}

/** A byte of four codes of trit 0. */
const FOUR_ZEROS = 0b01010101;

/** How many of a byte's four codes stand for 1 and for −1. */
const POSITIVE = Uint8Array.from({ length: 256 }, (_, byte) => countCodes(byte, 2));
const NEGATIVE = Uint8Array.from({ length: 256 }, (_, byte) => countCodes(byte, 0));

/**
 * A matrix of weights in {−1, 0, 1} and a scale: W[n, k] ≈ trit[n, k] · scale.
 *
 * Codes are packed four to a byte along K: byte [n, ⌊k/4⌋] holds trit + 1 of feature k in bits 2·(k mod 4) and up. A row takes ⌈K/4⌉ bytes; the
 * unused bits of its last byte hold code 1, that is trit 0.
 */
export class TernaryTensor {
  /** [N, K] */
  readonly shape: readonly [number, number];

  /** @internal */
  constructor(
    /** uint8 [N, ⌈K/4⌉] */
    readonly packed: Tensor,
    /** float32, [1] for the whole tensor or [N] for each row */
    readonly scale: Tensor,
    shape: readonly [number, number],
  ) {
    this.shape = shape;
  }

  /**
   * A ternary tensor of given trits.
   *
   * @param trits N·K numbers −1, 0 or 1, row by row.
   * @param scale one number, or one for each row; not negative.
   * @throws ShapeError, OptionError, DeviceError, OutOfMemoryError.
   */
  static fromTrits(
    trits: ArrayLike<number>,
    shape: readonly [number, number],
    scale: number | ArrayLike<number>,
    options: { device?: DeviceName | Device } = {},
  ): TernaryTensor {
    const op = 'TernaryTensor.fromTrits';
    if (checkArray(op, 'shape', shape).length !== 2)
      throw new ShapeError(`${op}: expected [rows, columns] for shape, got ${describe(shape)}`);
    const [rows, cols] = shape;
    checkInteger(op, 'shape[0]', rows, 1, 2 ** 31 - 1);
    checkInteger(op, 'shape[1]', cols, 1, 2 ** 31 - 1);
    const { length } = (trits ?? {}) as Partial<ArrayLike<number>>;
    if (length !== rows * cols)
      throw new ShapeError(`${op}: expected ${rows * cols} trits, got ${describe(length ?? trits)}`);
    const scales = scalesOf(op, scale, rows);
    checkOptions(op, options, ['device']);
    const rowBytes = Math.ceil(cols / 4);
    const bytes = new Uint8Array(rows * rowBytes).fill(FOUR_ZEROS);
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) {
        setCode(bytes, rowBytes, row, col, checkTrit(op, trits[row * cols + col]) + 1);
      }
    }
    const target = deviceNamed(options.device ?? 'auto');
    const packed = fromBytes(op, bytes, [rows, rowBytes], 'uint8', target, false);
    const scaleTensor = fromBytes(op, new Uint8Array(scales.buffer), [scales.length], 'float32', target, false);
    return new TernaryTensor(packed, scaleTensor, [rows, cols]);
  }

  /** The device it lives on. Throws DisposedError. */
  get device(): Device {
    return this.packed.device;
  }

  /** Bytes of codes and scale. */
  get bytes(): number {
    return this.packed.bytes + this.scale.bytes;
  }

  /** Whether its memory was given up. */
  get isDisposed(): boolean {
    return this.packed.isDisposed || this.scale.isDisposed;
  }

  /** The tensors that hold it. */
  tensors(): Tensor[] {
    return [this.packed, this.scale];
  }

  /** How many times smaller this is than the same matrix as `dtype`. */
  compressionRatio(dtype: FloatDType = 'float32'): number {
    checkOneOf('TernaryTensor.compressionRatio', 'dtype', dtype, FLOAT_DTYPES);
    const [rows, cols] = this.shape;
    return (rows * cols * bytesPerElement(dtype)) / this.bytes;
  }

  /** All trits, row by row: Int8Array of N·K. */
  async trits(): Promise<Int8Array> {
    const [rows, cols] = this.shape;
    const bytes = (await this.packed.raw()) as Uint8Array;
    const rowBytes = this.packed.shape[1];
    const out = new Int8Array(rows * cols);
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) out[row * cols + col] = codeAt(bytes, rowBytes, row, col) - 1;
    }
    return out;
  }

  /** Share of zeros, from 0 to 1. */
  async sparsity(): Promise<number> {
    return (await this.statistics()).sparsity;
  }

  /** Shares of the trits 0, 1 and −1, and the number of rows without any but 0. Counted anew at every call, so never out of date. */
  async statistics(): Promise<TernaryStatistics> {
    const [rows, cols] = this.shape;
    const bytes = (await this.packed.raw()) as Uint8Array;
    const rowBytes = this.packed.shape[1];
    let [positive, negative, zeroRows] = [0, 0, 0];
    for (let row = 0; row < rows; row++) {
      const before = positive + negative;
      for (let i = row * rowBytes; i < (row + 1) * rowBytes; i++) {
        positive += POSITIVE[bytes[i]];
        negative += NEGATIVE[bytes[i]];
      }
      if (positive + negative === before) zeroRows++;
    }
    const total = rows * cols;
    return {
      sparsity: (total - positive - negative) / total,
      positiveRatio: positive / total,
      negativeRatio: negative / total,
      zeroRows,
    };
  }

  /**
   * Makes the rows zero, trits and scale, whose scale is below `threshold`: outputs that hardly matter. Needs a scale for each row. (Small weights
   * are pruned when they are rounded: method `threshold` of {@link quantizeTernary}.)
   *
   * @returns how many rows were not zero before and are now.
   * @throws OptionError, ShapeError.
   */
  async pruneRows(threshold: number): Promise<number> {
    const op = 'TernaryTensor.pruneRows';
    checkNumber(op, 'threshold', threshold, 0);
    checkShape(op, 'scale', this.scale, [this.shape[0]], 'for each row');
    const [bytes, scales] = (await Promise.all([this.packed.raw(), this.scale.raw()])) as [Uint8Array, Float32Array];
    const rowBytes = this.packed.shape[1];
    let pruned = 0;
    scales.forEach((scale, row) => {
      if (!(Math.abs(scale) < threshold)) return;
      const codes = bytes.subarray(row * rowBytes, (row + 1) * rowBytes);
      if (scale !== 0 && codes.some((code) => code !== FOUR_ZEROS)) pruned++;
      codes.fill(FOUR_ZEROS);
      scales[row] = 0;
    });
    this.device.write(op, this.packed.arg.buffer, bytes);
    this.device.write(op, this.scale.arg.buffer, new Uint8Array(scales.buffer));
    return pruned;
  }

  /** One trit: −1, 0 or 1. Reads the whole matrix; for many, use `trits()`. Throws OptionError. */
  async getTrit(row: number, col: number): Promise<number> {
    this.checkPlace('getTrit', row, col);
    return codeAt((await this.packed.raw()) as Uint8Array, this.packed.shape[1], row, col) - 1;
  }

  /** Changes one trit in place. Throws OptionError. */
  async setTrit(row: number, col: number, trit: number): Promise<void> {
    this.checkPlace('setTrit', row, col);
    const code = checkTrit('TernaryTensor.setTrit', trit) + 1;
    const bytes = (await this.packed.raw()) as Uint8Array;
    setCode(bytes, this.packed.shape[1], row, col, code);
    this.device.write('TernaryTensor.setTrit', this.packed.arg.buffer, bytes);
  }

  /** How far this is from the weight [N, K] it stands for: mean and largest |W − trit·scale|, and the mean relative to mean |W|. */
  async quantizationError(weight: Tensor): Promise<{ mean: number; max: number; relative: number }> {
    const op = 'TernaryTensor.quantizationError';
    checkFloat(op, 'weight', weight);
    checkShape(op, 'weight', weight, this.shape, 'to match the ternary tensor');
    const [values, trits, scales] = await Promise.all([weight.data(), this.trits(), this.scale.data()]);
    const cols = this.shape[1];
    let total = 0;
    let max = 0;
    let magnitude = 0;
    for (let i = 0; i < trits.length; i++) {
      const scale = scales.length === 1 ? scales[0] : scales[Math.floor(i / cols)];
      const error = Math.abs(values[i] - trits[i] * scale);
      total += error;
      magnitude += Math.abs(values[i]);
      if (error > max) max = error;
    }
    return { mean: total / trits.length, max, relative: magnitude === 0 ? 0 : total / magnitude };
  }

  /** A copy on another device. */
  async to(options: { device: DeviceName | Device }): Promise<TernaryTensor> {
    return new TernaryTensor(await this.packed.to(options), await this.scale.to(options), this.shape);
  }

  /** Frees codes and scale. */
  dispose(): void {
    this.packed.dispose();
    this.scale.dispose();
  }

  /** Called at the end of a `using` block: see {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  private checkPlace(op: string, row: number, col: number): void {
    checkInteger(`TernaryTensor.${op}`, 'row', row, 0, this.shape[0] - 1);
    checkInteger(`TernaryTensor.${op}`, 'col', col, 0, this.shape[1] - 1);
  }
}

/** @internal One scale, or one for each row, none of them negative. */
export function scalesOf(op: string, scale: number | ArrayLike<number>, rows: number): Float32Array {
  const list = typeof scale === 'number' ? [scale] : scale;
  const { length } = (list ?? {}) as Partial<ArrayLike<number>>;
  if (length !== 1 && length !== rows)
    throw new ShapeError(`${op}: expected 1 or ${rows} scales, got ${describe(length ?? list)}`);
  return Float32Array.from({ length }, (_, i) => checkNumber(op, 'scale', list[i], 0));
}

function checkTrit(op: string, trit: number): number {
  if (trit !== -1 && trit !== 0 && trit !== 1)
    throw new OptionError(`${op}: expected a trit of -1, 0 or 1, got ${describe(trit)}`);
  return trit;
}

function countCodes(byte: number, code: number): number {
  return [0, 2, 4, 6].filter((shift) => ((byte >> shift) & 3) === code).length;
}

function codeAt(bytes: Uint8Array, rowBytes: number, row: number, col: number): number {
  return (bytes[row * rowBytes + (col >> 2)] >> (2 * (col & 3))) & 3;
}

function setCode(bytes: Uint8Array, rowBytes: number, row: number, col: number, code: number): void {
  const index = row * rowBytes + (col >> 2);
  const shift = 2 * (col & 3);
  bytes[index] = (bytes[index] & ~(3 << shift)) | (code << shift);
}
