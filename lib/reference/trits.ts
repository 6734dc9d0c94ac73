// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

// Ternary codes as they lie in memory, and the rounding that makes them. A row of K trits takes ceil(K / 4) bytes: trit
// + 1 of feature k is in bits 2 * (k & 3) of byte k >> 2; unused bits of the last byte hold trit 0, code 1.

/** Four codes 1: a byte of zero trits. */
const FOUR_ZERO_TRITS = 0b01010101;

function bytesPerRow(cols: number): number {
  return Math.ceil(cols / 4);
}

/** -1, 0 or 1: feature k of a row of the packed matrix. */
export function tritAt(packed: ArrayLike<number>, row: number, k: number, rowBytes: number): number {
  return ((packed[row * rowBytes + (k >> 2)] >> (2 * (k & 3))) & 3) - 1;
}

/** The trits [rows, cols] of a packed matrix, a byte each. */
export function unpackTrits(packed: ArrayLike<number>, rows: number, cols: number): Int8Array {
  const rowBytes = bytesPerRow(cols);
  const trits = new Int8Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < cols; k++) trits[row * cols + k] = tritAt(packed, row, k, rowBytes);
  }
  return trits;
}

/** The packed form of trits [rows, cols]. */
export function packTrits(trits: Int8Array, rows: number, cols: number): Uint8Array {
  const rowBytes = bytesPerRow(cols);
  const packed = new Uint8Array(rows * rowBytes).fill(FOUR_ZERO_TRITS);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < cols; k++) packed[row * rowBytes + (k >> 2)] += trits[row * cols + k] * 4 ** (k & 3);
  }
  return packed;
}

/** The nearest integer, of two equally near ones the even one. NaN gives 0, so that codes are always valid. */
function roundHalfEven(value: number): number {
  if (Number.isNaN(value)) return 0;
  const floor = Math.floor(value);
  const fraction = value - floor;
  if (fraction !== 0.5) return fraction < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** clip(roundHalfEven(value), low, high); infinities are clipped too. */
export function quantize(value: number, low: number, high: number): number {
  return roundHalfEven(Math.min(Math.max(value, low), high));
}
