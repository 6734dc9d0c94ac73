// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { WrongCall } from './command.js';

/**
 * The number that an option was given, of the range, both ends included; Infinity is no end.
 *
 * @throws WrongCall if it is none.
 */
export function readNumber(name: string, text: string, low: number, high: number, isInteger: boolean): number {
  const value = text.trim() === '' ? NaN : Number(text);
  if (value >= low && value <= high && Number.isFinite(value) && (!isInteger || Number.isInteger(value))) return value;
  const range = high === Infinity ? `of at least ${low}` : `from ${low} to ${high}`;
  const kind = isInteger ? 'an integer' : 'a number';
  throw new WrongCall(`expected ${kind} ${range} for --${name}, got ${JSON.stringify(text)}`);
}
