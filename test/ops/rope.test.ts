// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, OptionError, rope, ShapeError, type RopeOptions, type RopeScaling } from '../../lib/index.js';
import { ropeFrequencies } from '../../lib/ops/rope-scaling.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { frequencyOf, ropeSpec } from '../formulas/rope.js';
import { describeGolden, describeOp } from '../op-tests.js';

const GOLDEN = { batch: 2, sequence: 7, heads: 3, headDim: 64, positions: 'each' as const };
const NAMES = { positions: 'position_ids' };

describeGolden(ropeSpec, [
  { fixture: 'rope_half', c: { name: 'rope_half', ...GOLDEN }, names: NAMES },
  { fixture: 'rope_interleaved', c: { name: 'rope_interleaved', ...GOLDEN, interleaved: true }, names: NAMES },
  { fixture: 'rope_partial', c: { name: 'rope_partial', ...GOLDEN, rotaryDim: 32 }, names: NAMES },
]);

describeOp(ropeSpec);

/** `rope_scaling` of Llama-3.1-8B, whose theta is 500000 and head dim 128. */
const LLAMA_3_1 = {
  type: 'llama3',
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalMaxPositions: 8192,
} as const;

describe('the frequencies of Llama 3.1', () => {
  const plain = ropeFrequencies(128, 500000, null);
  const scaled = ropeFrequencies(128, 500000, LLAMA_3_1);

  test('the first 29 pairs turn as before, the last 29 an eighth as fast', () => {
    expect(plain[0]).toBe(1);
    expect(scaled.slice(0, 29)).toEqual(plain.slice(0, 29));
    scaled.slice(35).forEach((each, i) => expect(each / plain[35 + i]).toBeCloseTo(1 / 8, 14));
  });

  // Worked out with 40 digits.
  const KNOWN: readonly [number, number][] = [
    [1, 0.8146172338565447],
    [28, 0.003211445994752591],
    [29, 0.0021665707635033586],
    [30, 0.0013718935677611382],
    [31, 0.00085675141291963208],
    [32, 0.00052484616099295467],
    [33, 0.00031269375038406513],
    [34, 0.00017850781276799642],
    [35, 9.556212353964683e-5],
    [63, 3.0689259889145111e-7],
  ];
  test.each(KNOWN)('pair %i has frequency %p', (pair, expected) => {
    expect(Math.abs(scaled[pair] / expected - 1)).toBeLessThan(1e-12);
    expect(Math.abs(frequencyOf(pair, 128, 500000, LLAMA_3_1) / expected - 1)).toBeLessThan(1e-12);
  });

  test('a linear scaling divides all', () => {
    expect(ropeFrequencies(128, 500000, { type: 'linear', factor: 4 })).toEqual(plain.map((each) => each / 4));
  });
});

