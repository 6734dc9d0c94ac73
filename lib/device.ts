// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { freemem } from 'node:os';
import type { Backend, BufferHandle, GraphHandle, HostHandle, KernelFailure, Parcel } from './backend.js';
import { callNow } from './call-now.js';
import { isCapturing, refuseInCapture } from './capturing.js';
import { capabilityText, openProblem, type CudaFailure, type CudaReport } from './cuda-problem.js';
import { cudaState, refused } from './cuda-state.js';
import { describe } from './describe.js';
import { DeviceError, KernelError, OptionError, OutOfMemoryError } from './errors.js';
import { loadErrors, native } from './native.js';
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
  /**
   * Bytes that this thread holds of the device: of tensors, rounded up to the sizes in which memory is taken; of freed memory, which is kept for
   * reuse until {@link emptyCache}, or until something else needs it, or which a captured graph still uses; and, on cuda, of kernels' workspace, which
   * is reused like all memory. On cpu without the scratch memory of its threads. {@link setMemoryLimit} limits this.
   */
  reservedBytes: number;
  /**
   * The most workspace that one op took since the start or the last `resetPeakMemory()`, counted when it was called; not among `bytes`. Null
   * on cpu and reference, which do not count it.
   */
  peakWorkspaceBytes: number | null;
  /** What {@link setMemoryLimit} has set, or null. */
  limitBytes: number | null;
}

/** A place where tensors live and ops run. Get one with {@link device}. */
export class Device {
  private readonly held = { tensors: 0, bytes: 0, peakBytes: 0, offloadedBytes: 0 };
  private limitBytes: number | null = null;

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

