// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { LEAST_BYTES, MAX_KEY_BYTES, VALUE_TYPES, type ValueType } from './gguf-types.js';
import { malformed } from './malformed.js';
import type { OpenFile } from './open-file.js';

/** What a header may take: a vocabulary of a million words fits. The same as of a safetensors file. */
const MAX_HEADER_BYTES = 100_000_000;
const FIRST_WINDOW_BYTES = 2 ** 16;
const MAX_NESTING = 4;
// An array of none takes 12 bytes in the file, and some hundred here. Nobody writes arrays in arrays by the thousand.
const MAX_INNER_ARRAYS = 65536;

/** Thrown where the window ends within an item, to read the item again with a window that reaches further. */
class WindowEnd {
  constructor(readonly position: number) {}
}

/**
 * Reads the fields of a GGUF header one after the other, through a window on the file. The window never reaches beyond the file, and only as far as a
 * field that is known to be there: a number in the file that promises more than the file holds allocates nothing.
 */
export class GgufCursor {
  /** Where in the file the next field begins. */
  position = 0;
  private innerArrays = 0;
  private windowStart = 0;
  private window = new Uint8Array(0);
  private view = new DataView(this.window.buffer);
  private readonly end: number;
  private readonly text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

  constructor(private readonly file: OpenFile) {
    this.end = Math.min(file.size, MAX_HEADER_BYTES);
  }

  /** Runs `parse`, which reads fields, with all of them in the window; more than once if that takes a larger one. */
  async item<T>(parse: () => T): Promise<T> {
    const [start, innerArrays] = [this.position, this.innerArrays];
    for (;;) {
      try {
        return parse();
      } catch (error) {
        if (!(error instanceof WindowEnd)) throw error;
        this.position = start;
        this.innerArrays = innerArrays;
        const wanted = Math.max(error.position - start, 2 * this.window.length, FIRST_WINDOW_BYTES);
        this.windowStart = start;
        this.window = await this.file.read(start, Math.min(wanted, this.end - start));
        this.view = new DataView(this.window.buffer);
      }
    }
  }

  /** The error for what was read last, which began at `position`. */
  fail(position: number, expected: string, got: string): Error {
    return malformed(this.file.path, position, expected, got);
  }

  u32(what: string): number {
    return this.view.getUint32(this.take(4, what), true);
  }

  /** An unsigned 64-bit number that JavaScript holds exactly: a count, a size or an offset. */
  size(what: string): number {
    const position = this.position;
    const value = this.view.getBigUint64(this.take(8, what), true);
    if (value > Number.MAX_SAFE_INTEGER) throw this.fail(position, `${what} below 2^53`, String(value));
    return Number(value);
  }

  /** A count of things that take at least `leastBytes` each. */
  count(what: string, leastBytes: number): number {
    const position = this.position;
    const count = this.size(what);
    const most = Math.floor((this.end - this.position) / leastBytes);
    if (count > most) throw this.fail(position, `${what} of at most ${most}, for which there is room`, String(count));
    return count;
  }

  /** A key, or the name of a tensor. */
  name(what: string): string {
    return this.string(what, MAX_KEY_BYTES);
  }

  /** The type of a value, and the value. */
  typedValue(key: string): unknown {
    return this.value(this.valueType(key), key, 0);
  }

  private valueType(key: string): ValueType {
    const position = this.position;
    const id = this.u32(`a type of ${key}`);
    const type = VALUE_TYPES[id] as ValueType | undefined;
    if (!type)
      throw this.fail(position, `a type of metadata from 0 to ${VALUE_TYPES.length - 1} for ${key}`, String(id));
    return type;
  }

  private value(type: ValueType, key: string, depth: number): unknown {
    if (type === 'string') return this.string(`a text for ${key}`, this.end);
    if (type === 'array') return this.array(key, depth + 1);
    const position = this.position;
    const at = this.take(LEAST_BYTES[type], `a value for ${key}`);
    switch (type) {
      case 'u8':
        return this.view.getUint8(at);
      case 'i8':
        return this.view.getInt8(at);
      case 'u16':
        return this.view.getUint16(at, true);
      case 'i16':
        return this.view.getInt16(at, true);
      case 'u32':
        return this.view.getUint32(at, true);
      case 'i32':
        return this.view.getInt32(at, true);
      case 'f32':
        return this.view.getFloat32(at, true);
      case 'f64':
        return this.view.getFloat64(at, true);
      case 'u64':
        return exact(this.view.getBigUint64(at, true));
      case 'i64':
        return exact(this.view.getBigInt64(at, true));
      case 'bool': {
        const byte = this.view.getUint8(at);
        if (byte > 1) throw this.fail(position, `0 or 1 for ${key}`, String(byte));
        return byte === 1;
      }
    }
  }

  private array(key: string, depth: number): unknown {
    if (depth > MAX_NESTING)
      throw this.fail(this.position, `at most ${MAX_NESTING} arrays in each other for ${key}`, 'more');
    if (depth > 1 && ++this.innerArrays > MAX_INNER_ARRAYS) {
      throw this.fail(this.position, `at most ${MAX_INNER_ARRAYS} arrays in arrays`, 'more');
    }
    const type = this.valueType(key);
    const count = this.count(`a length of ${key}`, LEAST_BYTES[type]);
    const typed = TYPED_ARRAYS[type];
    if (typed) {
      const bytes = count * LEAST_BYTES[type];
      const at = this.take(bytes, `the values of ${key}`);
      // A copy of its own, since the place in the window need not be aligned.
      return new typed(this.window.slice(at, at + bytes).buffer);
    }
    // Grown as it is read, not made for `count`: the values may turn out to be none.
    const values: unknown[] = [];
    for (let i = 0; i < count; i++) values.push(this.value(type, key, depth));
    return values;
  }

  private string(what: string, mostBytes: number): string {
    const position = this.position;
    const length = this.count(`a length of ${what}`, 1);
    if (length > mostBytes) throw this.fail(position, `${what} of at most ${mostBytes} bytes`, String(length));
    const at = this.take(length, what);
    try {
      return this.text.decode(this.window.subarray(at, at + length));
    } catch {
      throw this.fail(position + 8, `${what} in UTF-8`, 'other bytes');
    }
  }

  /** Passes the next bytes; gives where in the window they begin. */
  private take(bytes: number, what: string): number {
    const at = this.position - this.windowStart;
    const next = this.position + bytes;
    if (next > this.end) {
      const got = this.end < this.file.size ? `a header of more than ${MAX_HEADER_BYTES} bytes` : 'the end of the file';
      throw this.fail(this.position, what, got);
    }
    if (at + bytes > this.window.length) throw new WindowEnd(next);
    this.position = next;
    return at;
  }
}

/** Arrays of numbers that take no more memory than the file. */
const TYPED_ARRAYS: Partial<Record<ValueType, new (buffer: ArrayBuffer) => ArrayBufferView>> = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  f64: Float64Array,
};

function exact(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
