// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkNumber, checkObject, checkOneOf, checkOptions } from '../check.js';
import { describe } from '../describe.js';
import type { Device, DeviceName } from '../device.js';
import { OptionError } from '../errors.js';
import { checkSeed } from '../random.js';
import { tensor, type Tensor } from '../tensor.js';
import { permutationOf } from './permutation.js';

/** What JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** What a {@link Trainer} has to know of a micro-batch, whatever else is in it. */
export interface Batch {
  /** How many targets its loss is the mean of: its weight among the micro-batches of a step. May be 0: then it is left out. */
  readonly count: number;
}

/** Where micro-batches come from, one after the other, and where that stands, so that a run can be resumed. */
export interface BatchSource<B extends Batch = Batch> {
  /** The next micro-batch; null at the end of the data. */
  next(): B | null | Promise<B | null>;
  /** The position: what `loadState` needs so that `next` goes on from here. */
  state(): Json;
  /** Goes on from a position that `state` gave. */
  loadState(state: Json): void | Promise<void>;
}

/** Windows of tokens and the tokens after each of theirs, row by row. */
export interface TokenBatch extends Batch {
  /** [rows, sequence] */
  readonly ids: Int32Array;
  /** [rows, sequence]; -100 where nothing is to be predicted */
  readonly targets: Int32Array;
  /** Windows in the batch. */
  readonly rows: number;
  /** Tokens of a window. */
  readonly sequence: number;
  /** There if the one row is packed of documents, see {@link PackedDocuments}: int32, from 0 to `sequence`. */
  readonly cuSeqlens?: Int32Array;
}

/** The ids and targets of a batch as int32 tensors [rows, sequence]. Throws OptionError, ShapeError, DeviceError, OutOfMemoryError. */
export function batchTensors(
  batch: TokenBatch,
  options: { device?: DeviceName | Device } = {},
): { ids: Tensor; targets: Tensor } {
  const op = 'batchTensors';
  checkOptions(op, options, ['device']);
  checkObject(op, 'batch', batch);
  for (const name of ['ids', 'targets'] as const) {
    if (!(batch[name] instanceof Int32Array))
      throw new OptionError(`${op}: expected an Int32Array for ${name}, got ${describe(batch[name])}`);
  }
  checkNumber(op, 'count', batch.count, 0);
  const made = { ...options, shape: [batch.rows, batch.sequence] };
  const ids = tensor(batch.ids, made);
  try {
    return { ids, targets: tensor(batch.targets, made) };
  } catch (error) {
    ids.dispose();
    throw error;
  }
}

/** Tokens of a text. */
export type TokenArray = Uint16Array | Uint32Array | Int32Array;

/** Options of {@link TokenDataset}. */
export interface TokenDatasetOptions {
  /** Windows in a batch. Default 4. */
  batchSize?: number;
  /** Tokens in a window. Default 2048. */
  sequenceLength?: number;
  /** The windows of an epoch in an order of their own (default), or as they come. */
  order?: 'random' | 'sequential';
  /** Of the random order. Default 0. */
  seed?: number;
  /** From the beginning of a window to that of the next. Default sequenceLength: every token is a target once. */
  stride?: number;
  /** Targets that are this token count for nothing, as padding. Default: none. */
  ignoreToken?: number;
}

/** @internal A target that counts for nothing. */
export const IGNORED = -100;

/**
 * Batches of windows over an array of tokens, epoch after epoch without end. Each epoch visits every window once; a batch that an epoch cannot
 * fill is filled from the next. The tokens behind the last whole window are left out.
 */
export class TokenDataset implements BatchSource<TokenBatch> {
  /** Windows in an epoch. */
  readonly windows: number;

  private readonly tokens: TokenArray;
  private readonly batchSize: number;
  private readonly sequenceLength: number;
  private readonly order: 'random' | 'sequential';
  private readonly seed: number;
  private readonly stride: number;
  private readonly ignoreToken: number | null;
  private epochIndex = 0;
  private window = 0;
  private permutation: { epoch: number; windows: Uint32Array } | null = null;

