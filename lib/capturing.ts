// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { CaptureError } from './errors.js';
import type { Tensor } from './tensor.js';

/** What a call does that no replay would do again; completes the message. */
const REASONS = {
  read: 'nothing is computed yet',
  upload: 'every replay would bring the same values',
  random: 'every replay would draw the same numbers',
  count: 'every replay would be the same step',
  move: 'a replay finds memory where it was captured',
  memory: 'memory that is captured stays where it is',
  nested: 'a graph has none inside',
} as const;

/** @internal A capture under way; there is one at a time. */
export interface Capturing {
  readonly device: object;
  /** The first call that was refused: the capture fails with it, also if the step has caught it. */
  refused: CaptureError | null;
  /** Leaves of the device whose gradient was touched, and what it was before. */
  readonly gradients: Map<Tensor, Tensor | null>;
}

let underway: Capturing | null = null;

/** @internal Runs `fn`, in which everything that calls {@link refuseInCapture} throws. */
export function whileCapturing<T>(device: object, fn: (capturing: Capturing) => T): T {
  const capturing: Capturing = { device, refused: null, gradients: new Map() };
  underway = capturing;
  try {
    return fn(capturing);
  } finally {
    underway = null;
  }
}

/** @internal Whether this device, or any, is captured now. */
export function isCapturing(device?: object): boolean {
  return underway !== null && (device === undefined || underway.device === device);
}

/** @internal Called before `leaf.grad` gets or takes in a gradient. */
export function noteGradient(leaf: Tensor): void {
  if (underway === null || underway.gradients.has(leaf) || leaf.device !== underway.device) return;
  underway.gradients.set(leaf, leaf.grad);
}

/**
 * @internal Called first by whatever cannot be part of a graph. Throws CaptureError during a capture.
 *
 * @param device the one the call concerns; without it, a capture of any device refuses it.
 */
export function refuseInCapture(op: string, reason: keyof typeof REASONS, device?: object): void {
  if (!isCapturing(device)) return;
  const error = new CaptureError(`${op}: expected a call outside capture, got one inside, where ${REASONS[reason]}`);
  const capturing = underway as Capturing;
  capturing.refused ??= error;
  throw error;
}
