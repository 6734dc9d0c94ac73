// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  dequantizeTernary,
  DisposedError,
  DTypeError,
  getThreads,
  OptionError,
  quantizeTernary,
  setThreads,
  ShapeError,
  TernaryTensor,
  type QuantizeTernaryOptions,
  type Tensor,
} from '../../lib/index.js';
import { roundedTo } from '../arithmetic.js';
import { quantizeActivations } from '../../lib/ops/ternary-matmul.js';
import { quantizeCases } from '../cases.js';
import { expectIdentical } from '../compare.js';
import { readFixture } from '../fixture.js';
import { int8Of, pack, roundHalfEven, ternaryOf, thresholdedOf } from '../formulas/ternary.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';

const inputOf = (c: { name: string; rows: number; cols: number; spread?: number }): Float64Array =>
  new Random(`quantize ${c.name}`).normals(c.rows * c.cols, c.spread);

test('round half to even', () => {
  expect([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49, -0.51, 126.5, 3].map((value) => roundHalfEven(value) + 0)).toEqual([
    0, 2, 2, 0, -2, -2, 0, -1, 126, 3,
  ]);
});

describe('quantizeTernary', () => {
  test('the rule gives the trits and the scale of Transformers', () => {
    const { weight, trits, scale } = readFixture('ternary_pack');
    const result = ternaryOf(weight.values);
    expect(result.trits).toEqual(trits.values.map((trit) => trit + 0));
    // PyTorch sums in float32 and in another order: a rounding step of float32 either way.
    expect(Math.abs(result.scale - scale.values[0])).toBeLessThanOrEqual(scale.values[0] * 2 ** -23);
  });

  describeBackends((device) => {
    describe.each(FLOAT_DTYPES)('%s', (dtype) => {
      test.each(quantizeCases.cases)('codes and scale to the bit: $name', async (c) => {
        const values = inputOf(c).map((value) => roundedTo(dtype, value));
        const expected = ternaryOf(values);
        using result = quantizeTernary(make(device, dtype, [c.rows, c.cols], values));
        expect([result.shape, result.packed.shape, result.scale.shape]).toEqual([
          [c.rows, c.cols],
          [c.rows, Math.ceil(c.cols / 4)],
          [1],
        ]);
        expectIdentical(
          'packed',
          await result.packed.data(),
          pack(expected.trits, c.rows, c.cols),
          result.packed.shape,
        );
        expectIdentical('scale', await result.scale.data(), [expected.scale], [1]);
      });
    });

    test('golden: the trits of Transformers', async () => {
      const { weight, trits, scale } = readFixture('ternary_pack');
      using result = quantizeTernary(make(device, 'float32', weight.shape, weight.values));
      expect(Float64Array.from(await result.trits())).toEqual(trits.values.map((trit) => trit + 0));
      expect(Math.abs((await result.scale.item()) - scale.values[0])).toBeLessThanOrEqual(scale.values[0] * 2 ** -23);
    });

    test('hand-computed: ties go to even, so half the scale gives 0 and one and a half gives 1', async () => {
      // The mean magnitude of 1/2, 3/2, 1, 1 is 1.
      using result = quantizeTernary(make(device, 'float32', [2, 4], [0.5, -0.5, 1.5, -1.5, 1, -1, 1, -1]));
      expect([...(await result.trits())]).toEqual([0, 0, 1, -1, 1, -1, 1, -1]);
      expect(await result.scale.item()).toBe(1);
      expect([...(await result.packed.data())]).toEqual([0b00_10_01_01, 0b00_10_00_10]);
    });

    test('hand-computed: unused bits of a row hold code 1', async () => {
      using result = quantizeTernary(make(device, 'float32', [2, 5], [1, 1, 1, 1, 1, -1, -1, -1, -1, -1]));
      expect([...(await result.packed.data())]).toEqual([0b10101010, 0b01010110, 0b00000000, 0b01010100]);
    });

    test('hand-computed: the weight is multiplied by the rounded reciprocal, not divided', async () => {
      // One rounding step above half the scale: the quotient is above a half, the product with 1/scale rounds to a half, and that to 0.
      const [least, other, scale] = [0.6406250596046448, 1.4947916269302368, 1.28125];
      expect(Math.fround(least / scale)).toBeGreaterThan(0.5);
      expect(Math.fround(least * Math.fround(1 / scale))).toBe(0.5);
      using result = quantizeTernary(make(device, 'float32', [1, 4], [least, other, -other, -other]));
      expect(await result.scale.item()).toBe(scale);
      expect([...(await result.trits())]).toEqual([0, 1, -1, -1]);
    });

    test('all zeros: the scale is its smallest value and every trit 0', async () => {
      using result = quantizeTernary(make(device, 'float32', [3, 5], new Float64Array(15)));
      expect(await result.scale.item()).toBe(Math.fround(1e-5));
      expect(new Set(await result.trits())).toEqual(new Set([0]));
    });

    test('carries no gradient and leaves the weight alone', async () => {
      const weight = make(device, 'float32', [1, 3], [3, -2, 1], true);
      using result = quantizeTernary(weight);
      expect(result.packed.requiresGrad || result.scale.requiresGrad).toBe(false);
      expect([...(await weight.data())]).toEqual([3, -2, 1]);
    });

    describeErrors(device, [
      {
        message: 'quantizeTernary: expected weight of shape [N, K], got [6]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => quantizeTernary(t([6])),
      },
      {
        message: 'quantizeTernary: expected weight of dtype float32 or float16 or bfloat16, got int8',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => quantizeTernary(t([2, 3], 'int8')),
      },
      ...(
        [
          [
            'quantizeTernary: expected one of absmean, twn, percentile, meanStd, threshold for method, got "absmax"',
            { method: 'absmax' },
          ],
          ['quantizeTernary: expected one of tensor, row for granularity, got "column"', { granularity: 'column' }],
          [
            'quantizeTernary: expected only method, granularity, percentile, k, threshold as options, got scale',
            { scale: 1 },
          ],
          ['quantizeTernary: expected a number from 0 to 100 for percentile, got undefined', { method: 'percentile' }],
          [
            'quantizeTernary: expected a number from 0 to 100 for percentile, got 100.5',
            { method: 'percentile', percentile: 100.5 },
          ],
          [
            'quantizeTernary: expected a number from 0 to 100 for percentile, got NaN',
            { method: 'percentile', percentile: NaN },
          ],
          ['quantizeTernary: expected a finite number for k, got undefined', { method: 'meanStd' }],
          ['quantizeTernary: expected a finite number for k, got Infinity', { method: 'meanStd', k: Infinity }],
          [
            'quantizeTernary: expected a finite number of at least 0 for threshold, got undefined',
            { method: 'threshold' },
          ],
          [
            'quantizeTernary: expected a finite number of at least 0 for threshold, got -1',
            { method: 'threshold', threshold: -1 },
          ],
          ['quantizeTernary: expected k only with method meanStd, got it with twn', { method: 'twn', k: 1 }],
          ['quantizeTernary: expected threshold only with method threshold, got it with absmean', { threshold: 0.5 }],
        ] as [string, QuantizeTernaryOptions][]
      ).map(([message, options]) => ({
        message,
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t: (shape: readonly number[]) => Tensor) => quantizeTernary(t([2, 3]), options),
      })),
      {
        message: 'quantizeTernary: expected a live tensor for weight, got a disposed one of shape [2, 3]',
        type: DisposedError,
        code: ERROR_CODES.disposed,
        call: (t) => {
          const weight = t([2, 3]);
          weight.dispose();
          return quantizeTernary(weight);
        },
      },
    ]);
  });
});

