// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FormatError } from '../errors.js';

/** What readers of files say of one that is not well formed; one grammar: `file: expected X at byte N, got Y`. */

/** The longest text of a file that a message repeats: a file may hold a name of megabytes. */
const MAX_SHOWN = 100;

/** The error for a fault at a byte of a file. */
export function malformed(file: string, offset: number, expected: string, got: string): FormatError {
  return new FormatError(`${file}: expected ${expected} at byte ${offset}, got ${got}`, file, offset);
}

/**
 * A value from a file, for a message: short, whatever the file holds. Values inside arrays and objects are shown one level deep, for JSON.stringify
 * runs out of stack on one that is nested deeply enough.
 */
export function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(shorten(value));
  if (Array.isArray(value)) {
    return value.length <= 8 && value.every((each) => typeof each !== 'object' || each === null)
      ? `[${value.map(show).join(', ')}]`
      : `an array of ${value.length}`;
  }
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

/** A name from a file, for a message: without characters that a terminal would obey. */
export function shorten(name: string): string {
  const shown = name.length > MAX_SHOWN ? `${name.slice(0, MAX_SHOWN)}…` : name;
  return shown.replace(/\p{Cc}/gu, '\ufffd');
}
