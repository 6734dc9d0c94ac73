// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import {
  capture,
  CausalLM,
  generate,
  generateBatch,
  liveTensors,
  loadModel,
  manualSeed,
  noGrad,
  OptionError,
  OutOfMemoryError,
  ShapeError,
  tensor,
  trackTensors,
  type CacheOptions,
  type DeviceName,
  type GenerateBatchOptions,
  type Tensor,
} from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import { PageTable } from '../../lib/nn/page-table.js';
import { describeBackends } from '../harness.js';

const MODELS = ['llama', 'bitnet_bitlinear', 'bitnet_master', 'bitnet_autobitlinear_offline'] as const;
const golden = (name: string, device: DeviceName): Promise<CausalLM> =>
  loadModel(path.join(packageRoot(), 'test', 'fixtures', 'models', name), { device, dtype: 'float32' });

function smallModel(device: DeviceName): CausalLM {
  manualSeed(3);
  return new CausalLM(
    { vocabulary: 33, layers: 2, hidden: 32, heads: 4, keyHeads: 2, intermediate: 40, ternary: false },
    { device },
  );
}

describe('a table of pages', () => {
  test('gives each sequence what it needs, takes back what it does not, and no page twice', () => {
    const table = new PageTable(3, 4, 16, 6);
    expect(table.grow([17, 0, 16])).toBe(true);
    expect([...table.pages]).toEqual([0, 1, -1, -1, -1, -1, -1, -1, 2, -1, -1, -1]);
    expect([table.freePages, table.room(0), table.room(1), table.room(2)]).toEqual([3, 32, 0, 16]);
    expect(table.grow([32, 0, 3])).toBe(false);
    expect([table.missing([33, 1, 33]), table.missing([64, 64, 64])]).toEqual([4, 9]);
    expect([table.shrink(0, 17), table.shrink(0, 16), table.freePages]).toEqual([false, true, 4]);
    expect(table.grow([0, 64, 0])).toBe(true);
    const held = [...table.pages].filter((page) => page >= 0);
    expect([held.length, new Set(held).size, table.freePages]).toEqual([6, 6, 0]);
    for (const sequence of [0, 1, 2]) table.shrink(sequence, 0);
    expect([table.freePages, new Set(table.pages)]).toEqual([6, new Set([-1])]);
  });
});

