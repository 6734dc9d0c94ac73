// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { describe, shorten } from './describe.js';
import type { Device } from './device.js';
import { FLOAT_DTYPES, type DType } from './dtype.js';
import { DeviceError, DisposedError, DTypeError, OptionError, ShapeError } from './errors.js';
import { Tensor } from './tensor.js';

/** The checks shared by all ops; one grammar: `op: expected X for name, got Y`. */

/** A live tensor, of one of the dtypes if given. */
export function checkTensor(op: string, name: string, value: Tensor, dtypes?: readonly DType[]): Tensor {
  if (!(value instanceof Tensor)) {
    const got = describe(value);
    const foreign = got === 'Tensor' ? ' of another copy of ternflash in this process' : '';
    throw new OptionError(`${op}: expected a Tensor for ${name}, got ${got}${foreign}`);
  }
  if (value.isDisposed) {
    throw new DisposedError(
      `${op}: expected a live tensor for ${name}, got a disposed one of shape ${showShape(value.shape)}`,
    );
  }
  if (dtypes && !dtypes.includes(value.dtype)) {
    throw new DTypeError(`${op}: expected ${name} of dtype ${dtypes.join(' or ')}, got ${value.dtype}`);
  }
  return value;
}

/** A live tensor of a float dtype. */
export function checkFloat(op: string, name: string, value: Tensor): Tensor {
  return checkTensor(op, name, value, FLOAT_DTYPES);
}

export function showShape(shape: readonly (number | string)[]): string {
  return `[${shape.join(', ')}]`;
}

/**
 * Exactly this shape. A letter stands for any size; `because` says what the numbers come from.
 */
export function checkShape(
  op: string,
  name: string,
  value: Tensor,
  expected: readonly (number | string)[],
  because = '',
): void {
  const fits =
    value.shape.length === expected.length &&
    expected.every((size, axis) => typeof size === 'string' || size === value.shape[axis]);
  if (fits) return;
  throw new ShapeError(
    `${op}: expected ${name} of shape ${showShape(expected)}${because && ` ${because}`}, got ${showShape(value.shape)}`,
  );
}

/** All on the device of the first, and, if `sameDType`, of its dtype. Null entries are skipped. */
export function checkTogether(
  op: string,
  tensors: Record<string, Tensor | null | undefined>,
  sameDType = true,
): Device {
  let first: [string, Tensor] | null = null;
  for (const [name, value] of Object.entries(tensors)) {
    if (!value) continue;
    first ??= [name, value];
    if (value.device !== first[1].device) {
      throw new DeviceError(
        `${op}: expected ${name} on ${first[1].device.id} like ${first[0]}, got ${value.device.id}`,
      );
    }
    if (sameDType && value.dtype !== first[1].dtype) {
      throw new DTypeError(`${op}: expected ${name} of dtype ${first[1].dtype} like ${first[0]}, got ${value.dtype}`);
    }
  }
  return (first as [string, Tensor])[1].device;
}

/** An object of names and values: no list, map, date or the like, which would be an object without names. */
export function checkObject(op: string, name: string, value: object): void {
  if (Object.prototype.toString.call(value) !== '[object Object]')
    throw new OptionError(`${op}: expected an object for ${name}, got ${describe(value)}`);
}

/** A list. */
export function checkArray<T>(op: string, name: string, value: readonly T[]): readonly T[] {
  if (!Array.isArray(value)) throw new OptionError(`${op}: expected an array for ${name}, got ${describe(value)}`);
  return value;
}

/** A list of strings, none of them empty. */
export function checkStrings(op: string, name: string, value: readonly string[]): readonly string[] {
  // findIndex looks at holes, every and some do not.
  if (!Array.isArray(value) || value.findIndex((each) => typeof each !== 'string' || each === '') >= 0)
    throw new OptionError(`${op}: expected an array of strings that are not empty for ${name}, got ${describe(value)}`);
  return value as readonly string[];
}

/** What can be gone through. A typed array whose memory was given away cannot, and is one of no entries here. */
export function checkIterable<T>(op: string, name: string, value: Iterable<T>): Iterable<T> {
  if (ArrayBuffer.isView(value)) return Array.prototype.slice.call(value) as T[];
  if (typeof (value as Partial<Iterable<T>> | null)?.[Symbol.iterator] !== 'function')
    throw new OptionError(`${op}: expected an iterable for ${name}, got ${describe(value)}`);
  return value;
}

