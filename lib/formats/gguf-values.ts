// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError } from '../errors.js';
import { describe, shorten } from '../describe.js';
import { LEAST_BYTES, VALUE_TYPES, type ValueType } from './gguf-types.js';

/** The types of a number in GGUF's metadata. Readers look for one of them, so that a number has to say which it is. */
export type GgufNumberType = 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32' | 'u64' | 'i64' | 'f32' | 'f64';

/** Arrays of numbers that say their type: u8[], i8[], …, f64[]. */
export type GgufNumbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | BigUint64Array
  | BigInt64Array
  | Float32Array
  | Float64Array;

/** A number with its type. */
export interface GgufNumber {
  /** How it is stored. */
  readonly type: GgufNumberType;
  /** Within the type's range; an integer for integer types. */
  readonly value: number | bigint;
}

/**
 * A value of GGUF's metadata: a text; a boolean; a number with its type, `{ type: 'f32', value: 500000 }`; an array of texts, of booleans, or a typed
 * array of numbers.
 */
export type GgufValue = string | boolean | GgufNumber | readonly string[] | readonly boolean[] | GgufNumbers;

/** By the name of a typed array's class, the type of its elements. */
const TYPED_ARRAYS: Readonly<Record<string, GgufNumberType>> = {
  Uint8Array: 'u8',
  Int8Array: 'i8',
  Uint16Array: 'u16',
  Int16Array: 'i16',
  Uint32Array: 'u32',
  Int32Array: 'i32',
  BigUint64Array: 'u64',
  BigInt64Array: 'i64',
  Float32Array: 'f32',
  Float64Array: 'f64',
};

export function u32Bytes(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer);
}

export function u64Bytes(value: number): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);
}

/** A text: its length, and UTF-8. */
export function textBytes(text: string): Uint8Array[] {
  const bytes = new TextEncoder().encode(text);
  return [u64Bytes(bytes.length), bytes];
}

/** A value as the file has it: its type, and its bytes. Throws OptionError. */
export function valueBytes(op: string, key: string, value: GgufValue): Uint8Array[] {
  const fail = (expected: string, got: string) =>
    new OptionError(`${op}: expected ${expected} for ${shorten(key)}, got ${got}`);
  const typeBytes = (type: ValueType): Uint8Array => u32Bytes(VALUE_TYPES.indexOf(type));
  const header = (type: ValueType, count: number) => [typeBytes('array'), typeBytes(type), u64Bytes(count)];

  if (typeof value === 'string') return [typeBytes('string'), ...textBytes(value)];
  if (typeof value === 'boolean') return [typeBytes('bool'), Uint8Array.of(Number(value))];
  if (ArrayBuffer.isView(value)) {
    const type = TYPED_ARRAYS[value.constructor.name];
    if (!type) throw fail('an array of numbers', value.constructor.name);
    // Of memory that was given away there are no views.
    const { buffer, byteOffset, byteLength } = value;
    const bytes = byteLength === 0 ? new Uint8Array(0) : new Uint8Array(buffer, byteOffset, byteLength);
    return [...header(type, bytes.length / LEAST_BYTES[type]), bytes];
  }
  if (Array.isArray(value)) {
    const list = value as readonly unknown[];
    // findIndex looks at holes, every does not.
    const isAll = (type: string): boolean => list.findIndex((each) => typeof each !== type) < 0;
    if (isAll('string')) return [...header('string', list.length), ...(list as string[]).flatMap(textBytes)];
    if (isAll('boolean')) return [...header('bool', list.length), Uint8Array.from(list, Number)];
    throw fail('texts only or booleans only in an array (numbers in a typed array)', describe(value));
  }
  const { type, value: number } = (typeof value === 'object' && value !== null ? value : {}) as Partial<GgufNumber>;
  const write = typeof type === 'string' && Object.hasOwn(NUMBERS, type) ? NUMBERS[type] : undefined;
  if (!type || !write)
    throw fail(
      `a text, a boolean, an array, or { type, value } with a type ${Object.keys(NUMBERS).join(', ')}`,
      describe(value),
    );
  const bytes = new Uint8Array(LEAST_BYTES[type]);
  if (!write(new DataView(bytes.buffer), number)) throw fail(`a number that ${type} holds`, describe(number));
  return [typeBytes(type), bytes];
}

/** Writes a number; false if the type does not hold it. */
type WriteNumber = (view: DataView, value: unknown) => boolean;

function integer(low: bigint, high: bigint, set: (view: DataView, value: bigint) => void): WriteNumber {
  return (view, value) => {
    if (typeof value !== 'bigint' && !Number.isInteger(value)) return false;
    const exact = BigInt(value as number | bigint);
    if (exact < low || exact > high) return false;
    set(view, exact);
    return true;
  };
}

function float(set: (view: DataView, value: number) => void): WriteNumber {
  return (view, value) => {
    if (typeof value === 'number') set(view, value);
    return typeof value === 'number';
  };
}

const unsigned = (bits: bigint): [bigint, bigint] => [0n, 2n ** bits - 1n];
const signed = (bits: bigint): [bigint, bigint] => [-(2n ** (bits - 1n)), 2n ** (bits - 1n) - 1n];

const NUMBERS: Readonly<Record<GgufNumberType, WriteNumber>> = {
  u8: integer(...unsigned(8n), (view, value) => view.setUint8(0, Number(value))),
  i8: integer(...signed(8n), (view, value) => view.setInt8(0, Number(value))),
  u16: integer(...unsigned(16n), (view, value) => view.setUint16(0, Number(value), true)),
  i16: integer(...signed(16n), (view, value) => view.setInt16(0, Number(value), true)),
  u32: integer(...unsigned(32n), (view, value) => view.setUint32(0, Number(value), true)),
  i32: integer(...signed(32n), (view, value) => view.setInt32(0, Number(value), true)),
  u64: integer(...unsigned(64n), (view, value) => view.setBigUint64(0, value, true)),
  i64: integer(...signed(64n), (view, value) => view.setBigInt64(0, value, true)),
  f32: float((view, value) => view.setFloat32(0, value, true)),
  f64: float((view, value) => view.setFloat64(0, value, true)),
};
