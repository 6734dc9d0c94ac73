// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { parseArgs } from 'node:util';
import type { DeviceName } from '../lib/device.js';

const { values, positionals } = parseArgs({
  options: { device: { type: 'string', default: 'cpu' }, once: { type: 'boolean', default: false } },
  allowPositionals: true,
});

/** Where the cases run: `--device cuda`. Default cpu. */
export const DEVICE = values.device as DeviceName;
/** `--once`: every case runs one time, neither checked nor timed nor written, for a profiler that looks on. */
export const ONCE = values.once;
/** Names or groups of cases, see groups.ts; none mean all. */
export const FILTERS: readonly string[] = positionals;
