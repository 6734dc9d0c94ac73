// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readFileSync } from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { readCudaHost, type CudaHost } from '../cuda-host.js';
import type { CudaGpu, CudaReport } from '../cuda-problem.js';
import type { DeviceReport } from '../device.js';
import type { LoadAttempt } from '../native.js';
import { packageRoot } from '../package-root.js';
import type { Problem } from '../problems.js';
import type { Check } from './self-check.js';

/** What can be said without loading the addon. */
export interface MachineFacts {
  /** Version of the library. */
  version: string;
  /** The package's folder. */
  folder: string;
  node: string;
  /** `linux-x64`. */
  platform: string;
  /** Name and release of the operating system. */
  system: string;
  processor: string;
  host: CudaHost;
  /** Variables that have a say in what is used. */
  environment: Record<string, string>;
}

/** What the library says once it is loaded. */
export interface LibraryFacts {
  attempts: LoadAttempt[];
  /** Null without an addon. */
  isa: string | null;
  threads: number;
  /** How many processors' time the container grants, 0 for no limit. */
  containerLimit: number;
  /** Null in a build without CUDA. */
  cuda: CudaReport | null;
  /** Why no GPU can be used, or null. */
  cudaProblem: Problem | null;
  gpus: (CudaGpu & { problem: Problem | null })[];
  devices: DeviceReport[];
}

/** All that a report is made of. */
export interface Facts {
  machine: MachineFacts;
  /** Null if the process ended while the addon was loaded. */
  library: LibraryFacts | null;
  checks: Check[];
  /** How the process that looked ended before it was done, and what it was at; null if it was not. */
  crash: { signal: string; stage: string } | null;
}

/** Variables of CUDA's that change which GPUs there are or how code for them is made. */
const CUDA_VARIABLES = /^(CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|CUDA_FORCE_PTX_JIT|CUDA_DISABLE_PTX_JIT|CUDA_MPS_.+)$/;
const CONTAINER_VARIABLES = /^NVIDIA_(VISIBLE_DEVICES|DRIVER_CAPABILITIES|DISABLE_REQUIRE)$/;

/** Those of the environment that have a say, in the order of their names. */
export function relevantVariables(environment: NodeJS.ProcessEnv): Record<string, string> {
  const names = Object.keys(environment).filter(
    (name) => name.startsWith('TERNFLASH_') || CUDA_VARIABLES.test(name) || CONTAINER_VARIABLES.test(name),
  );
  return Object.fromEntries(names.sort().map((name) => [name, environment[name] ?? '']));
}

/** Reads these from the system. Loads nothing of the library that could fail. */
export function readMachine(): MachineFacts {
  const folder = packageRoot();
  const manifest = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as { version: string };
  return {
    version: manifest.version,
    folder,
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    system: `${os.type()} ${os.release()}`,
    processor: os.cpus()[0]?.model ?? 'unknown',
    host: readCudaHost(),
    environment: relevantVariables(process.env),
  };
}
