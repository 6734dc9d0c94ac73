// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  defaultGenerator,
  device as deviceNamed,
  flashAttention,
  flashAttentionVarlen,
  getThreads,
  manualSeed,
  OptionError,
  setThreads,
  ShapeError,
  type FlashAttentionVarlenOptions,
  type Tensor,
} from '../../lib/index.js';
import { flashAttentionVarlenSpec } from '../formulas/flash-attention-varlen.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { describeGolden, describeOp } from '../op-tests.js';
import { Random } from '../random.js';

describeGolden(flashAttentionVarlenSpec, [
  {
    fixture: 'attention_varlen',
    c: {
      name: 'attention_varlen',
      heads: 4,
      keyHeads: 2,
      headDim: 64,
      queryLengths: [1, 17, 40, 5],
      keyLengths: [9, 17, 33, 5],
      causal: true,
    },
  },
]);

describeOp(flashAttentionVarlenSpec);

const OP = 'flashAttentionVarlen';

describe(OP, () => {
  describeBackends((device) => {
    const leaf = (
      name: string,
      shape: readonly number[],
      change: (x: number, i: number) => number = (x) => x,
    ): Tensor => {
      const size = shape.reduce((product, length) => product * length, 1);
      return make(device, 'float32', shape, new Random(name).normals(size).map(change), true);
    };
    const everything = () => ({
      causal: true,
      softcap: 3,
      alibiSlopes: make(device, 'float32', [2], [0.5, 0.125]),
      sinks: make(device, 'float32', [2], [0.5, -1], true),
      dropout: 0.3,
    });

    test.each(FLOAT_DTYPES)('equal lengths give the bits of flashAttention, %s', async (dtype) => {
      const [batch, length] = [3, 65];
      const results: number[][][] = [];
      for (const packed of [false, true]) {
        const [q, k, v, dOut] = ['q', 'k', 'v', 'dOut'].map((name, i) => {
          const heads = i === 1 || i === 2 ? 1 : 2;
          const values = new Random(name).normals(batch * length * heads * 8);
          const shape = packed ? [batch * length, heads, 8] : [batch, length, heads, 8];
          return make(device, dtype, shape, values, name !== 'dOut');
        });
        // Dropout numbers its rows otherwise: there is one order of rows for packed sequences, and one of batch entries.
        const options = { ...everything(), dropout: 0 };
        const cuSeqlensQ = [0, 65, 130, 195];
        const out = packed
          ? flashAttentionVarlen(q, k, v, { ...options, cuSeqlensQ })
          : flashAttention(q, k, v, options);
        out.backward(dOut);
        const { sinks } = options;
        results.push(await Promise.all([out, ...[q, k, v, sinks].map((each) => each?.grad as Tensor)].map(bitsOf)));
      }
      expect(results[1]).toEqual(results[0]);
    });

    test.each([NaN, 3e38, Infinity])('%d in one sequence changes nothing in its neighbours', async (poison) => {
      // The middle sequence's queries 9..41, keys 65..95.
      const inside = (begin: number, end: number, width: number, index: number): boolean =>
        index >= begin * width && index < end * width;
      const run = async (poisoned: boolean): Promise<number[][]> => {
        const put = (begin: number, end: number, width: number) => (x: number, i: number) =>
          poisoned && inside(begin, end, width, i) ? poison : x;
        const q = leaf('q', [107, 2, 8], put(9, 42, 16));
        const k = leaf('k', [129, 1, 8], put(65, 96, 8));
        const v = leaf('v', [129, 1, 8], put(65, 96, 8));
        manualSeed(4);
        const { out, lse } = flashAttentionVarlen(q, k, v, {
          ...everything(),
          cuSeqlensQ: [0, 9, 42, 107],
          cuSeqlensK: [0, 65, 96, 129],
          returnLse: true,
        });
        out.backward(leaf('dOut', out.shape, put(9, 42, 16)).detach());
        const outside = async (t: Tensor, begin: number, end: number, width: number): Promise<number[]> =>
          (await bitsOf(t)).filter((_, i) => !inside(begin, end, width, i));
        const statistics = await bitsOf(lse);
        return [
          await outside(out, 9, 42, 16),
          statistics.filter((_, i) => i % 107 < 9 || i % 107 >= 42),
          await outside(q.grad as Tensor, 9, 42, 16),
          await outside(k.grad as Tensor, 65, 96, 8),
          await outside(v.grad as Tensor, 65, 96, 8),
        ];
      };
      expect(await run(true)).toEqual(await run(false));
    });

    test('bit-equal on repeated runs, and whatever the number of threads', async () => {
      const run = async (): Promise<number[][]> => {
        const [q, k, v] = [leaf('q', [129, 2, 8]), leaf('k', [193, 1, 8]), leaf('v', [193, 1, 8])];
        const options = { ...everything(), cuSeqlensQ: [0, 64, 65, 129], cuSeqlensK: [0, 127, 190, 193] };
        manualSeed(6);
        const out = flashAttentionVarlen(q, k, v, options);
        out.backward(leaf('dOut', out.shape).detach());
        return Promise.all([out, ...[q, k, v, options.sinks].map((each) => each?.grad as Tensor)].map(bitsOf));
      };
      const threads = getThreads();
      try {
        const first = await run();
        for (const count of [1, 2, 3]) {
          setThreads(count);
          expect(await run()).toEqual(first);
        }
      } finally {
        setThreads(threads);
      }
    });

    test('cuSeqlensK is cuSeqlensQ by default; the arrays are read at once', async () => {
      const run = async (change: boolean, given: boolean): Promise<number[][]> => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) => leaf(name, [33, 1, 8]));
        const cuSeqlensQ = Int32Array.of(0, 9, 33);
        const out = flashAttentionVarlen(q, k, v, { cuSeqlensQ, ...(given && { cuSeqlensK: [0, 9, 33] }) });
        if (change) cuSeqlensQ.fill(1000);
        out.backward(leaf('dOut', out.shape).detach());
        return Promise.all([out, ...[q, k, v].map((each) => each.grad as Tensor)].map(bitsOf));
      };
      const expected = await run(false, true);
      expect(await run(true, false)).toEqual(expected);
    });

    test('dropout takes blocks for the longest sequence of keys', () => {
      const [q, k, v] = [leaf('q', [10, 2, 8]), leaf('k', [70, 2, 8]), leaf('v', [70, 2, 8])];
      manualSeed(0);
      flashAttentionVarlen(q, k, v, { cuSeqlensQ: [0, 3, 10], cuSeqlensK: [0, 65, 70], dropout: 0.1 });
      expect(defaultGenerator().state.offset).toBe(2 * 10 * 3 * 4);
    });

    test('kernels look at the cumulative lengths themselves before they touch memory', async () => {
      const { backend } = deviceNamed(device);
      const [q, k, v] = ['q', 'k', 'v'].map((name) => leaf(name, [6, 1, 8]));
      const zeroed = leaf('out', [6, 1, 8]);
      const lse = leaf('lse', [1, 6]);
      for (const lengths of [
        [0, 4, 7, 0, 4, 6],
        [0, 4, 3, 0, 4, 6],
        [1, 4, 6, 0, 4, 6],
        [0, 1, 6, 0, 4, 6],
        [0, 4, 6, 0, 7, 6],
      ]) {
        const cuSeqlens = make(device, 'int32', [2, 3], lengths);
        const shape = {
          ...{ batch: 2, queries: 4, keys: 4, heads: 1, keyHeads: 1, headDim: 8, keyCapacity: 4 },
          ...{ scale: 1, softcap: 0, alibiSlopes: null, alibiPerBatch: false, topLeft: false, sinks: null },
          ...{ windowLeft: -1, windowRight: -1, dropout: { threshold: 0, seed: 0, offset: 0 } },
          packed: { cuSeqlens: cuSeqlens.arg, totalQueries: 6, totalKeys: 6 },
          ...{ keyLengths: null, pages: null, keyScales: null, valueScales: null },
        };
        backend.flashAttention({ ...shape, q: q.arg, k: k.arg, v: v.arg, out: zeroed.arg, lse: lse.arg });
        await expect(deviceNamed(device).synchronize()).rejects.toThrow(
          'flashAttention: expected cumulative lengths that rise from 0 to the total, got others',
        );
      }
    });

    const { shape, option } = ERROR_CODES;
    const wrong = (message: string, options: object, type: typeof OptionError = OptionError) => ({
      message: `${OP}: ${message}`,
      type,
      code: option,
      call: (t: (shape: readonly number[]) => Tensor) =>
        flashAttentionVarlen(t([5, 2, 4]), t([7, 1, 4]), t([7, 1, 4]), options as FlashAttentionVarlenOptions),
    });
    describeErrors(device, [
      wrong('expected an array of at least 2 integers for cuSeqlensQ, got undefined', {}),
      wrong('expected an array of at least 2 integers for cuSeqlensQ, got 1', { cuSeqlensQ: [0] }),
      wrong('expected an integer from 0 to 0 for cuSeqlensQ[0], got 1', { cuSeqlensQ: [1, 5] }),
      wrong('expected an integer from 3 to 5 for cuSeqlensQ[2], got 2', { cuSeqlensQ: [0, 3, 2, 5] }),
      wrong('expected an integer from 0 to 5 for cuSeqlensQ[1], got 6', { cuSeqlensQ: [0, 6, 5] }),
      wrong('expected an integer from 0 to 5 for cuSeqlensQ[1], got 1.5', { cuSeqlensQ: [0, 1.5, 5] }),
      wrong('expected an integer from 5 to 5 for cuSeqlensQ[2], got 4', { cuSeqlensQ: [0, 2, 4] }),
      wrong('expected an integer from 7 to 7 for cuSeqlensK[2], got 5', { cuSeqlensQ: [0, 2, 5] }),
      wrong('expected 3 integers for cuSeqlensK like cuSeqlensQ, got 2', { cuSeqlensQ: [0, 2, 5], cuSeqlensK: [0, 7] }),
      wrong(
        'expected only cuSeqlensQ, cuSeqlensK, causal, window, scale, softcap, alibiSlopes, sinks, dropout, deterministic, returnLse as options, got maxSeqlen',
        { cuSeqlensQ: [0, 5], maxSeqlen: 5 },
      ),
      wrong('expected a probability from 0 to below 1 for dropout, got 2', {
        cuSeqlensQ: [0, 5],
        cuSeqlensK: [0, 7],
        dropout: 2,
      }),
      {
        message: `${OP}: expected q of shape [totalQ, H, D], got [1, 5, 2, 4]`,
        type: ShapeError,
        code: shape,
        call: (t) => flashAttentionVarlen(t([1, 5, 2, 4]), t([7, 1, 4]), t([7, 1, 4]), { cuSeqlensQ: [0, 5] }),
      },
      {
        message: `${OP}: expected k of shape [totalK, G, 4] to match q [5, 2, 4], got [7, 1, 8]`,
        type: ShapeError,
        code: shape,
        call: (t) => flashAttentionVarlen(t([5, 2, 4]), t([7, 1, 8]), t([7, 1, 8]), { cuSeqlensQ: [0, 5] }),
      },
      {
        message: `${OP}: expected alibiSlopes of shape [2] or [3, 2], got [2, 2]`,
        type: ShapeError,
        code: shape,
        call: (t) =>
          flashAttentionVarlen(t([5, 2, 4]), t([5, 1, 4]), t([5, 1, 4]), {
            cuSeqlensQ: [0, 2, 2, 5],
            alibiSlopes: t([2, 2]),
          }),
      },
    ]);
  });
});
