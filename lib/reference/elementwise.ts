// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { BinaryParams, CastParams, FillParams, ScaleParams, TransposeParams } from '../backend.js';
import { isFloat } from '../dtype.js';
import { load, store, view } from './buffer.js';

/** out = value */
export function fill({ out, value }: FillParams): void {
  store(out, new Float64Array(out.length).fill(value));
}

/** out = x in another dtype. Every dtype fits float64 exactly, so that `store` does the only rounding. */
export function cast({ x, out }: CastParams): void {
  store(out, load(x));
}

/**
 * For each element of a tensor of this shape, in row-major order, the offset of its source when the axes have these
 * strides. Counts like an odometer: the last axis turns fastest.
 */
function stridedOffsets(shape: readonly number[], strides: readonly number[], length: number): Float64Array {
  const offsets = new Float64Array(length);
  const index = new Array<number>(shape.length).fill(0);
  let offset = 0;
  for (let i = 0; i < length; i++) {
    offsets[i] = offset;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      offset += strides[axis];
      if (++index[axis] < shape[axis]) break;
      offset -= shape[axis] * strides[axis];
      index[axis] = 0;
    }
  }
  return offsets;
}

/** out[i] = x[offset of i]. Moves bits, so that every value comes out as it went in. */
export function transpose({ x, out, shape, strides }: TransposeParams): void {
  const from = view(x).slice();
  const to = view(out);
  const offsets = stridedOffsets(shape, strides, out.length);
  for (let i = 0; i < to.length; i++) to[i] = from[offsets[i]];
}

/** out = a + b or a * b over the broadcast shape. */
export function binary({ kind, a, b, out, shape, aStrides, bStrides }: BinaryParams): void {
  const aOffsets = stridedOffsets(shape, aStrides, out.length);
  const bOffsets = stridedOffsets(shape, bStrides, out.length);
  const left = load(a);
  const right = load(b);
  if (isFloat(out.dtype)) {
    const values = new Float64Array(out.length);
    for (let i = 0; i < values.length; i++) {
      const [x, y] = [left[aOffsets[i]], right[bOffsets[i]]];
      values[i] = kind === 'add' ? x + y : x * y;
    }
    store(out, values);
    return;
  }
  // Integers wrap around: a typed array keeps the low bits of what is written to it, and Math.imul keeps the low 32
  // bits of a product that float64 could not hold.
  const values = view(out);
  for (let i = 0; i < values.length; i++) {
    const [x, y] = [left[aOffsets[i]], right[bOffsets[i]]];
    values[i] = kind === 'add' ? x + y : Math.imul(x, y);
  }
}

/** out = x * factor * factorTensor[0] */
export function scale({ x, out, factor, factorTensor }: ScaleParams): void {
  const values = load(x);
  const product = factorTensor ? factor * load(factorTensor)[0] : factor;
  for (let i = 0; i < values.length; i++) values[i] *= product;
  store(out, values);
}
