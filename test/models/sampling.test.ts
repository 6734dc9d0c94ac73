// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { Generator, OptionError, sample, type SamplingOptions } from '../../lib/index.js';
import { candidates, checkSamplingOptions } from '../../lib/models/sampling.js';
import { Random } from '../random.js';

const NONE = -Infinity;

/** The ids left by the filters. */
function left(logits: readonly number[] | Float32Array, options: SamplingOptions): number[] {
  const checked = checkSamplingOptions('test', options, logits.length);
  const { ids, count } = candidates('test', Float32Array.from(logits), checked);
  return [...ids.subarray(0, count)];
}

/** Logits of given probabilities. */
const logitsOf = (...probabilities: number[]): number[] => probabilities.map(Math.log);

/** How often each index is drawn. */
function frequencies(logits: Float32Array, options: SamplingOptions, draws: number, seed: number): number[] {
  const generator = new Generator(seed);
  const counts = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < draws; i++) counts[sample(logits, options, generator)]++;
  return counts;
}

/** Pearson's statistic; the mean of its distribution is the number of cells less one, the variance twice that. */
function chiSquare(counts: number[], probabilities: number[], draws: number): number {
  let sum = 0;
  probabilities.forEach((p, i) => {
    if (p === 0) expect(counts[i]).toBe(0);
    else sum += (counts[i] - draws * p) ** 2 / (draws * p);
  });
  return sum;
}

const softmaxOf = (logits: ArrayLike<number>, temperature: number, kept?: number[]): number[] => {
  const weights = Array.from(logits, (logit, i) => (!kept || kept.includes(i) ? Math.exp(logit / temperature) : 0));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
};

