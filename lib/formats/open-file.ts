// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { open, stat, type FileHandle } from 'node:fs/promises';
import { freemem } from 'node:os';
import { DisposedError, OutOfMemoryError } from '../errors.js';
import { malformed } from './malformed.js';

// One read of the system takes less than 2^31 bytes; a tensor may have more.
const MAX_READ_BYTES = 2 ** 30;

/** A file that is read at any place, until it is closed. */
export class OpenFile {
  private closing: Promise<void> | null = null;

  private constructor(
    /** As it was named. */
    readonly path: string,
    /** Bytes it had when it was opened. */
    readonly size: number,
    private readonly handle: FileHandle,
  ) {}

  /** Throws FormatError if the path names something else than a file; the error of the file system. */
  static async open(path: string): Promise<OpenFile> {
    // Before it is opened: a pipe would keep open() waiting for somebody to write.
    if (!(await stat(path)).isFile()) throw malformed(path, 0, 'a file', 'something else');
    const handle = await open(path, 'r');
    try {
      return new OpenFile(path, (await handle.stat()).size, handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** `length` bytes from `offset` on. Throws FormatError if the file ends before, DisposedError if it was closed, OutOfMemoryError. */
  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = this.allocate(length);
    let done = 0;
    while (done < length) {
      if (this.closing) throw new DisposedError(`${this.path}: expected an open file, got one that was closed`);
      const wanted = Math.min(length - done, MAX_READ_BYTES);
      const { bytesRead } = await this.handle.read(bytes, done, wanted, offset + done);
      if (bytesRead === 0)
        throw malformed(this.path, offset + done, `${length - done} more bytes`, 'the end of the file');
      done += bytesRead;
    }
    return bytes;
  }

  /** Closes it once the system is done with it; reads under way reject with DisposedError, and so do later ones. Safe to call twice. */
  close(): Promise<void> {
    this.closing ??= this.handle.close();
    return this.closing;
  }

  private allocate(length: number): Uint8Array<ArrayBuffer> {
    try {
      return new Uint8Array(length);
    } catch {
      const free = freemem();
      throw new OutOfMemoryError(`${this.path}: expected ${length} bytes of memory, got ${free} free`, length, free);
    }
  }
}