const METHODS: readonly QuantizeTernaryOptions[] = [
  { method: 'absmean' },
  { method: 'twn' },
  { method: 'percentile', percentile: 0 },
  { method: 'percentile', percentile: 37.5 },
  { method: 'percentile', percentile: 99.5 },
  { method: 'percentile', percentile: 100 },
  { method: 'meanStd', k: 0.5 },
  { method: 'meanStd', k: -3 },
  { method: 'threshold', threshold: 0 },
  { method: 'threshold', threshold: 0.3 },
];
const nameOf = ({ method, percentile, k, threshold }: QuantizeTernaryOptions): string =>
  [method, percentile, k, threshold].filter((each) => each !== undefined).join(' ');

describe('the methods of quantizeTernary', () => {
  const groupedOf = (values: Float64Array, groups: number, options: QuantizeTernaryOptions) => {
    const { method = 'absmean', percentile, k, threshold } = options;
    const size = values.length / groups;
    const trits: number[] = [];
    const scales: number[] = [];
    for (let group = 0; group < groups; group++) {
      const part = values.subarray(group * size, (group + 1) * size);
      const result =
        method === 'absmean' ? ternaryOf(part) : thresholdedOf(part, method, percentile ?? k ?? threshold ?? 0);
      for (const trit of result.trits) trits.push(trit);
      scales.push(result.scale);
    }
    return { trits, scales };
  };

  describeBackends((device) => {
    describe.each(METHODS.map((options) => ({ name: nameOf(options), options })))('$name', ({ options }) => {
      describe.each(['tensor', 'row'] as const)('%s', (granularity) => {
        test.each(quantizeCases.cases)('codes and scales to the bit: $name', async (c) => {
          for (const dtype of FLOAT_DTYPES) {
            const values = inputOf(c).map((value) => roundedTo(dtype, value));
            const groups = granularity === 'row' ? c.rows : 1;
            const expected = groupedOf(values, groups, options);
            using result = quantizeTernary(make(device, dtype, [c.rows, c.cols], values), { ...options, granularity });
            const packed = pack(expected.trits, c.rows, c.cols);
            expectIdentical('packed', await result.packed.data(), packed, result.packed.shape);
            expectIdentical('scale', await result.scale.data(), expected.scales, [groups]);
          }
        });
      });
    });

    test.each([
      [{ method: 'absmean' }, 1],
      [{ method: 'twn' }, 2],
      [{ method: 'percentile', percentile: 50 }, 2],
      [{ method: 'meanStd', k: 1 }, 2],
      [{ method: 'threshold', threshold: 1 }, 2],
    ] as [QuantizeTernaryOptions, number][])(
      'the default granularity of %j gives %i scales',
      async (options, scales) => {
        using result = quantizeTernary(make(device, 'float32', [2, 3], [1, 2, 3, 4, 5, 6]), options);
        expect(result.scale.shape).toEqual([scales]);
        expect((await result.scale.data()).length).toBe(scales);
      },
    );

    const trits = async (values: number[], options: QuantizeTernaryOptions): Promise<[number[], number[]]> => {
      using result = quantizeTernary(make(device, 'float32', [1, values.length], values), options);
      return [[...(await result.trits())], [...(await result.scale.data())]];
    };

    test('hand-computed: twn', async () => {
      // Mean magnitude 2, threshold 1.4; kept: 3, -4, 1.5.
      expect(await trits([3, -4, 1.5, 1, -0.5], { method: 'twn' })).toEqual([[1, -1, 1, 0, 0], [Math.fround(8.5 / 3)]]);
    });

    test('hand-computed: percentile, an order statistic and no interpolation', async () => {
      const values = [3, -4, 1.5, 1, -0.5];
      expect(await trits(values, { method: 'percentile', percentile: 0 })).toEqual([[1, -1, 1, 1, 0], [9.5 / 4]]);
      expect(await trits(values, { method: 'percentile', percentile: 50 })).toEqual([[1, -1, 0, 0, 0], [3.5]]);
      expect(await trits(values, { method: 'percentile', percentile: 74 })).toEqual([[1, -1, 0, 0, 0], [3.5]]);
      expect(await trits(values, { method: 'percentile', percentile: 75 })).toEqual([[0, -1, 0, 0, 0], [4]]);
    });

    test('hand-computed: mean and standard deviation', async () => {
      // Magnitudes 1, 1, 1, 5: mean 2, variance 3.
      const [values, root] = [[1, -1, 1, -5], Math.sqrt(3)];
      expect(await trits(values, { method: 'meanStd', k: 1 })).toEqual([[0, 0, 0, -1], [5]]);
      expect(await trits(values, { method: 'meanStd', k: 2 })).toEqual([[0, 0, 0, 0], [1]]); // 2 + 2 √3 > 5
      expect(await trits(values, { method: 'meanStd', k: -1.01 / root })).toEqual([[1, -1, 1, -1], [2]]);
      // Below zero it is zero: a weight of zero stays zero.
      expect(await trits([1, 0, -1], { method: 'meanStd', k: -100 })).toEqual([[1, 0, -1], [1]]);
    });

    test('hand-computed: a threshold is exceeded or not, never met; none kept gives scale 1', async () => {
      expect(await trits([1, -1, 1.5, -2], { method: 'threshold', threshold: 1 })).toEqual([[0, 0, 1, -1], [1.75]]);
      expect(await trits([1, -1, 1.5, -2], { method: 'threshold', threshold: 2 })).toEqual([[0, 0, 0, 0], [1]]);
      expect(await trits([0, -0, 1e-45, -1e-45], { method: 'threshold', threshold: 0 })).toEqual([
        [0, 0, 1, -1],
        [Math.fround(1e-45)],
      ]);
      expect(await trits([3e38, -1], { method: 'threshold', threshold: 1e300 })).toEqual([[0, 0], [1]]);
    });

    test('a row with a number that is not finite has trits 0 and scale NaN; the other rows are as without it', async () => {
      const random = new Random('not finite');
      for (const bad of [NaN, Infinity, -Infinity]) {
        const values = random.normals(3 * 70);
        values[75] = bad;
        for (const options of METHODS) {
          if (options.method === 'absmean') continue;
          using all = quantizeTernary(make(device, 'float32', [3, 70], values), { ...options, granularity: 'row' });
          const [found, scales] = [await all.trits(), await all.scale.data()];
          expect(new Set(found.subarray(70, 140))).toEqual(new Set([0]));
          for (const row of [0, 2]) {
            const expected = groupedOf(values.slice(row * 70, (row + 1) * 70).map(Math.fround), 1, options);
            expect([...found.subarray(row * 70, (row + 1) * 70)]).toEqual(expected.trits);
            expect(scales[row]).toBe(expected.scales[0]);
          }
          expect(scales[1]).toBeNaN();
          using one = quantizeTernary(make(device, 'float32', [3, 70], values), { ...options, granularity: 'tensor' });
          expect(await one.scale.item()).toBeNaN();
          expect(await one.sparsity()).toBe(1);
        }
      }
    });

    test('a matrix of several tasks, whatever the number of threads', async () => {
      const [rows, cols] = [130, 1031];
      const values = new Random('several tasks').normals(rows * cols).map(Math.fround);
      const before = getThreads();
      try {
        for (const options of METHODS) {
          for (const granularity of ['tensor', 'row'] as const) {
            const expected = groupedOf(values, granularity === 'row' ? rows : 1, options);
            for (const threads of [1, 3]) {
              setThreads(threads);
              using result = quantizeTernary(make(device, 'float32', [rows, cols], values), {
                ...options,
                granularity,
              });
              expect(Buffer.compare((await result.packed.data()) as Uint8Array, pack(expected.trits, rows, cols))).toBe(
                0,
              );
              expect([...(await result.scale.data())]).toEqual(expected.scales);
            }
          }
        }
      } finally {
        setThreads(before);
      }
    });

    test('equal magnitudes: none exceeds its own percentile', async () => {
      expect(await trits([2, -2, 2, -2], { method: 'percentile', percentile: 50 })).toEqual([[0, 0, 0, 0], [1]]);
    });

    // The predecessor took the largest magnitude for the mean in the formula of TWN.
    test('twn keeps most of a normally distributed row, as its authors say', async () => {
      const count = 1 << 16;
      using result = quantizeTernary(make(device, 'float32', [1, count], new Random('normal row').normals(count)), {
        method: 'twn',
      });
      // P(|w| < 0.7 √(2/π)) = 0.4233; a threshold of 0.7 max|w| would keep a fraction of a percent.
      expect(Math.abs((await result.sparsity()) - 0.4233)).toBeLessThan(0.01);
    });

    test('a weight that is ternary already is given back by twn, whatever its sparsity', async () => {
      const random = new Random('already ternary');
      const values = Float64Array.from({ length: 5 * 300 }, () =>
        random.next() < 0.9 ? 0 : random.next() < 0.5 ? -0.75 : 0.75,
      );
      using result = quantizeTernary(make(device, 'float32', [5, 300], values), { method: 'twn' });
      expect(Float64Array.from(await dequantizeTernary(result).data(), (value) => value + 0)).toEqual(values);
    });
  });
});