describe('what the filters leave, by hand', () => {
  // Probabilities 0.4, 0.1, 0.3, 0.05, 0.15.
  const logits = logitsOf(0.4, 0.1, 0.3, 0.05, 0.15);
  test.each([
    [{}, [0, 1, 2, 3, 4]],
    [{ topK: 0 }, [0, 1, 2, 3, 4]],
    [{ topK: 1 }, [0]],
    [{ topK: 3 }, [0, 2, 4]],
    [{ topK: 5 }, [0, 1, 2, 3, 4]],
    [{ topP: 1 }, [0, 1, 2, 3, 4]],
    [{ topP: 0.99 }, [0, 1, 2, 3, 4]],
    [{ topP: 0.94 }, [0, 1, 2, 4]],
    [{ topP: 0.84 }, [0, 2, 4]],
    [{ topP: 0.69 }, [0, 2]],
    [{ topP: 0.39 }, [0]],
    [{ topP: 1e-9 }, [0]],
    [{ topP: 0 }, [0]],
    [{ minP: 0 }, [0, 1, 2, 3, 4]],
    [{ minP: 0.2 }, [0, 1, 2, 4]],
    [{ minP: 0.3 }, [0, 2, 4]],
    [{ minP: 1 }, [0]],
  ] as [SamplingOptions, number[]][])('%j', (options, expected) => {
    expect(left(logits, options)).toEqual(expected);
  });

  test('top-p sees what top-k has left: 4/7 is enough for 0.5, 0.4 alone is not', () => {
    expect(left(logits, { topP: 0.5 })).toEqual([0, 2]);
    expect(left(logits, { topP: 0.5, topK: 2 })).toEqual([0]);
  });

  test('the temperature comes first: flattened, more tokens make up top-p and pass min-p', () => {
    // At temperature 2 the weights are the square roots: shares 0.30, 0.15, 0.26, 0.11, 0.18.
    expect(left(logits, { topP: 0.7, temperature: 2 })).toEqual([0, 2, 4]);
    expect(left(logits, { topP: 0.8, temperature: 1 })).toEqual([0, 2, 4]);
    expect(left(logits, { topP: 0.8, temperature: 2 })).toEqual([0, 1, 2, 4]);
    expect(left(logits, { minP: 0.34, temperature: 2 })).toEqual([0, 1, 2, 3, 4]);
    expect(left(logits, { minP: 0.34, temperature: 0.5 })).toEqual([0, 2]);
  });

  test('all at once', () => {
    expect(left(logits, { topK: 4, topP: 0.9, minP: 0.3 })).toEqual([0, 2, 4]);
    expect(left(logits, { topK: 4, topP: 0.9, minP: 0.5 })).toEqual([0, 2]);
  });

  test('of equal logits the lower index comes first; 0 and -0 are equal', () => {
    expect(left([1, 1, 1, 1], { topK: 2 })).toEqual([0, 1]);
    expect(left([0, 1, 1, 1, 2], { topK: 3 })).toEqual([1, 2, 4]);
    expect(left([-0, 0, -0, 0], { topK: 2 })).toEqual([0, 1]);
    expect(left([0, 0, 0, 0], { topP: 0.5 })).toEqual([0, 1]);
    expect(left([0, 0, 0, 0], { topP: 0.51 })).toEqual([0, 1, 2]);
    expect(left([5, 5, 1], { minP: 1 })).toEqual([0, 1]);
  });

  test('logits of either sign, and a token that is ruled out', () => {
    expect(left([-3, -1, -2, -4], { topK: 2 })).toEqual([1, 2]);
    expect(left([-3, 1, -2, 4], { topK: 3 })).toEqual([1, 2, 3]);
    expect(left([NONE, 1, NONE, 0], { topK: 1 })).toEqual([1]);
    expect(left([NONE, 1, NONE, 0], { topP: 0.999 })).toEqual([1, 3]);
    expect(left([NONE, 1, NONE, 0], { minP: 1e-9 })).toEqual([1, 3]);
  });

  test('a large vocabulary gives what sorting gives', () => {
    const random = new Random('large vocabulary');
    // Rounded, so that there are ties.
    const values = Float32Array.from(random.normals(20000, 3), (value) => Math.round(value * 50) / 50);
    const order = [...values.keys()].sort((a, b) => values[b] - values[a] || a - b);
    const probabilities = softmaxOf(values, 0.8);
    for (const topK of [1, 2, 40, 1000, 19999]) {
      expect(left(values, { topK })).toEqual(order.slice(0, topK).sort((a, b) => a - b));
    }
    for (const topP of [0.01, 0.5, 0.9, 0.95, 0.999]) {
      let sum = 0;
      const expected: number[] = [];
      for (const id of order) {
        if (sum >= topP) break;
        expected.push(id);
        sum += probabilities[id];
      }
      expect(left(values, { topP, temperature: 0.8 })).toEqual(expected.sort((a, b) => a - b));
    }
    // A short list after a long one: nothing of the long one is left over.
    expect(left([1, 2], { topP: 0.9999 })).toEqual([0, 1]);
  });
});

describe('the distribution of draws', () => {
  const DRAWS = 20_000;
  const logits = Float32Array.from(new Random('distribution').normals(12, 1.5));
  test.each([
    [{}, 1],
    [{ temperature: 0.5 }, 2],
    [{ temperature: 3 }, 3],
    [{ topK: 5 }, 4],
    [{ topP: 0.8 }, 5],
    [{ minP: 0.1 }, 6],
    [{ temperature: 1.5, topK: 8, topP: 0.9, minP: 0.05 }, 7],
  ] as [SamplingOptions, number][])('%j', (options, seed) => {
    const kept = left(logits, options);
    const probabilities = softmaxOf(logits, options.temperature ?? 1, kept);
    const statistic = chiSquare(frequencies(logits, options, DRAWS, seed), probabilities, DRAWS);
    const freedom = kept.length - 1;
    // Five standard deviations above the mean; the seed is fixed.
    expect(statistic).toBeLessThan(freedom + 5 * Math.sqrt(2 * freedom));
    // And the test can tell: at another temperature the same draws are far off.
    if (freedom > 2) {
      const other = softmaxOf(logits, (options.temperature ?? 1) * 1.2, kept);
      const wrong = chiSquare(frequencies(logits, options, DRAWS, seed), other, DRAWS);
      expect(wrong).toBeGreaterThan(freedom + 5 * Math.sqrt(2 * freedom));
    }
  });

  test('a draw has 53 bits, so that rare tokens are drawn too', () => {
    class Given extends Generator {
      constructor(private readonly numbers: number[]) {
        super(0);
      }
      override integer(): number {
        return this.numbers.shift() as number;
      }
    }
    const rare = Float32Array.of(0, Math.log(2 ** -30), NONE);
    expect(sample(rare, {}, new Given([2 ** 27 - 1, 2 ** 26 - 1]))).toBe(1); // 1 - 2^-53
    expect(sample(rare, {}, new Given([2 ** 27 - 1, 0]))).toBe(0); // 1 - 2^-27
    expect(sample(rare, {}, new Given([0, 0]))).toBe(0);
    expect(sample(Float32Array.of(NONE, 0, 0), {}, new Given([2 ** 26, 0]))).toBe(2); // a half belongs to the upper one
  });

  test('the same seed draws the same tokens, another one others', () => {
    const draw = (seed: number): number[] => {
      const generator = new Generator(seed);
      return Array.from({ length: 50 }, () => sample(logits, {}, generator));
    };
    expect(draw(3)).toEqual(draw(3));
    expect(draw(4)).not.toEqual(draw(3));
  });
});

