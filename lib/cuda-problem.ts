// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { CudaHost } from './cuda-host.js';
import { problem, type Problem } from './problems.js';

/** An error of the CUDA runtime: its name, `cudaErrorNoDevice`, and what the runtime says of it. */
export interface CudaFailure {
  name: string;
  text: string;
}

/** A GPU as the driver describes it. */
export interface CudaGpu {
  name: string;
  /** 90 for compute capability 9.0. */
  capability: number;
  bytes: number;
  /** 0 default, 1 and 3 exclusive, 2 prohibited. */
  computeMode: number;
  /** Of asking for these; they are then 0 and empty. */
  failure: CudaFailure | null;
}

/** What the CUDA runtime says of the driver and the GPUs. */
export interface CudaReport {
  /** Of the runtime in the addon, 13000 for 13.0. */
  runtimeVersion: number;
  /** The newest runtime the driver supports; 0 without a driver. */
  driverVersion: number;
  /** What the addon has code for, in CMake's words: `80-real 90-real 80-virtual`. */
  architectures: string;
  /** Of looking for GPUs. */
  failure: CudaFailure | null;
  devices: CudaGpu[];
}

const OLDEST_CAPABILITY = 80;
const PROHIBITED = 2;

/** 13.0 for 13000. */
export function versionText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/** 9.0 for 90. */
export function capabilityText(capability: number): string {
  return `${Math.floor(capability / 10)}.${capability % 10}`;
}

/** Errors that mean the same to a user. Of those not named here the driver's words are all there is. */
const KINDS_OF_FAILURE = {
  cudaErrorNotPermitted: 'gpu-not-permitted',
  cudaErrorOperatingSystem: 'gpu-not-permitted',
  cudaErrorSystemDriverMismatch: 'driver-mismatch',
  cudaErrorCompatNotSupportedOnDevice: 'driver-mismatch',
  cudaErrorStubLibrary: 'driver-mismatch',
  cudaErrorSystemNotReady: 'driver-not-ready',
  cudaErrorDevicesUnavailable: 'gpu-busy',
  cudaErrorDeviceAlreadyInUse: 'gpu-busy',
  cudaErrorMemoryAllocation: 'gpu-full',
  cudaErrorECCUncorrectable: 'gpu-damaged',
  cudaErrorHardwareStackError: 'gpu-damaged',
  cudaErrorNvlinkUncorrectable: 'gpu-damaged',
  cudaErrorContained: 'gpu-damaged',
} as const;

function failureProblem(failure: CudaFailure): Problem {
  const known: Partial<Record<string, (typeof KINDS_OF_FAILURE)[keyof typeof KINDS_OF_FAILURE]>> = KINDS_OF_FAILURE;
  const { name, text } = failure;
  return problem(known[name] ?? 'driver-error', { name, text });
}

/** Why no GPU can be used, or null. */
export function driverProblem(report: CudaReport, host: CudaHost): Problem | null {
  const { driverVersion, runtimeVersion, failure, devices } = report;
  if (driverVersion === 0) {
    if (host.kernelDriver !== null) return problem('no-driver-library', { version: host.kernelDriver });
    return host.wsl ? problem('no-driver-wsl', {}) : problem('no-driver', {});
  }
  if (failure?.name === 'cudaErrorInsufficientDriver') {
    return problem('old-driver', { driver: versionText(driverVersion), runtime: versionText(runtimeVersion) });
  }
  const none = failure ? failure.name === 'cudaErrorNoDevice' : devices.length === 0;
  if (none || (failure?.name === 'cudaErrorInvalidDevice' && host.visibleDevices !== null)) {
    // Without quotes an empty one would not be seen.
    if (host.visibleDevices !== null) return problem('gpu-hidden', { value: JSON.stringify(host.visibleDevices) });
    return host.gpus > 0 ? problem('gpu-not-seen', { count: host.gpus }) : problem('no-gpu', {});
  }
  return failure && failureProblem(failure);
}

/** Whether a build for these architectures runs on a GPU; true if that cannot be told. */
export function hasCodeFor(architectures: string, capability: number): boolean {
  return architectures.split(/[ ;,]+/).some((each) => {
    const [, digits, exact, kind] = /^(\d+)([a-z]?)(-real|-virtual)?$/.exec(each) ?? [];
    if (digits === undefined) return true; // native, all
    const built = Number(digits);
    if (exact === 'a') return built === capability;
    // Machine code runs on later GPUs of its generation, PTX on all later ones.
    const sameGeneration = Math.floor(built / 10) === Math.floor(capability / 10);
    return built <= capability && (kind !== '-real' || sameGeneration) && (exact === '' || sameGeneration);
  });
}

/** Why this GPU cannot be used, or null, as far as can be told without opening it. */
export function gpuProblem({ capability, computeMode, failure }: CudaGpu, architectures: string): Problem | null {
  if (failure) return failureProblem(failure);
  const text = capabilityText(capability);
  if (capability < OLDEST_CAPABILITY) return problem('gpu-too-old', { capability: text });
  if (!hasCodeFor(architectures, capability))
    return problem('no-code-for-gpu', { capability: text, architectures: architectures.replaceAll(' ', ', ') });
  if (computeMode === PROHIBITED) return problem('gpu-prohibited', {});
  return null;
}

const NO_CODE = ['cudaErrorNoKernelImageForDevice', 'cudaErrorInvalidDeviceFunction', 'cudaErrorInvalidKernelImage'];
const NO_COMPILER = ['cudaErrorUnsupportedPtxVersion', 'cudaErrorJitCompilerNotFound', 'cudaErrorInvalidPtx'];

/** Why it could not be opened. */
export function openProblem(failure: CudaFailure, { capability }: CudaGpu, architectures: string): Problem {
  const text = capabilityText(capability);
  if (NO_CODE.includes(failure.name))
    return problem('no-code-for-gpu', { capability: text, architectures: architectures.replaceAll(' ', ', ') });
  if (NO_COMPILER.includes(failure.name))
    return problem('ptx-too-new', { capability: text, name: failure.name, text: failure.text });
  return failureProblem(failure);
}
