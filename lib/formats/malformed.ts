// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FormatError } from '../errors.js';

/** What readers of files say of one that is not well formed; one grammar: `file: expected X at byte N, got Y`. */

/** The error for a fault at a byte of a file. */
export function malformed(file: string, offset: number, expected: string, got: string): FormatError {
  return new FormatError(`${file}: expected ${expected} at byte ${offset}, got ${got}`, file, offset);
}
