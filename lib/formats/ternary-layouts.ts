// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { float16BitsToFloat } from '../dtype.js';

/**
 * Published layouts of ternary matrices [N, K], and how their bytes become those of a TernaryTensor and back. All hold codes, trit + 1, of two bits:
 *
 * - ours: byte [n, ⌊k/4⌋] has feature k in bits 2·(k mod 4); the unused bits of a row's last byte hold code 1.
 * - Transformers (`pack_weights`): uint8 [R, K] with R = ⌈N/4⌉; byte [r, k] has row r + i·R in bits 2·i. Bits of rows from N on hold 0.
 * - I2_S (bitnet.cpp, files for x86): 32 bytes for 128 values; byte b has value b + 32·g in bits 6 − 2·g.
 * - TQ2_0 (ggml): 256 values; per 128 of them 32 bytes, of which byte b has value b + 32·g in bits 2·g. Then a float16 scale.
 *
 * Four bytes of any of them are a 4 × 4 matrix of codes, and the other layout has its columns as rows: {@link transposed}.
 *
 * - TQ1_0 (ggml): 256 values in 52 bytes of up to five trits, then a float16 scale. See {@link fromTq1}.
 */

/** A byte of four codes of trit 0. */
export const FOUR_ZEROS = 0b01010101;

/** Codes in our layout, made of those of a file. */
export interface Codes {
  /** Row by row; of layouts with blocks, whose rows are whole bytes, of all rows in one. */
  packed: Uint8Array;
  /** How many codes were 3, which stands for no trit; they have become 1, trit 0. */
  invalidCodes: number;
}

/** The same of a layout whose blocks of 256 values have a scale each. */
export interface ScaledCodes extends Codes {
  /** One for each block, as the file has them. */
  scales: Float32Array;
}

/** Code i of byte j of a word goes to byte i, as its code j. Undone by itself (Hacker's Delight, section 7-3). */
function transposed(word: number): number {
  // Single codes are swapped over the diagonal within 2 × 2 of them, then such squares.
  const codes = (word ^ (word >>> 6)) & 0x00cc00cc;
  const half = word ^ codes ^ (codes << 6);
  const squares = (half ^ (half >>> 12)) & 0x0000f0f0;
  return half ^ squares ^ (squares << 12);
}

/** Counts codes 3 and makes them 1. */
class Sieve {
  invalidCodes = 0;

  /** The word with code 1 for each code 3. */
  clean(word: number): number {
    let threes = word & (word >>> 1) & 0x55555555;
    if (threes === 0) return word;
    const result = word ^ (threes << 1);
    for (; threes !== 0; threes &= threes - 1) this.invalidCodes++;
    return result;
  }
}

function wordAt(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
}

/**
 * @param bytes uint8 [⌈N/4⌉, K] as Transformers packs them.
 * @param rows N: up to 3 less than the bytes have room for.
 */
export function fromTransformers(bytes: Uint8Array, rows: number, cols: number): Codes {
  const stride = Math.ceil(rows / 4);
  const rowBytes = Math.ceil(cols / 4);
  const packed = new Uint8Array(rows * rowBytes);
  const sieve = new Sieve();
  for (let r = 0; r < stride; r++) {
    // Bits of rows that are not there say nothing: not even that a code is wrong.
    const there = Math.ceil((rows - r) / stride);
    const mask = there === 4 ? -1 : (1 << (8 * there)) - 1;
    for (let q = 0; q < rowBytes; q++) {
      const at = r * cols + 4 * q;
      const word = 4 * q + 4 <= cols ? wordAt(bytes, at) : lastWord(bytes, at, cols & 3);
      const byRow = sieve.clean(transposed(word) & mask);
      for (let i = 0; i < there; i++) packed[(r + i * stride) * rowBytes + q] = byRow >>> (8 * i);
    }
  }
  return { packed, invalidCodes: sieve.invalidCodes };
}

/** The last columns of a row, fewer than 4: those that are not there are code 1. */
function lastWord(bytes: Uint8Array, at: number, count: number): number {
  let word = 0;
  for (let j = 0; j < 4; j++) word |= (j < count ? bytes[at + j] : FOUR_ZEROS) << (8 * j);
  return word;
}