  /** @internal Throws OutOfMemoryError; KernelError if the device was lost. */
  allocate(op: string, bytes: number): BufferHandle {
    const buffer = this.backend.allocate(bytes);
    if (buffer === null) {
      const fault = this.backend.fault();
      if (fault !== null)
        throw new KernelError(
          `${op}: expected a working device, got ${this.id} after an error that lasts until the process ends: ${fault}`,
          op,
        );
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

  /**
   * @internal Moves a buffer to host memory, in the order of the stream. Null, and the buffer stays, if the host has no room, or in a capture: there
   * it would not become free.
   */
  offload(buffer: BufferHandle, bytes: number): HostHandle | null {
    if (isCapturing(this)) return null;
    const host = this.backend.offload(buffer, bytes);
    if (host === null) return null;
    this.free(buffer, bytes);
    this.held.offloadedBytes += bytes;
    return host;
  }

  /** @internal Moves it back. Throws OutOfMemoryError, CaptureError; it is then still on the host. */
  restore(op: string, host: HostHandle, bytes: number): BufferHandle {
    refuseInCapture(op, 'move', this);
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

  /** @internal Copies host bytes into the buffer, from byte `offset` on, in the order of the stream. Throws CaptureError. */
  write(op: string, buffer: BufferHandle, bytes: Uint8Array, offset = 0): void {
    refuseInCapture(op, 'upload', this);
    this.backend.write(buffer, bytes, offset);
  }

  /** @internal Runs a graph. Throws CaptureError. Rejects with KernelError. */
  replay(graph: GraphHandle): Promise<void> {
    this.enqueue(graph);
    return this.synchronize();
  }

  /** @internal Runs a graph; whoever waits next hears of a failure. Throws CaptureError. */
  enqueue(graph: GraphHandle): void {
    refuseInCapture('replay', 'nested');
    this.backend.replay(graph);
  }

  /**
   * Waits until every op queued so far has run. Rejects with KernelError if one failed. Throws CaptureError, at once, inside {@link capture}.
   */
  synchronize(): Promise<void> {
    refuseInCapture('synchronize', 'read', this);
    return this.settle((done) => this.backend.synchronize(done));
  }

  /**
   * What the device takes for the ops that `run` calls, in milliseconds: by events of the GPU on `cuda`, on the thread that computes on `cpu`. Ops queued
   * before do not count; where the device waits for JavaScript to queue the next op, the wait does. The tensors that `run` makes are its own to
   * dispose.
   *
   * ```
   * const ms = await device('cuda').time(() => {
   *   for (let i = 0; i < 100; i++) tidy(() => void linear(a, b));
   * });
   * ```
   *
   * @param run called once, before this returns; returns without a promise.
   * @throws OptionError if `run` is no function, or async; CaptureError inside {@link capture}; what `run` throws. Rejects with KernelError if an op failed.
   */
  time(run: () => void): Promise<number> {
    refuseInCapture('time', 'read', this);
    if (typeof run !== 'function') throw new OptionError(`time: expected a function for run, got ${describe(run)}`);
    const from = this.backend.mark();
    callNow('time', run);
    const to = this.backend.mark();
    return this.synchronize().then(() => this.backend.milliseconds(from, to));
  }

  /** @internal Fills `destination` from the start of `buffer`, after the ops queued so far. The caller has looked for a capture. */
  read(buffer: BufferHandle, destination: Uint8Array): Promise<void> {
    return this.settle((done) => this.backend.read(buffer, destination, done));
  }

  /** What tensors and the library hold of this device. */
  memory(): DeviceMemory {
    return {
      ...this.held,
      reservedBytes: this.backend.reservedBytes(),
      peakWorkspaceBytes: this.backend.peakWorkspaceBytes?.() ?? null,
      limitBytes: this.limitBytes,
    };
  }

  /** Makes the present number of bytes the peak; the peak of workspace starts from 0. */
  resetPeakMemory(): void {
    this.held.peakBytes = this.held.bytes;
    this.backend.resetPeakWorkspace?.();
  }

  /** @internal See setMemoryLimit. */
  setMemoryLimit(bytes: number | null): void {
    refuseInCapture('setMemoryLimit', 'memory', this);
    this.backend.setMemoryLimit(bytes);
    this.limitBytes = bytes;
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

native?.onOutOfMemory(
  (op) => new OutOfMemoryError(`${op}: expected memory of the host for the call, got too little`, 0, freemem()),
);

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
  throw new DeviceError(`device: expected auto, reference, cpu, cuda or cuda:N, got ${describe(name)}`);
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

/** What tensors and the library hold of every device in use, by device id. */
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
 * use (affinity, and the CPU limit of a container, rounded up), or the environment variable TERNFLASH_THREADS. Results do not depend on it.
 *
 * @throws OptionError unless count is an integer from 1 to 256.
 */
export function setThreads(count: number): void {
  if (!Number.isInteger(count) || count < 1 || count > 256) {
    throw new OptionError(`setThreads: expected an integer from 1 to 256 for count, got ${describe(count)}`);
  }
  native?.setThreads(count);
}

/**
 * Gives memory that was freed and kept for reuse back to the system, on every device: of GPUs, their memory and the page-locked host memory of
 * copies. Throws CaptureError inside {@link capture}.
 */
export function emptyCache(): void {
  refuseInCapture('emptyCache', 'memory');
  for (const { backend } of opened.values()) backend.emptyCache();
}

/**
 * Limits what this thread takes of a device: `memory()[id].reservedBytes`, that is tensors, what is kept for reuse and, on cuda, workspace. Where an
 * allocation would pass the limit, what is kept for reuse is given back first; if that is not enough, OutOfMemoryError is thrown (KernelError, by
 * the next read, if it is an op's workspace that does not fit) and everything else goes on working. A limit below what is in use
 * frees nothing: allocations fail until less is in use. Tensors received from other threads count, and are not refused.
 *
 * @param bytes a positive integer; null, the default, is no limit but the device's.
 * @param options `device`: default the default device.
 * @throws OptionError, DeviceError; CaptureError inside {@link capture}.
 */
export function setMemoryLimit(bytes: number | null, options: { device?: DeviceName | Device } = {}): void {
  if (bytes !== null && (!Number.isSafeInteger(bytes) || bytes < 1)) {
    throw new OptionError(`setMemoryLimit: expected a positive integer or null for bytes, got ${describe(bytes)}`);
  }
  // What check.ts says of options; it is made of what is in here.
  const isObject = Object.prototype.toString.call(options) === '[object Object]';
  if (!isObject || Object.keys(options).some((key) => key !== 'device'))
    throw new OptionError('setMemoryLimit: expected only device as options, got something else');
  device(options.device ?? getDefaultDevice()).setMemoryLimit(bytes);
}
