// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { AttentionShape } from '../backend.js';
import {
  checkBoolean,
  checkFloat,
  checkInteger,
  checkNumber,
  checkPositive,
  checkShape,
  checkTensor,
  checkTogether,
  showShape,
} from '../check.js';
import { describe } from '../describe.js';
import type { Device } from '../device.js';
import { OptionError, ShapeError } from '../errors.js';
import type { Tensor } from '../tensor.js';

/** What all kinds of attention have in common: which keys a query sees, and what makes a score. */
export interface AttentionOptions {
  /**
   * Queries see no later keys. The diagonal, the key beside query i, is key i + Sk − Sq for `true` and `'bottom-right'`, so that the last query
   * sees all keys; it is key i for `'top-left'`. Default false: all keys are seen, and the diagonal lies as for `true`.
   */
  causal?: boolean | 'bottom-right' | 'top-left';
  /**
   * `[left, right]`: a query sees the keys from `left` before its diagonal to `right` after it; −1 is unlimited. With `causal`, right counts
   * as 0. Default [-1, -1].
   */
  window?: readonly [number, number];
  /** Factor of the scores. Default 1/√D. */
  scale?: number;
  /** If above 0, a score s becomes softcap · tanh(s / softcap) ("Gemma 2", 2024). Default 0: off. */
  softcap?: number;
  /**
   * float32, [H] or one row for each batch entry, [B, H]: after the softcap a score loses slope · |diagonal − j| (Press et al., "Train short,
   * test long", 2021). The slopes get no gradient and must not ask for one. Default none.
   */
  alibiSlopes?: Tensor;
  /**
   * [H], float32 or the dtype of q: the score of one more key of the head, whose value is 0, so that a query need not attend to anything
   * ("gpt-oss", 2025; Xiao et al., "Efficient streaming language models with attention sinks", 2023). lse includes it; a query that
   * sees no key has it for lse. Default none.
   */
  sinks?: Tensor;
}

/** @internal */
export const ATTENTION_OPTIONS = ['causal', 'window', 'scale', 'softcap', 'alibiSlopes', 'sinks'] as const;

/** The sizes among the fields of {@link AttentionShape}. */
type Sizes = Pick<AttentionShape, 'batch' | 'queries' | 'keys' | 'heads' | 'keyHeads' | 'headDim' | 'keyCapacity'>;

/** @internal The options of a call, checked; tensors not yet as arguments, for a backward pass has handles of its own. */
export interface CheckedAttention {
  shape: Omit<AttentionShape, 'packed' | 'keyLengths' | 'pages' | 'alibiSlopes' | 'sinks' | 'dropout'>;
  alibiSlopes: Tensor | null;
  sinks: Tensor | null;
}

const MAX_HEAD_DIM = 256;
const MAX_WINDOW = 2 ** 31 - 1;

/** @internal */
export function checkHeadDim(op: string, headDim: number): void {
  if (headDim > MAX_HEAD_DIM)
    throw new ShapeError(`${op}: expected a head dim of 1 to ${MAX_HEAD_DIM}, got ${headDim}`);
}

/** @internal q, k and v of one float dtype on one device; their shapes are these but for letters, and agree with each other. */
export function checkQueryKeyValue(
  op: string,
  tensors: Record<string, Tensor>,
  queryShape: readonly string[],
  keyShape: (q: Tensor) => readonly (number | string)[],
): Device {
  const [[queryName, q], [keyName, k], [valueName, v]] = Object.entries(tensors);
  for (const [name, value] of Object.entries(tensors)) checkFloat(op, name, value);
  checkShape(op, queryName, q, queryShape);
  checkHeadDim(op, q.shape[q.shape.length - 1]);
  checkShape(op, keyName, k, keyShape(q), `to match ${queryName} ${showShape(q.shape)}`);
  checkShape(op, valueName, v, k.shape, `to match ${keyName}`);
  return checkTogether(op, tensors);
}

function checkCausal(op: string, causal: AttentionOptions['causal']): { causal: boolean; topLeft: boolean } {
  if (causal === 'bottom-right' || causal === 'top-left') return { causal: true, topLeft: causal === 'top-left' };
  if (typeof causal === 'string')
    throw new OptionError(
      `${op}: expected a boolean, "bottom-right" or "top-left" for causal, got ${describe(causal)}`,
    );
  return { causal: checkBoolean(op, 'causal', causal ?? false), topLeft: false };
}

function checkAlibiSlopes(op: string, slopes: Tensor, batch: number, heads: number): void {
  checkTensor(op, 'alibiSlopes', slopes, ['float32']);
  const allowed = [[heads], [batch, heads]];
  if (!allowed.some((shape) => showShape(shape) === showShape(slopes.shape))) {
    throw new ShapeError(
      `${op}: expected alibiSlopes of shape ${allowed.map(showShape).join(' or ')}, got ${showShape(slopes.shape)}`,
    );
  }
  if (slopes.requiresGrad)
    throw new OptionError(`${op}: expected a tensor that requires no gradient for alibiSlopes, got one that does`);
}

/** @internal The checks of the options that all kinds of attention share. */
export function checkAttention(op: string, q: Tensor, sizes: Sizes, options: AttentionOptions): CheckedAttention {
  const { batch, heads, keyHeads, headDim } = sizes;
  if (heads % keyHeads !== 0) {
    throw new ShapeError(
      `${op}: expected a number of key heads that divides the ${heads} query heads, got ${keyHeads}`,
    );
  }
  const { causal, topLeft } = checkCausal(op, options.causal);
  const window = options.window ?? [-1, -1];
  if (!Array.isArray(window) || window.length !== 2) {
    throw new OptionError(`${op}: expected [left, right] for window, got ${describe(window)}`);
  }
  const windowLeft = checkInteger(op, 'window[0]', window[0] as number, -1, MAX_WINDOW);
  const windowRight = checkInteger(op, 'window[1]', window[1] as number, -1, MAX_WINDOW);
  const { alibiSlopes = null, sinks = null } = options;
  if (alibiSlopes !== null) checkAlibiSlopes(op, alibiSlopes, batch, heads);
  if (sinks !== null) {
    checkTensor(op, 'sinks', sinks, [...new Set(['float32' as const, q.dtype])]);
    checkShape(op, 'sinks', sinks, [heads], `to match q ${showShape(q.shape)}`);
  }
  checkTogether(op, { q, alibiSlopes, sinks }, false);
  return {
    shape: {
      ...sizes,
      scale: checkPositive(op, 'scale', options.scale ?? 1 / Math.sqrt(headDim)),
      softcap: checkNumber(op, 'softcap', options.softcap ?? 0, 0),
      alibiPerBatch: alibiSlopes?.shape.length === 2,
      topLeft,
      windowLeft,
      windowRight: causal ? 0 : windowRight,
    },
    alibiSlopes,
    sinks,
  };
}
