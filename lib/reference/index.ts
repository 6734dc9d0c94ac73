// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { freemem } from 'node:os';
import { types } from 'node:util';
import type { Backend, BufferHandle, HostHandle, KernelFailure, Parcel } from '../backend.js';
import { adamw } from './adamw.js';
import type { ReferenceBuffer } from './buffer.js';
import { crossEntropy, crossEntropyBackward } from './cross-entropy.js';
import { dropout } from './dropout.js';
import { binary, cast, fill, scale, transpose } from './elementwise.js';
import { embedding, embeddingBackward } from './embedding.js';
import { flashAttention, flashAttentionBackward } from './flash-attention.js';
import { gatedActivation, gatedActivationBackward } from './gated-activation.js';
import { kvCacheAppend } from './kv-cache.js';
import { layerNorm, layerNormBackward } from './layer-norm.js';
import { linearCrossEntropy, linearCrossEntropyBackward } from './linear-cross-entropy.js';
import { matmul } from './matmul.js';
import { mergeAttentionStates, mergeAttentionStatesBackward } from './merge-attention-states.js';
import { quantizeTernary } from './quantize-ternary.js';
import { argmax, globalNorm, sum } from './reduce.js';
import { rmsNorm, rmsNormBackward } from './rms-norm.js';
import { rope } from './rope.js';
import { softmax, softmaxBackward } from './softmax.js';
import {
  bitLinearWeightBackward,
  dequantizeTernary,
  quantizeActivations,
  ternaryMatmul,
  ternaryMatmulBackward,
  ternaryMatmulInt8,
} from './ternary.js';

const NOTHING = new Uint8Array(0);

/**
 * The backend in plain TypeScript: always there, computing in float64, written to be read. It is what the other
 * backends are tested against. Ops compute when they are called; only failures and `done` come later, as on the other
 * backends.
 */
export function createReferenceBackend(): Backend {
  let firstFailure: KernelFailure | null = null;
  let held = 0;
  let limit = Infinity;

  const failing = (op: string) => (message: string) => {
    firstFailure ??= { op, message };
  };

  function deliver(done: (failure: KernelFailure | null) => void): void {
    const failure = firstFailure;
    firstFailure = null;
    queueMicrotask(() => done(failure));
  }

  return {
    freeBytes: () => Math.min(freemem(), Math.max(0, limit - held)),
    fault: () => null,
    reservedBytes: () => held,
    setMemoryLimit(bytes: number | null): void {
      limit = bytes ?? Infinity;
    },
    emptyCache: () => undefined, // nothing is kept
    allocate(bytes: number): BufferHandle | null {
      if (held + bytes > limit) return null;
      try {
        const buffer: ReferenceBuffer = { bytes: new Uint8Array(bytes) };
        held += bytes;
        return buffer;
      } catch {
        return null; // a RangeError: more than there is, or than a typed array can hold
      }
    },
    free(buffer: BufferHandle): void {
      held -= (buffer as ReferenceBuffer).bytes.byteLength;
      // Lets the bytes go even while somebody still holds the handle.
      (buffer as ReferenceBuffer).bytes = NOTHING;
    },
    write(buffer: BufferHandle, bytes: Uint8Array, offset = 0): void {
      (buffer as ReferenceBuffer).bytes.set(bytes, offset);
    },
    read(buffer: BufferHandle, destination: Uint8Array, done: (failure: KernelFailure | null) => void): void {
      destination.set((buffer as ReferenceBuffer).bytes.subarray(0, destination.byteLength));
      deliver(done);
    },
    synchronize: deliver,
    mark: () => performance.now(),
    milliseconds: (from, to) => (to as number) - (from as number),

    offload(buffer: BufferHandle, bytes: number): HostHandle | null {
      try {
        return (buffer as ReferenceBuffer).bytes.slice(0, bytes);
      } catch {
        return null;
      }
    },
    restore(host: HostHandle, buffer: BufferHandle): void {
      (buffer as ReferenceBuffer).bytes.set(host as Uint8Array);
    },
    freeHost: () => undefined, // the garbage collector's

    beginCapture: () => 'its ops compute when they are called',
    endCapture: () => ({ failure: { op: 'capture', message: 'expected a capture under way, got none' } }),
    replay: () => undefined,
    freeGraph: () => undefined,
    isUsedByGraph: () => false,

    send(buffer: BufferHandle, bytes: number, done: (failure: KernelFailure | null) => void): Parcel {
      const parcel = (buffer as ReferenceBuffer).bytes.buffer as ArrayBuffer;
      held -= bytes;
      (buffer as ReferenceBuffer).bytes = NOTHING;
      deliver(done);
      return parcel;
    },
    receive(parcel: Parcel, bytes: number): BufferHandle | null {
      if (!types.isArrayBuffer(parcel) || parcel.byteLength !== bytes) return null;
      held += bytes;
      // Moved, not copied: the parcel is empty afterwards, and so cannot be received twice.
      return { bytes: new Uint8Array(structuredClone(parcel, { transfer: [parcel] })) } satisfies ReferenceBuffer;
    },
    discard(parcel: Parcel): boolean {
      if (!types.isArrayBuffer(parcel) || parcel.byteLength === 0) return false;
      structuredClone(parcel, { transfer: [parcel] });
      return true;
    },
    // A parcel owns its memory, which the garbage collector frees with the message it is in.
    pending: () => ({ tensors: 0, bytes: 0 }),
    reclaim: () => ({ tensors: 0, bytes: 0 }),

    fill,
    cast,
    transpose,
    binary,
    scale,
    sum,
    softmax,
    softmaxBackward,
    argmax,
    matmul,
    embedding: (params) => embedding(params, failing('embedding')),
    embeddingBackward: (params) => embeddingBackward(params, failing('embeddingBackward')),
    rmsNorm,
    rmsNormBackward,
    layerNorm,
    layerNormBackward,
    dropout,
    rope,
    gatedActivation,
    gatedActivationBackward,
    crossEntropy: (params) => crossEntropy(params, failing('crossEntropy')),
    crossEntropyBackward: (params) => crossEntropyBackward(params, failing('crossEntropyBackward')),
    linearCrossEntropy: (params) => linearCrossEntropy(params, failing('linearCrossEntropy')),
    linearCrossEntropyBackward: (params) => linearCrossEntropyBackward(params, failing('linearCrossEntropyBackward')),
    quantizeTernary,
    dequantizeTernary,
    quantizeActivations,
    ternaryMatmulInt8,
    ternaryMatmul,
    ternaryMatmulBackward,
    bitLinearWeightBackward,
    flashAttention: (params) => flashAttention(params, failing('flashAttention')),
    flashAttentionBackward: (params) => flashAttentionBackward(params, failing('flashAttentionBackward')),
    mergeAttentionStates,
    mergeAttentionStatesBackward,
    kvCacheAppend: (params) => kvCacheAppend(params, failing('kvCacheAppend')),
    adamw,
    globalNorm,
  };
}
