// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { TensorArg } from '../backend.js';
import { bitsView, bytesPerElement, decode, encode } from '../dtype.js';

/**
 * A block of memory of the reference backend. The bytes start at a multiple of 8, so any typed view of them is aligned.
 */
export interface ReferenceBuffer {
  bytes: Uint8Array;
}

/** Records why an op failed; the first failure is delivered when the device is next waited for. */
export type Fail = (message: string) => void;

type BitsView = ReturnType<typeof bitsView>;

function bytesOf(arg: TensorArg, start: number, count: number): Uint8Array {
  const { bytes } = arg.buffer as ReferenceBuffer;
  const size = bytesPerElement(arg.dtype);
  return bytes.subarray(start * size, (start + count) * size);
}

/**
 * The stored elements themselves, not a copy: the numbers of an integer or float32 tensor, the bits of a 16-bit float
 * one.
 */
export function view(arg: TensorArg): BitsView {
  return bitsView(arg.dtype, bytesOf(arg, 0, arg.length));
}

/**
 * A float64 copy of `count` elements from element `start` on, by default of all. Exact for every dtype. Being a copy,
 * it makes in-place ops safe: the output may be written while the input is still being read.
 */
export function load(arg: TensorArg, start = 0, count = arg.length - start): Float64Array {
  return new Float64Array(decode(arg.dtype, bytesOf(arg, start, count)));
}

/** Writes the whole tensor, each value rounded once to the tensor's dtype (see `encode` in lib/dtype.ts). */
export function store(arg: TensorArg, values: ArrayLike<number>): void {
  storeAt(arg, 0, values);
}

/** Writes elements from element `start` on, rounded like those of {@link store}. */
export function storeAt(arg: TensorArg, start: number, values: ArrayLike<number>): void {
  bytesOf(arg, start, values.length).set(encode(arg.dtype, values));
}

/** Zeroes the tensors: what an op that failed leaves in its outputs. */
export function clear(...args: TensorArg[]): void {
  for (const arg of args) bytesOf(arg, 0, arg.length).fill(0);
}
