// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  flashAttentionWithKvCache,
  KernelError,
  OptionError,
  ShapeError,
  type DeviceName,
  type KvCache,
  type Tensor,
} from '../../lib/index.js';
import type { FloatDType } from '../../lib/dtype.js';
import { arithmeticIn, EXACT, roundedTo } from '../arithmetic.js';
import type { AttentionCase } from '../cases.js';
import { expectIdentical, expectWithinTolerance, FORWARD_FACTOR, largestError } from '../compare.js';
import { attentionOptions, flashAttentionSpec } from '../formulas/flash-attention.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';

/** How a cache holds its numbers, and where: caches of other dtypes than q, and caches in pages. */

type Storage = FloatDType | 'int8';
const STORAGES: readonly Storage[] = [...FLOAT_DTYPES, 'int8'];
const PAGE = 16;

/** A step of decoding, several tokens, a prompt; one row and many, keys that are split, a window that begins within a page. */
const CASES: AttentionCase[] = [
  { name: 'decoding', batch: 3, queries: 1, keys: 700, heads: 6, keyHeads: 2, headDim: 16 },
  { name: 'decoding, one head a key head', batch: 2, queries: 1, keys: 300, heads: 3, keyHeads: 3, headDim: 72 },
  { name: 'decoding, few keys', batch: 3, queries: 1, keys: 9, heads: 2, keyHeads: 2, headDim: 8 },
  { name: 'several tokens', batch: 2, queries: 5, keys: 70, heads: 4, keyHeads: 1, headDim: 24 },
  { name: 'a window', batch: 3, queries: 3, keys: 450, heads: 2, keyHeads: 1, headDim: 8, window: [220, -1] },
  { name: 'a prompt', batch: 2, queries: 40, keys: 90, heads: 2, keyHeads: 2, headDim: 33 },
  { name: 'softcap', batch: 1, queries: 2, keys: 210, heads: 4, keyHeads: 4, headDim: 20, softcap: 3 },
].map((c) => ({ ...c, causal: true }) as AttentionCase);

/** By the rule that lib/backend.ts states: the codes of numbers [tokens, G, D], and the scales [tokens, G]. */
function toCodes(values: Float64Array, headDim: number): { codes: Float64Array; scales: Float64Array } {
  const scales = new Float64Array(values.length / headDim);
  const codes = new Float64Array(values.length);
  for (let head = 0; head < scales.length; head++) {
    const own = values.subarray(head * headDim, (head + 1) * headDim);
    const most = Math.max(...own.map(Math.abs));
    scales[head] = Math.fround(most / 127);
    own.forEach((value, d) => {
      const exact = Math.fround(value * Math.fround(127 / most));
      const [below, rest] = [Math.floor(exact), exact - Math.floor(exact)];
      const up = rest > 0.5 || (rest === 0.5 && below % 2 !== 0);
      codes[head * headDim + d] = Math.min(127, Math.max(-127, below + Number(up)));
    });
  }
  return { codes, scales };
}

/** Numbers as a cache of this dtype gives them back. */
function stored(values: Float64Array, storage: Storage, headDim: number): Float64Array {
  if (storage !== 'int8') return values.map((value) => roundedTo(storage, value));
  const { codes, scales } = toCodes(values, headDim);
  return codes.map((code, i) => code * scales[Math.floor(i / headDim)]);
}

interface Sizes {
  batch: number;
  capacity: number;
  keyHeads: number;
  headDim: number;
}

/** An empty cache: NaN in all that is not yet written. Pages lie in the opposite order, and one is nobody's. */
function emptyCache(device: DeviceName, storage: Storage, paged: boolean, sizes: Sizes): KvCache {
  const { batch, capacity, keyHeads, headDim } = sizes;
  const perEntry = Math.ceil(capacity / PAGE);
  const rows = paged ? [batch * perEntry + 1, PAGE] : [batch, capacity];
  const filled = (shape: readonly number[], type: Storage): Tensor => {
    const count = shape.reduce((product, size) => product * size, 1);
    return make(device, type, shape, new Float64Array(count).fill(type === 'int8' ? -128 : NaN));
  };
  const numbers = (): Tensor => filled([...rows, keyHeads, headDim], storage);
  const scales = (): Tensor => filled([...rows, keyHeads], 'float32');
  const table = Array.from({ length: batch * perEntry }, (_, i) => batch * perEntry - i);
  return {
    ...{ keys: numbers(), values: numbers(), length: 0 },
    ...(storage === 'int8' && { keyScales: scales(), valueScales: scales() }),
    ...(paged && { pages: make(device, 'int32', [batch, perEntry], table) }),
  };
}

