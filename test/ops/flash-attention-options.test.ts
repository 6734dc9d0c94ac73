// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  checkpoint,
  defaultGenerator,
  device as deviceNamed,
  DTypeError,
  flashAttention,
  manualSeed,
  noGrad,
  OptionError,
  ShapeError,
  type FlashAttentionOptions,
  type Tensor,
} from '../../lib/index.js';
import { DROPOUT_SEED, keeps } from '../formulas/attention-rows.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';

const numbers = async (t: Tensor | null): Promise<number[]> =>
  Array.from((await t?.data()) ?? [], (value) => value + 0);

/** Weights of the keys for a query of zeros and one head: with v = 1 at its own key, out is them. */
const oneHot = (n: number): number[] => Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0));

describe('flashAttention, options', () => {
  describeBackends((device) => {
    const f32 = (shape: readonly number[], values: ArrayLike<number>, requiresGrad = false): Tensor =>
      make(device, 'float32', shape, values, requiresGrad);
    const normals = (name: string, shape: readonly number[], requiresGrad = true): Tensor =>
      f32(shape, new Random(name).normals(shape.reduce((product, size) => product * size, 1)), requiresGrad);

    const expectClose = (got: ArrayLike<number>, expected: readonly number[]): void => {
      expect(got.length).toBe(expected.length);
      expected.forEach((value, i) => expect(Math.abs(got[i] - value)).toBeLessThanOrEqual(2 ** -21 * Math.abs(value)));
    };

    describe('softcap', () => {
      test('hand-computed: a score far above the cap counts as the cap', async () => {
        const q = f32([1, 1, 1, 1], [1]);
        const k = f32([1, 2, 1, 1], [0, 1e6]);
        const v = f32([1, 2, 1, 1], [0, 8]);
        const { out, lse } = flashAttention(q, k, v, { scale: 1, softcap: Math.log(3), returnLse: true });
        expectClose(await out.data(), [6]);
        expectClose(await lse.data(), [Math.log(4)]);
      });

      test('0 is off: the same bits as without', async () => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) => normals(name, [1, 9, 2, 8]));
        expect(await bitsOf(flashAttention(q, k, v, { softcap: 0 }))).toEqual(await bitsOf(flashAttention(q, k, v)));
      });

      test.each([30, 1e-40, 1e38, 1e-300, 1e300])('scores up to 1e30 and a cap of %d give no NaN', async (softcap) => {
        const q = f32([1, 2, 1, 1], [1e15, 1], true);
        const k = f32([1, 3, 1, 1], [1e15, -1e15, 0], true);
        const v = f32([1, 3, 1, 1], [1, 2, 4], true);
        const { out, lse } = flashAttention(q, k, v, { scale: 1, softcap, returnLse: true });
        out.backward(f32([1, 2, 1, 1], [1, 1]));
        const weight = Math.exp(-2 * softcap); // of the key at the lower cap
        const [middle, all] = [Math.exp(-softcap), 1 + weight + Math.exp(-softcap)];
        const expected = (1 + 2 * weight + 4 * middle) / all;
        expectClose(await out.data(), [expected, expected]);
        for (const each of [lse, q.grad, k.grad, v.grad])
          expect((await numbers(each)).filter((x) => !Number.isFinite(x))).toEqual([]);
      });
    });

    describe('alibiSlopes', () => {
      const attend = (causal: FlashAttentionOptions['causal'], queries: number): Tensor =>
        flashAttention(
          f32([1, queries, 1, 3], new Array(3 * queries).fill(0)),
          f32([1, 3, 1, 3], oneHot(3)),
          f32([1, 3, 1, 3], oneHot(3)),
          {
            alibiSlopes: f32([1], [Math.log(2)]),
            ...(causal !== undefined && { causal }),
          },
        );

      test('hand-computed: weights halve with the distance, on both sides', async () => {
        expectClose(await attend(undefined, 3).data(), [
          ...[4 / 7, 2 / 7, 1 / 7],
          ...[1 / 4, 2 / 4, 1 / 4],
          ...[1 / 7, 2 / 7, 4 / 7],
        ]);
      });

      test('hand-computed: the distance is from the diagonal, wherever that lies', async () => {
        expectClose(await attend(true, 1).data(), [1 / 7, 2 / 7, 4 / 7]);
        expectClose(await attend('bottom-right', 1).data(), [1 / 7, 2 / 7, 4 / 7]);
        expectClose(await attend('top-left', 2).data(), [1, 0, 0, 1 / 3, 2 / 3, 0]);
      });

      test('the graph holds the slopes: they may be disposed before the backward pass', async () => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) => normals(name, [1, 9, 2, 8]));
        const gradientOf = async (early: boolean): Promise<number[]> => {
          const alibiSlopes = f32([2], [0.5, 0.25]);
          const out = flashAttention(q, k, v, { alibiSlopes });
          if (early) alibiSlopes.dispose();
          const other = normals('other', [2, 1]);
          out.backward(normals('dOut', out.shape, false));
          other.dispose();
          const bits = await bitsOf(q.grad as Tensor);
          q.clearGrad();
          return bits;
        };
        expect(await gradientOf(true)).toEqual(await gradientOf(false));
      });
    });

    describe('sinks', () => {
      const attend = (sinks: Tensor, options: FlashAttentionOptions = {}) =>
        flashAttention(f32([1, 2, 1, 1], [0, 0]), f32([1, 2, 1, 1], [1, 2]), f32([1, 2, 1, 1], [3, 9]), {
          ...options,
          sinks,
          returnLse: true,
        });

      test('hand-computed: one more key of value 0', async () => {
        const sinks = f32([1], [Math.log(2)], true);
        const { out, lse } = attend(sinks);
        expectClose(await out.data(), [3, 3]);
        expectClose(await lse.data(), [Math.log(4), Math.log(4)]);
        out.backward(f32([1, 2, 1, 1], [1, 2]));
        // Half the weight is the sink's, and the output is 3: p · (0 − out · dOut), for both queries.
        expectClose(await numbers(sinks.grad), [-0.5 * 3 - 0.5 * 6]);
      });

      test('far above all scores it takes all, far below it is not there, and -Infinity is none', async () => {
        const above = attend(f32([1], [1e4], true));
        expect(await numbers(above.out)).toEqual([0, 0]);
        expectClose(await above.lse.data(), [1e4, 1e4]);
        for (const sink of [-1e4, -1e30, -Infinity]) {
          const sinks = f32([1], [sink], true);
          const { out, lse } = attend(sinks);
          expectClose(await out.data(), [6, 6]);
          expectClose(await lse.data(), [Math.log(2), Math.log(2)]);
          out.backward(f32([1, 2, 1, 1], [1, 1]));
          expect(await numbers(sinks.grad)).toEqual([0]);
        }
      });

      test('NaN shows in every lse of the head, also of a query that sees no key', async () => {
        const lse = flashAttention(f32([1, 2, 1, 1], [0, 0]), f32([1, 1, 1, 1], [1]), f32([1, 1, 1, 1], [1]), {
          sinks: f32([1], [NaN]),
          causal: true,
          returnLse: true,
        }).lse;
        expect(await numbers(lse)).toEqual([NaN, NaN]);
      });

      test('1e30: no NaN, forward and backward', async () => {
        const sinks = f32([1], [1e30], true);
        const { out, lse } = attend(sinks);
        out.backward(f32([1, 2, 1, 1], [1, 1]));
        expect(await numbers(out)).toEqual([0, 0]);
        expect(await numbers(lse)).toEqual([Math.fround(1e30), Math.fround(1e30)]);
        expect(await numbers(sinks.grad)).toEqual([0]);
      });

      test('the gradient through lse is the share of the sink', async () => {
        const sinks = f32([1], [0], true);
        const { lse } = attend(sinks);
        lse.backward(f32([1, 1, 2], [6, 30]));
        expectClose(await numbers(sinks.grad), [12]);
      });

      test.each(FLOAT_DTYPES)('float32 sinks beside %s: the gradient is float32', async (dtype) => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) =>
          make(device, dtype, [1, 9, 2, 8], new Random(name).normals(144), true),
        );
        const sinks = f32([2], [0.5, -1], true);
        const own = make(device, dtype, [2], [0.5, -1], true);
        const [first, second] = [flashAttention(q, k, v, { sinks }), flashAttention(q, k, v, { sinks: own })];
        expect(await bitsOf(first)).toEqual(await bitsOf(second));
        for (const out of [first, second])
          out.backward(make(device, dtype, out.shape, new Random('dOut').normals(144)));
        expect([sinks.grad?.dtype, own.grad?.dtype]).toEqual(['float32', dtype]);
        const [exact] = [await numbers(sinks.grad)];
        const rounded = make(device, dtype, [2], exact);
        expect(await bitsOf(own.grad as Tensor)).toEqual(await bitsOf(rounded));
      });
    });

    describe('dropout', () => {
      // v is 1 at its own key, so that the output of a query is its row of dropped probabilities.
      const [batch, heads, queries, keys] = [2, 2, 33, 100];
      const probabilities = (p: number, offset: number): Promise<number[]> => {
        const q = normals('q', [batch, queries, heads, keys], false);
        const k = normals('k', [batch, keys, 1, keys], false);
        const v = f32([batch, keys, 1, keys], [...oneHot(keys), ...oneHot(keys)]);
        defaultGenerator().state = { seed: DROPOUT_SEED, offset };
        return numbers(flashAttention(q, k, v, { dropout: p }));
      };

      test.each([0, 2 ** 32 - 3])('drops what the contract says, from block %d on', async (offset) => {
        const [kept, all] = [await probabilities(0.3, offset), await probabilities(0, 0)];
        const [got, expected]: boolean[][] = [[], []];
        let index = 0;
        for (let b = 0; b < batch; b++)
          for (let i = 0; i < queries; i++)
            for (let h = 0; h < heads; h++)
              for (let j = 0; j < keys; j++, index++) {
                expected.push(keeps(0.3, (b * heads + h) * queries + i, j, keys, offset));
                got.push(kept[index] !== 0);
              }
        expect(got).toEqual(expected);
        const factor = 65536 / (65536 - Math.round(0.3 * 65536));
        kept.forEach((value, i) => {
          if (value !== 0) expect(Math.abs(value - factor * all[i])).toBeLessThan(2 ** -20 * value);
        });
        const share = got.filter((each) => each).length / got.length;
        expect(Math.abs(share - 0.7)).toBeLessThan(5 * Math.sqrt((0.3 * 0.7) / got.length));
      });

      test('takes its blocks from the generator, with or without gradients, and none for 0', () => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) => normals(name, [2, 33, 3, 8]));
        const blocks = 2 * 3 * 33 * Math.ceil(33 / 32) * 4;
        manualSeed(1);
        flashAttention(q, k, v, { dropout: 0 });
        expect(defaultGenerator().state.offset).toBe(0);
        flashAttention(q, k, v, { dropout: 0.5 });
        expect(defaultGenerator().state.offset).toBe(blocks);
        noGrad(() => flashAttention(q, k, v, { dropout: 0.5 }));
        expect(defaultGenerator().state.offset).toBe(2 * blocks);
      });

      test('manualSeed repeats it, and the next call drops others', async () => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) => normals(name, [1, 33, 2, 8]));
        const attend = (): Promise<number[]> => bitsOf(flashAttention(q, k, v, { dropout: 0.5, causal: true }));
        manualSeed(3);
        const [first, second] = [await attend(), await attend()];
        manualSeed(3);
        expect([await attend(), await attend()]).toEqual([first, second]);
        expect(second).not.toEqual(first);
      });

      test('lse is that of the softmax before', async () => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) => normals(name, [1, 65, 2, 8]));
        const { lse } = flashAttention(q, k, v, { dropout: 0.9, returnLse: true });
        const plain = flashAttention(q, k, v, { returnLse: true }).lse;
        expectClose(await lse.data(), await numbers(plain));
      });

      test('checkpoint() drops the same again: gradients are bit-equal', async () => {
        const gradients = async (through: boolean): Promise<number[][]> => {
          const leaves = ['q', 'k', 'v'].map((name) => normals(name, [1, 65, 2, 8]));
          manualSeed(9);
          const attend = (...inputs: Tensor[]): Tensor =>
            flashAttention(inputs[0], inputs[1], inputs[2], { dropout: 0.4, causal: true });
          const out = through ? checkpoint(attend, ...leaves) : attend(...leaves);
          manualSeed(1234); // whatever is drawn in between
          out.backward(normals('dOut', out.shape, false));
          return Promise.all([out, ...leaves.map((leaf) => leaf.grad as Tensor)].map(bitsOf));
        };
        expect(await gradients(true)).toEqual(await gradients(false));
      });

      test('nearly 1 keeps one in 65,536, times 65,536', async () => {
        manualSeed(0);
        const n = 512;
        const ones = (size: number): Tensor => f32([1, size, 1, 1], new Array(size).fill(1));
        const out = flashAttention(ones(n), ones(n), ones(n), { dropout: 1 - 2 ** -30 });
        const values = await numbers(out);
        for (const value of values) expect(value % (65536 / n)).toBe(0);
        const kept = values.reduce((sum, value) => sum + value / (65536 / n), 0);
        expect(kept).toBeGreaterThan(0);
        expect(kept).toBeLessThan(20); // 4 are expected
      });
    });

    describe('queries that see no key', () => {
      const slopes = (): Tensor => f32([2], [0.5, 0.25]);
      const options: [string, () => FlashAttentionOptions][] = [
        ['softcap', () => ({ softcap: 2 })],
        ['ALiBi', () => ({ alibiSlopes: slopes() })],
        ['dropout', () => ({ dropout: 0.5 })],
        ['sinks', () => ({ sinks: f32([2], [0.5, -3], true) })],
        ['everything', () => ({ softcap: 2, alibiSlopes: slopes(), dropout: 0.5, sinks: f32([2], [0.5, -3], true) })],
      ];
      test.each(options)('%s: output 0, lse -Infinity or the sink, gradients 0', async (_, make) => {
        const given = make();
        const { sinks } = given;
        const [q, k, v] = [normals('q', [1, 5, 2, 8]), normals('k', [1, 3, 1, 8]), normals('v', [1, 3, 1, 8])];
        const { out, lse } = flashAttention(q, k, v, { ...given, causal: true, returnLse: true });
        expect((await numbers(out)).slice(0, 32)).toEqual(new Array(32).fill(0));
        const rowsOf = (values: number[]): number[] => [...values.slice(0, 2), ...values.slice(5, 7)];
        expect(rowsOf(await numbers(lse))).toEqual(
          sinks ? [0.5, 0.5, -3, -3] : [-Infinity, -Infinity, -Infinity, -Infinity],
        );
        // Only what those queries send back.
        const dOut = f32(
          out.shape,
          Array.from({ length: out.size }, (_, i) => (i < 32 ? 100 + i : 0)),
        );
        out.backward(dOut);
        for (const leaf of [q, k, v]) expect(await numbers(leaf.grad)).toEqual(new Array(leaf.size).fill(0));
        if (sinks) expect(await numbers(sinks.grad)).toEqual([0, 0]);
        if (sinks) {
          sinks.clearGrad();
          const again = flashAttention(q, k, v, { ...given, causal: true, returnLse: true });
          again.lse.backward(f32([1, 2, 5], [1, 2, 0, 0, 0, 10, 20, 0, 0, 0]));
          expect(await numbers(sinks.grad)).toEqual([3, 30]);
        }
      });
    });

    test('deterministic is handed to the backend; the default is false', () => {
      const [q, k, v] = ['q', 'k', 'v'].map((name) => normals(name, [1, 9, 2, 8]));
      const spy = jest.spyOn(deviceNamed(device).backend, 'flashAttentionBackward');
      try {
        for (const options of [{}, { deterministic: true }, { deterministic: false }]) {
          const out = flashAttention(q, k, v, options);
          out.backward(normals('dOut', out.shape, false));
        }
        expect(spy.mock.calls.map(([params]) => params.deterministic)).toEqual([false, true, false]);
      } finally {
        spy.mockRestore();
      }
    });

    const { shape, option, dtype: wrongDType } = ERROR_CODES;
    const attend =
      (options: (t: (shape: number[]) => Tensor) => FlashAttentionOptions) => (t: (shape: number[]) => Tensor) =>
        flashAttention(t([2, 3, 4, 2]), t([2, 5, 2, 2]), t([2, 5, 2, 2]), options(t));
    const wrong = (message: string, options: FlashAttentionOptions) => ({
      message: `flashAttention: ${message}`,
      type: OptionError,
      code: option,
      call: attend(() => options),
    });
    describeErrors(device, [
      wrong('expected a boolean, "bottom-right" or "top-left" for causal, got "top-right"', {
        causal: 'top-right' as 'top-left',
      }),
      wrong('expected a finite number of at least 0 for softcap, got -1', { softcap: -1 }),
      wrong('expected a finite number of at least 0 for softcap, got Infinity', { softcap: Infinity }),
      wrong('expected a probability from 0 to below 1 for dropout, got 1', { dropout: 1 }),
      wrong('expected a probability from 0 to below 1 for dropout, got -0.1', { dropout: -0.1 }),
      wrong('expected a probability from 0 to below 1 for dropout, got NaN', { dropout: NaN }),
      wrong('expected a boolean for deterministic, got 1', { deterministic: 1 as unknown as boolean }),
      wrong('expected a Tensor for alibiSlopes, got [1, 1]', { alibiSlopes: [1, 1] as unknown as Tensor }),
      wrong('expected a Tensor for sinks, got 3', { sinks: 3 as unknown as Tensor }),
      {
        message: 'flashAttention: expected alibiSlopes of shape [4] or [2, 4], got [4, 2]',
        type: ShapeError,
        code: shape,
        call: attend((t) => ({ alibiSlopes: t([4, 2]) })),
      },
      {
        message: 'flashAttention: expected a tensor that requires no gradient for alibiSlopes, got one that does',
        type: OptionError,
        code: option,
        call: attend((t) => {
          const alibiSlopes = t([4]);
          alibiSlopes.requiresGrad = true;
          return { alibiSlopes };
        }),
      },
      {
        message: 'flashAttention: expected alibiSlopes of dtype float32, got float16',
        type: DTypeError,
        code: wrongDType,
        call: (t) =>
          flashAttention(t([2, 3, 4, 2]), t([2, 5, 2, 2]), t([2, 5, 2, 2]), { alibiSlopes: t([4], 'float16') }),
      },
      {
        message: 'flashAttention: expected sinks of shape [4] to match q [2, 3, 4, 2], got [2]',
        type: ShapeError,
        code: shape,
        call: attend((t) => ({ sinks: t([2]) })),
      },
      {
        message: 'flashAttention: expected sinks of dtype float32, got bfloat16',
        type: DTypeError,
        code: wrongDType,
        call: (t) => flashAttention(t([2, 3, 4, 2]), t([2, 5, 2, 2]), t([2, 5, 2, 2]), { sinks: t([4], 'bfloat16') }),
      },
      {
        message: 'flashAttention: expected sinks of dtype float32 or bfloat16, got float16',
        type: DTypeError,
        code: wrongDType,
        call: (t) =>
          flashAttention(t([1, 3, 4, 2], 'bfloat16'), t([1, 5, 2, 2], 'bfloat16'), t([1, 5, 2, 2], 'bfloat16'), {
            sinks: t([4], 'float16'),
          }),
      },
    ]);
  });
});
