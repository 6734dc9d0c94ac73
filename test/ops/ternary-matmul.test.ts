// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  DTypeError,
  dequantizeTernary,
  linear,
  OptionError,
  ShapeError,
  TernaryTensor,
  ternaryMatmul,
  type Tensor,
  type TernaryMatmulOptions,
} from '../../lib/index.js';
import { ternaryMatmuls } from '../../lib/ops/ternary-matmul.js';
import { expectIdentical } from '../compare.js';
import { ternaryMatmulFloatSpec, ternaryMatmulSpec } from '../formulas/ternary-matmul.js';
import { int8Of, int8Product } from '../formulas/ternary.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, hasCpu, make } from '../harness.js';
import { describeOp } from '../op-tests.js';
import { Random } from '../random.js';

describeOp(ternaryMatmulSpec);
describeOp(ternaryMatmulFloatSpec);

describe('ternaryMatmul', () => {
  describeBackends((device) => {
    test('hand-computed: scale 1 and integer activations give the integer product', async () => {
      // The largest magnitude is 127, so codes are the numbers themselves.
      const x = make(device, 'float32', [2, 5], [127, -3, 10, 0, 7, -127, 1, 2, 3, 4]);
      using weight = TernaryTensor.fromTrits([1, -1, 0, 1, -1, 0, 0, 1, 1, 1, -1, -1, -1, -1, -1], [3, 5], 1, {
        device,
      });
      const y = ternaryMatmul(x, weight);
      expect(y.shape).toEqual([2, 3]);
      expect([...(await y.data())]).toEqual([123, 17, -141, -129, 9, 117]);
      const bias = make(device, 'float32', [3], [0.5, -17, 1000]);
      expect([...(await ternaryMatmul(x, weight, { bias }).data())]).toEqual([123.5, 0, 859, -128.5, -8, 1117]);
      expect([...(await ternaryMatmul(x, weight, { activations: 'none', bias }).data())]).toEqual([
        123.5, 0, 859, -128.5, -8, 1117,
      ]);
    });

    // Sums that overflow 16 bits after 256 products of the largest codes, whatever a kernel adds them up in.
    describe.each([1, 3, 4, 31, 63, 64, 65, 127, 128, 129, 255, 257, 2047, 2049, 4099])('extremes at K = %i', (k) => {
      test.each([
        ['all 127 by all ones', 127, 1, 127 * k],
        ['all -127 by all ones', -127, 1, -127 * k],
        ['all 127 by all minus ones', 127, -1, -127 * k],
        ['all -127 by all minus ones', -127, -1, 127 * k],
        ['all 127 by all zeros', 127, 0, 0],
        ['all zeros by all ones', 0, 1, 0],
      ])('%s', async (_name, value, trit, expected) => {
        for (const m of [1, 5]) {
          const x = make(device, 'float32', [m, k], new Float64Array(m * k).fill(value));
          using weight = TernaryTensor.fromTrits(new Int8Array(3 * k).fill(trit), [3, k], 1, { device });
          const y = await ternaryMatmul(x, weight).data();
          expect(new Set(Array.from(y, (each) => each + 0))).toEqual(new Set([expected]));
        }
      });
    });

    test('codes of -128, which rounding never makes but the contract allows', async () => {
      const k = 130;
      // In whatever order: all are the same, and those that fill up the row meet trits of 0.
      const codes = make(device, 'int8', [1, 192], new Float64Array(192).fill(-128));
      const scales = make(device, 'float32', [1], [1]);
      for (const [trit, expected] of [
        [1, -128 * k],
        [-1, 128 * k],
      ]) {
        using weight = TernaryTensor.fromTrits(new Int8Array(2 * k).fill(trit), [2, k], 1, { device });
        const out = make(device, 'float32', [1, 2], [NaN, NaN]);
        out.device.backend.ternaryMatmulInt8({
          codes: codes.arg,
          activationScales: scales.arg,
          packed: weight.packed.arg,
          weightScale: weight.scale.arg,
          bias: null,
          out: out.arg,
          m: 1,
          n: 2,
          k,
        });
        expect([...(await out.data())]).toEqual([expected, expected]);
      }
    });

    test.each([1, 2, 8, 9, 70])('several weights at once are as one by one, %i tokens', async (m) => {
      const k = 640;
      const random = new Random(`several ${m}`);
      for (const dtype of FLOAT_DTYPES) {
        const x = make(device, dtype, [m, k], random.normals(m * k));
        const products = [16, 1, 130, 48, 264].map((n, i) => ({
          weight: TernaryTensor.fromTrits(
            random.integers(n * k, -1, 1),
            [n, k],
            i % 2 ? Array.from({ length: n }, () => Math.fround(random.next())) : 0.75,
            { device },
          ),
          bias: i > 1 ? make(device, dtype, [n], random.normals(n)) : null,
        }));
        const together = ternaryMatmuls(x, products);
        expect(together).toHaveLength(products.length);
        for (const [i, { weight, bias }] of products.entries()) {
          expect(await bitsOf(together[i])).toEqual(await bitsOf(ternaryMatmul(x, weight, { bias })));
          weight.dispose();
        }
      }
    });

    test('a zero token among others', async () => {
      const values = new Random('zero token').normals(3 * 65);
      values.fill(0, 65, 130);
      const trits = new Random('trits').integers(9 * 65, -1, 1);
      using weight = TernaryTensor.fromTrits(trits, [9, 65], 0.5, { device });
      const y = await ternaryMatmul(make(device, 'float32', [3, 65], values), weight).data();
      expectIdentical(
        'y',
        y,
        int8Product(int8Of(values.map(Math.fround), 65), { trits, scale: 0.5 }, undefined, 9, 65),
        [3, 9],
      );
      expect(new Set(Array.from(y.slice(9, 18), (each) => each + 0))).toEqual(new Set([0]));
    });

    // What is zero is skipped, by rows and by blocks of 256 features, which must not show.
    describe('zeros in the weight', () => {
      const patterns: Record<string, (row: number, col: number) => boolean> = {
        none: () => false,
        'every second row': (row) => row % 2 === 0,
        'random rows': (row) => (row * 2654435761) % 7 < 3,
        'the first and the last row only': (row) => row === 0 || row === 69,
        'all but one row': (row) => row !== 35,
        'a block of rows': (row) => row >= 2 && row < 68,
        'the first block of features': (_, col) => col < 256,
        'blocks of features in the middle': (_, col) => col >= 256 && col < 768,
        'every second block of features': (_, col) => Math.floor(col / 256) % 2 === 1,
        'all but the last few features': (_, col) => col < 990,
        'rows and blocks of features': (row, col) => row % 3 === 0 || Math.floor(col / 256) === 2,
        'other features in other rows': (row, col) => Math.floor(col / 256) === Math.floor(row / 16) % 4,
        'all but one weight': (row, col) => row !== 69 || col !== 998,
      };
      const sizes = [
        [1, 1027],
        [3, 999],
        [4, 1000],
        [33, 999],
        [33, 1027],
      ];
      test.each(Object.keys(patterns))('%s', async (name) => {
        const n = 70;
        const random = new Random(`zeros ${name}`);
        for (const [m, k] of sizes) {
          const trits = random.integers(n * k, 0, 1).map((trit) => (trit === 0 ? -1 : 1));
          for (let i = 0; i < trits.length; i++) {
            if (patterns[name](Math.floor(i / k), i % k)) trits[i] = 0;
          }
          const scale = Float64Array.from({ length: n }, () => Math.fround(0.1 + random.next()));
          scale[4] = 0; // and its trits are not
          const x = random.normals(m * k).map(Math.fround);
          if (m > 1) x[k + 3] = NaN;
          const bias = random.normals(n).map(Math.fround);
          for (const rowScales of [true, false]) {
            using weight = TernaryTensor.fromTrits(trits, [n, k], rowScales ? scale : 0.5, { device });
            for (const given of [undefined, bias]) {
              const expected = int8Product(int8Of(x, k), { trits, scale: rowScales ? scale : 0.5 }, given, n, k);
              using out = ternaryMatmul(make(device, 'float32', [m, k], x), weight, {
                ...(given && { bias: make(device, 'float32', [n], given) }),
              });
              expectIdentical(`${m}x${n}x${k}`, await out.data(), expected, [m, n]);
            }
          }
        }
      });
    });

    test('with float activations it is linear with the dequantised weight', async () => {
      // Small integers: both are exact whatever the order of summation.
      const random = new Random('float activations');
      using weight = TernaryTensor.fromTrits(random.integers(17 * 66, -1, 1), [17, 66], 0.25, { device });
      for (const dtype of FLOAT_DTYPES) {
        const x = make(device, dtype, [5, 66], random.integers(5 * 66, -3, 3));
        const y = ternaryMatmul(x, weight, { activations: 'none' });
        expect(await bitsOf(y)).toEqual(await bitsOf(linear(x, dequantizeTernary(weight, { dtype }))));
      }
    });

    const wrong = (
      message: string,
      type: typeof ShapeError | typeof OptionError | typeof DTypeError,
      code: string,
      call: (weight: TernaryTensor, t: (shape: number[], dtype?: 'float16' | 'int8') => Tensor) => unknown,
    ) => ({
      message,
      type,
      code,
      call: (t: (shape: readonly number[], dtype?: 'float16' | 'int8') => Tensor) => {
        using weight = TernaryTensor.fromTrits([1, 0, -1, 1, 1, 1], [2, 3], 1, { device });
        return call(weight, t);
      },
    });
    describeErrors(device, [
      wrong(
        'ternaryMatmul: expected x of shape [..., 3] to match weight [2, 3], got [3, 2]',
        ShapeError,
        ERROR_CODES.shape,
        (weight, t) => ternaryMatmul(t([3, 2]), weight),
      ),
      wrong(
        'ternaryMatmul: expected x of shape [..., 3] to match weight [2, 3], got []',
        ShapeError,
        ERROR_CODES.shape,
        (weight, t) => ternaryMatmul(t([]), weight),
      ),
      wrong(
        'ternaryMatmul: expected bias of shape [2] to match weight, got [3]',
        ShapeError,
        ERROR_CODES.shape,
        (weight, t) => ternaryMatmul(t([3]), weight, { bias: t([3]) }),
      ),
      wrong(
        'ternaryMatmul: expected bias of dtype float32 like x, got float16',
        DTypeError,
        ERROR_CODES.dtype,
        (weight, t) => ternaryMatmul(t([3]), weight, { bias: t([2], 'float16') }),
      ),
      wrong(
        'ternaryMatmul: expected x of dtype float32 or float16 or bfloat16, got int8',
        DTypeError,
        ERROR_CODES.dtype,
        (weight, t) => ternaryMatmul(t([3], 'int8'), weight),
      ),
      wrong(
        'ternaryMatmul: expected one of int8, none for activations, got "int4"',
        OptionError,
        ERROR_CODES.option,
        (weight, t) => ternaryMatmul(t([3]), weight, { activations: 'int4' } as unknown as TernaryMatmulOptions),
      ),
      wrong(
        'ternaryMatmul: expected only activations, bias as options, got scale',
        OptionError,
        ERROR_CODES.option,
        (weight, t) => ternaryMatmul(t([3]), weight, { scale: 1 } as TernaryMatmulOptions),
      ),
    ]);
  });

  (hasCpu ? test : test.skip)('cpu and reference agree to the bit where sums are far beyond 16 bits', async () => {
    const [m, n, k] = [7, 65, 4099];
    const values = new Random('large sums').normals(m * k);
    const trits = new Random('large trits').integers(n * k, 0, 1);
    const results: number[][] = [];
    for (const device of ['reference', 'cpu'] as const) {
      using weight = TernaryTensor.fromTrits(trits, [n, k], 0.3, { device });
      results.push(await bitsOf(ternaryMatmul(make(device, 'float32', [m, k], values.map(Math.abs)), weight)));
    }
    expect(results[1]).toEqual(results[0]);
  });
});
