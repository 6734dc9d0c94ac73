// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { discardTransfer, type TensorMessage } from '../../lib/index.js';
import type { World } from './api/world.js';

/** The end of whatever a call gave: of promises and iterators too. What holds memory is the world's to dispose. */
export async function settle(w: World, given: unknown, depth = 0): Promise<void> {
  const value = await given;
  // What is given back as it came may be anything.
  if (typeof value !== 'object' || value === null || depth > 4) return;
  if (Symbol.asyncIterator in value || (Symbol.iterator in value && 'next' in value)) {
    let left = 100;
    for await (const each of value as AsyncIterable<unknown>) {
      await settle(w, each, depth + 1);
      if (--left === 0) break;
    }
  } else if (Array.isArray(value) || value instanceof Map) {
    const list: unknown[] = Array.isArray(value) ? value.slice(0, 100) : [...value.values()];
    for (const each of list) await settle(w, each, depth + 1);
  } else if ('dispose' in value && typeof value.dispose === 'function') {
    w.own(value as { dispose(): void });
    if ('result' in value) await settle(w, value.result, depth + 1);
  } else if ((value as Partial<TensorMessage>).kind === 'ternflash.tensor') {
    discardTransfer(value as TensorMessage);
  } else if ('close' in value && typeof value.close === 'function') {
    await (value as { close(): Promise<void> }).close();
  } else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const each of Object.values(value)) await settle(w, each, depth + 1);
  }
}