function dispose({ length, ...tensors }: KvCache): void {
  expect(length).toBeGreaterThanOrEqual(0);
  for (const each of Object.values(tensors)) (each as Tensor | undefined)?.dispose();
}

interface Inputs {
  q: Float64Array;
  k: Float64Array;
  v: Float64Array;
}

function inputsOf(c: AttentionCase, dtype: FloatDType): Inputs {
  const { q, k, v } = flashAttentionSpec.inputs(c, new Random(`storage ${c.name}`));
  const round = (values: Float64Array): Float64Array => values.map((value) => roundedTo(dtype, value));
  return { q: round(q.values), k: round(k.values), v: round(v.values) };
}

/** Tokens [from, to) of each batch entry. */
function tokensOf(c: AttentionCase, values: Float64Array, from: number, to: number): Float64Array {
  const row = c.keyHeads * c.headDim;
  const part = (b: number): number[] => Array.from(values.subarray((b * c.keys + from) * row, (b * c.keys + to) * row));
  return Float64Array.from(Array.from({ length: c.batch }, (_, b) => part(b)).flat());
}

/** The whole prefix is appended first, then the last `queries` tokens with the call whose result is given. */
async function attend(
  c: AttentionCase,
  { q, k, v }: Inputs,
  dtype: FloatDType,
  device: DeviceName,
  cache: KvCache,
): Promise<Tensor> {
  const { batch, queries, keys, heads, keyHeads, headDim } = c;
  const before = keys - queries;
  const tokens = (values: Float64Array, from: number, to: number): Tensor =>
    make(device, dtype, [batch, to - from, keyHeads, headDim], tokensOf(c, values, from, to));
  const append = (query: Tensor, from: number, to: number): Tensor => {
    const [newK, newV] = [tokens(k, from, to), tokens(v, from, to)];
    const out = flashAttentionWithKvCache(query, cache, { ...attentionOptions(c, {}), newK, newV });
    for (const each of [newK, newV, query]) each.dispose();
    return out;
  };
  const zeros = (count: number): Tensor =>
    make(device, dtype, [batch, count, heads, headDim], new Float64Array(batch * count * heads * headDim));
  const cut = Math.floor(before / 3);
  for (const [from, to] of [[0, cut], [cut, before]]) if (to > from) append(zeros(1), from, to).dispose(); // prettier-ignore
  const out = append(make(device, dtype, [batch, queries, heads, headDim], q), before, keys);
  expect(cache.length).toBe(keys);
  await out.data();
  return out;
}

