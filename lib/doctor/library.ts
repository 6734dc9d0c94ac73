// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cudaState } from '../cuda-state.js';
import { devices, getThreads } from '../device.js';
import { loadAttempts, native } from '../native.js';
import type { LibraryFacts } from './facts.js';

/** Asks the library about itself. To import this file loads the addon. */
export function readLibrary(): LibraryFacts {
  const listed = devices(); // first: it tries to open a GPU, and what comes of that is then known
  const { report, problem, gpus } = cudaState();
  return {
    attempts: loadAttempts,
    isa: native?.isa ?? null,
    threads: getThreads(),
    containerLimit: native?.containerLimit() ?? 0,
    cuda: report,
    cudaProblem: problem,
    gpus,
    devices: listed,
  };
}
