// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  DTypeError,
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
import { attentionCases, type AttentionCase } from '../cases.js';
import { expectIdentical, expectWithinTolerance, FORWARD_FACTOR, largestError } from '../compare.js';
import { attentionOptions, flashAttentionSpec } from '../formulas/flash-attention.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import type { Input, NamedValues } from '../op-spec.js';
import { Random } from '../random.js';

const SPARE = 5;

/** Rows of [B, tokens, G * D] placed at `start` of a cache of NaN, [B, capacity, G * D]. */
function inCache(values: Float64Array, batch: number, tokens: number, capacity: number): Float64Array {
  const rowSize = values.length / (batch * tokens);
  const cache = new Float64Array(batch * capacity * rowSize).fill(NaN);
  for (let b = 0; b < batch; b++)
    cache.set(values.subarray(b * tokens * rowSize, (b + 1) * tokens * rowSize), b * capacity * rowSize);
  return cache;
}

/** Every batch entry's rows from `from` to `to`. */
function rows(values: Float64Array, batch: number, tokens: number, from: number, to: number): Float64Array {
  const rowSize = values.length / (batch * tokens);
  const out = new Float64Array(batch * (to - from) * rowSize);
  for (let b = 0; b < batch; b++)
    out.set(values.subarray((b * tokens + from) * rowSize, (b * tokens + to) * rowSize), b * (to - from) * rowSize);
  return out;
}

/** The cases of attention, as far as a cache can express them. */
const CASES = attentionCases.cases.filter((c) => c.queries <= c.keys && !c.dropout);

interface Prepared {
  c: AttentionCase;
  optional: Record<string, Input>;
  q: Float64Array;
  k: Float64Array;
  v: Float64Array;
}

function prepare(c: AttentionCase, dtype: FloatDType): Prepared {
  const { q, k, v, ...optional } = flashAttentionSpec.inputs(c, new Random(`cache ${c.name}`));
  const round = (values: Float64Array): Float64Array => values.map((value) => roundedTo(dtype, value));
  for (const [name, input] of Object.entries(optional))
    if (!input.dtype) optional[name] = { ...input, values: round(input.values) };
  return { c, optional, q: round(q.values), k: round(k.values), v: round(v.values) };
}

const mapInputs = (inputs: Record<string, Input>): NamedValues =>
  Object.fromEntries(Object.entries(inputs).map(([name, { values }]) => [name, values]));

/** A cache of NaN, but for the first `length` tokens. */
function cacheOf({ c, k, v }: Prepared, dtype: FloatDType, device: DeviceName, length: number): KvCache {
  const { batch, keys, keyHeads, headDim } = c;
  const capacity = keys + SPARE;
  const held = (values: Float64Array): Tensor =>
    make(
      device,
      dtype,
      [batch, capacity, keyHeads, headDim],
      inCache(rows(values, batch, keys, 0, length), batch, length, capacity),
    );
  return { keys: held(k), values: held(v), length };
}

/** The slopes and the sinks, where the case has them. */
function optionalTensors({ optional }: Prepared, dtype: FloatDType, device: DeviceName): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(optional).map(([name, input]) => [
      name,
      make(device, input.dtype ?? dtype, input.shape, input.values),
    ]),
  );
}

const optionsOf = (c: AttentionCase, optional: Record<string, Tensor>) => ({
  ...attentionOptions(c, optional),
  causal: c.causal ?? false,
});

