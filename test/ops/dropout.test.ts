// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  checkpoint,
  defaultGenerator,
  dropout,
  DTypeError,
  manualSeed,
  mul,
  OptionError,
  sum,
  tidy,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { describe as describeValue } from '../../lib/describe.js';
import { dropoutSpec, numbersOf } from '../formulas/dropout.js';
import { BACKENDS, bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { describeOp } from '../op-tests.js';
import { Random } from '../random.js';

describeOp(dropoutSpec);

const onesOn = (device: DeviceName, count: number, requiresGrad = false): Tensor =>
  make(device, 'float32', [count], new Float64Array(count).fill(1), requiresGrad);

describe('dropout', () => {
  describeBackends((device) => {
    test.each([0.1, 0.17, 0.5, 0.9])('p = %p drops that share and keeps the mean', async (p) => {
      const count = 200_000;
      manualSeed(1);
      const out = Array.from(await dropout(onesOn(device, count), p).data());
      const zeros = out.reduce((total, value) => total + (value === 0 ? 1 : 0), 0);
      // Five standard errors of a share; the seed is fixed.
      const error = 5 * Math.sqrt((p * (1 - p)) / count);
      expect(Math.abs(zeros / count - p)).toBeLessThan(error);
      expect(Math.abs(out.reduce((total, value) => total + value, 0) / count - 1)).toBeLessThan(error / (1 - p));
      const factor = Math.fround(65536 / (65536 - Math.round(p * 65536)));
      expect(new Set(out)).toEqual(new Set([0, factor]));
    });

    test('the numbers are those of lib/random.ts, over the carry of the counter and every part of the seed', async () => {
      const count = 8 * 37 + 5;
      const x = onesOn(device, count);
      for (const seed of [0, 0x9abcdef0, 2 ** 32, 2 ** 53 - 1]) {
        for (const offset of [0, 2 ** 32 - 17, 2 ** 45 + 3]) {
          const numbers = numbersOf(count, seed, offset);
          for (const threshold of [1, 255, 256, 0x4000, 0x8000, 0xff00, 65535]) {
            defaultGenerator().state = { seed, offset };
            const out = await dropout(x, threshold / 65536).data();
            expect(Array.from(out, (value) => value === 0)).toEqual(numbers.map((number) => number < threshold));
          }
          // And exactly: a number is dropped by the threshold above it and by no lower one.
          const [first] = numbers;
          for (const [threshold, isDropped] of [
            [first, false],
            [first + 1, true],
          ] as const) {
            if (threshold === 0 || threshold > 65535) continue;
            defaultGenerator().state = { seed, offset };
            expect((await dropout(x, threshold / 65536).data())[0] === 0).toBe(isDropped);
          }
        }
      }
    });

    test('a call takes a block for every 8 elements, and p = 0 none', async () => {
      for (const [count, blocks] of [
        [1, 1],
        [8, 1],
        [9, 2],
        [129, 17],
      ]) {
        manualSeed(3);
        dropout(onesOn(device, count), 0.5);
        expect(defaultGenerator().state).toEqual({ seed: 3, offset: blocks });
      }
      manualSeed(3);
      const x = make(device, 'float32', [3], [1, -2, NaN], true);
      const out = dropout(x, 0);
      expect(defaultGenerator().state).toEqual({ seed: 3, offset: 0 });
      expect([...(await out.data())]).toEqual([1, -2, NaN]);
      out.backward(make(device, 'float32', [3], [4, 5, 6]));
      expect([...((await x.grad?.data()) ?? [])]).toEqual([4, 5, 6]);
      // A probability that rounds to 0 drops nothing either.
      expect([...(await dropout(x, 2 ** -18).data())]).toEqual([1, -2, NaN]);
      expect(defaultGenerator().state).toEqual({ seed: 3, offset: 0 });
    });

    test('manualSeed repeats a mask, and the next call has another', async () => {
      const x = onesOn(device, 257);
      manualSeed(5);
      const first = await bitsOf(dropout(x, 0.5));
      const second = await bitsOf(dropout(x, 0.5));
      manualSeed(5);
      expect(await bitsOf(dropout(x, 0.5))).toEqual(first);
      expect(await bitsOf(dropout(x, 0.5))).toEqual(second);
      expect(second).not.toEqual(first);
    });

    test.each(FLOAT_DTYPES)('the backward pass has the mask of the forward pass, in %s', async (dtype) => {
      const count = 1001;
      const x = make(device, dtype, [count], new Float64Array(count).fill(1), true);
      const out = dropout(x, 0.3);
      dropout(x, 0.3); // another draw in between
      out.backward(make(device, dtype, [count], new Float64Array(count).fill(1)));
      expect(await bitsOf(x.grad as Tensor)).toEqual(await bitsOf(out));
    });

    test('a dropped element is 0 whatever it was', async () => {
      const seeds = Array.from({ length: 64 }, (_, seed) => seed);
      const found = new Set<string>();
      for (const seed of seeds) {
        manualSeed(seed);
        const values = [NaN, Infinity, -1];
        const out = await dropout(make(device, 'float32', [3], values), 0.5).data();
        numbersOf(3, seed, 0).forEach((number, i) => {
          expect(out[i] + 0).toBe(number < 0x8000 ? 0 : 2 * values[i]);
          found.add(`${i} ${number < 0x8000}`);
        });
      }
      expect(found.size).toBe(6);
    });

    test('inside checkpoint: values and gradients are bit-equal to those without', async () => {
      const random = new Random('dropout in checkpoint');
      const values = random.normals(513);
      const run = async (segment: (fn: (x: Tensor) => Tensor, x: Tensor) => Tensor): Promise<number[][]> => {
        manualSeed(21);
        const x = make(device, 'float32', [513], values, true);
        const w = make(device, 'float32', [513], values, true);
        const loss = tidy(() => {
          const inner = segment((t) => dropout(mul(dropout(t, 0.25), dropout(t, 0.75)), 0.5), dropout(x, 0.2));
          return sum(mul(dropout(inner, 0.1), w));
        });
        loss.backward();
        const gradients = [await bitsOf(x.grad as Tensor), await bitsOf(w.grad as Tensor)];
        return [await bitsOf(loss), ...gradients, [defaultGenerator().state.offset]];
      };
      const plain = await run((fn, x) => fn(x));
      expect(await run((fn, x) => checkpoint(fn, x))).toEqual(plain);
    });

    describeErrors(device, [
      ...[-0.1, 1, NaN, '0.5' as unknown as number].map((p) => ({
        message: `dropout: expected a probability from 0 to below 1 for dropout, got ${describeValue(p)}`,
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t: (shape: number[]) => Tensor) => dropout(t([3]), p),
      })),
      {
        message: 'dropout: expected x of dtype float32 or float16 or bfloat16, got int32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => dropout(t([3], 'int32'), 0.5),
      },
    ]);

    test('an error draws nothing', () => {
      manualSeed(1);
      expect(() => dropout(onesOn(device, 3), 2)).toThrow(OptionError);
      expect(defaultGenerator().state).toEqual({ seed: 1, offset: 0 });
    });
  });

  test.each(FLOAT_DTYPES)('every backend gives the same bits in %s', async (dtype) => {
    const values = new Random(`dropout ${dtype}`).normals(20_001, dtype === 'float16' ? 1000 : 1e30);
    const all: number[][] = [];
    for (const { name, skipped } of BACKENDS) {
      if (skipped !== null) continue;
      manualSeed(9);
      all.push(await bitsOf(dropout(make(name, dtype, [values.length], values), 0.3)));
    }
    for (const bits of all.slice(1)) expect(bits).toEqual(all[0]);
    expect(all.length).toBeGreaterThan(0);
  });
});
