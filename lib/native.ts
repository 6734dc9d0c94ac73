// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync } from 'node:fs';
import * as path from 'node:path';
import type { Backend } from './backend.js';

/** What the CUDA runtime says of the driver and the GPUs. */
export interface CudaReport {
  /** Of the runtime in the addon, 13000 for 13.0. */
  runtimeVersion: number;
  /** The newest runtime the driver supports; 0 without a driver. */
  driverVersion: number;
  /** Why no GPU can be used, or null. */
  problem: string | null;
  /** `capability` 90 is compute capability 9.0. `problem`: why this one cannot be used, or null. */
  devices: { name: string; capability: number; bytes: number; problem: string | null }[];
}

/** What the addon exports. Its backends satisfy the same interface as every backend. */
export interface Native {
  cpu: Backend;
  /** Absent in a build without CUDA. */
  cudaReport?(): CudaReport;
  /** The backend of a GPU, or why it cannot be used. A second call makes a second backend. Absent in a build without CUDA. */
  openCuda?(ordinal: number): Backend | string;
  /** The instruction set the CPU kernels were chosen for: base, avx2, avx512 or avx512vnni. */
  isa: string;
  threads(): number;
  setThreads(count: number): void;
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

/**
 * TERNFLASH_CUDA: `auto` (default) takes the addon with CUDA if it is there, else the one without; `1` only the one with; `0` only the one
 * without. Never both in one process: their tensors would be foreign to each other.
 */
function load(): Native | null {
  if (process.env.TERNFLASH_NATIVE === '0') {
    loadErrors.push('the native addon is switched off by TERNFLASH_NATIVE=0');
    return null;
  }
  const wanted = process.env.TERNFLASH_CUDA ?? 'auto';
  if (!['auto', '0', '1'].includes(wanted)) {
    loadErrors.push(`expected auto, 0 or 1 for TERNFLASH_CUDA, got ${wanted}`);
    return null;
  }
  const root = packageRoot();
  // node-gyp-build ships no types.
  const nodeGypBuild = require('node-gyp-build') as (folder: string) => unknown;
  const folders = wanted === '1' ? ['cuda'] : wanted === '0' ? ['.'] : ['cuda', '.'];
  for (const folder of folders) {
    const place = path.join(root, folder);
    if (
      folder === 'cuda' &&
      wanted === 'auto' &&
      !['build', 'prebuilds'].some((each) => existsSync(path.join(place, each)))
    )
      continue;
    try {
      return nodeGypBuild(place) as Native;
    } catch (error) {
      loadErrors.push((error instanceof Error ? error.message : String(error)).split('\n')[0]);
    }
  }
  return null;
}

/** The addon, or null where it is not built for this platform; then only the reference backend computes. */
export const native: Native | null = load();
