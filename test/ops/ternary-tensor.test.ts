// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError, quantizeTernary, ShapeError, ternaryMatmul, TernaryTensor } from '../../lib/index.js';
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

    test('hand-computed statistics; unused bits of a row do not count', async () => {
      using t = sample();
      expect(await t.statistics()).toEqual({ sparsity: 0.4, positiveRatio: 0.3, negativeRatio: 0.3, zeroRows: 0 });
      using zeros = TernaryTensor.fromTrits([0, 0, 0, 1, 0, 0, 0, 0, 0], [3, 3], 1, { device });
      expect(await zeros.statistics()).toEqual({
        sparsity: 8 / 9,
        positiveRatio: 1 / 9,
        negativeRatio: 0,
        zeroRows: 2,
      });
    });

    // The predecessor kept the sparsity it had computed once.
    test('statistics follow every change', async () => {
      using t = TernaryTensor.fromTrits(TRITS, [2, 5], [0.5, 2], { device });
      expect(await t.sparsity()).toBe(0.4);
      await t.setTrit(0, 0, 0);
      expect(await t.sparsity()).toBe(0.5);
      expect(await t.pruneRows(1)).toBe(1);
      expect(await t.statistics()).toEqual({ sparsity: 0.8, positiveRatio: 0, negativeRatio: 0.2, zeroRows: 1 });
      await t.setTrit(0, 0, 1);
      expect(await t.sparsity()).toBeCloseTo(0.7, 12);
    });

    test('rows of a scale below the threshold become zero, and only those', async () => {
      const trits = new Int8Array(5 * 6).fill(1).fill(0, 12, 18);
      using t = TernaryTensor.fromTrits(trits, [5, 6], [0.1, 0.5, 0.2, 0.49, 3], { device });
      expect(await t.pruneRows(0)).toBe(0);
      expect([...(await t.trits())]).toEqual([...trits]);
      expect(await t.pruneRows(0.5)).toBe(2); // the third row was zero already
      expect([...(await t.trits())]).toEqual([...new Int8Array(30).fill(1, 6, 12).fill(1, 24)]);
      expect([...(await t.scale.data())]).toEqual([0, 0.5, 0, 0, 3]);
      expect(await t.pruneRows(0.5)).toBe(0);
      const x = make(device, 'float32', [1, 6], [127, 1, 2, 3, 4, 5]);
      expect([...(await ternaryMatmul(x, t).data())]).toEqual([0, 71, 0, 0, 426]);
      using copy = TernaryTensor.fromTrits(await t.trits(), [5, 6], await t.scale.data(), { device });
      expect(await copy.statistics()).toEqual(await t.statistics());
    });

    test('a matrix of one row has a scale for each row; NaN is below nothing', async () => {
      using one = TernaryTensor.fromTrits([1, 1], [1, 2], 0.5, { device });
      expect(await one.pruneRows(1)).toBe(1);
      using bad = quantizeTernary(make(device, 'float32', [2, 2], [NaN, 1, 1, 1]), { method: 'twn' });
      expect(await bad.pruneRows(1e9)).toBe(1);
      expect([...(await bad.scale.data())]).toEqual([NaN, 0]);
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
      wrong('TernaryTensor.pruneRows: expected a finite number of at least 0 for threshold, got -1', (t) =>
        t.pruneRows(-1),
      ),
      wrong('TernaryTensor.pruneRows: expected a finite number of at least 0 for threshold, got NaN', (t) =>
        t.pruneRows(NaN),
      ),
      {
        ...wrong('TernaryTensor.pruneRows: expected scale of shape [2] for each row, got [1]', (t) => t.pruneRows(1)),
        type: ShapeError,
        code: ERROR_CODES.shape,
      },
      wrong('TernaryTensor.fromTrits: expected a trit of -1, 0 or 1, got 0.5', () =>
        TernaryTensor.fromTrits([0.5], [1, 1], 1, { device }),
      ),
      wrong('TernaryTensor.fromTrits: expected a finite number of at least 0 for scale, got -1', () =>
        TernaryTensor.fromTrits([0], [1, 1], -1, { device }),
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
