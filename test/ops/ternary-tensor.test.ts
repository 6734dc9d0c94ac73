// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError, quantizeTernary, ShapeError, TernaryTensor } from '../../lib/index.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';

const TRITS = [1, 0, -1, 1, 1, 0, 0, 0, -1, -1];

describe('TernaryTensor', () => {
  describeBackends((device) => {
    const sample = (): TernaryTensor => TernaryTensor.fromTrits(TRITS, [2, 5], 0.5, { device });

    test('trits come back, packed four to a byte', async () => {
      using t = sample();
      expect([...(await t.trits())]).toEqual(TRITS);
      expect([...(await t.packed.data())]).toEqual([0b10_00_01_10, 0b01_01_01_10, 0b00_01_01_01, 0b01_01_01_00]);
      expect([t.shape, t.device.id, t.bytes]).toEqual([[2, 5], device, 8]);
    });

    test('sparsity is the share of zeros', async () => {
      using t = sample();
      expect(await t.sparsity()).toBe(0.4);
    });

    test('the compression ratio counts codes and scale', () => {
      using t = sample();
      expect(t.compressionRatio()).toBe(40 / 8);
      expect(t.compressionRatio('bfloat16')).toBe(20 / 8);
      using large = TernaryTensor.fromTrits(new Int8Array(64 * 64), [64, 64], 1, { device });
      expect(large.compressionRatio()).toBe((64 * 64 * 4) / (64 * 16 + 4));
    });

    test('one trit read and set; the others stay', async () => {
      using t = sample();
      expect(await t.getTrit(0, 2)).toBe(-1);
      expect(await t.getTrit(1, 4)).toBe(-1);
      await t.setTrit(0, 2, 1);
      await t.setTrit(1, 4, 0);
      const expected = [...TRITS];
      expected[2] = 1;
      expected[9] = 0;
      expect([...(await t.trits())]).toEqual(expected);
      expect([...(await t.packed.data())]).toEqual([0b10_10_01_10, 0b01_01_01_10, 0b00_01_01_01, 0b01_01_01_01]);
    });

    test('hand-computed quantisation error', async () => {
      // Mean magnitude 1: trits 1, 0, -1, 1 of scale 1, errors 0.5, 0.25, 0.25, 0.
      const weight = make(device, 'float32', [1, 4], [1.5, 0.25, -1.25, 1]);
      using t = quantizeTernary(weight);
      expect([...(await t.trits())]).toEqual([1, 0, -1, 1]);
      expect(await t.quantizationError(weight)).toEqual({ mean: 0.25, max: 0.5, relative: 0.25 });
    });

    test('the quantisation error uses the scale of each row', async () => {
      using t = TernaryTensor.fromTrits([1, 1, -1, 0], [2, 2], [1, 4], { device });
      const weight = make(device, 'float32', [2, 2], [1, 3, -4, 0]);
      expect(await t.quantizationError(weight)).toEqual({ mean: 0.5, max: 2, relative: 0.25 });
    });

    test('a copy on the reference device holds the same', async () => {
      using t = sample();
      using copy = await t.to({ device: 'reference' });
      expect([copy.device.id, [...(await copy.trits())], await copy.scale.item()]).toEqual(['reference', TRITS, 0.5]);
    });

    test('disposal', () => {
      const t = sample();
      expect(t.isDisposed).toBe(false);
      t.dispose();
      t.dispose();
      expect([t.isDisposed, t.packed.isDisposed, t.scale.isDisposed]).toEqual([true, true, true]);
    });

    const wrong = (message: string, call: (t: TernaryTensor) => unknown) => ({
      message,
      type: OptionError,
      code: ERROR_CODES.option,
      call: async () => {
        using t = sample();
        try {
          return await call(t);
        } finally {
          expect([...(await t.trits())]).toEqual(TRITS);
        }
      },
    });
    describeErrors(device, [
      wrong('TernaryTensor.getTrit: expected an integer from 0 to 1 for row, got 2', (t) => t.getTrit(2, 0)),
      wrong('TernaryTensor.getTrit: expected an integer from 0 to 4 for col, got -1', (t) => t.getTrit(0, -1)),
      wrong('TernaryTensor.setTrit: expected an integer from 0 to 4 for col, got 5', (t) => t.setTrit(0, 5, 1)),
      wrong('TernaryTensor.setTrit: expected a trit of -1, 0 or 1, got 2', (t) => t.setTrit(0, 0, 2)),
      wrong('TernaryTensor.fromTrits: expected a trit of -1, 0 or 1, got 0.5', () =>
        TernaryTensor.fromTrits([0.5], [1, 1], 1, { device }),
      ),
      wrong('TernaryTensor.fromTrits: expected a finite number above 0 for scale, got 0', () =>
        TernaryTensor.fromTrits([0], [1, 1], 0, { device }),
      ),
      wrong('TernaryTensor.fromTrits: expected an integer from 1 to 2147483647 for shape[0], got 0', () =>
        TernaryTensor.fromTrits([], [0, 1], 1, { device }),
      ),
      {
        message: 'TernaryTensor.fromTrits: expected 6 trits, got 5',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: () => TernaryTensor.fromTrits([0, 0, 0, 0, 0], [2, 3], 1, { device }),
      },
      {
        message: 'TernaryTensor.fromTrits: expected 1 or 2 scales, got 3',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: () => TernaryTensor.fromTrits([0, 0], [2, 1], [1, 1, 1], { device }),
      },
      {
        message:
          'TernaryTensor.quantizationError: expected weight of shape [2, 5] to match the ternary tensor, got [5, 2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: async (t) => {
          using ternary = sample();
          return await ternary.quantizationError(t([5, 2]));
        },
      },
    ]);
  });
});