/** A function. */
export function checkFunction<T>(op: string, name: string, value: T): T {
  if (typeof value !== 'function')
    throw new OptionError(`${op}: expected a function for ${name}, got ${describe(value)}`);
  return value;
}

/** A text. */
export function checkString(op: string, name: string, value: string): string {
  if (typeof value !== 'string') throw new OptionError(`${op}: expected a string for ${name}, got ${describe(value)}`);
  return value;
}

/** What aborts; undefined if there is none. */
export function checkSignal(op: string, value: AbortSignal | undefined): void {
  // Also one of another realm, or of a package that provides it where the platform does not.
  if (value !== undefined && typeof (value as AbortSignal | null)?.aborted !== 'boolean')
    throw new OptionError(`${op}: expected an AbortSignal for signal, got ${describe(value)}`);
}

/** An options object with none but the known keys: a misspelt option is an error, not a default. */
export function checkOptions(op: string, options: object, known: readonly string[]): void {
  checkObject(op, 'options', options);
  for (const key of Object.keys(options)) {
    if (!known.includes(key))
      throw new OptionError(`${op}: expected only ${known.join(', ')} as options, got ${shorten(key)}`);
  }
}

export function checkInteger(op: string, name: string, value: number, low: number, high: number): number {
  if (!Number.isInteger(value) || value < low || value > high) {
    throw new OptionError(`${op}: expected an integer from ${low} to ${high} for ${name}, got ${describe(value)}`);
  }
  return value;
}

/** A finite number, above or at `low` if given. */
export function checkNumber(op: string, name: string, value: number, low = -Infinity): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < low) {
    const bound = low === -Infinity ? '' : ` of at least ${low}`;
    throw new OptionError(`${op}: expected a finite number${bound} for ${name}, got ${describe(value)}`);
  }
  return value;
}

/** A number from `low` to `high`. */
export function checkRange(op: string, name: string, value: number | undefined, low: number, high: number): number {
  if (typeof value !== 'number' || !(value >= low && value <= high)) {
    throw new OptionError(`${op}: expected a number from ${low} to ${high} for ${name}, got ${describe(value)}`);
  }
  return value;
}

/** A finite number above zero. */
export function checkPositive(op: string, name: string, value: number): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
    throw new OptionError(`${op}: expected a finite number above 0 for ${name}, got ${describe(value)}`);
  }
  return value;
}

export function checkBoolean(op: string, name: string, value: boolean): boolean {
  if (typeof value !== 'boolean')
    throw new OptionError(`${op}: expected a boolean for ${name}, got ${describe(value)}`);
  return value;
}

/** The name of a file or folder. */
export function checkPath(op: string, name: string, value: string): string {
  // A NUL ends a name for the system, which would take another file.
  if (typeof value !== 'string' || value === '' || value.includes('\0'))
    throw new OptionError(`${op}: expected the name of a file or folder for ${name}, got ${describe(value)}`);
  return value;
}

export function checkOneOf<T extends string>(op: string, name: string, value: T, allowed: readonly T[]): T {
  if (!allowed.includes(value)) {
    throw new OptionError(`${op}: expected one of ${allowed.join(', ')} for ${name}, got ${describe(value)}`);
  }
  return value;
}

/** The most axes that a tensor has. */
export const MAX_AXES = 8;

/** A list of at most 8 positive integers. */
export function checkShapeValue(op: string, shape: readonly number[]): readonly number[] {
  // Copied, as `every` passes over the holes of a list.
  const fits =
    Array.isArray(shape) &&
    shape.length <= MAX_AXES &&
    [...(shape as number[])].every((size) => Number.isSafeInteger(size) && size > 0);
  if (!fits) {
    throw new ShapeError(`${op}: expected at most ${MAX_AXES} positive integers for shape, got ${describe(shape)}`);
  }
  return shape;
}

/** An axis of a tensor, counted from the end if negative. */
export function checkAxis(op: string, axis: number, rank: number): number {
  if (!Number.isInteger(axis) || axis < -rank || axis >= rank) {
    throw new OptionError(`${op}: expected an axis from ${-rank} to ${rank - 1}, got ${describe(axis)}`);
  }
  return axis < 0 ? axis + rank : axis;
}