describe('dequantizeTernary', () => {
  describeBackends((device) => {
    test.each(FLOAT_DTYPES.flatMap((dtype) => quantizeCases.cases.map((c) => ({ dtype, ...c }))))(
      'trit times scale, rounded once: $dtype, $name',
      async ({ dtype, rows, cols, name }) => {
        const random = new Random(name);
        const trits = random.integers(rows * cols, -1, 1);
        for (const scales of [
          [Math.fround(0.1)],
          Array.from({ length: rows }, () => Math.fround(0.01 + random.next())),
        ]) {
          using weight = TernaryTensor.fromTrits(trits, [rows, cols], scales, { device });
          const result = dequantizeTernary(weight, { dtype });
          expect([result.shape, result.dtype]).toEqual([[rows, cols], dtype]);
          const expected = trits.map(
            (trit, i) => roundedTo(dtype, trit * scales[scales.length === 1 ? 0 : Math.floor(i / cols)]) + 0,
          );
          expectIdentical(
            'dequantized',
            Array.from(await result.data(), (value) => value + 0),
            expected,
            [rows, cols],
          );
        }
      },
    );

    test('of a quantised weight gives it back where it is ternary already', async () => {
      const values = Float64Array.of(0.75, -0.75, 0.75, 0.75, -0.75, -0.75);
      using weight = quantizeTernary(make(device, 'float32', [2, 3], values));
      expect(Float64Array.from(await dequantizeTernary(weight).data())).toEqual(values);
    });

    describeErrors(device, [
      {
        message: 'dequantizeTernary: expected one of float32, float16, bfloat16 for dtype, got "int8"',
        type: OptionError,
        code: ERROR_CODES.option,
        call: () => {
          using weight = TernaryTensor.fromTrits([1], [1, 1], 1, { device });
          return dequantizeTernary(weight, { dtype: 'int8' as 'float32' });
        },
      },
      {
        message: 'dequantizeTernary: expected a TernaryTensor for weight, got 3',
        type: OptionError,
        code: ERROR_CODES.option,
        call: () => dequantizeTernary(3 as unknown as TernaryTensor),
      },
      {
        message: 'dequantizeTernary: expected a live ternary tensor for weight, got a disposed one',
        type: DisposedError,
        code: ERROR_CODES.disposed,
        call: () => {
          const weight = TernaryTensor.fromTrits([1], [1, 1], 1, { device });
          weight.dispose();
          return dequantizeTernary(weight);
        },
      },
    ]);
  });
});

