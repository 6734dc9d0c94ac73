// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError } from './errors.js';

/** @internal What `fn` returns. Throws OptionError, for the function named `op`, if that is a promise, whose own failure nobody hears of then. */
export function callNow<T>(op: string, fn: () => T): T {
  const result = fn();
  if (result instanceof Promise) {
    result.catch(() => undefined);
    throw new OptionError(`${op}: expected a function that returns without a promise, got an async function`);
  }
  return result;
}
