// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Unit } from './schema.js';

/** A case of either suite; those of the GPU say by their names what they are. */
export interface Named {
  name: string;
  unit?: Unit;
}

/** Cases that belong together. Any other word picks the cases whose names contain it. */
const GROUPS: Readonly<Record<string, (c: Named) => boolean>> = {
  all: () => true,
  'flash-attention': ({ name }) => /^(flash-)?attention /.test(name),
  ternary: ({ name }) => name.includes('ternary') || name.startsWith('bit-linear'),
  memory: ({ name, unit }) => name.startsWith('memory ') || (unit === 'bytes' && !name.includes('ternary')),
};

/** Whether one of the words picks the case; no words pick all. */
export function isPicked(c: Named, words: readonly string[]): boolean {
  const picks = (word: string): boolean => (Object.hasOwn(GROUPS, word) ? GROUPS[word](c) : c.name.includes(word));
  return words.length === 0 || words.some(picks);
}
