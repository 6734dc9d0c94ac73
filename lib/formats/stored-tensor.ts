// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger } from '../check.js';
import { describe } from '../describe.js';
import { OptionError } from '../errors.js';
import type { OpenFile } from './open-file.js';

/** A tensor of a file that has not been read yet. */
export interface StoredTensor {
  /** As the file has it. */
  readonly name: string;
  /** As the file has it: F32, F16, BF16, I8, U8, I32, …, or a block type of GGUF: Q8_0, TQ1_0, TQ2_0, I2_S, … */
  readonly type: string;
  /** Row-major, outermost axis first; a GGUF file's order is turned round. */
  readonly shape: readonly number[];
  /** Bytes it takes in the file, without what fills the space to the next one. */
  readonly byteLength: number;
  /** The file it is in: of a checkpoint in several files, the one of them. */
  readonly file: string;
  /** Where it begins in that file, in bytes. */
  readonly offset: number;
  /**
   * Reads bytes as they are in the file.
   *
   * @param begin the first of them, counted from the tensor's own. Default 0.
   * @param length how many. Default all that follow.
   * @throws OptionError if they are not the tensor's; DisposedError if the file was closed, also while this was reading; FormatError if it has become
   * shorter; OutOfMemoryError; the error of the file system.
   */
  read(begin?: number, length?: number): Promise<Uint8Array>;
}

/** A checkpoint whose header has been read and checked, with its files open. */
export interface TensorFile {
  /** As it was named in the call. */
  readonly path: string;
  /** Which format it is in. */
  readonly format: 'safetensors' | 'gguf';
  /** By name, in the file's order. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** What else the header says, by name. */
  readonly metadata: Readonly<Record<string, unknown>>;
  /** Closes the files. Reads under way then reject with DisposedError, and so do later ones. Safe to call twice. */
  close(): Promise<void>;
}

/** @internal Throws OptionError unless this can be read as a stored tensor. */
export function checkStored(op: string, stored: StoredTensor): void {
  const { name, type, shape, byteLength, read } = (stored ?? {}) as Partial<StoredTensor>;
  const fits =
    typeof name === 'string' && typeof type === 'string' && Array.isArray(shape) && typeof byteLength === 'number';
  if (!fits || typeof read !== 'function')
    throw new OptionError(`${op}: expected a tensor of a file for stored, got ${describe(stored)}`);
}

/** @internal A stored tensor that is a piece of one file. */
export class FileTensor implements StoredTensor {
  constructor(
    private readonly source: OpenFile,
    readonly name: string,
    readonly type: string,
    readonly shape: readonly number[],
    readonly offset: number,
    readonly byteLength: number,
  ) {}

  get file(): string {
    return this.source.path;
  }

  async read(begin = 0, length = this.byteLength - begin): Promise<Uint8Array> {
    checkInteger('read', 'begin', begin, 0, this.byteLength);
    checkInteger('read', 'length', length, 0, this.byteLength - begin);
    return this.source.read(this.offset + begin, length);
  }
}
