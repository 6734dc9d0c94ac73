// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe } from './describe.js';
import type { DType } from './dtype.js';
import { OptionError } from './errors.js';
import { packageRoot } from './native.js';

/**
 * Who holds memory: where the tensors that are alive were made. Off by default, as looking at the stack for every tensor costs time. On by
 * {@link trackTensors}, or from the start by the environment variable TERNFLASH_TRACK=1.
 */

/** A block of memory. It must not lead to whoever holds it, or nobody's tensor would ever be unreachable. */
interface Block {
  readonly device: { readonly id: string };
  readonly bytes: number;
}

/** Where it was made, and as what. */
interface Origin {
  op: string;
  dtype: DType;
  shape: readonly number[];
  at: string;
}

/** Tensors alive that were made on one line. */
export interface LiveTensors {
  /** The innermost place outside of the library that they were made from: `file:line:column`, or `unknown`. */
  at: string;
  /** Id of the device they are on. */
  device: string;
  /** Blocks of memory; views of a tensor share its block. */
  count: number;
  /** Bytes they hold. */
  bytes: number;
  /** The largest of them, and the op that made it. */
  largest: { op: string; dtype: DType; shape: readonly number[]; bytes: number };
}

let tracked: Map<Block, Origin> | null = process.env.TERNFLASH_TRACK === '1' ? new Map() : null;

// Frames of the library: compiled, or, with source maps, as written.
const INTERNAL = [__dirname + sep, packageRoot() + sep + 'lib' + sep];
const DEPTH = 100;

/**
 * Starts or stops recording where tensors are made. What is recorded stays until it is stopped; of tensors made before it started nothing is
 * known. For this thread; each worker thread has its own.
 *
 * @param on whether to record from now on.
 * @throws OptionError unless it is a boolean.
 */
export function trackTensors(on: boolean): void {
  if (typeof on !== 'boolean') throw new OptionError(`trackTensors: expected a boolean for on, got ${describe(on)}`);
  if (!on) tracked = null;
  else tracked ??= new Map();
}

/** @internal A block was made for the first tensor of these. */
export function noteMade(block: Block, op: string, dtype: DType, shape: readonly number[]): void {
  if (tracked) tracked.set(block, { op, dtype, shape, at: callSite() });
}

/** @internal It was freed. */
export function noteFreed(block: Block): void {
  if (tracked) tracked.delete(block);
}

/** The innermost frame of the stack that is neither the library's nor Node's. */
function callSite(): string {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = DEPTH;
  const { stack = '' } = new Error();
  Error.stackTraceLimit = limit;
  // Whoever replaces Error.prepareStackTrace may make anything of it.
  const lines = typeof stack === 'string' ? stack.split('\n').slice(1) : [];
  for (const line of lines) {
    // "at name (file:1:2)", "at file:1:2", "at async name (file:1:2)"
    const found = /^\s+at (?:.*? \()?(?:async )?(.+:\d+:\d+)\)?$/.exec(line);
    if (!found || found[1].startsWith('node:')) continue;
    const at = found[1].startsWith('file://') ? fileURLToPath(found[1]) : found[1];
    if (!INTERNAL.some((folder) => at.startsWith(folder))) return at;
  }
  return 'unknown';
}

/**
 * The tensors alive, by the line they were made on, most bytes first. Memory that a graph or a checkpoint holds is among them, also on the
 * host, under the line of the op that made it.
 *
 * @throws OptionError unless tensors are tracked: see {@link trackTensors}.
 */
export function liveTensors(): LiveTensors[] {
  if (!tracked) {
    throw new OptionError(
      'liveTensors: expected tensors to be tracked (trackTensors(true) or TERNFLASH_TRACK=1), got no record',
    );
  }
  const groups = new Map<string, LiveTensors>();
  for (const [
    {
      device: { id: device },
      bytes,
    },
    { at, op, dtype, shape },
  ] of tracked) {
    const key = `${device} ${at}`;
    const largest = { op, dtype, shape, bytes };
    const group = groups.get(key);
    if (!group) {
      groups.set(key, { at, device, count: 1, bytes, largest });
      continue;
    }
    group.count++;
    group.bytes += bytes;
    if (bytes > group.largest.bytes) group.largest = largest;
  }
  return [...groups.values()].sort((a, b) => b.bytes - a.bytes || b.count - a.count);
}

/**
 * {@link liveTensors} as text, a line for each place:
 *
 *     tensors alive: 3, 4104 bytes
 *       2 on cpu, 4096 bytes, at /app/train.js:12:20; the largest: linear float32 [16, 32]
 *       1 on cpu, 8 bytes, at /app/train.js:30:7; the largest: tensor float32 [2]
 *
 * @throws OptionError as `liveTensors` does.
 */
export function leakReport(): string {
  const groups = liveTensors();
  const count = groups.reduce((total, group) => total + group.count, 0);
  const bytes = groups.reduce((total, group) => total + group.bytes, 0);
  const lines = groups.map(({ at, device, count: own, bytes: ownBytes, largest: { op, dtype, shape } }) => {
    return `  ${own} on ${device}, ${ownBytes} bytes, at ${at}; the largest: ${op} ${dtype} [${shape.join(', ')}]`;
  });
  return [`tensors alive: ${count}, ${bytes} bytes`, ...lines].join('\n');
}
