// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { FloatDType } from '../lib/dtype.js';
import type { Tensor } from '../lib/tensor.js';
import { SMALL } from './options.js';
import type { Subject } from './schema.js';

/** One thing to time on a GPU, by the name that bench/torch_peer.py gives to the same. */
export interface GpuCase {
  name: string;
  subject: Subject;
  prepare(): PreparedGpuCase;
}

export interface PreparedGpuCase {
  /** Operations of one run, two for a multiply-add; 0 where only the bytes matter. */
  flops: number;
  /** Bytes that one run has to read and write at least. */
  bytes: number;
  /** Compares samples of the result with float64 and throws if they differ by more than rounding explains. */
  check(): Promise<void>;
  run(): void;
  dispose(): void;
}

export const SHORT_NAMES: Record<FloatDType, string> = { float32: 'fp32', float16: 'fp16', bfloat16: 'bf16' };

/** The size to time, or with `--small` the one to try. */
export const size = (full: number, small: number): number => (SMALL ? small : full);

export const disposeAll = (tensors: readonly Tensor[]): void => tensors.forEach((each) => each.dispose());

export const clearGrads = (tensors: readonly Tensor[]): void => tensors.forEach((each) => each.clearGrad());