  /** @throws OptionError, also if there are too few tokens for one window. */
  constructor(tokens: TokenArray, options: TokenDatasetOptions = {}) {
    const op = 'TokenDataset';
    if (!isTokenArray(tokens)) {
      throw new OptionError(
        `${op}: expected a Uint16Array, Uint32Array or Int32Array for tokens, got ${describe(tokens)}`,
      );
    }
    checkOptions(op, options, ['batchSize', 'sequenceLength', 'order', 'seed', 'stride', 'ignoreToken']);
    this.tokens = tokens;
    this.batchSize = checkInteger(op, 'batchSize', options.batchSize ?? 4, 1, 2 ** 31 - 1);
    this.sequenceLength = checkInteger(op, 'sequenceLength', options.sequenceLength ?? 2048, 1, 2 ** 31 - 1);
    this.order = checkOneOf(op, 'order', options.order ?? 'random', ['random', 'sequential']);
    this.seed = checkSeed(op, options.seed ?? 0);
    this.stride = checkInteger(op, 'stride', options.stride ?? this.sequenceLength, 1, 2 ** 31 - 1);
    this.ignoreToken =
      options.ignoreToken === undefined ? null : checkInteger(op, 'ignoreToken', options.ignoreToken, 0, 2 ** 31 - 1);
    if (tokens.length <= this.sequenceLength) {
      throw new OptionError(
        `${op}: expected more than ${this.sequenceLength} tokens, sequenceLength and one, got ${tokens.length}`,
      );
    }
    this.windows = Math.floor((tokens.length - 1 - this.sequenceLength) / this.stride) + 1;
  }

  /** Epochs that are over. */
  get epoch(): number {
    return this.epochIndex;
  }

  next(): TokenBatch {
    const starts: number[] = [];
    while (starts.length < this.batchSize) {
      starts.push(this.windowAt(this.window) * this.stride);
      if (++this.window === this.windows) {
        this.window = 0;
        this.epochIndex++;
      }
    }
    return this.batchOf(starts);
  }

  /** All windows once, in the order of the tokens, wherever `next` stands; the last batch may be smaller. For evaluation. */
  *pass(): IterableIterator<TokenBatch> {
    for (let window = 0; window < this.windows; window += this.batchSize) {
      const rows = Math.min(this.batchSize, this.windows - window);
      yield this.batchOf(Array.from({ length: rows }, (_, row) => (window + row) * this.stride));
    }
  }

  state(): Json {
    return { ...this.identity(), epoch: this.epochIndex, window: this.window };
  }

  /** @throws OptionError if the state is of a dataset with other tokens, windows or order. */
  loadState(state: Json): void {
    const op = 'TokenDataset.loadState';
    const given = state as Record<string, unknown> | null;
    for (const [name, own] of Object.entries(this.identity())) {
      if (given?.[name] !== own) {
        throw new OptionError(`${op}: expected ${String(own)} for ${name}, got ${describe(given?.[name])}`);
      }
    }
    const { epoch, window } = given as { epoch: number; window: number };
    checkInteger(op, 'epoch', epoch, 0, 2 ** 21 - 1);
    this.window = checkInteger(op, 'window', window, 0, this.windows - 1);
    this.epochIndex = epoch;
  }

  /** What has to be the same for a position to mean the same. */
  private identity(): Record<string, string | number> {
    const { order, seed, sequenceLength, stride } = this;
    return { tokens: this.tokens.length, sequenceLength, stride, order, seed };
  }

  private windowAt(index: number): number {
    if (this.order === 'sequential') return index;
    if (this.permutation?.epoch !== this.epochIndex) {
      const windows = permutationOf(this.windows, this.seed, this.epochIndex);
      this.permutation = { epoch: this.epochIndex, windows };
    }
    return this.permutation.windows[index];
  }

  private batchOf(starts: readonly number[]): TokenBatch {
    const { tokens, sequenceLength: sequence } = this;
    const ids = new Int32Array(starts.length * sequence);
    const targets = new Int32Array(starts.length * sequence);
    starts.forEach((start, row) => {
      ids.set(tokens.subarray(start, start + sequence), row * sequence);
      targets.set(tokens.subarray(start + 1, start + 1 + sequence), row * sequence);
    });
    let count = targets.length;
    if (this.ignoreToken !== null) {
      for (let i = 0; i < targets.length; i++) {
        if (targets[i] !== this.ignoreToken) continue;
        targets[i] = IGNORED;
        count--;
      }
    }
    return { ids, targets, rows: starts.length, sequence, count };
  }
}

/** @internal */
export function isTokenArray(value: unknown): value is TokenArray {
  return value instanceof Uint16Array || value instanceof Uint32Array || value instanceof Int32Array;
}
