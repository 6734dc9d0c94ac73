// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readCudaHost } from './cuda-host.js';
import { driverProblem, gpuProblem, type CudaGpu, type CudaReport } from './cuda-problem.js';
import { loadAttempts, loadErrors, native } from './native.js';
import { problem, type Problem } from './problems.js';

/** GPUs that the driver lists as usable and that could not be opened when they were last tried, by number. */
export const refused = new Map<number, Problem>();

/** Why this process has no CUDA at all, or null. */
function cudaBuildProblem(): Problem | null {
  if (native?.cudaReport) return null;
  if (!native) return problem('no-addon', { errors: loadErrors.join('; ') });
  if (process.env.TERNFLASH_CUDA === '0') return problem('cuda-off', {});
  const errors = loadAttempts.flatMap((each) => (each.cuda && each.problem ? [each.problem.message] : []));
  if (errors.length > 0) return problem('cuda-build-broken', { errors: errors.join('; ') });
  return readCudaHost().gpus > 0 ? problem('no-cuda-build-for-gpu', {}) : problem('no-cuda-build', {});
}

/** What the driver says, each GPU with why it cannot be used or null, and why none can. */
export function cudaState(): {
  report: CudaReport | null;
  problem: Problem | null;
  gpus: (CudaGpu & { problem: Problem | null })[];
} {
  const report = native?.cudaReport?.() ?? null;
  if (!report) return { report, problem: cudaBuildProblem(), gpus: [] };
  const gpus = report.devices.map((gpu, ordinal) => ({
    ...gpu,
    problem: gpuProblem(gpu, report.architectures) ?? refused.get(ordinal) ?? null,
  }));
  return { report, problem: driverProblem(report, readCudaHost()), gpus };
}
