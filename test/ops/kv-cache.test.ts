// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  DTypeError,
  flashAttentionWithKvCache,
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
