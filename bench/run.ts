// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Times the ops of the cpu device, or of another: `npm run bench [-- --device cuda] [name …]`, where a name picks the cases that
 * contain it, or is flash-attention, ternary, memory or all.
 * Every case is checked against an independent float64 result before it is timed. Prints one line a case and writes bench-results/<time>.json and, as a
 * page, .html. `npm run bench -- report FILE …` makes the page from saved runs. docs/bench.md has the options and the format.
 */
import { setThreads } from '../lib/device.js';
import { native } from '../lib/native.js';
import { runCpuSuite } from './cpu-run.js';
import { runGpuSuite } from './gpu-run.js';
import { runModel } from './model.js';
import { runOnnxruntime } from './onnxruntime.js';
import { PEER, SAVED_FILES, SUITE, THREADS } from './options.js';
import { expectReportPossible, reportSaved } from './results.js';
import { runTorch } from './torch.js';

async function main(): Promise<void> {
  if (PEER === 'torch') return runTorch();
  expectReportPossible();
  if (SAVED_FILES !== null) return reportSaved(SAVED_FILES);
  if (!native) throw new Error('bench: expected the native addon (npm run build:native), got none');
  if (THREADS !== null) setThreads(THREADS);
  if (PEER === 'onnxruntime') return runOnnxruntime();
  if (SUITE === 'gpu') return runGpuSuite();
  if (SUITE === 'model') return runModel();
  return runCpuSuite();
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