describe('the rounding of activations', () => {
  /** Where a GPU puts the code of a feature, as cuda/ternary_codes.h says; others put it where it is. */
  function positionOnGpu(feature: number): number {
    const within = feature % 64;
    return feature - within + 16 * (within % 4) + 4 * Math.floor(within / 16) + (Math.floor(within / 4) % 4);
  }

  async function rounded(x: Tensor, rows: number, cols: number): Promise<{ codes: number[]; scales: Tensor }> {
    const { codes, scales } = quantizeActivations('test', x, rows, cols);
    const stored = await codes.data();
    codes.dispose();
    if (x.device.type !== 'cuda') return { codes: Array.from(stored.subarray(0, rows * cols), Number), scales };
    const padded = Math.ceil(cols / 64) * 64;
    const inOrder = Array.from({ length: rows * padded }, (_, i) =>
      Number(stored[i - (i % padded) + positionOnGpu(i % padded)]),
    );
    const isPadding = (i: number) => i % padded >= cols;
    expect(inOrder.filter((code, i) => isPadding(i) && code !== 0)).toEqual([]);
    return { codes: inOrder.filter((_, i) => !isPadding(i)), scales };
  }

  describeBackends((device) => {
    describe.each(FLOAT_DTYPES)('%s', (dtype) => {
      test.each(quantizeCases.cases)('codes and scales to the bit: $name', async (c) => {
        const values = inputOf(c).map((value) => roundedTo(dtype, value));
        const expected = int8Of(values, c.cols);
        const { codes, scales } = await rounded(make(device, dtype, [c.rows, c.cols], values), c.rows, c.cols);
        expectIdentical('codes', codes, expected.codes, [c.rows, c.cols]);
        expectIdentical('scales', await scales.data(), expected.scales, [c.rows]);
      });
    });

    test('hand-computed: ties to even, a zero token, a token below the smallest maximum', async () => {
      // The first row's largest is 127, so its scale is 1.
      const x = make(device, 'float32', [3, 4], [127, 0.5, 1.5, -2.5, 0, 0, 0, 0, 1e-6, -1e-6, 0, 5e-6]);
      const { codes, scales } = await rounded(x, 3, 4);
      expect(codes).toEqual([127, 0, 2, -2, 0, 0, 0, 0, 13, -13, 0, 64]);
      const smallest = Math.fround(127 / Math.fround(1e-5));
      expect([...(await scales.data())]).toEqual([1, smallest, smallest]);
    });

    test('the bits of a scale', async () => {
      const { scales } = await rounded(make(device, 'float32', [1, 2], [3, -1]), 1, 2);
      expect(await bitsOf(scales)).toEqual([0x42295555]); // 127/3 = 42.333332
    });
  });
});
