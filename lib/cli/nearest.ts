// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** Letters to add, take away or replace to make one word of the other (Levenshtein, 1965). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    row = next;
  }
  return row[b.length];
}

/** The name that was probably meant: one that begins so, or with a third of the letters wrong at most; null if none is near. */
export function nearest(word: string, names: readonly string[]): string | null {
  const begins = word === '' ? undefined : names.find((name) => name.startsWith(word));
  if (begins !== undefined) return begins;
  const ranked = names.map((name) => ({ name, far: distance(word, name) })).sort((a, b) => a.far - b.far);
  const [best] = ranked;
  return best !== undefined && best.far <= Math.ceil(best.name.length / 3) ? best.name : null;
}
