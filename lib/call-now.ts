// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { describe } from './describe.js';
import { OptionError } from './errors.js';

/** @internal What `fn` returns. Throws OptionError, for the function named `op`, if that is a promise, whose own failure nobody hears of then, or if `fn` is none. */
export function callNow<T>(op: string, fn: () => T): T {
  if (typeof fn !== 'function') throw new OptionError(`${op}: expected a function, got ${describe(fn)}`);
  const result = fn();
  if (result instanceof Promise) {
    result.catch(() => undefined);
    throw new OptionError(`${op}: expected a function that returns without a promise, got an async function`);
  }
  return result;
}
