// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Backend, BufferHandle, HostHandle, KernelFailure, Parcel } from './backend.js';
import {
  capabilityText,
  driverProblem,
  gpuProblem,
  openProblem,
  type CudaFailure,
  type CudaGpu,
  type CudaReport,
} from './cuda-problem.js';
import { readCudaHost } from './cuda-host.js';
import { DeviceError, KernelError, OptionError, OutOfMemoryError } from './errors.js';
import { loadAttempts, loadErrors, native } from './native.js';
import { problem, type Problem } from './problems.js';
import { createReferenceBackend } from './reference/index.js';

/** A name that picks a device. `auto` is the best one present, resolved once. */
export type DeviceName = 'auto' | 'reference' | 'cpu' | 'cuda' | `cuda:${number}`;

/** Memory held on one device. Counted when an op is called, not when it runs, so it is the same on every run. */
export interface DeviceMemory {
  /** Blocks of memory held by tensors; views share one. */
  tensors: number;
  /** Bytes they hold. */
  bytes: number;
  /** The most bytes held at once since the start or the last `resetPeakMemory()`. */
  peakBytes: number;
  /**
   * Bytes that a checkpoint moved from this device to host memory (see `CheckpointOptions.offload`); not among `bytes`. Of the cpu and
   * reference devices, whose memory is the host's, they take the same memory from the system as before.
   */
  offloadedBytes: number;
}

/** A place where tensors live and ops run. Get one with {@link device}. */
export class Device {
  private readonly held: DeviceMemory = { tensors: 0, bytes: 0, peakBytes: 0, offloadedBytes: 0 };

  /** @internal */
  constructor(
    /** `reference`, `cpu`, `cuda:0`, … */
    readonly id: string,
    /** Which backend computes. */
    readonly type: 'reference' | 'cpu' | 'cuda',
    /** @internal */
    readonly backend: Backend,
    /** @internal Whether nothing is computed here, see createDryDevice. */
    readonly isDry = false,
  ) {}

  /** @internal Throws OutOfMemoryError. */
  allocate(op: string, bytes: number): BufferHandle {
    const buffer = this.backend.allocate(bytes);
    if (buffer === null) {
      const free = this.backend.freeBytes();
      throw new OutOfMemoryError(
        `${op}: expected ${bytes} bytes of free memory on ${this.id}, got ${free} bytes free`,
        bytes,
        free,
      );
    }
    this.count(bytes);
    return buffer;
  }

  /** @internal */
  free(buffer: BufferHandle, bytes: number): void {
    this.backend.free(buffer);
    this.discount(bytes);
  }

  /** @internal Moves a buffer to host memory, in the order of the stream. Null, and the buffer stays, if the host has no room. */
  offload(buffer: BufferHandle, bytes: number): HostHandle | null {
    const host = this.backend.offload(buffer, bytes);
    if (host === null) return null;
    this.free(buffer, bytes);
    this.held.offloadedBytes += bytes;
    return host;
  }

  /** @internal Moves it back. Throws OutOfMemoryError; it is then still on the host. */
  restore(op: string, host: HostHandle, bytes: number): BufferHandle {
    const buffer = this.allocate(op, bytes);
    this.backend.restore(host, buffer);
    this.freeHost(host, bytes);
    return buffer;
  }

  /** @internal */
  freeHost(host: HostHandle, bytes: number): void {
    this.backend.freeHost(host);
    this.held.offloadedBytes -= bytes;
  }

  /** @internal Gives a buffer to whoever receives the parcel, of any thread; `sent` is when that can be done. */
  send(buffer: BufferHandle, bytes: number): { parcel: Parcel; sent: Promise<void> } {
    let parcel: Parcel = '';
    const sent = this.settle((done) => {
      parcel = this.backend.send(buffer, bytes, done);
    });
    this.discount(bytes);
    return { parcel, sent };
  }

  /** @internal Null if the parcel is not there (any more), or not of that many bytes. */
  receive(parcel: Parcel, bytes: number): BufferHandle | null {
    const buffer = this.backend.receive(parcel, bytes);
    if (buffer !== null) this.count(bytes);
    return buffer;
  }

