// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkOneOf } from '../check.js';
import { float16BitsToFloat, floatToFloat16Bits } from '../dtype.js';
import { OptionError, ShapeError } from '../errors.js';
import { checkTernary } from '../ops/quantize-ternary.js';
import type { TernaryTensor } from '../ops/ternary-tensor.js';
import { BLOCK_BYTES, FOUR_ZEROS, I2S_TAIL_BYTES, toI2S, toTq1, toTq2, toTransformers } from './ternary-layouts.js';

/** Published layouts of ternary matrices: Transformers' `pack_weights`, and types of GGUF. */
export type TernaryLayout = 'transformers' | 'TQ1_0' | 'TQ2_0' | 'I2_S';

const LAYOUTS: readonly TernaryLayout[] = ['transformers', 'TQ1_0', 'TQ2_0', 'I2_S'];

/**
 * The bytes of a ternary matrix [N, K] in a published layout.
 *
 * - `transformers`: uint8 [⌈N/4⌉, K]; the scale is not in them, Transformers wants it as `weight_scale`.
 * - `TQ1_0`, `TQ2_0`: K in blocks of 256; each has its scale rounded to float16, or 0 if all its trits are 0, as ggml has it.
 * - `I2_S`, as bitnet.cpp reads it on x86: K in blocks of 128, one scale for the tensor, float32.
 *
 * @throws ShapeError if K is no multiple of the block; OptionError if the layout is unknown, has one scale only and the tensor more, or if float16 holds
 * a scale only as 0 or infinity; DisposedError, KernelError.
 */
export async function encodeTernary(weight: TernaryTensor, layout: TernaryLayout): Promise<Uint8Array> {
  const op = 'encodeTernary';
  checkTernary(op, weight);
  checkOneOf(op, 'layout', layout, LAYOUTS);
  const [rows, cols] = weight.shape;
  const block = { transformers: 1, TQ1_0: 256, TQ2_0: 256, I2_S: 128 }[layout];
  if (cols % block !== 0) throw new ShapeError(`${op}: expected K in blocks of ${block} for ${layout}, got ${cols}`);
  const [packed, scales] = (await Promise.all([weight.packed.raw(), weight.scale.raw()])) as [Uint8Array, Float32Array];
  switch (layout) {
    case 'transformers':
      return toTransformers(packed, rows, cols);
    case 'TQ1_0':
      return toTq1(packed, blockScales(op, packed, scales, rows));
    case 'TQ2_0':
      return toTq2(packed, blockScales(op, packed, scales, rows));
    case 'I2_S': {
      if (scales.length !== 1) throw new OptionError(`${op}: expected one scale for I2_S, got ${scales.length}`);
      const bytes = new Uint8Array(packed.length + I2S_TAIL_BYTES);
      bytes.set(toI2S(packed));
      new DataView(bytes.buffer).setFloat32(packed.length, scales[0], true);
      return bytes;
    }
  }
}

/** The bits of the scale of each block of 256. */
function blockScales(op: string, packed: Uint8Array, scales: Float32Array, rows: number): Uint16Array {
  const bits = Uint16Array.from(scales, (scale) => {
    const half = floatToFloat16Bits(scale);
    const held = float16BitsToFloat(half);
    if (held === Infinity || (held === 0 && scale !== 0)) {
      throw new OptionError(`${op}: expected scales that float16 holds, got ${scale}`);
    }
    return half;
  });
  const blocks = packed.length / BLOCK_BYTES;
  const perRow = blocks / rows;
  return Uint16Array.from({ length: blocks }, (_, block) => {
    const codes = packed.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    if (codes.every((byte) => byte === FOUR_ZEROS)) return 0;
    return bits.length === 1 ? bits[0] : bits[Math.floor(block / perRow)];
  });
}
