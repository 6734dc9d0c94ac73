// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { TernflashError } from '../errors.js';

/** Whether an error's message says all: an error of the library, or what the system says of a file. A stack would add nothing. */
export function isExpected(error: unknown): error is Error {
  if (error instanceof TernflashError) return true;
  const { syscall, path } = (error ?? {}) as NodeJS.ErrnoException;
  return typeof syscall === 'string' && typeof path === 'string';
}