describeBackends((device) => {
  describe.each(FLOAT_DTYPES)('q of %s', (dtype) => {
    describe.each(STORAGES)('cache of %s', (storage) => {
      test.each(CASES)('is attended to as its numbers are stored, in pages too: $name', async (c) => {
        const inputs = inputsOf(c, dtype);
        const sizes = { ...c, capacity: c.keys + 5 };
        const plain = emptyCache(device, storage, false, sizes);
        const paged = emptyCache(device, storage, true, sizes);
        const out = await attend(c, inputs, dtype, device, plain);
        const again = await attend(c, inputs, dtype, device, paged);
        // On a GPU numbers of q's dtype that are not in pages are read by other kernels.
        const isOtherKernel = device.startsWith('cuda') && storage === dtype;
        if (!isOtherKernel) expect(await bitsOf(again)).toEqual(await bitsOf(out));
        const given = { ...inputs };
        for (const name of ['k', 'v'] as const) given[name] = stored(inputs[name], storage, c.headDim);
        const exact = flashAttentionSpec.forward(EXACT, { ...given }, c).out;
        const rounded = flashAttentionSpec.forward(arithmeticIn(dtype), { ...given }, c).out;
        const plainError = largestError(rounded, exact);
        for (const each of isOtherKernel ? [out, again] : [out]) {
          const got = await each.data();
          expectWithinTolerance({
            name: 'out',
            got,
            exact,
            plainError,
            factor: FORWARD_FACTOR,
            dtype,
            shape: out.shape,
          });
        }
        if (storage === 'int8') {
          const { codes, scales } = toCodes(inputs.k, c.headDim);
          const [gotCodes, gotScales] = [await plain.keys.data(), await (plain.keyScales as Tensor).data()];
          for (let b = 0; b < c.batch; b++) {
            const [heads, row] = [c.keyHeads, c.keyHeads * c.headDim];
            const own = (values: ArrayLike<number>, capacity: number, size: number): number[] =>
              Array.from({ length: c.keys * size }, (_, i) => values[b * capacity * size + i] + 0);
            const shape = [c.keys, heads, c.headDim];
            expectIdentical('codes', own(gotCodes, sizes.capacity, row), own(codes, c.keys, row), shape);
            expectIdentical('scales', own(gotScales, sizes.capacity, heads), own(scales, c.keys, heads), [
              c.keys,
              heads,
            ]);
          }
        }
        for (const each of [out, again]) each.dispose();
        dispose(plain);
        dispose(paged);
      });
    });
  });

  // A key's numbers are off by at most half its scale, so a score by at most E = scale · Σ|q_d| · s_k / 2; each p_j then lies within e^±2E of what it was, and their
  // differences sum to e^2E − 1 at most. Values are off by s_v / 2, so out by max s_v / 2 + (e^2E − 1) · max |v|, and by what float32 rounds.
  test.each(CASES.filter(({ softcap }) => !softcap))(
    'int8 is off by no more than follows from the codes: $name',
    async (c) => {
      const inputs = inputsOf(c, 'float32');
      const cache = emptyCache(device, 'int8', true, { ...c, capacity: c.keys });
      const out = await attend(c, inputs, 'float32', device, cache);
      const got = await out.data();
      const exact = flashAttentionSpec.forward(EXACT, { ...inputs }, c).out;
      const most = (values: Float64Array): number => values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
      const [keyScale, valueScale] = [inputs.k, inputs.v].map((values) => most(values) / 127);
      let worst = 0;
      for (let row = 0; row * c.headDim < got.length; row++) {
        const part = (values: ArrayLike<number>): number[] =>
          Array.from({ length: c.headDim }, (_, d) => values[row * c.headDim + d]);
        const e =
          (part(inputs.q).reduce((sum, value) => sum + Math.abs(value), 0) / Math.sqrt(c.headDim)) * (keyScale / 2);
        const bound = valueScale / 2 + Math.expm1(2 * e) * most(inputs.v) + 1e-5;
        part(exact).forEach((value, d) => {
          const error = Math.abs(part(got)[d] - value);
          expect(error).toBeLessThanOrEqual(bound);
          worst = Math.max(worst, error);
        });
      }
      expect(worst).toBeGreaterThan(1e-5); // it was int8
      out.dispose();
      dispose(cache);
    },
  );

  test('codes of what has no largest number, or none that can be divided by', async () => {
    const cache = emptyCache(device, 'int8', false, { batch: 1, capacity: 5, keyHeads: 1, headDim: 2 });
    const rows = [0, 0, 2 ** -101, -(2 ** -102), 3, NaN, -Infinity, 1, 2 ** 127, -(2 ** 126)];
    const x = make(device, 'float32', [1, 5, 1, 2], rows);
    flashAttentionWithKvCache(make(device, 'float32', [1, 1, 1, 2], [0, 0]), cache, { newK: x, newV: x });
    expect(Array.from(await cache.keys.data()).map((code) => code + 0)).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 127, -64]);
    const scales = [0, 0, NaN, NaN, Math.fround(2 ** 127 / 127)];
    expect(Array.from(await (cache.keyScales as Tensor).data())).toEqual(scales);
  });

  describe('pages', () => {
    const withTable = (table: readonly number[], lengths: readonly number[]): KvCache => {
      const zeros = (): Tensor => make(device, 'float32', [3, PAGE, 1, 2], new Float64Array(3 * PAGE * 2));
      return {
        ...{ keys: zeros(), values: zeros(), length: 0 },
        pages: make(device, 'int32', [2, 2], table),
        lengths: make(device, 'int32', [2], lengths),
      };
    };
    const one = (): Tensor => make(device, 'float32', [2, 1, 1, 2], [1, 2, 3, 4]);

    test('tokens of a page that is none are not kept, and the others are what they would be', async () => {
      const cache = withTable([2, -1, 0, 1], [16, 17]);
      const x = one();
      const out = flashAttentionWithKvCache(x, cache, { newK: x, newV: x });
      const got = await out.data();
      const keys = Array.from(await cache.keys.data());
      const place = (PAGE * 1 + 1) * 2; // token 17 of the second entry, whose second page is 1
      expect(keys.flatMap((value, i) => (value === 0 ? [] : [[i, value]]))).toEqual([
        [place, 3],
        [place + 1, 4],
      ]);
      // 17 keys of zeros and one with q·k = 25 / √2.
      const weight = Math.exp(25 / Math.SQRT2);
      expect(got[2]).toBeCloseTo((3 * weight) / (weight + 17), 5);
      dispose(cache);
    });

    test.each([-2, 3, 2 ** 31 - 1])('page %i fails the op and leads nowhere', async (page) => {
      const cache = withTable([page, 0, 1, 2], [1, 1]);
      const x = one();
      const out = flashAttentionWithKvCache(x, cache, { newK: x, newV: x });
      await expect(out.data()).rejects.toThrow(KernelError);
      await expect(out.data()).resolves.toHaveLength(4);
      // Whether the other entry's token was written is not said.
      expect([...(await cache.keys.data())].filter((value) => ![0, 3, 4].includes(value))).toEqual([]);
      dispose(cache);
    });

    test('a length beyond the pages fails the op', async () => {
      const cache = withTable([0, 1, 2, -1], [1, 32]);
      const x = one();
      await expect(flashAttentionWithKvCache(x, cache, { newK: x, newV: x }).data()).rejects.toThrow(KernelError);
      dispose(cache);
    });

    const op = 'flashAttentionWithKvCache';
    const { shape, option } = ERROR_CODES;
    describeErrors(device, [
      {
        message: `${op}: expected pages of a multiple of 16 tokens, got 8`,
        type: ShapeError,
        code: shape,
        call: (t) =>
          flashAttentionWithKvCache(t([1, 1, 1, 2]), {
            ...{ keys: t([2, 8, 1, 2]), values: t([2, 8, 1, 2]), pages: t([1, 2], 'int32'), length: 1 },
          }),
      },
      {
        message: `${op}: expected cache.pages of shape [1, P] to match q, got [2, 2]`,
        type: ShapeError,
        code: shape,
        call: (t) =>
          flashAttentionWithKvCache(t([1, 1, 1, 2]), {
            ...{ keys: t([2, 16, 1, 2]), values: t([2, 16, 1, 2]), pages: t([2, 2], 'int32'), length: 1 },
          }),
      },
      {
        message: `${op}: expected cache.keyScales for a cache of int8, got none`,
        type: OptionError,
        code: option,
        call: (t) =>
          flashAttentionWithKvCache(t([1, 1, 1, 2]), {
            ...{ keys: t([1, 4, 1, 2], 'int8'), values: t([1, 4, 1, 2], 'int8'), length: 1 },
          }),
      },
      {
        message: `${op}: expected no cache.valueScales for a cache of float32, got some`,
        type: OptionError,
        code: option,
        call: (t) =>
          flashAttentionWithKvCache(t([1, 1, 1, 2]), {
            ...{ keys: t([1, 4, 1, 2]), values: t([1, 4, 1, 2]), valueScales: t([1, 4, 1]), length: 1 },
          }),
      },
    ]);
  });
});