  /** Waits until every op queued so far has run. Throws KernelError if one failed. */
  synchronize(): Promise<void> {
    return this.settle((done) => this.backend.synchronize(done));
  }

  /** @internal Fills `destination` from the start of `buffer`, after the ops queued so far. */
  read(buffer: BufferHandle, destination: Uint8Array): Promise<void> {
    return this.settle((done) => this.backend.read(buffer, destination, done));
  }

  /** Tensors, bytes and peak of this device. */
  memory(): DeviceMemory {
    return { ...this.held };
  }

  /** Makes the present number of bytes the peak. */
  resetPeakMemory(): void {
    this.held.peakBytes = this.held.bytes;
  }

  /** The id. */
  toString(): string {
    return this.id;
  }

  private count(bytes: number): void {
    this.held.tensors++;
    this.held.bytes += bytes;
    if (this.held.bytes > this.held.peakBytes) this.held.peakBytes = this.held.bytes;
  }

  private discount(bytes: number): void {
    this.held.tensors--;
    this.held.bytes -= bytes;
  }

  private settle(start: (done: (failure: KernelFailure | null) => void) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      start((failure) => {
        if (failure) reject(new KernelError(`${failure.op}: ${failure.message}`, failure.op));
        else resolve();
      });
    });
  }
}

/** One line of {@link devices}: a device, whether it can be used here, and why or why not. */
export interface DeviceReport {
  /** As {@link Device.id}. */
  id: string;
  /** Whether it can be used on this machine. */
  available: boolean;
  /** True for the device that `auto` stands for. */
  isDefault: boolean;
  /** What it computes with, or why it cannot be used. */
  reason: string;
}

const opened = new Map<string, Device>();
let defaultDevice: Device | null = null;

function open(id: 'reference' | 'cpu'): Device {
  let found = opened.get(id);
  if (!found) {
    found = new Device(id, id, id === 'cpu' && native ? native.cpu : createReferenceBackend());
    opened.set(id, found);
  }
  return found;
}

/** GPUs that the driver lists as usable and that could not be opened when they were last tried, by number. */
const refused = new Map<number, Problem>();

/** @internal Why this process has no CUDA at all, or null. */
export function cudaBuildProblem(): Problem | null {
  if (native?.cudaReport) return null;
  if (!native) return problem('no-addon', { errors: loadErrors.join('; ') });
  if (process.env.TERNFLASH_CUDA === '0') return problem('cuda-off', {});
  const errors = loadAttempts.flatMap((each) => (each.cuda && each.problem ? [each.problem.message] : []));
  if (errors.length > 0) return problem('cuda-build-broken', { errors: errors.join('; ') });
  return readCudaHost().gpus > 0 ? problem('no-cuda-build-for-gpu', {}) : problem('no-cuda-build', {});
}

/** @internal What the driver says, each GPU with why it cannot be used or null, and why none can. */
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

/** The GPU, or why it cannot be used. */
function tryCuda(ordinal: number): Device | Problem {
  const id = `cuda:${ordinal}`;
  const found = opened.get(id);
  if (found) return found;
  refused.delete(ordinal); // it may be free now
  const { report, problem: none, gpus } = cudaState();
  if (none) return none;
  if (ordinal >= gpus.length) return problem('no-such-gpu', { count: gpus.length });
  const known = gpus[ordinal].problem;
  if (known) return known;
  const backend = native?.openCuda?.(ordinal) as Backend | { failure: CudaFailure };
  if ('failure' in backend) {
    const why = openProblem(backend.failure, gpus[ordinal], (report as CudaReport).architectures);
    refused.set(ordinal, why);
    return why;
  }
  const device = new Device(id, 'cuda', backend);
  opened.set(id, device);
  return device;
}

function openCuda(name: string): Device {
  const result = tryCuda(name === 'cuda' ? 0 : Number(name.slice('cuda:'.length)));
  if (result instanceof Device) return result;
  throw new DeviceError(`device: expected a usable device, got ${name}: ${result.message}`);
}

