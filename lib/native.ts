// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync, readdirSync } from 'node:fs';
import * as path from 'node:path';
import type { Backend } from './backend.js';
import type { CudaFailure, CudaReport } from './cuda-problem.js';
import { packageRoot } from './package-root.js';
import { problem, type Problem } from './problems.js';

export { packageRoot };

/** What the addon exports. Its backends satisfy the same interface as every backend. */
export interface Native {
  cpu: Backend;
  /** Opens no GPU. Absent in a build without CUDA. */
  cudaReport?(): CudaReport;
  /** The backend of a GPU, or why it cannot be opened. A second call makes a second backend. Absent in a build without CUDA. */
  openCuda?(ordinal: number): Backend | { failure: CudaFailure };
  /** The instruction set the CPU kernels were chosen for: base, avx2, avx512, avx512vnni or avx512bf16, on arm64 base or dotprod. */
  isa: string;
  threads(): number;
  /** How many processors' time this process's container grants it, 0 for no limit. `root` is the folder that stands for `/`. */
  containerLimit(root?: string): number;
  setThreads(count: number): void;
  /** Measured float32 multiply-add rate of one thread running alone and of all together, in operations a second. */
  fmaPeak(seconds: number): { oneThread: number; allThreads: number };
  /** What makes the error that a call throws which the host has no memory for. */
  onOutOfMemory(error: (op: string) => Error): void;
  /** For tests: that allocation fails, counted from 1, of those to come in this process; 0 for none. */
  failAllocation(nth: number): void;
  /** How many are left until that one; 0 when it has failed. */
  allocationsLeft(): number;
}

/** An addon that was looked for. */
export interface LoadAttempt {
  /** Whether it is the one with CUDA. */
  cuda: boolean;
  /** The file, from the package's folder if it is inside; null if there is none. */
  file: string | null;
  /** Null for the one that was loaded. */
  problem: Problem | null;
}

/** Every addon that was looked for, in that order. */
export const loadAttempts: LoadAttempt[] = [];

/** Why an addon could not be loaded, one line each; empty if the first was. */
export const loadErrors: string[] = [];

/** Why `prebuilds` has nothing for this system. */
function missing(root: string, folder: string): Problem {
  const own = `${process.platform}-${process.arch}`;
  const libc = existsSync('/etc/alpine-release') ? ' (musl)' : ''; // node-gyp-build's rule
  const prebuilds = path.join(root, folder, 'prebuilds');
  const others = existsSync(prebuilds) ? readdirSync(prebuilds).filter((each) => each !== own) : [];
  const inPackage = (each: string): string => path.posix.join(folder, each);
  const where = { platform: `${own}${libc}`, folders: `${inPackage('build')} and ${inPackage('prebuilds')}` };
  if (others.length > 0) return problem('addon-foreign', { ...where, others: others.join(', ') });
  return problem(folder === 'cuda' ? 'cuda-addon-missing' : 'addon-missing', where);
}

/** `quietly`: one that is not there is no attempt. */
function attempt(root: string, folder: string, quietly: boolean): Native | null {
  // node-gyp-build ships no types.
  const nodeGypBuild = require('node-gyp-build') as { (folder: string): unknown; resolve(folder: string): string };
  const place = path.join(root, folder);
  const cuda = folder === 'cuda';
  let file: string;
  try {
    file = nodeGypBuild.resolve(place);
  } catch {
    if (!quietly) loadAttempts.push({ cuda, file: null, problem: missing(root, folder) });
    return null;
  }
  const name = file.startsWith(root) ? path.relative(root, file) : file;
  const result: LoadAttempt = { cuda, file: name, problem: null };
  loadAttempts.push(result);
  try {
    return nodeGypBuild(place) as Native;
  } catch (error) {
    const text = (error instanceof Error ? error.message : String(error)).split('\n')[0];
    result.problem = problem('addon-broken', { file: name, error: text.replace(`${file}: `, '') });
    return null;
  }
}

/**
 * TERNFLASH_CUDA: `auto` (default) takes the addon with CUDA if it is there, else the one without; `1` only the one with; `0` only the one
 * without. Never both in one process: their tensors would be foreign to each other.
 */
function load(): Native | null {
  const refuse = (why: Problem): null => {
    loadAttempts.push({ cuda: false, file: null, problem: why });
    return null;
  };
  if (process.env.TERNFLASH_NATIVE === '0') return refuse(problem('native-off', {}));
  const wanted = process.env.TERNFLASH_CUDA ?? 'auto';
  if (!['auto', '0', '1'].includes(wanted)) return refuse(problem('bad-variable', { value: wanted }));
  const root = packageRoot();
  const folders = wanted === '1' ? ['cuda'] : wanted === '0' ? ['.'] : ['cuda', '.'];
  for (const folder of folders) {
    // The package has it for some platforms only.
    const loaded = attempt(root, folder, folder === 'cuda' && wanted === 'auto');
    if (loaded) return loaded;
  }
  return null;
}

/** The addon, or null where it is not built for this platform; then only the reference backend computes. */
export const native: Native | null = load();

for (const each of loadAttempts) if (each.problem) loadErrors.push(each.problem.message);
