// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { AttentionShape } from '../backend.js';
import { remember } from '../autograd/remember.js';
import { record } from '../autograd/tape.js';
import { checkBoolean } from '../check.js';
import type { Device } from '../device.js';
import { defaultGenerator, dropoutThreshold } from '../random.js';
import { tidy } from '../scope.js';
import { elementCount, empty, fromConstant, type Tensor } from '../tensor.js';
import type { AttentionOptions, CheckedAttention } from './attention-options.js';

/** Options of {@link flashAttention}. */
export interface FlashAttentionOptions extends AttentionOptions {
  /**
   * The probability, from 0 to below 1, with which each element of the softmax is dropped; what is left is divided by 1 − dropout. lse is that of
   * the softmax before. It is taken to the nearest multiple of 2⁻¹⁶, and drawn whenever it is not 0, with or without gradients, from the
   * library's generator ({@link manualSeed}): the same elements on every backend, and in the backward pass, which draws them again, so that
   * no mask is held. Default 0: nothing is drawn.
   */
  dropout?: number;
  /**
   * Bit-equal gradients on repeated runs. `reference` and `cpu` always give them, with any number of threads; the option is for backends that are
   * faster when gradients are added up in no fixed order. Default false.
   */
  deterministic?: boolean;
  /** Also give the log of the sum of exponentials of each query's scores. Default false. */
  returnLse?: boolean;
}

/** @internal Beyond ATTENTION_OPTIONS. */
export const DIFFERENTIABLE_OPTIONS = ['dropout', 'deterministic', 'returnLse'] as const;

/** @internal */
export interface AttentionCall extends CheckedAttention {
  op: string;
  device: Device;
  q: Tensor;
  k: Tensor;
  v: Tensor;
  lseShape: readonly number[];
  /** Of queries and of keys, B + 1 numbers each, or null. */
  cuSeqlens: readonly [Int32Array, Int32Array] | null;
  options: Pick<FlashAttentionOptions, (typeof DIFFERENTIABLE_OPTIONS)[number]>;
}

/** Philox blocks of a row, per word of 32 keys: see AttentionShape.dropout. */
const BLOCKS = 4;
const KEYS_OF_BLOCKS = 32;

const argOf = (tensor: Tensor | null) => tensor && tensor.arg;

/** @internal Computes attention that has been checked, but for the options it shares with no other, and records its gradient. */
export function attend(call: AttentionCall): Tensor | { out: Tensor; lse: Tensor } {
  const { op, device, q, k, v, sinks, options } = call;
  const returnLse = checkBoolean(op, 'returnLse', options.returnLse ?? false);
  const deterministic = checkBoolean(op, 'deterministic', options.deterministic ?? false);
  const threshold = dropoutThreshold(op, options.dropout ?? 0);
  const { backend } = device;
  // What is made here and not returned lives on in the graph, if anywhere.
  return tidy(() => {
    const cuSeqlens = call.cuSeqlens && uploadCuSeqlens(op, call.cuSeqlens, device);
    const rows = elementCount(call.lseShape);
    const blocks = rows * Math.ceil(call.shape.keys / KEYS_OF_BLOCKS) * BLOCKS;
    const dropout = { threshold, ...(threshold > 0 ? defaultGenerator().reserve(blocks) : { seed: 0, offset: 0 }) };
    const shapeOf = (slopes: Tensor | null, sink: Tensor | null, lengths: Tensor | null): AttentionShape => ({
      ...call.shape,
      packed: lengths && { cuSeqlens: lengths.arg, totalQueries: q.shape[0], totalKeys: k.shape[0] },
      keyLengths: null,
      pages: null,
      alibiSlopes: argOf(slopes),
      sinks: argOf(sink),
      dropout,
    });
    const known = { ...call.shape, cuSeqlens: call.cuSeqlens?.map((each) => Array.from(each)), dropout };
    const [out, lse] = remember(op, [q, k, v, call.alibiSlopes, sinks], known, () => {
      const result = empty(op, q.shape, q.dtype, device);
      const rowLse = empty(op, call.lseShape, 'float32', device);
      backend.flashAttention({
        ...shapeOf(call.alibiSlopes, sinks, cuSeqlens),
        q: q.arg,
        k: k.arg,
        v: v.arg,
        keyScales: null,
        valueScales: null,
        out: result.arg,
        lse: rowLse.arg,
      });
      return [result, rowLse];
    });

    const optional = [call.alibiSlopes, sinks, cuSeqlens];
    const present = optional.filter((each) => each !== null);
    const places = optional.map((each) => each && present.indexOf(each));
    record(
      op,
      [q, k, v, sinks],
      returnLse ? [out, lse] : out,
      [q, k, v, out, lse, ...present],
      ([dOut, dLse], [query, key, value, result, rowLse, ...others]) => {
        const [slopes, sink, lengths] = places.map((place) => (place === null ? null : others[place]));
        const dQ = empty(op, query.shape, query.dtype, device);
        const dK = empty(op, key.shape, key.dtype, device);
        const dV = empty(op, value.shape, value.dtype, device);
        const dSinks = sink && empty(op, sink.shape, sink.dtype, device);
        const delta = empty(op, rowLse.shape, 'float32', device);
        let incoming = dOut;
        if (!incoming) {
          incoming = empty(op, result.shape, result.dtype, device);
          backend.fill({ out: incoming.arg, value: 0 });
        }
        backend.flashAttentionBackward({
          ...shapeOf(slopes, sink, lengths),
          q: query.arg,
          k: key.arg,
          v: value.arg,
          out: result.arg,
          lse: rowLse.arg,
          dOut: incoming.arg,
          dLse: argOf(dLse ?? null),
          dQ: dQ.arg,
          dK: dK.arg,
          dV: dV.arg,
          dSinks: argOf(dSinks),
          delta: delta.arg,
          deterministic,
        });
        return [dQ, dK, dV, dSinks];
      },
    );
    return returnLse ? { out, lse } : out;
  });
}

/** int32 [2, B + 1] */
function uploadCuSeqlens(op: string, [ofQueries, ofKeys]: readonly [Int32Array, Int32Array], device: Device): Tensor {
  const both = Int32Array.from([...ofQueries, ...ofKeys]);
  return fromConstant(op, new Uint8Array(both.buffer), [2, ofQueries.length], 'int32', device, false);
}
