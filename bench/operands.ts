// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { decode, encode, type FloatDType } from '../lib/dtype.js';
import { Generator } from '../lib/random.js';
import { tensorFromRaw, type Tensor } from '../lib/tensor.js';
import { roundingStep } from '../test/arithmetic.js';
import { DEVICE } from './options.js';

/**
 * Large tensors of random numbers, made in no time: a million normal numbers over and over. A prime, so that rows differ; and the numbers are
 * known here without reading a tensor back.
 */
const PERIOD = 999_983;

interface Block {
  bits: Uint8Array;
  values: Float32Array;
}

let normals: Float32Array | null = null;
const blocks = new Map<string, Block>();

function blockOf(dtype: FloatDType, std: number): Block {
  const key = `${dtype} ${std}`;
  let block = blocks.get(key);
  if (!block) {
    normals ??= new Generator(7).normal(PERIOD);
    const bits = encode(
      dtype,
      normals.map((value) => value * std),
    );
    block = { bits, values: decode(dtype, bits) as Float32Array };
    blocks.set(key, block);
  }
  return block;
}

export interface Operand {
  tensor: Tensor;
  at(index: number): number;
  /** Elements from `start` on. */
  part(start: number, count: number): Float32Array;
}

/** Another `seed` begins elsewhere in the block. */
export function operand(
  shape: readonly number[],
  dtype: FloatDType,
  { seed = 0, std = 1, requiresGrad = false } = {},
): Operand {
  const { bits, values } = blockOf(dtype, std);
  const length = shape.reduce((product, size) => product * size, 1);
  const width = bits.length / PERIOD;
  const first = (seed * 123_457) % PERIOD;
  const filled = new Uint8Array(length * width);
  for (let to = 0, from = first * width; to < filled.length; from = 0) {
    const part = bits.subarray(from, from + Math.min(bits.length - from, filled.length - to));
    filled.set(part, to);
    to += part.length;
  }
  const at = (index: number): number => values[(first + index) % PERIOD];
  return {
    tensor: tensorFromRaw(filled, shape, { dtype, device: DEVICE, requiresGrad }),
    at,
    part(start, count) {
      const copied = new Float32Array(count);
      for (let to = 0; to < count;) {
        const from = (first + start + to) % PERIOD;
        const run = values.subarray(from, from + count - to);
        copied.set(run, to);
        to += run.length;
      }
      return copied;
    },
  };
}

/** Reads a tensor back once; its elements are decoded one at a time. */
export async function readerOf(tensor: Tensor): Promise<(index: number) => number> {
  const raw = await tensor.raw();
  const bytes = new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength);
  const width = raw.BYTES_PER_ELEMENT;
  return (index) => decode(tensor.dtype, bytes.slice(index * width, (index + 1) * width))[0];
}

/** Throws unless `got` is the exact value but for its rounding to the dtype and an error of the computation. */
export function expectNear(what: string, dtype: FloatDType, got: number, exact: number, error: number): void {
  const bound = roundingStep(dtype, exact) + error;
  if (!(Math.abs(got - exact) <= bound)) {
    throw new Error(`bench ${what}: expected ${exact} within ${bound}, got ${got}`);
  }
}
