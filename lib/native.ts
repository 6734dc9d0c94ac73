// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync } from 'node:fs';
import * as path from 'node:path';
import type { Backend } from './backend.js';

/** What the addon exports. `cpu` satisfies the same interface as every backend. */
export interface Native {
  cpu: Backend;
  /** The instruction set the CPU kernels were chosen for: base, avx2, avx512 or avx512vnni. */
  isa: string;
  threads(): number;
  setThreads(count: number): void;
  /** Gives memory kept for reuse back to the system. */
  emptyCache(): void;
  /** Measured float32 multiply-add rate of one thread running alone and of all together, in operations a second. */
  fmaPeak(seconds: number): { oneThread: number; allThreads: number };
}

/** Why the addon could not be loaded, one line an attempt; empty if it was. */
export const loadErrors: string[] = [];

/** The package's folder, found from dist/ as well as from any other build folder inside it. */
export function packageRoot(): string {
  let folder = __dirname;
  while (!(existsSync(path.join(folder, 'package.json')) && existsSync(path.join(folder, 'CMakeLists.txt')))) {
    const parent = path.dirname(folder);
    if (parent === folder) return path.join(__dirname, '..');
    folder = parent;
  }
  return folder;
}

function load(): Native | null {
  if (process.env.TERNFLASH_NATIVE === '0') {
    loadErrors.push('the native addon is switched off by TERNFLASH_NATIVE=0');
    return null;
  }
  try {
    // node-gyp-build ships no types.
    const nodeGypBuild = require('node-gyp-build') as (folder: string) => unknown;
    return nodeGypBuild(packageRoot()) as Native;
  } catch (error) {
    loadErrors.push((error instanceof Error ? error.message : String(error)).split('\n')[0]);
    return null;
  }
}

/** The addon, or null where it is not built for this platform; then only the reference backend computes. */
export const native: Native | null = load();
