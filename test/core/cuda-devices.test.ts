// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { CudaFailure, CudaGpu } from '../../lib/cuda-problem.js';
import type * as DeviceModule from '../../lib/device.js';
import type { Native } from '../../lib/native.js';
import { createReferenceBackend } from '../../lib/reference/index.js';

const GPU: CudaGpu = { name: 'NVIDIA H100', capability: 90, bytes: 80 * 2 ** 30, computeMode: 0, failure: null };
const BUSY: CudaFailure = { name: 'cudaErrorDevicesUnavailable', text: 'in use' };
const MESSAGE = 'the GPU is busy or unavailable: in use (cudaErrorDevicesUnavailable)';

/** The library's devices with an addon that has these GPUs, of which those in `busy` do not open. */
function devicesWith(gpus: CudaGpu[], busy: Set<number>): { library: typeof DeviceModule; opened: number[] } {
  const opened: number[] = [];
  const backend = createReferenceBackend();
  const native: Partial<Native> = {
    cpu: backend,
    isa: 'base',
    threads: () => 1,
    onOutOfMemory: () => undefined,
    cudaReport: () => ({
      runtimeVersion: 13000,
      driverVersion: 13000,
      architectures: '80-real 90-real',
      failure: null,
      devices: gpus,
    }),
    openCuda(ordinal) {
      opened.push(ordinal);
      return busy.has(ordinal) ? { failure: BUSY } : backend;
    },
  };
  let library: typeof DeviceModule | undefined;
  jest.isolateModules(() => {
    jest.doMock('../../lib/native.js', () => ({ native, loadErrors: [], loadAttempts: [] }));
    library = jest.requireActual<typeof DeviceModule>('../../lib/device.js');
    jest.dontMock('../../lib/native.js');
  });
  return { library: library as typeof DeviceModule, opened };
}

test('a GPU that does not open is passed over by the default, and devices() says why', () => {
  const { library, opened } = devicesWith([GPU, GPU], new Set([0]));
  expect(library.getDefaultDevice().id).toBe('cuda:1');
  expect(opened).toEqual([0, 1]);
  expect(library.devices().slice(0, 3)).toEqual([
    { id: 'cuda:0', available: false, isDefault: false, reason: MESSAGE },
    { id: 'cuda:1', available: true, isDefault: true, reason: 'NVIDIA H100, 80 GiB, compute capability 9.0' },
    { id: 'cpu', available: true, isDefault: false, reason: 'native kernels for base, 1 threads' },
  ]);
  expect(opened).toEqual([0, 1]);
});

test('asked for by name it is tried again, and throws until it is free', () => {
  const busy = new Set([0]);
  const { library, opened } = devicesWith([GPU], busy);
  expect(library.getDefaultDevice().id).toBe('cpu');
  for (const name of ['cuda', 'cuda:0'] as const)
    expect(() => library.device(name)).toThrow(`device: expected a usable device, got ${name}: ${MESSAGE}`);
  busy.clear();
  const device = library.device('cuda');
  expect([device.id, device.type]).toEqual(['cuda:0', 'cuda']);
  expect(library.device('cuda:0')).toBe(device);
  expect(opened).toEqual([0, 0, 0, 0]);
  expect(library.devices()[0]).toMatchObject({ id: 'cuda:0', available: true, isDefault: false });
  expect(library.getDefaultDevice().id).toBe('cpu'); // resolved once
});

test('one that cannot be used is not even opened', () => {
  const { library, opened } = devicesWith([{ ...GPU, capability: 75 }, GPU], new Set());
  expect(library.getDefaultDevice().id).toBe('cuda:1');
  expect(() => library.device('cuda')).toThrow(
    'device: expected a usable device, got cuda: compute capability 7.5, this build needs 8.0 or later',
  );
  expect(() => library.device('cuda:2')).toThrow(
    'device: expected a usable device, got cuda:2: there is no GPU of that number, their count is 2',
  );
  expect(opened).toEqual([1]);
});