describe('flashAttentionWithKvCache', () => {
  describeBackends((device) => {
    describe.each(FLOAT_DTYPES)('%s', (dtype) => {
      test.each(CASES)('the rows beyond `length` are NaN and have no effect: $name', async (c) => {
        const prepared = prepare(c, dtype);
        const { q, k, v } = prepared;
        const cache = cacheOf(prepared, dtype, device, c.keys);
        const shape = [c.batch, c.queries, c.heads, c.headDim];
        const query = make(device, dtype, shape, q);
        const optional = optionalTensors(prepared, dtype, device);
        const out = flashAttentionWithKvCache(query, cache, optionsOf(c, optional));
        expect([out.shape, out.dtype, cache.length]).toEqual([shape, dtype, c.keys]);
        const values = mapInputs(prepared.optional);
        const exact = flashAttentionSpec.forward(EXACT, { q, k, v, ...values }, c).out;
        const plain = flashAttentionSpec.forward(arithmeticIn(dtype), { q, k, v, ...values }, c).out;
        expectWithinTolerance({
          name: 'out',
          got: await out.data(),
          exact,
          plainError: largestError(plain, exact),
          factor: FORWARD_FACTOR,
          dtype,
          shape,
        });
        for (const each of [query, cache.keys, cache.values, out, ...Object.values(optional)]) each.dispose();
      });

      test.each(CASES.filter((c) => c.keys > 1))(
        'new tokens are appended first, and only they change: $name',
        async (c) => {
          const prepared = prepare(c, dtype);
          const { batch, keys, keyHeads, headDim } = c;
          const added = Math.min(c.queries, keys - 1);
          const whole = cacheOf(prepared, dtype, device, keys);
          const grown = cacheOf(prepared, dtype, device, keys - added);
          const query = make(device, dtype, [c.batch, c.queries, c.heads, headDim], prepared.q);
          const [newK, newV] = [prepared.k, prepared.v].map((values) =>
            make(device, dtype, [batch, added, keyHeads, headDim], rows(values, batch, keys, keys - added, keys)),
          );
          const optional = optionalTensors(prepared, dtype, device);
          const out = flashAttentionWithKvCache(query, grown, { ...optionsOf(c, optional), newK, newV });
          const expected = flashAttentionWithKvCache(query, whole, optionsOf(c, optional));
          expect(grown.length).toBe(keys);
          expect(await bitsOf(out)).toEqual(await bitsOf(expected));
          expectIdentical('keys', await grown.keys.data(), await whole.keys.data(), grown.keys.shape);
          expectIdentical('values', await grown.values.data(), await whole.values.data(), grown.values.shape);
          for (const each of [
            query,
            newK,
            newV,
            out,
            expected,
            ...Object.values(optional),
            ...[whole, grown].flatMap((cache) => [cache.keys, cache.values]),
          ])
            each.dispose();
        },
      );
    });

    /** Many heads of few rows, few of many, more keys than are split, and a step of several tokens. */
    const RAGGED: AttentionCase[] = [
      { name: 'decoding', batch: 3, queries: 1, keys: 700, heads: 6, keyHeads: 2, headDim: 16 },
      { name: 'decoding, few keys', batch: 3, queries: 1, keys: 9, heads: 2, keyHeads: 2, headDim: 8 },
      { name: 'several tokens', batch: 2, queries: 5, keys: 70, heads: 4, keyHeads: 1, headDim: 24 },
      { name: 'a window', batch: 3, queries: 3, keys: 150, heads: 2, keyHeads: 1, headDim: 8, window: [20, -1] },
      { name: 'a prompt', batch: 2, queries: 40, keys: 90, heads: 2, keyHeads: 2, headDim: 8 },
      // Head dims for which GPUs have a kernel of few queries: rows of more than one tile, windows, keys around its chunks of 32 and 64.
      { name: 'grouped heads', batch: 3, queries: 1, keys: 700, heads: 8, keyHeads: 2, headDim: 64 },
      { name: 'rows of two tiles', batch: 2, queries: 5, keys: 130, heads: 8, keyHeads: 2, headDim: 96 },
      { name: 'one key head', batch: 1, queries: 1, keys: 1025, heads: 20, keyHeads: 1, headDim: 128 },
      {
        name: 'grouped heads, a window',
        batch: 3,
        queries: 3,
        keys: 400,
        heads: 4,
        keyHeads: 2,
        headDim: 128,
        window: [100, -1],
      },
      { name: 'head dim 192', batch: 2, queries: 2, keys: 129, heads: 3, keyHeads: 1, headDim: 192 },
      { name: 'head dim 256', batch: 2, queries: 1, keys: 65, heads: 2, keyHeads: 2, headDim: 256 },
    ].map((c) => ({ ...c, causal: true }) as AttentionCase);
    describe.each(FLOAT_DTYPES)('%s, lengths on the device', (dtype) => {
      test.each(RAGGED)('each entry is as it would be alone: $name', async (c) => {
        const { batch, queries, keys, heads, keyHeads, headDim } = c;
        const { q, k, v } = prepare(c, dtype);
        const capacity = keys + SPARE;
        const random = new Random(`lengths ${c.name}`);
        const held = Array.from({ length: batch }, (_, b) =>
          b === 0 ? keys - queries : random.integer(0, keys - queries),
        );
        const [keyCache, valueCache] = [k, v].map((values) => {
          const cache = new Float64Array(batch * capacity * keyHeads * headDim).fill(NaN);
          const size = keyHeads * headDim;
          for (let b = 0; b < batch; b++)
            cache.set(values.subarray(b * keys * size, (b * keys + held[b]) * size), b * capacity * size);
          return make(device, dtype, [batch, capacity, keyHeads, headDim], cache);
        });
        const added = (values: Float64Array): Tensor => {
          const size = keyHeads * headDim;
          const own = held.flatMap((from, b) =>
            Array.from(values.subarray((b * keys + from) * size, (b * keys + from + queries) * size)),
          );
          return make(device, dtype, [batch, queries, keyHeads, headDim], own);
        };
        const lengths = make(device, 'int32', [batch], held);
        const cache: KvCache = { keys: keyCache, values: valueCache, length: 0, lengths };
        const query = make(device, dtype, [batch, queries, heads, headDim], q);
        const [newK, newV] = [added(k), added(v)];
        const out = flashAttentionWithKvCache(query, cache, { ...attentionOptions(c, {}), newK, newV });
        const got = await out.data();
        const rowSize = heads * headDim;
        const exact = new Float64Array(got.length);
        const plain = new Float64Array(got.length);
        for (let b = 0; b < batch; b++) {
          const own = { ...c, batch: 1, keys: held[b] + queries };
          const part = (values: Float64Array, rowsOf: number, size: number, count: number): Float64Array =>
            values.subarray(b * rowsOf * size, (b * rowsOf + count) * size);
          const inputs = {
            q: part(q, queries, rowSize, queries),
            k: part(k, keys, keyHeads * headDim, own.keys),
            v: part(v, keys, keyHeads * headDim, own.keys),
          };
          exact.set(flashAttentionSpec.forward(EXACT, inputs, own).out, b * queries * rowSize);
          plain.set(flashAttentionSpec.forward(arithmeticIn(dtype), inputs, own).out, b * queries * rowSize);
        }
        expectWithinTolerance({
          name: 'out',
          got,
          exact,
          plainError: largestError(plain, exact),
          factor: FORWARD_FACTOR,
          dtype,
          shape: [batch, queries, heads, headDim],
        });
        expect([cache.length, await lengths.data()]).toEqual([0, Int32Array.from(held)]);
        for (const each of [query, newK, newV, out, lengths, keyCache, valueCache]) each.dispose();
      });
    });

    test.each([-1, 3, 2 ** 31 - 1])('a length of %i on the device leads nowhere outside the cache', async (length) => {
      const cache = {
        keys: make(device, 'float32', [2, 3, 1, 2], new Float64Array(12)),
        values: make(device, 'float32', [2, 3, 1, 2], new Float64Array(12)),
        length: 0,
        lengths: make(device, 'int32', [2], [1, length]),
      };
      const one = make(device, 'float32', [2, 1, 1, 2], [1, 2, 3, 4]);
      const out = flashAttentionWithKvCache(one, cache, { newK: one, newV: one });
      await expect(out.data()).rejects.toThrow(KernelError);
      expect([...(await cache.keys.data())]).toEqual([0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
      expect([
        ...(await flashAttentionWithKvCache(one, { ...cache, length: 1, lengths: undefined }).data()),
      ]).toHaveLength(4);
    });

    test.each([64, 128, 256])(
      'head dim %i: the same bits call after call, on a GPU also where the host knows the lengths',
      async (headDim) => {
        const [batch, capacity, keyHeads] = [2, 200, 2];
        const random = new Random(`bits ${headDim}`);
        const of = (...shape: number[]): Tensor =>
          make(device, 'bfloat16', shape, random.normals(shape.reduce((a, b) => a * b)));
        const [q, keys, values] = [
          of(batch, 1, 4 * keyHeads, headDim),
          of(batch, capacity, keyHeads, headDim),
          of(batch, capacity, keyHeads, headDim),
        ];
        for (const length of [1, 63, 64, 65, 127, 128, 129, capacity]) {
          const lengths = make(device, 'int32', [batch], [length, length]);
          const expected = await bitsOf(flashAttentionWithKvCache(q, { keys, values, length: 0, lengths }));
          for (let call = 0; call < 3; call++)
            expect(await bitsOf(flashAttentionWithKvCache(q, { keys, values, length: 0, lengths }))).toEqual(expected);
          if (device.startsWith('cuda'))
            expect(await bitsOf(flashAttentionWithKvCache(q, { keys, values, length }))).toEqual(expected);
          lengths.dispose();
        }
        for (const each of [q, keys, values]) each.dispose();
      },
    );

    test.each([-1, 3])('16-bit floats: a length of %i on the device fails the op', async (length) => {
      const cache = {
        keys: make(device, 'bfloat16', [2, 3, 1, 64], new Float64Array(384)),
        values: make(device, 'bfloat16', [2, 3, 1, 64], new Float64Array(384)),
        length: 0,
        lengths: make(device, 'int32', [2], [1, length]),
      };
      const one = make(device, 'bfloat16', [2, 1, 1, 64], new Float64Array(128).fill(1));
      await expect(flashAttentionWithKvCache(one, cache, { newK: one, newV: one }).data()).rejects.toThrow(KernelError);
    });

    test('hand-computed: one key gives its value, whatever the query', async () => {
      const cache = {
        keys: make(device, 'float32', [1, 3, 1, 2], [5, 6, NaN, NaN, NaN, NaN]),
        values: make(device, 'float32', [1, 3, 1, 2], [-7, 8, NaN, NaN, NaN, NaN]),
        length: 1,
      };
      const q = make(device, 'float32', [1, 1, 2, 2], [1, 2, -30, 4]);
      expect([...(await flashAttentionWithKvCache(q, cache).data())]).toEqual([-7, 8, -7, 8]);
    });

    test('hand-computed: it is causal unless told otherwise', async () => {
      const cache = {
        keys: make(device, 'float32', [1, 2, 1, 1], [0, 0]),
        values: make(device, 'float32', [1, 2, 1, 1], [2, 4]),
        length: 2,
      };
      const q = make(device, 'float32', [1, 2, 1, 1], [1, 1]);
      expect([...(await flashAttentionWithKvCache(q, cache).data())]).toEqual([2, 3]);
      expect([...(await flashAttentionWithKvCache(q, cache, { causal: false }).data())]).toEqual([3, 3]);
    });

    test('carries no gradient', async () => {
      const cache = {
        keys: make(device, 'float32', [1, 1, 1, 1], [1]),
        values: make(device, 'float32', [1, 1, 1, 1], [1]),
        length: 1,
      };
      expect(flashAttentionWithKvCache(make(device, 'float32', [1, 1, 1, 1], [1], true), cache).requiresGrad).toBe(
        false,
      );
    });

    /** A call over a cache of 4 rows of ones; the cache has to be what it was. */
    const wrong = (
      message: string,
      type: typeof ShapeError | typeof OptionError | typeof DTypeError,
      code: string,
      length: number,
      call: (cache: KvCache, t: (shape: readonly number[], dtype?: 'float16') => Tensor) => unknown,
    ) => ({
      message,
      type,
      code,
      call: (t: (shape: readonly number[], dtype?: 'float16') => Tensor) => {
        const cache = { keys: t([1, 4, 1, 2]), values: t([1, 4, 1, 2]), length };
        try {
          return call(cache, t);
        } finally {
          expect(cache.length).toBe(length);
        }
      },
    });
    const { shape, option, dtype: wrongDType } = ERROR_CODES;
    const op = 'flashAttentionWithKvCache';
    describeErrors(device, [
      wrong(`${op}: expected at most 4 tokens in the cache, got 5`, ShapeError, shape, 3, (cache, t) =>
        flashAttentionWithKvCache(t([1, 2, 1, 2]), cache, { newK: t([1, 2, 1, 2]), newV: t([1, 2, 1, 2]) }),
      ),
      wrong(`${op}: expected a cache of at least one token, got an empty one`, ShapeError, shape, 0, (cache, t) =>
        flashAttentionWithKvCache(t([1, 1, 1, 2]), cache),
      ),
      wrong(`${op}: expected both newK and newV or neither, got one`, OptionError, option, 1, (cache, t) =>
        flashAttentionWithKvCache(t([1, 1, 1, 2]), cache, { newK: t([1, 1, 1, 2]) }),
      ),
      wrong(
        `${op}: expected newK of shape [1, S, 1, 2] to match the cache, got [1, 1, 2, 2]`,
        ShapeError,
        shape,
        1,
        (cache, t) =>
          flashAttentionWithKvCache(t([1, 1, 1, 2]), cache, { newK: t([1, 1, 2, 2]), newV: t([1, 1, 2, 2]) }),
      ),
      wrong(
        `${op}: expected newV of shape [1, 1, 1, 2] to match newK, got [1, 2, 1, 2]`,
        ShapeError,
        shape,
        1,
        (cache, t) =>
          flashAttentionWithKvCache(t([1, 1, 1, 2]), cache, { newK: t([1, 1, 1, 2]), newV: t([1, 2, 1, 2]) }),
      ),
      wrong(`${op}: expected newK of dtype float32 like q, got float16`, DTypeError, wrongDType, 1, (cache, t) =>
        flashAttentionWithKvCache(t([1, 1, 1, 2]), cache, {
          newK: t([1, 1, 1, 2], 'float16'),
          newV: t([1, 1, 1, 2], 'float16'),
        }),
      ),
      wrong(`${op}: expected an integer from 0 to 4 for cache.length, got 5`, OptionError, option, 5, (cache, t) =>
        flashAttentionWithKvCache(t([1, 1, 1, 2]), cache),
      ),
      wrong(
        `${op}: expected only newK, newV, causal, window, scale, softcap, alibiSlopes, sinks as options, got returnLse`,
        OptionError,
        option,
        1,
        (cache, t) => flashAttentionWithKvCache(t([1, 1, 1, 2]), cache, { returnLse: true } as object),
      ),
      wrong(
        `${op}: expected cache.keys of shape [2, Sk, G, 2] to match q [2, 1, 1, 2], got [1, 4, 1, 2]`,
        ShapeError,
        shape,
        1,
        (cache, t) => flashAttentionWithKvCache(t([2, 1, 1, 2]), cache),
      ),
    ]);
  });
});