describe('rope', () => {
  describeBackends((device) => {
    test('hand-computed: position 0 changes nothing, to the bit', async () => {
      const values = [1, -2, 3.25, 4e-3, 5, 6];
      const x = make(device, 'float32', [1, 1, 1, 6], values);
      expect(await rope(x).data()).toEqual(Float32Array.from(values));
    });

    test('hand-computed: which features are a pair', async () => {
      // theta 1 turns every pair by one radian at position 1.
      const x = make(device, 'float32', [1, 1, 1, 4], [1, 0, 0, 0]);
      const [c, s] = [Math.fround(Math.cos(1)), Math.fround(Math.sin(1))];
      const round = (value: number): number => Math.round(value * 1e6);
      const half = await rope(x, { positions: 1, theta: 1 }).data();
      expect(Array.from(half, round)).toEqual([c, 0, s, 0].map(round));
      const interleaved = await rope(x, { positions: 1, theta: 1, interleaved: true }).data();
      expect(Array.from(interleaved, round)).toEqual([c, s, 0, 0].map(round));
    });

    test('scores depend on the distance of positions only', async () => {
      const q = make(device, 'float32', [1, 1, 1, 4], [1, 2, 3, 4]);
      const k = make(device, 'float32', [1, 1, 1, 4], [-1, 0.5, 2, 1]);
      const score = async (i: number, j: number): Promise<number> => {
        const [a, b] = [await rope(q, { positions: i }).data(), await rope(k, { positions: j }).data()];
        return Array.from(a).reduce((total, value, d) => total + value * b[d], 0);
      };
      const near = await score(3, 1);
      const far = await score(103, 101);
      // 4 products of at most 4 * 2, each after two roundings of 2^-24.
      expect(Math.abs(near - far)).toBeLessThan(4 * 8 * 4 * 2 ** -24);
      expect(Math.abs(near - (await score(4, 1)))).toBeGreaterThan(0.1);
    });

    const wrong = (options: RopeOptions, message: string, type: typeof OptionError = OptionError) => ({
      message,
      type,
      code: ERROR_CODES.option,
      call: (t: (shape: number[]) => ReturnType<typeof make>) => rope(t([1, 2, 1, 6]), options),
    });
    describeErrors(device, [
      wrong({ rotaryDim: 3 }, 'rope: expected an even rotaryDim, got 3'),
      wrong({ rotaryDim: 8 }, 'rope: expected an integer from 2 to 6 for rotaryDim, got 8'),
      wrong({ theta: 0 }, 'rope: expected a finite number above 0 for theta, got 0'),
      wrong({ positions: -1 }, 'rope: expected an integer from 0 to 2147483645 for positions, got -1'),
      wrong({ interleaved: 1 as unknown as boolean }, 'rope: expected a boolean for interleaved, got 1'),
      wrong(
        { base: 3 } as RopeOptions,
        'rope: expected only positions, theta, rotaryDim, interleaved, scaling as options, got base',
      ),
      wrong({ scaling: 8 as unknown as RopeScaling }, 'rope: expected an object for scaling, got 8'),
      wrong(
        { scaling: { type: 'yarn', factor: 8 } as unknown as RopeScaling },
        'rope: expected one of linear, llama3, factors for scaling.type, got "yarn"',
      ),
      wrong(
        { scaling: { type: 'factors', factors: [1, 2] } },
        'rope: expected 3 numbers for scaling.factors, one a pair of features',
      ),
      wrong(
        { scaling: { type: 'factors', factors: [1, 2, 0] } },
        'rope: expected a finite number above 0 for scaling.factors, got 0',
      ),
      wrong(
        { scaling: { type: 'linear', factor: 0.5 } },
        'rope: expected a finite number of at least 1 for scaling.factor, got 0.5',
      ),
      wrong(
        { scaling: { ...LLAMA_3_1, type: 'linear' } as RopeScaling },
        'rope scaling: expected only type, factor as options, got lowFreqFactor',
      ),
      wrong(
        { scaling: { ...LLAMA_3_1, lowFreqFactor: 0 } },
        'rope: expected a finite number above 0 for scaling.lowFreqFactor, got 0',
      ),
      wrong(
        { scaling: { ...LLAMA_3_1, lowFreqFactor: 4 } },
        'rope: expected scaling.highFreqFactor above scaling.lowFreqFactor 4, got 4',
      ),
      wrong(
        { scaling: { ...LLAMA_3_1, originalMaxPositions: 0 } },
        'rope: expected an integer from 1 to 2147483647 for scaling.originalMaxPositions, got 0',
      ),
      {
        message: 'rope: expected x of shape [B, S, H, D], got [2, 6]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => rope(t([2, 6])),
      },
      {
        message: 'rope: expected positions of shape [2] to match x, got [3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => rope(t([1, 2, 1, 6]), { positions: t([3], 'int32') }),
      },
      {
        message: 'rope: expected positions of dtype int32, got float32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => rope(t([1, 2, 1, 6]), { positions: t([2]) }),
      },
    ]);
  });
});
