// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  crossEntropy,
  device as deviceNamed,
  emptyCache,
  memory,
  OptionError,
  OutOfMemoryError,
  resetPeakMemory,
  setMemoryLimit,
  tidy,
  zeros,
  type DeviceMemory,
} from '../../lib/index.js';
import { describe as describeValue } from '../../lib/describe.js';
import { describeBackends } from '../harness.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

const KIB = 1024;

describe('a limit on memory', () => {
  describeBackends((device) => {
    const on = { device };
    const of = (): DeviceMemory => deviceNamed(device).memory();
    const floats = (kib: number): number[] => [(kib * KIB) / 4];

    /** Lets so many KiB be taken beyond what is in use. */
    function allow(kib: number): void {
      emptyCache();
      setMemoryLimit(of().reservedBytes + kib * KIB, on);
    }

    afterEach(() => setMemoryLimit(null, on));

    test('is an error that says what was asked for and what is free; everything goes on', async () => {
      allow(1024);
      const held = zeros(floats(256), on);
      const before = of();
      let caught: unknown;
      try {
        zeros(floats(1024), on);
      } catch (error) {
        caught = error;
      }
      expect(caught).toBeInstanceOf(OutOfMemoryError);
      const { bytesRequested, bytesFree, message } = caught as OutOfMemoryError;
      expect(bytesRequested).toBe(1024 * KIB);
      expect(bytesFree).toBeGreaterThan(600 * KIB);
      expect(bytesFree).toBeLessThanOrEqual(768 * KIB);
      const id = deviceNamed(device).id;
      expect(message).toBe(`zeros: expected ${1024 * KIB} bytes of free memory on ${id}, got ${bytesFree} bytes free`);
      expect(of()).toMatchObject({ tensors: before.tensors, bytes: before.bytes });
      const sum = add(held, held);
      expect((await sum.data()).every((value) => value === 0)).toBe(true);
      for (const each of [held, sum]) each.dispose();
    });

    test('gives back what is kept for reuse before it fails', () => {
      allow(1024);
      for (const kib of [128, 192, 320]) zeros(floats(kib), on).dispose();
      zeros(floats(896), on).dispose();
      for (const kib of [128, 192, 320]) zeros(floats(kib), on).dispose();
    });

    test('below what is in use frees nothing, and lets nothing be taken', async () => {
      const held = zeros(floats(256), on);
      emptyCache();
      setMemoryLimit(64 * KIB, on);
      expect(of().limitBytes).toBe(64 * KIB);
      expect(() => zeros(floats(256), on)).toThrow(expect.objectContaining({ bytesFree: 0 }));
      expect((await held.data()).every((value) => value === 0)).toBe(true);
      setMemoryLimit(null, on);
      expect(of().limitBytes).toBeNull();
      zeros(floats(256), on).dispose();
      held.dispose();
    });

    test.each([0, -1, 1.5, NaN, '1', undefined])('is not %p', (bytes) => {
      expect(() => setMemoryLimit(bytes as never, on)).toThrow(
        new OptionError(`setMemoryLimit: expected a positive integer or null for bytes, got ${describeValue(bytes)}`),
      );
      expect(of().limitBytes).toBeNull();
    });

    test('has no other options', () => {
      expect(() => setMemoryLimit(1, { devise: device } as never)).toThrow(OptionError);
      expect(of().limitBytes).toBeNull();
    });
  });
});

describe('what is held of a device', () => {
  describeBackends((device) => {
    const of = (): DeviceMemory => memory()[deviceNamed(device).id];

    test('is at least what tensors hold; what is kept is counted until emptyCache()', () => {
      emptyCache();
      const before = of();
      const x = zeros([100_000], { device });
      const grown = of().reservedBytes - before.reservedBytes;
      expect(grown).toBeGreaterThanOrEqual(x.bytes);
      expect(grown).toBeLessThan(1.2 * x.bytes);
      x.dispose();
      expect(of().reservedBytes).toBeGreaterThanOrEqual(before.reservedBytes);
      emptyCache();
      expect(of().reservedBytes).toBe(before.reservedBytes);
    });

    test('workspace of ops is counted on cuda, alike at each call; the others say that they do not know', async () => {
      if (deviceNamed(device).type !== 'cuda') {
        expect(of().peakWorkspaceBytes).toBeNull();
        return;
      }
      const step = (): void =>
        tidy(() => void crossEntropy(zeros([1000, 8], { device }), zeros([1000], { dtype: 'int32', device })));
      resetPeakMemory();
      expect(of().peakWorkspaceBytes).toBe(0);
      step();
      const { peakWorkspaceBytes, reservedBytes } = of();
      expect(peakWorkspaceBytes).toBeGreaterThanOrEqual(8 * 1000); // a float64 a row
      resetPeakMemory();
      step();
      expect(of()).toMatchObject({ peakWorkspaceBytes, reservedBytes });
      await deviceNamed(device).synchronize();
    });
  });
});