describe('temperature 0', () => {
  test('takes the first of the largest, without the generator', () => {
    const generator = new Generator(0);
    expect(sample(Float32Array.of(1, 3, 2, 3), { temperature: 0 }, generator)).toBe(1);
    expect(sample(Float32Array.of(NONE, -5), { temperature: 0, topK: 2, topP: 0.1 }, generator)).toBe(1);
    expect(generator.state.offset).toBe(0);
  });

  test('is where small temperatures lead', () => {
    for (const temperature of [1e-3, 1e-30, 5e-324]) {
      expect(frequencies(Float32Array.of(1, 3, 2, -4), { temperature }, 20, 1)).toEqual([0, 20, 0, 0]);
    }
  });
});

describe('errors', () => {
  const generator = new Generator(0);
  test.each([
    [[1, NaN, 2], {}, 'sample: expected finite numbers or -Infinity as logits, got NaN at index 1'],
    [[1, 2, NaN], { temperature: 0 }, 'sample: expected finite numbers or -Infinity as logits, got NaN at index 2'],
    [[NaN, NaN], { topK: 1 }, 'sample: expected finite numbers or -Infinity as logits, got NaN at index 0'],
    [[1, Infinity], {}, 'sample: expected finite numbers or -Infinity as logits, got Infinity at index 1'],
    [[NONE, NONE], {}, 'sample: expected a logit above -Infinity, got none'],
    [[NONE, NONE], { temperature: 0 }, 'sample: expected a logit above -Infinity, got none'],
    [[], {}, 'sample: expected a logit above -Infinity, got none'],
    [[1], { temperature: -1 }, 'sample: expected a finite number of at least 0 for temperature, got -1'],
    [[1], { temperature: NaN }, 'sample: expected a finite number of at least 0 for temperature, got NaN'],
    [[1, 2], { topK: 3 }, 'sample: expected an integer from 0 to 2 for topK, got 3'],
    [[1, 2], { topK: 1.5 }, 'sample: expected an integer from 0 to 2 for topK, got 1.5'],
    [[1], { topP: 1.1 }, 'sample: expected a number from 0 to 1 for topP, got 1.1'],
    [[1], { minP: -0.1 }, 'sample: expected a number from 0 to 1 for minP, got -0.1'],
    [[1], { typicalP: 1 }, 'sample: expected only temperature, topK, topP, minP as options, got typicalP'],
  ] as [number[], SamplingOptions, string][])('%j, %j', (logits, options, message) => {
    const call = (): number => sample(Float32Array.from(logits), options, generator);
    expect(call).toThrow(OptionError);
    expect(call).toThrow(message);
  });

  test('after an error sampling still works', () => {
    expect(sample(Float32Array.of(1, NONE), {}, generator)).toBe(0);
  });
});