/**
 * The device of that name. The same name always gives the same object.
 *
 * @param name `auto` (default device), `reference`, `cpu`, `cuda` (the first GPU) or `cuda:N`.
 * @throws DeviceError if the name is unknown, or the device cannot be used on this machine; the message says why.
 */
export function device(name: DeviceName | Device): Device {
  if (name instanceof Device) return name;
  if (name === 'auto') return getDefaultDevice();
  if (name === 'reference') return open('reference');
  if (name === 'cpu') {
    if (!native)
      throw new DeviceError(`device: expected a usable device, got cpu: no native addon (${loadErrors.join('; ')})`);
    return open('cpu');
  }
  if (typeof name === 'string' && /^cuda(:\d+)?$/.test(name)) return openCuda(name);
  throw new DeviceError(`device: expected auto, reference, cpu, cuda or cuda:N, got ${JSON.stringify(name)}`);
}

/** Every device, with whether and why it can or cannot be used. */
export function devices(): DeviceReport[] {
  const chosen = getDefaultDevice().id;
  const cuda = cudaState();
  const gpus = cuda.gpus.map(({ name, capability, bytes, problem }, ordinal) => ({
    id: `cuda:${ordinal}`,
    available: problem === null,
    isDefault: chosen === `cuda:${ordinal}`,
    reason:
      problem?.message ??
      `${name}, ${(bytes / 2 ** 30).toFixed(0)} GiB, compute capability ${capabilityText(capability)}`,
  }));
  const cpu = native
    ? `native kernels for ${native.isa}, ${native.threads()} threads`
    : `no native addon (${loadErrors.join('; ')})`;
  return [
    ...(gpus.length > 0
      ? gpus
      : [{ id: 'cuda', available: false, isDefault: false, reason: (cuda.problem as Problem).message }]),
    { id: 'cpu', available: native !== null, isDefault: chosen === 'cpu', reason: cpu },
    { id: 'reference', available: true, isDefault: chosen === 'reference', reason: 'plain TypeScript, always present' },
  ];
}

/** The device new tensors are made on: the best one present, unless {@link setDefaultDevice} said otherwise. */
export function getDefaultDevice(): Device {
  if (!defaultDevice) {
    // One that does not open is passed over like any other that cannot be used; devices() says why.
    for (const ordinal of cudaState().gpus.keys()) {
      const found = tryCuda(ordinal);
      if (found instanceof Device) return (defaultDevice = found);
    }
    defaultDevice = open(native ? 'cpu' : 'reference');
  }
  return defaultDevice;
}

/** Sets the device that `auto` and an absent `device` option stand for. Throws DeviceError. */
export function setDefaultDevice(name: DeviceName | Device): void {
  defaultDevice = device(name);
}

/** Tensors, bytes, peak bytes and offloaded bytes of every device in use, by device id. */
export function memory(): Record<string, DeviceMemory> {
  const result: Record<string, DeviceMemory> = {};
  for (const [id, each] of opened) result[id] = each.memory();
  return result;
}

/** Makes the present number of bytes the peak, on every device. */
export function resetPeakMemory(): void {
  for (const each of opened.values()) each.resetPeakMemory();
}

/** Threads that the `cpu` device computes with; 1 where there is no native addon. */
export function getThreads(): number {
  return native ? native.threads() : 1;
}

/**
 * Sets the number of threads of the `cpu` device, for the whole process. The default is the number of processors this process may
 * use, or the environment variable TERNFLASH_THREADS. Results do not depend on it.
 *
 * @throws OptionError unless count is an integer from 1 to 256.
 */
export function setThreads(count: number): void {
  if (!Number.isInteger(count) || count < 1 || count > 256) {
    throw new OptionError(`setThreads: expected an integer from 1 to 256 for count, got ${String(count)}`);
  }
  native?.setThreads(count);
}

/** Gives memory that was freed and kept for reuse back to the system. */
export function emptyCache(): void {
  native?.emptyCache();
}
