// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { record } from '../autograd/tape.js';
import {
  checkBoolean,
  checkFloat,
  checkInteger,
  checkOptions,
  checkPositive,
  checkShape,
  checkTensor,
  checkTogether,
} from '../check.js';
import { OptionError } from '../errors.js';
import { empty, fromConstant, type Tensor } from '../tensor.js';
import { checkRopeScaling, ropeFrequencies, type RopeScaling } from './rope-scaling.js';

/** Options of {@link rope}. */
export interface RopeOptions {
  /**
   * Position of each token: int32 [S] for all batch entries or [B, S]. Or a number: the position of the first token, the others following.
   * Default 0.
   */
  positions?: Tensor | number;
  /** Base of the frequencies. Default 10000. */
  theta?: number;
  /** Leading features of each head that are rotated, even; the others are copied. Default D. */
  rotaryDim?: number;
  /** Pair features (2i, 2i+1) instead of (i, i + rotaryDim/2). Default false, as Llama checkpoints in Transformers have it. */
  interleaved?: boolean;
  /** Stretches the frequencies over a longer context. Default none. */
  scaling?: RopeScaling;
}

/**
 * Rotary position embedding (Su et al., "RoFormer", 2021): pair i of each head is rotated by the angle position · theta^(-2i/rotaryDim),
 * its frequency scaled if asked for.
 *
 * @param x [B, S, H, D], float dtype.
 * @returns the same shape and dtype.
 * @throws ShapeError, DTypeError, DeviceError, OptionError, DisposedError, OutOfMemoryError.
 */
export function rope(x: Tensor, options: RopeOptions = {}): Tensor {
  checkFloat('rope', 'x', x);
  checkShape('rope', 'x', x, ['B', 'S', 'H', 'D']);
  checkOptions('rope', options, ['positions', 'theta', 'rotaryDim', 'interleaved', 'scaling']);
  const [batch, sequence, heads, headDim] = x.shape;
  const theta = checkPositive('rope', 'theta', options.theta ?? 10000);
  const interleaved = checkBoolean('rope', 'interleaved', options.interleaved ?? false);
  const rotaryDim = checkInteger('rope', 'rotaryDim', options.rotaryDim ?? headDim, 2, Math.min(headDim, 256));
  if (rotaryDim % 2 !== 0) throw new OptionError(`rope: expected an even rotaryDim, got ${rotaryDim}`);
  const scaling = options.scaling === undefined ? null : checkRopeScaling('rope', options.scaling, rotaryDim);
  const positions = positionsOf(x, options.positions ?? 0, batch, sequence);
  const frequencies = ropeFrequencies(rotaryDim, theta, scaling);
  const shared = { tokens: batch * sequence, heads, headDim, frequencies, interleaved };
  const out = empty('rope', x.shape, x.dtype, x.device);
  x.device.backend.rope({ ...shared, x: x.arg, positions: positions.arg, out: out.arg, inverse: false });
  record('rope', [x], out, [positions], ([dOut], [index]) => {
    if (!dOut) return [null];
    const dX = empty('rope', dOut.shape, dOut.dtype, dOut.device);
    dOut.device.backend.rope({ ...shared, x: dOut.arg, positions: index.arg, out: dX.arg, inverse: true });
    return [dX];
  });
  positions.dispose();
  return out;
}

/** int32 [B * S], owned by the caller. */
function positionsOf(x: Tensor, positions: Tensor | number, batch: number, sequence: number): Tensor {
  if (typeof positions !== 'number') {
    checkTensor('rope', 'positions', positions, ['int32']);
    checkTogether('rope', { x, positions }, false);
    if (positions.shape.length === 2) {
      checkShape('rope', 'positions', positions, [batch, sequence], 'to match x');
      return positions.alias();
    }
    checkShape('rope', 'positions', positions, [sequence], 'to match x');
    const all = empty('rope', [batch, sequence], 'int32', x.device);
    x.device.backend.transpose({ x: positions.arg, out: all.arg, shape: [batch, sequence], strides: [0, 1] });
    return all;
  }
  checkInteger('rope', 'positions', positions, 0, 2 ** 31 - 1 - sequence);
  const values = new Int32Array(batch * sequence);
  for (let i = 0; i < values.length; i++) values[i] = positions + (i % sequence);
  return fromConstant('rope', new Uint8Array(values.buffer), [batch, sequence], 'int32', x.device, false);
}