describeBackends((device) => {
  const ids = (rows: readonly (readonly number[])[]): Tensor => tensor(rows, { dtype: 'int32', device });
  const logitsOf = async (logits: Tensor): Promise<Float32Array> => {
    const values = (await logits.data()) as Float32Array;
    logits.dispose();
    return values;
  };
  const continueAll = async (
    model: CausalLM,
    prompts: readonly (readonly number[])[],
    options: GenerateBatchOptions,
  ): Promise<number[][]> => {
    const out = prompts.map((): number[] => []);
    for await (const { sequence, token } of generateBatch(model, prompts, { temperature: 0, ...options }))
      out[sequence].push(token);
    return out;
  };

  test.each(MODELS)('golden model %s: the same greedy continuations in pages, alone and together', async (name) => {
    using model = await golden(name, device);
    const prompts = [
      [1, 2, 3],
      Array.from({ length: 37 }, (_, i) => (i * 29) % 320),
      [17],
      [5, 6, 7, 8, 9, 10, 11, 12],
    ];
    const expected = await continueAll(model, prompts, { maxTokens: 24 });
    expect(await continueAll(model, prompts, { maxTokens: 24, pageSize: 16 })).toEqual(expected);
    for (const [i, prompt] of prompts.entries()) {
      const alone: number[] = [];
      const options = { maxTokens: 24, temperature: 0, pageSize: 16 };
      for await (const token of generate(model, prompt, options)) alone.push(token);
      expect(alone).toEqual(expected[i]);
    }
  });

  // Measured on the cpu and reference devices: 3.0 % of the logits' standard deviation for float layers, 12.5 to 15.2 % for ternary ones, whose activations are int8 too: a
  // number that falls on the other side of a rounding moves by a whole step, and a float16 cache alone moves logits by 8 to 12 %.
  test.each(MODELS)('golden model %s: logits through int8 keys and values', async (name) => {
    using model = await golden(name, device);
    const options: CacheOptions = { dtype: 'int8', pageSize: 16 };
    using exact = model.createCache(1, 40);
    using int8 = model.createCache(1, 40, options);
    const most = name === 'llama' ? 0.05 : 0.25;
    for (let i = 0; i < 40; i++) {
      const token = ids([[(i * 37 + 11) % 300]]);
      const [a, b] = [
        await logitsOf(noGrad(() => model.nextLogits(token, exact))),
        await logitsOf(noGrad(() => model.nextLogits(token, int8))),
      ];
      const mean = a.reduce((sum, each) => sum + each, 0) / a.length;
      const deviation = Math.sqrt(a.reduce((sum, each) => sum + (each - mean) ** 2, 0) / a.length);
      a.forEach((each, v) => expect(Math.abs(each - b[v])).toBeLessThan(most * deviation));
      token.dispose();
    }
    // 16 numbers a head: 16 bytes and a scale of 4 for 64, but whole pages.
    expect(int8.bytes / 48 / (exact.bytes / 40)).toBeCloseTo(20 / 64, 10);
  });

  test.each(['float16', 'bfloat16', 'int8'] as const)(
    '%s: sequences of different lengths, back and forth',
    async (dtype) => {
      using model = smallModel(device);
      using cache = model.createCache(3, 64, { dtype, pageSize: 16, pages: 7 });
      using plain = model.createCache(3, 64, { dtype });
      const prompt = ids(
        Array.from({ length: 3 }, (_, b) => Array.from({ length: 20 }, (__, i) => (b * 7 + i * 3) % 33)),
      );
      const both = async (tokens: Tensor, counts?: readonly number[]): Promise<void> => {
        const [a, b] = [cache, plain].map((each) => noGrad(() => model.nextLogits(tokens, each, counts)));
        expect(await logitsOf(a)).toEqual(await logitsOf(b));
        expect(cache.lengths).toEqual(plain.lengths);
      };
      await both(prompt, [20, 1, 16]);
      expect(cache.freePages).toBe(3); // 2, 1 and 1 are taken: the tokens that do not count take none
      await both(ids([[1], [2], [3]]));
      expect(cache.freePages).toBe(2);
      for (const each of [cache, plain]) each.setLengths([3, 2, 17]);
      expect(cache.freePages).toBe(3);
      await both(prompt, [14, 20, 9]);
      expect([cache.lengths, cache.freePages]).toEqual([[17, 22, 26], 1]);
    },
  );

  test('too few pages: an error says how many, and nothing has changed', async () => {
    using model = smallModel(device);
    using cache = model.createCache(2, 64, { pageSize: 16, pages: 3 });
    const tokens = (count: number): Tensor => ids([0, 1].map((b) => Array.from({ length: count }, (_, i) => b + i)));
    const first = await logitsOf(noGrad(() => model.nextLogits(tokens(16), cache)));
    const call = (): unknown => model.nextLogits(tokens(17), cache);
    const message = 'CausalLM.forward: expected 4 free pages of 16 tokens in the cache, got 1 of 3';
    expect(call).toThrow(OutOfMemoryError);
    expect(call).toThrow(message);
    expect(() => cache.reserve([1, 1])).toThrow('reserve: expected 2 free pages of 16 tokens in the cache, got 1 of 3');
    try {
      cache.reserve([1, 1]);
    } catch (error) {
      const page = cache.bytes / 3;
      expect(error).toMatchObject({ bytesRequested: 2 * page, bytesFree: page });
    }
    expect([cache.lengths, cache.freePages]).toEqual([[16, 16], 1]);
    expect(() => cache.reserve([49, 0])).toThrow(ShapeError);
    cache.setLengths(0);
    expect(cache.freePages).toBe(3);
    expect(await logitsOf(noGrad(() => model.nextLogits(tokens(16), cache)))).toEqual(first);
  });

  test('lengths that are no list of one for each sequence', () => {
    const model = smallModel(device);
    const cache = model.createCache(2, 8);
    for (const call of ['setLengths', 'advance', 'reserve'] as const) {
      // As many as an array can have, none of them there: not looked at one by one.
      expect(() => cache[call](new Array<number>(2 ** 32 - 1))).toThrow(ShapeError);
      expect(() => cache[call](new Array<number>(2))).toThrow(OptionError);
      expect(() => cache[call]('1' as unknown as number)).toThrow(OptionError);
    }
    expect([...cache.lengths]).toEqual([0, 0]);
    cache.dispose();
    model.dispose();
  });

  test('a batch takes the pages of its own tokens', async () => {
    using model = smallModel(device);
    const made = jest.spyOn(CausalLM.prototype, 'createCache');
    const prompts = [[1, 2, 3], Array.from({ length: 90 }, (_, i) => i % 33)];
    const options = { maxTokens: 14, pageSize: 16, cacheDtype: 'int8' } as const;
    const out = await continueAll(model, prompts, options);
    expect(made).toHaveBeenCalledWith(2, 104, { dtype: 'int8', pageSize: 16, pages: 2 + 7 });
    made.mockRestore();
    expect(out).toEqual(await continueAll(model, prompts, { maxTokens: 14, cacheDtype: 'int8' }));
  });

  (device === 'reference' ? test.skip : test)('a captured step: pages are reserved before each replay', async () => {
    using model = smallModel(device);
    model.freeze();
    using cache = model.createCache(2, 64, { pageSize: 16, dtype: 'int8' });
    using again = model.createCache(2, 64, { dtype: 'int8' });
    const prompt = ids([Array.from({ length: 16 }, (_, i) => i), Array.from({ length: 16 }, (_, i) => 2 * i)]);
    for (const each of [cache, again]) await logitsOf(model.nextLogits(prompt, each, [15, 3]));
    const token = ids([[0], [0]]);
    using graph = capture(() => noGrad(() => model.nextLogits(token, cache)), { device });
    for (let step = 0; step < 4; step++) {
      token.write([[step], [step + 5]]);
      cache.reserve();
      await graph.replay();
      cache.advance();
      const called = noGrad(() => model.nextLogits(ids([[step], [step + 5]]), again));
      expect(await graph.result.data()).toEqual(await logitsOf(called));
    }
    expect(cache.freePages).toBe(5);
    cache.setLengths(16);
    await graph.replay();
    expect(() => cache.advance()).toThrow(OptionError);
    expect(() => cache.advance()).toThrow(
      'setLengths: expected at most 16 tokens of sequence 0, for which it has pages, got 17; reserve() takes more before a step is replayed',
    );
    expect(cache.lengths).toEqual([16, 16]);
  });

  test.each([
    [{ dtype: 'int4' }, 'createCache: expected one of float32, float16, bfloat16, int8 for dtype, got "int4"'],
    [{ pageSize: 24 }, 'createCache: expected a multiple of 16 for pageSize, got 24'],
    [{ pageSize: 8 }, 'createCache: expected an integer from 16 to 1048576 for pageSize, got 8'],
    [{ pages: 3 }, 'createCache: expected pageSize with pages, got none'],
    [{ pageSize: 16, pages: 0 }, 'createCache: expected an integer from 1 to 2147483647 for pages, got 0'],
    [{ page: 16 }, 'createCache: expected only dtype, pageSize, pages as options, got page'],
  ])('wrong options: %j', async (options, message) => {
    using model = smallModel(device);
    trackTensors(true);
    expect(() => model.createCache(1, 8, options as CacheOptions)).toThrow(OptionError);
    expect(() => model.createCache(1, 8, options as CacheOptions)).toThrow(message);
    expect(liveTensors()).toEqual([]);
    trackTensors(false);
    using cache = model.createCache(1, 8);
    expect([cache.freePages, await cache.lengthsTensor.data()]).toEqual([null, Int32Array.of(0)]);
    const both = continueAll(model, [[1]], { cache, pageSize: 16 });
    await expect(both).rejects.toThrow(
      'generateBatch: expected cacheDtype and pageSize without cache, which has its own',
    );
  });
});
