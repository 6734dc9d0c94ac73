// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Result } from './schema.js';

type Times = Pick<Result, 'milliseconds' | 'samples'>;

/** Median, quartiles and the fastest of times in milliseconds. */
export function timesOf(samples: readonly number[]): Times {
  const sorted = [...samples].sort((a, b) => a - b);
  const quantile = (q: number): number => sorted[Math.round((sorted.length - 1) * q)];
  const [fastest, low, median, high] = [0, 0.25, 0.5, 0.75].map(quantile);
  return { milliseconds: { median, low, high, fastest }, samples: sorted.length };
}
