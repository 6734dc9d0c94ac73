// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { defaultGenerator, Generator, manualSeed, OptionError, randn, uniform } from '../../lib/index.js';
import { describe as describeValue } from '../../lib/describe.js';
import { philox } from '../../lib/random.js';
import { BACKENDS, bitsOf, describeBackends } from '../harness.js';

/** Philox 4x32-10 as the paper writes it, in BigInt, with the whole 128-bit counter and 64-bit key. */
function philoxByThePaper(counter: readonly bigint[], key: readonly bigint[]): string[] {
  const mask = 0xffffffffn;
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const product0 = 0xd2511f53n * c0;
    const product1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(product1 >> 32n) ^ c1 ^ k0, product1 & mask, (product0 >> 32n) ^ c3 ^ k1, product0 & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [c0, c1, c2, c3].map((word) => word.toString(16).padStart(8, '0'));
}

function block(counter: number, seed: number): string[] {
  const out = new Uint32Array(4);
  philox(out, counter, seed);
  return Array.from(out, (word) => word.toString(16).padStart(8, '0'));
}

describe('Philox 4x32-10', () => {
  // Known answers of Random123 (kat_vectors). The library's counter has 53 bits, its upper two words are 0, and its key 53 bits; so of
  // the three published vectors (zeros, ones, digits of pi) only the first can be asked of it. The other two hold the BigInt version to the
  // paper, and that one holds the library to every counter and key it can express.
  const zero = [0n, 0n, 0n, 0n];
  const ones = [0xffffffffn, 0xffffffffn, 0xffffffffn, 0xffffffffn];

  test.each([
    [zero, [0n, 0n], ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']],
    [ones, [0xffffffffn, 0xffffffffn], ['408f276d', '41c83b0e', 'a20bc7c6', '6d5451fd']],
    [
      [0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n],
      [0xa4093822n, 0x299f31d0n],
      ['d16cfe09', '94fdcceb', '5001e420', '24126ea1'],
    ],
  ])('the paper gives the known answer for %p', (counter, key, expected) => {
    expect(philoxByThePaper(counter, key)).toEqual(expected);
  });

  test('the library gives the known answer for zeros', () => {
    expect(block(0, 0)).toEqual(['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']);
  });

  const words = [
    0,
    1,
    2,
    7,
    65535,
    65536,
    2 ** 31 - 1,
    2 ** 31,
    2 ** 32 - 1,
    2 ** 32,
    2 ** 32 + 1,
    0x85a308d3,
    0x13198a2e5678,
    2 ** 53 - 1,
  ];
  test("and the paper's answer for every other counter and key", () => {
    for (const counter of words) {
      for (const seed of words) {
        const split = (value: number): bigint[] => [BigInt(value) & 0xffffffffn, BigInt(value) >> 32n];
        expect(block(counter, seed)).toEqual(philoxByThePaper([...split(counter), 0n, 0n], split(seed)));
      }
    }
  });
});

describe('Generator', () => {
  test('uniform takes the upper 24 bits of the words in order, a block for every four', () => {
    const got = new Generator(5).uniform(10);
    const expected: number[] = [];
    for (let counter = 0; counter < 3; counter++)
      expected.push(...block(counter, 5).map((word) => (parseInt(word, 16) >>> 8) / 2 ** 24));
    expect(Array.from(got)).toEqual(expected.slice(0, 10));
  });

  test("normal is Box and Muller's transform of the words, two by two", () => {
    const got = new Generator(7).normal(7);
    const words = [0, 1].flatMap((counter) => block(counter, 7).map((word) => parseInt(word, 16)));
    const expected = [0, 2, 4, 6].flatMap((i) => {
      const radius = Math.sqrt(-2 * Math.log((words[i] + 1) / 2 ** 32));
      const angle = (2 * Math.PI * words[i + 1]) / 2 ** 32;
      return [radius * Math.cos(angle), radius * Math.sin(angle)].map(Math.fround);
    });
    expect(Array.from(got)).toEqual(expected.slice(0, 7));
  });

  test('a call takes whole blocks: the next one begins with a new block', () => {
    const a = new Generator(1);
    a.uniform(5);
    expect(a.state).toEqual({ seed: 1, offset: 2 });
    a.normal(1);
    expect(a.state.offset).toBe(3);
    a.integer(10);
    expect(a.state.offset).toBe(4);
  });

  test('state can be saved and restored', () => {
    const a = new Generator(42);
    a.normal(3);
    const { state } = a;
    const first = a.uniform(9);
    expect(a.state).not.toEqual(state);
    a.state = state;
    expect(a.uniform(9)).toEqual(first);
    const b = new Generator(1);
    b.state = state;
    expect(b.uniform(9)).toEqual(first);
    expect(b.state).toEqual(a.state);
    expect(state).toEqual({ seed: 42, offset: 1 }); // a copy, which drawing does not change
  });

  test('integers are in range and evenly spread', () => {
    const generator = new Generator(9);
    const counts = new Array<number>(7).fill(0);
    for (let i = 0; i < 7000; i++) counts[generator.integer(7)]++;
    // Chi squared with 6 degrees of freedom exceeds 22.5 once in a thousand; the seed is fixed.
    expect(counts.reduce((total, count) => total + (count - 1000) ** 2 / 1000, 0)).toBeLessThan(22.5);
    expect(new Set([0, 1, 2].map(() => generator.integer(1)))).toEqual(new Set([0]));
    expect(generator.integer(2 ** 32)).toBeGreaterThan(6);
  });

  test.each([-1, 0.5, 2 ** 53, NaN, '1'])('refuses the seed %p', (seed) => {
    expect(() => new Generator(seed as number)).toThrow(
      new OptionError(`Generator: expected an integer from 0 to 2^53 - 1 for seed, got ${describeValue(seed)}`),
    );
    expect(() => manualSeed(seed as number)).toThrow(
      new OptionError(`manualSeed: expected an integer from 0 to 2^53 - 1 for seed, got ${describeValue(seed)}`),
    );
  });

  test.each([0, -1, 1.5, 2 ** 32 + 1])('refuses the limit %p', (limit) => {
    expect(() => new Generator().integer(limit)).toThrow(
      new OptionError(`Generator.integer: expected a limit from 1 to 2^32, got ${limit}`),
    );
  });
});

/** Mean of f over the numbers. */
const average = (values: ArrayLike<number>, f: (value: number) => number): number => {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += f(values[i]);
  return total / values.length;
};

describe('random tensors', () => {
  const COUNT = 100_000;

  describeBackends((device) => {
    // Bounds of five standard errors; with a fixed seed the numbers, and so the outcome, are always the same.
    test('randn has the moments of the normal distribution', async () => {
      const values = await randn([COUNT], { device, seed: 1 }).data();
      expect(Math.abs(average(values, (x) => x))).toBeLessThan(5 / Math.sqrt(COUNT));
      expect(Math.abs(average(values, (x) => x ** 2) - 1)).toBeLessThan(5 * Math.sqrt(2 / COUNT));
      expect(Math.abs(average(values, (x) => x ** 3))).toBeLessThan(5 * Math.sqrt(15 / COUNT));
      expect(Math.abs(average(values, (x) => x ** 4) - 3)).toBeLessThan(5 * Math.sqrt(96 / COUNT));
      expect(Math.abs(average(values, (x) => (x < 1 ? 1 : 0)) - 0.841345)).toBeLessThan(5 * Math.sqrt(0.1335 / COUNT));
      // Neighbours, which come from one pair of words, are not correlated.
      let products = 0;
      for (let i = 0; i + 1 < COUNT; i++) products += values[i] * values[i + 1];
      expect(Math.abs(products / (COUNT - 1))).toBeLessThan(5 / Math.sqrt(COUNT));
    });

    test('mean and std move it', async () => {
      const plain = await randn([64], { device, seed: 2 }).data();
      const moved = await randn([64], { device, seed: 2, mean: -3, std: 0.5 }).data();
      moved.forEach((value, i) => expect(value).toBe(Math.fround(Math.fround(plain[i]) * 0.5 - 3)));
    });

    test('uniform has the moments of the uniform distribution and stays in [0, 1)', async () => {
      const values = await uniform([COUNT], { device, seed: 3 }).data();
      expect(Math.abs(average(values, (x) => x) - 1 / 2)).toBeLessThan(5 / Math.sqrt(12 * COUNT));
      expect(Math.abs(average(values, (x) => x ** 2) - 1 / 3)).toBeLessThan(5 * Math.sqrt(4 / 45 / COUNT));
      expect(average(values, (x) => (x >= 0 && x < 1 ? 1 : 0))).toBe(1);
      const tenths = new Array<number>(10).fill(0);
      for (const value of values) tenths[Math.floor(value * 10)]++;
      // Chi squared with 9 degrees of freedom exceeds 27.9 once in a thousand.
      expect(tenths.reduce((total, count) => total + (count - COUNT / 10) ** 2 / (COUNT / 10), 0)).toBeLessThan(27.9);
    });

    test('manualSeed begins the sequence again', async () => {
      manualSeed(11);
      const first = [await bitsOf(randn([5], { device })), await bitsOf(uniform([5], { device }))];
      const later = await bitsOf(randn([5], { device }));
      manualSeed(11);
      expect([await bitsOf(randn([5], { device })), await bitsOf(uniform([5], { device }))]).toEqual(first);
      expect(later).not.toEqual(first[0]);
      manualSeed(12);
      expect(await bitsOf(randn([5], { device }))).not.toEqual(first[0]);
    });

    test("a seed of its own leaves the library's generator alone", async () => {
      manualSeed(1);
      const before = defaultGenerator().state;
      const x = await bitsOf(randn([4], { device, seed: 1 }));
      expect(defaultGenerator().state).toEqual(before);
      expect(await bitsOf(randn([4], { device }))).toEqual(x);
      expect(defaultGenerator().state.offset).toBe(1);
    });

    test("the state of the library's generator can be put back", async () => {
      const { state } = defaultGenerator();
      const x = await bitsOf(randn([4], { device }));
      defaultGenerator().state = state;
      expect(await bitsOf(randn([4], { device }))).toEqual(x);
    });
  });

  test('every backend gets the same numbers', async () => {
    const present = BACKENDS.filter(({ skipped }) => skipped === null);
    const all = [];
    for (const { name: device } of present) {
      manualSeed(5);
      all.push([
        await bitsOf(randn([1001], { device })),
        await bitsOf(uniform([77], { device, dtype: 'bfloat16', low: -1 })),
      ]);
    }
    for (const each of all) expect(each).toEqual(all[0]);
    expect(all.length).toBe(present.length);
  });
});
