// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device as deviceNamed, devices, tensor, TernflashError, type DeviceName, type Tensor } from '../lib/index.js';
import { FLOAT_DTYPES, type DType } from '../lib/dtype.js';

/** What every test of the library needs: the backends, tensors on them, and errors. */

export { FLOAT_DTYPES };

export type BackendName = 'reference' | 'cpu' | 'cuda';

/** Backends that compute beside the JavaScript thread: for tests of that, and of what takes too long in TypeScript. */
export const NATIVE: readonly BackendName[] = ['cpu', 'cuda'];

/** Every backend of the library, with the reason if it cannot be used here. */
export const BACKENDS: readonly { name: BackendName; skipped: string | null }[] = (
  ['reference', 'cpu', 'cuda'] as const
).map((name) => {
  const report = devices().find((each) => each.id === name || each.id.startsWith(`${name}:`));
  return { name, skipped: report?.available ? null : (report?.reason ?? 'not listed by devices()') };
});

/**
 * Declares the same tests for every backend, or those of `names`. Those of an absent one are shown as skipped, under its name and the reason. After each test the
 * device is waited for, so that a failed kernel or a damaged guard band behind a tensor is laid at the door of the test that caused it.
 */
export function describeBackends(
  declare: (device: DeviceName) => void,
  names: readonly BackendName[] = BACKENDS.map(({ name }) => name),
): void {
  for (const { name, skipped } of BACKENDS.filter((each) => names.includes(each.name))) {
    if (skipped === null) {
      // Tests compare it with what tensors say of their device.
      const id = deviceNamed(name).id as DeviceName;
      describe(name, () => {
        declare(id);
        afterEach(() => deviceNamed(id).synchronize());
      });
    } else {
      describe.skip(`${name} — skipped: ${skipped}`, () => declare(name));
    }
  }
}

/** Whether native kernels can be compared with the reference here. */
export const hasCpu = BACKENDS.some(({ name, skipped }) => name === 'cpu' && skipped === null);

/** A tensor of the given numbers. */
export function make(
  device: DeviceName,
  dtype: DType,
  shape: readonly number[],
  values: ArrayLike<number>,
  requiresGrad = false,
): Tensor {
  return tensor(Float64Array.from(values), { shape, dtype, device, ...(requiresGrad && { requiresGrad }) });
}

/** The stored bits, as plain numbers; what "equal to the bit" compares. */
export async function bitsOf(t: Tensor): Promise<number[]> {
  const raw = await t.raw();
  return Array.from(raw instanceof Float32Array ? new Uint32Array(raw.buffer, raw.byteOffset, raw.length) : raw);
}

/** Runs `fn`, then disposes everything it was given by `track`. */
export async function withTensors<T>(
  fn: (track: <U extends { dispose(): void }>(value: U) => U) => Promise<T>,
): Promise<T> {
  const tracked: { dispose(): void }[] = [];
  try {
    return await fn((value) => {
      tracked.push(value);
      return value;
    });
  } finally {
    for (const each of tracked) each.dispose();
  }
}

/** A call that has to throw. */
export interface ErrorRow {
  /** The whole message. */
  message: string;
  type: new (...args: never[]) => TernflashError;
  code: string;
  /** `t` makes a tensor of ones on the device under test. */
  call(t: (shape: readonly number[], dtype?: DType, device?: DeviceName) => Tensor, device: DeviceName): unknown;
}

/**
 * Declares one test a row: the class, the code and the whole message; that nothing stays allocated, that the inputs are what they were, and
 * that the device goes on working.
 */
export function describeErrors(device: DeviceName, rows: readonly ErrorRow[]): void {
  test.each(rows)('throws "$message"', async ({ message, type, code, call }) => {
    const made: Tensor[] = [];
    const t = (shape: readonly number[], dtype: DType = 'float32', on: DeviceName = device): Tensor => {
      const count = shape.reduce((product, size) => product * size, 1);
      made.push(make(on, dtype, shape, new Float64Array(count).fill(1)));
      return made[made.length - 1];
    };
    const before = deviceNamed(device).memory();
    let caught: unknown = null;
    let result: unknown;
    try {
      result = call(t, device);
    } catch (error) {
      caught = error;
      // Compared before anything is awaited: the garbage collector must not free in between what other tests have left.
      const live = made.filter((each) => !each.isDisposed && each.device.id === device);
      const after = deviceNamed(device).memory();
      expect(after.tensors - before.tensors).toBe(live.length);
      expect(after.bytes - before.bytes).toBe(live.reduce((total, each) => total + each.bytes, 0));
    }
    try {
      await result;
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(type);
    expect(caught).toBeInstanceOf(TernflashError);
    expect((caught as TernflashError).message).toBe(message);
    expect((caught as TernflashError).code).toBe(code);
    expect((caught as TernflashError).name).toBe(type.name);
    for (const input of made) {
      if (input.isDisposed) continue;
      expect(new Set(await input.data())).toEqual(new Set([1]));
      input.dispose();
    }
  });
}

export const ERROR_CODES = {
  shape: 'ERR_SHAPE',
  dtype: 'ERR_DTYPE',
  device: 'ERR_DEVICE',
  option: 'ERR_OPTION',
  disposed: 'ERR_DISPOSED',
  kernel: 'ERR_KERNEL',
} as const;
