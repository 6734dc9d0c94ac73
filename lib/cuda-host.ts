// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync, readdirSync, readFileSync } from 'node:fs';

/** What the system says of GPUs without CUDA being asked. On systems other than Linux nothing is known of the kernel driver. */
export interface CudaHost {
  /** Version of the NVIDIA kernel driver that runs, `580.65.06`; null if none does. */
  kernelDriver: string | null;
  /** GPUs that it has. A container sees the number of its host. */
  gpus: number;
  /** Whether this is Linux in Windows, whose GPU drivers are those of Windows. */
  wsl: boolean;
  /** The variable CUDA_VISIBLE_DEVICES; null if it is not set. */
  visibleDevices: string | null;
}

function read(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null;
  }
}

function count(folder: string): number {
  try {
    return readdirSync(folder).length;
  } catch {
    return 0;
  }
}

/** The number in `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …`. */
export function kernelDriverVersion(text: string): string {
  return /\b\d{3,}\.\d+(\.\d+)?\b/.exec(text)?.[0] ?? 'of an unknown version';
}

/** Reads files under /proc, and the environment. */
export function readCudaHost(): CudaHost {
  const version = read('/proc/driver/nvidia/version');
  return {
    kernelDriver: version === null ? null : kernelDriverVersion(version),
    gpus: count('/proc/driver/nvidia/gpus'),
    wsl: existsSync('/dev/dxg'),
    visibleDevices: process.env.CUDA_VISIBLE_DEVICES ?? null,
  };
}
