// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { LibraryFacts } from './facts.js';
import type { Check } from './self-check.js';

/** Told to the parent process, in this order, so that it knows what was found, and what was going on, if this process does not live to the end. */
export type Message = { stage: string } | { library: LibraryFacts } | { checks: Check[] } | { done: true };

/**
 * The part of `ternflash doctor` that loads the addon: a process of its own, because an addon that is damaged or made for another processor can
 * end the process that loads it.
 */
async function probe(tell: (message: Message) => void): Promise<void> {
  tell({ stage: 'loading the addon' });
  const { readLibrary } = await import('./library.js');
  const { selfCheck } = await import('./self-check.js');
  const library = readLibrary();
  tell({ library });
  for (const { id, available } of library.devices) {
    if (!available) continue;
    const checks = await selfCheck(id, (name) => tell({ stage: `running the check ${name} on ${id}` }));
    tell({ checks });
  }
  tell({ done: true });
}

probe((message) => process.send?.(message)).then(
  () => process.disconnect(),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exitCode = 1;
    process.disconnect();
  },
);