/** Undoes {@link fromTransformers}. */
export function toTransformers(packed: Uint8Array, rows: number, cols: number): Uint8Array {
  const stride = Math.ceil(rows / 4);
  const rowBytes = Math.ceil(cols / 4);
  const bytes = new Uint8Array(stride * cols);
  for (let r = 0; r < stride; r++) {
    const there = Math.ceil((rows - r) / stride);
    for (let q = 0; q < rowBytes; q++) {
      let byRow = 0;
      for (let i = 0; i < there; i++) byRow |= packed[(r + i * stride) * rowBytes + q] << (8 * i);
      const word = transposed(byRow);
      const count = Math.min(4, cols - 4 * q);
      for (let j = 0; j < count; j++) bytes[r * cols + 4 * q + j] = word >>> (8 * j);
    }
  }
  return bytes;
}

/** How far a word of our bytes is shifted for each group of 32 values out of 128: the first are in the lowest bits, or in the highest. */
const LOWEST_FIRST = [0, 8, 16, 24] as const;
const HIGHEST_FIRST = [24, 16, 8, 0] as const;

/** 128 values from 32 bytes at `from` to 32 bytes at `to`. */
function untangle(
  bytes: Uint8Array,
  from: number,
  packed: Uint8Array,
  to: number,
  [s0, s1, s2, s3]: readonly number[],
  sieve: Sieve,
): void {
  for (let b = 0; b < 8; b++) {
    const word = sieve.clean(transposed(wordAt(bytes, from + 4 * b)));
    packed[to + b] = word >>> s0;
    packed[to + 8 + b] = word >>> s1;
    packed[to + 16 + b] = word >>> s2;
    packed[to + 24 + b] = word >>> s3;
  }
}

/** Undoes {@link untangle}. */
function tangle(
  packed: Uint8Array,
  from: number,
  bytes: Uint8Array,
  to: number,
  [s0, s1, s2, s3]: readonly number[],
): void {
  for (let b = 0; b < 8; b++) {
    const at = from + b;
    const byGroup = (packed[at] << s0) | (packed[at + 8] << s1) | (packed[at + 16] << s2) | (packed[at + 24] << s3);
    const word = transposed(byGroup);
    for (let j = 0; j < 4; j++) bytes[to + 4 * b + j] = word >>> (8 * j);
  }
}

/** Bytes behind the codes of an I2_S tensor. The first four are its scale, a float32. */
export const I2S_TAIL_BYTES = 32;

/** @param bytes 32 for each 128 values, without the scale behind them. */
export function fromI2S(bytes: Uint8Array): Codes {
  const packed = new Uint8Array(bytes.length);
  const sieve = new Sieve();
  for (let at = 0; at < bytes.length; at += 32) untangle(bytes, at, packed, at, HIGHEST_FIRST, sieve);
  return { packed, invalidCodes: sieve.invalidCodes };
}

/** Undoes {@link fromI2S}. */
export function toI2S(packed: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at += 32) tangle(packed, at, bytes, at, HIGHEST_FIRST);
  return bytes;
}

/** Bytes of 256 values in our layout. */
export const BLOCK_BYTES = 64;
const TQ1_BYTES = 54;
const TQ2_BYTES = 66;

/** @param bytes 66 for each 256 values: codes, and the scale. */
export function fromTq2(bytes: Uint8Array): ScaledCodes {
  const blocks = bytes.length / TQ2_BYTES;
  const packed = new Uint8Array(blocks * BLOCK_BYTES);
  const sieve = new Sieve();
  for (let block = 0; block < blocks; block++) {
    for (const half of [0, 32]) {
      untangle(bytes, block * TQ2_BYTES + half, packed, block * BLOCK_BYTES + half, LOWEST_FIRST, sieve);
    }
  }
  return { packed, invalidCodes: sieve.invalidCodes, scales: scalesOf(bytes, blocks, TQ2_BYTES) };
}

/**
 * Undoes {@link fromTq2}.
 *
 * @param scales the bits of a float16 for each block.
 */
export function toTq2(packed: Uint8Array, scales: Uint16Array): Uint8Array {
  const bytes = new Uint8Array(scales.length * TQ2_BYTES);
  for (let block = 0; block < scales.length; block++) {
    for (const half of [0, 32]) {
      tangle(packed, block * BLOCK_BYTES + half, bytes, block * TQ2_BYTES + half, LOWEST_FIRST);
    }
  }
  writeScales(bytes, scales, TQ2_BYTES);
  return bytes;
}

