// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { kernelDriverVersion, type CudaHost } from '../../lib/cuda-host.js';
import {
  driverProblem,
  gpuProblem,
  hasCodeFor,
  openProblem,
  type CudaFailure,
  type CudaGpu,
  type CudaReport,
} from '../../lib/cuda-problem.js';

const HOST: CudaHost = { kernelDriver: null, gpus: 0, wsl: false, visibleDevices: null };
const WITH_DRIVER: CudaHost = { ...HOST, kernelDriver: '580.65.06', gpus: 2 };
const DEFAULT_BUILD = '80-real 86-real 89-real 90-real 100-real 120-real 80-virtual 120-virtual';
const GPU: CudaGpu = { name: 'H100', capability: 90, bytes: 80 * 2 ** 30, computeMode: 0, failure: null };
const REPORT: CudaReport = {
  runtimeVersion: 13000,
  driverVersion: 13000,
  architectures: DEFAULT_BUILD,
  failure: null,
  devices: [GPU],
};

const failure = (name: string): CudaFailure => ({ name, text: 'so it is' });
const looking = (name: string): CudaReport => ({ ...REPORT, failure: failure(name), devices: [] });
const noDriver: CudaReport = { ...looking('cudaErrorInsufficientDriver'), driverVersion: 0 };

describe('why there is no GPU', () => {
  test.each<[string, CudaReport, CudaHost, string | null, string | null]>([
    ['a GPU that works', REPORT, WITH_DRIVER, null, null],
    ['no driver', noDriver, HOST, 'no-driver', 'no NVIDIA driver is installed'],
    [
      'a container without the GPU',
      noDriver,
      WITH_DRIVER,
      'no-driver-library',
      'the NVIDIA kernel driver 580.65.06 runs here, but its library libcuda.so.1 was not found',
    ],
    ['WSL2', noDriver, { ...HOST, wsl: true }, 'no-driver-wsl', 'no NVIDIA driver is visible in WSL2'],
    [
      'a driver that is too old',
      { ...looking('cudaErrorInsufficientDriver'), driverVersion: 12080 },
      WITH_DRIVER,
      'old-driver',
      'the NVIDIA driver supports CUDA 12.8, this build needs a driver that supports CUDA 13.0',
    ],
    ['no GPU', looking('cudaErrorNoDevice'), HOST, 'no-gpu', 'the NVIDIA driver found no GPU'],
    ['no GPU, and no error either', { ...REPORT, devices: [] }, HOST, 'no-gpu', 'the NVIDIA driver found no GPU'],
    [
      'GPUs that are hidden',
      looking('cudaErrorNoDevice'),
      { ...WITH_DRIVER, visibleDevices: '' },
      'gpu-hidden',
      'the NVIDIA driver found no GPU among those of CUDA_VISIBLE_DEVICES=""',
    ],
    [
      'a name of a GPU that is not there',
      looking('cudaErrorInvalidDevice'),
      { ...WITH_DRIVER, visibleDevices: 'GPU-7' },
      'gpu-hidden',
      'the NVIDIA driver found no GPU among those of CUDA_VISIBLE_DEVICES="GPU-7"',
    ],
    [
      'GPUs that only the kernel sees, as with MIG on and no instance',
      looking('cudaErrorNoDevice'),
      WITH_DRIVER,
      'gpu-not-seen',
      'the NVIDIA kernel driver has 2 GPUs, of which this process can use none',
    ],
    [
      'devices that may not be opened',
      looking('cudaErrorNotPermitted'),
      WITH_DRIVER,
      'gpu-not-permitted',
      'this process may not use the GPU: so it is (cudaErrorNotPermitted)',
    ],
    [
      'an update without a reboot',
      looking('cudaErrorSystemDriverMismatch'),
      WITH_DRIVER,
      'driver-mismatch',
      'the parts of the NVIDIA driver do not fit each other: so it is (cudaErrorSystemDriverMismatch)',
    ],
    [
      'no fabric manager',
      looking('cudaErrorSystemNotReady'),
      WITH_DRIVER,
      'driver-not-ready',
      'the NVIDIA driver is not ready: so it is (cudaErrorSystemNotReady)',
    ],
    [
      'something else',
      looking('cudaErrorUnknown'),
      WITH_DRIVER,
      'driver-error',
      'the NVIDIA driver answered: so it is (cudaErrorUnknown)',
    ],
  ])('%s', (_, report, host, kind, message) => {
    expect(driverProblem(report, host)).toEqual(kind === null ? null : { kind, message });
  });
});

describe('why a GPU cannot be used', () => {
  test.each<[string, Partial<CudaGpu>, string, string | null, string | null]>([
    ['nothing', {}, DEFAULT_BUILD, null, null],
    ['exclusive mode, which its opening will tell', { computeMode: 3 }, DEFAULT_BUILD, null, null],
    [
      'too old',
      { capability: 75 },
      DEFAULT_BUILD,
      'gpu-too-old',
      'compute capability 7.5, this build needs 8.0 or later',
    ],
    [
      'built for another',
      { capability: 80 },
      '89-real 90-real',
      'no-code-for-gpu',
      'compute capability 8.0, this build has no code for it, only for 89-real, 90-real',
    ],
    ['prohibited', { computeMode: 2 }, DEFAULT_BUILD, 'gpu-prohibited', 'the GPU is in compute mode Prohibited'],
    [
      'a driver that does not even tell its name',
      { name: '', capability: 0, failure: failure('cudaErrorECCUncorrectable') },
      DEFAULT_BUILD,
      'gpu-damaged',
      'the GPU reports damage: so it is (cudaErrorECCUncorrectable)',
    ],
  ])('%s', (_, gpu, architectures, kind, message) => {
    expect(gpuProblem({ ...GPU, ...gpu }, architectures)).toEqual(kind === null ? null : { kind, message });
  });

  test.each([
    ['cudaErrorDevicesUnavailable', 'gpu-busy', 'the GPU is busy or unavailable: so it is'],
    ['cudaErrorMemoryAllocation', 'gpu-full', 'the GPU has too little free memory to be opened: so it is'],
    ['cudaErrorUnsupportedPtxVersion', 'ptx-too-new', 'for compute capability 9.0: so it is'],
    ['cudaErrorNoKernelImageForDevice', 'no-code-for-gpu', 'compute capability 9.0, this build has no code for it'],
    ['cudaErrorLaunchFailure', 'driver-error', 'the NVIDIA driver answered: so it is'],
  ])('when it is opened: %s', (name, kind, part) => {
    const found = openProblem(failure(name), GPU, DEFAULT_BUILD);
    expect(found.kind).toBe(kind);
    expect(found.message).toContain(part);
  });
});

test.each([
  [DEFAULT_BUILD, [80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121, 130], [75]],
  ['90-real', [90], [80, 89, 100, 120]],
  ['80-real', [80, 86, 89], [75, 90]],
  ['86', [86, 89, 90, 120], [80]],
  ['90a-real', [90], [80, 100, 120]],
  ['90a', [90], [100]],
  ['100f-real', [100, 103], [90, 120]],
  ['native', [80, 120], []],
])('a build for %s', (architectures, runs, doesNot) => {
  const has = (capability: number): boolean => hasCodeFor(architectures, capability);
  expect([runs.filter(has), doesNot.filter(has)]).toEqual([runs, []]);
});

test.each([
  ['NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x)', '580.65.06'],
  ['NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.147  Wed Oct 25', '525.147'],
  ['something else', 'of an unknown version'],
])('the version of the kernel driver in "%s"', (text, version) => {
  expect(kernelDriverVersion(text)).toBe(version);
});