/** The five codes of a byte of TQ1_0, code n in bits 2·n: the digits of ⌊byte · 243 / 256⌋ to base 3, the first one the highest. */
const DIGITS = Uint16Array.from({ length: 256 }, (_, byte) => {
  let codes = 0;
  // Multiplied by 3, what goes beyond the byte is the next digit.
  for (let n = 0, rest = byte; n < 5; n++, rest = (rest * 3) & 255) codes |= ((rest * 3) >> 8) << (2 * n);
  return codes;
});

/** Undoes DIGITS: the least byte of which these are the digits. Codes 3 do not occur. */
const BYTE_OF_DIGITS = Uint8Array.from({ length: 1024 }, (_, codes) => {
  let value = 0;
  for (let n = 0; n < 5; n++) value = 3 * value + ((codes >> (2 * n)) & 3);
  return Math.ceil((value * 256) / 243);
});

/** Where the bytes of a TQ1_0 block have their digits: digit n of byte `from + i` is code i mod 4 of our byte `to + n·count/4 + ⌊i/4⌋`. */
const TQ1_PARTS = [
  { from: 0, count: 32, to: 0, digits: 5 },
  { from: 32, count: 16, to: 40, digits: 5 },
  { from: 48, count: 4, to: 60, digits: 4 },
] as const;

/** @param bytes 54 for each 256 values: trits to base 3, and the scale. Every byte stands for trits, so no code is invalid. */
export function fromTq1(bytes: Uint8Array): ScaledCodes {
  const blocks = bytes.length / TQ1_BYTES;
  const packed = new Uint8Array(blocks * BLOCK_BYTES);
  for (let block = 0; block < blocks; block++) {
    for (const { from, count, to, digits } of TQ1_PARTS) {
      const step = count / 4;
      for (let b = 0; b < step; b++) {
        const at = block * TQ1_BYTES + from + 4 * b;
        const [d0, d1, d2, d3] = [
          DIGITS[bytes[at]],
          DIGITS[bytes[at + 1]],
          DIGITS[bytes[at + 2]],
          DIGITS[bytes[at + 3]],
        ];
        const word = transposed((d0 & 255) | ((d1 & 255) << 8) | ((d2 & 255) << 16) | (d3 << 24));
        const out = block * BLOCK_BYTES + to + b;
        for (let n = 0; n < 4; n++) packed[out + n * step] = word >>> (8 * n);
        if (digits === 5) packed[out + 4 * step] = (d0 >> 8) | ((d1 >> 8) << 2) | ((d2 >> 8) << 4) | ((d3 >> 8) << 6);
      }
    }
  }
  return { packed, invalidCodes: 0, scales: scalesOf(bytes, blocks, TQ1_BYTES) };
}

/**
 * Undoes {@link fromTq1}.
 *
 * @param scales the bits of a float16 for each block.
 */
export function toTq1(packed: Uint8Array, scales: Uint16Array): Uint8Array {
  const bytes = new Uint8Array(scales.length * TQ1_BYTES);
  for (let block = 0; block < scales.length; block++) {
    for (const { from, count, to, digits } of TQ1_PARTS) {
      const step = count / 4;
      for (let b = 0; b < step; b++) {
        const at = block * BLOCK_BYTES + to + b;
        const byDigit =
          packed[at] | (packed[at + step] << 8) | (packed[at + 2 * step] << 16) | (packed[at + 3 * step] << 24);
        const word = transposed(byDigit);
        const fifth = digits === 5 ? packed[at + 4 * step] : 0;
        for (let j = 0; j < 4; j++) {
          const codes = ((word >>> (8 * j)) & 255) | (((fifth >> (2 * j)) & 3) << 8);
          bytes[block * TQ1_BYTES + from + 4 * b + j] = BYTE_OF_DIGITS[codes];
        }
      }
    }
  }
  writeScales(bytes, scales, TQ1_BYTES);
  return bytes;
}

/** A block ends with its scale. */
function scalesOf(bytes: Uint8Array, blocks: number, blockBytes: number): Float32Array {
  return Float32Array.from({ length: blocks }, (_, block) => {
    const end = (block + 1) * blockBytes;
    return float16BitsToFloat(bytes[end - 2] | (bytes[end - 1] << 8));
  });
}

function writeScales(bytes: Uint8Array, scales: Uint16Array, blockBytes: number): void {
  for (const [block, bits] of scales.entries()) {
    const end = (block + 1) * blockBytes;
    bytes[end - 2] = bits;
    bytes[end - 1] = bits >> 8;
  }
}
