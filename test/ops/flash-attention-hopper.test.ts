// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  device as deviceNamed,
  flashAttention,
  flashAttentionVarlen,
  zeros,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import type { FloatDType } from '../../lib/dtype.js';
import type { AttentionOptions } from '../../lib/ops/attention-options.js';
import { resultOfChild, type Library } from '../core/child.js';
import { BACKENDS, bitsOf, describeBackends, make, NATIVE } from '../harness.js';
import { Random } from '../random.js';

/**
 * Attention of 16-bit floats and the head dims for which GPUs of compute capability 9.0 have kernels of their own, in sizes of several of their
 * tiles (128 or 192 queries, 64 to 160 keys). The same holds on every other backend.
 */

const HEAD_DIMS = [64, 96, 128, 192, 256];
const DTYPES: readonly FloatDType[] = ['float16', 'bfloat16'];

interface TileCase extends AttentionOptions {
  readonly name: string;
  readonly queries: number;
  readonly keys: number;
  readonly headDim: number;
  readonly hasSinks?: boolean;
}

const CASES: readonly TileCase[] = [
  { name: 'warpgroups without queries', queries: 130, keys: 1000, headDim: 64 },
  { name: 'causal, one query more than a tile', queries: 193, keys: 193, headDim: 64, causal: true },
  { name: 'causal, few queries', queries: 65, keys: 790, headDim: 64, causal: true },
  { name: 'causal, most see nothing', queries: 700, keys: 140, headDim: 64, causal: true },
  { name: 'causal, many tiles', queries: 1100, keys: 1100, headDim: 64, causal: true },
  { name: 'a narrow window', queries: 600, keys: 610, headDim: 64, window: [17, 3] },
  { name: 'a window without a right side', queries: 350, keys: 460, headDim: 128, window: [64, -1] },
  { name: 'a window far from the diagonal', queries: 300, keys: 300, headDim: 128, window: [-1, 130] },
  { name: 'softcap and sinks', queries: 340, keys: 390, headDim: 128, softcap: 5, hasSinks: true },
  { name: 'many keys', queries: 150, keys: 3300, headDim: 128 },
  { name: 'causal, many keys', queries: 330, keys: 1100, headDim: 128, causal: true },
  { name: 'causal', queries: 329, keys: 329, headDim: 256, causal: true },
  { name: 'softcap, causal', queries: 129, keys: 300, headDim: 256, softcap: 30, causal: true },
  { name: 'part of a chunk of features', queries: 266, keys: 460, headDim: 96 },
  { name: 'three chunks of features', queries: 266, keys: 430, headDim: 192, causal: true },
];

describe('attention in tiles of compute capability 9.0', () => {
  describeBackends((device) => {
    const draw = (name: string, rows: number, heads: number, headDim: number): Float64Array =>
      new Random(name).normals(rows * heads * headDim);

    // Against the cpu device in float32, whose errors are far below those allowed here: probabilities are rounded to the dtype, and so is the
    // result, each by half a unit in the last place at most.
    test.each(DTYPES.flatMap((dtype) => CASES.map((c) => ({ dtype, ...c }))))(
      '$dtype, head dim $headDim, $queries x $keys: $name',
      async ({ dtype, name, queries, keys, headDim, hasSinks, ...options }) => {
        const [batch, heads, keyHeads] = [2, 2, 1];
        const inputs = (['q', 'k', 'v'] as const).map((each) => {
          const [rows, count] = each === 'q' ? [queries, heads] : [keys, keyHeads];
          const shape = [batch, rows, count, headDim];
          return { shape, rounded: make('cpu', dtype, shape, draw(`${name} ${each}`, batch * rows, count, headDim)) };
        });
        const run = async (on: DeviceName, as: FloatDType): Promise<{ out: Float32Array; lse: Float32Array }> => {
          const values = await Promise.all(inputs.map(({ rounded }) => rounded.data()));
          const [q, k, v] = values.map((each, i) => make(on, as, inputs[i].shape, each));
          const sinks = hasSinks ? make(on, 'float32', [heads], [1, -1]) : undefined;
          const { out, lse } = flashAttention(q, k, v, { ...options, sinks, returnLse: true });
          return { out: Float32Array.from(await out.data()), lse: Float32Array.from(await lse.data()) };
        };
        const [expected, got] = [await run('cpu', 'float32'), await run(device, dtype)];
        const largest = Float32Array.from(await inputs[2].rounded.data()).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
        const unit = dtype === 'float16' ? 2 ** -10 : 2 ** -7;
        const worst = (a: Float32Array, b: Float32Array): number =>
          a.reduce(
            (most, x, i) => (x === b[i] ? most : Math.max(most, Number.isNaN(b[i]) ? Infinity : Math.abs(x - b[i]))),
            0,
          );
        expect(worst(expected.out, got.out)).toBeLessThan(unit * largest);
        expect(worst(expected.lse, got.lse)).toBeLessThan(1e-5);
      },
    );

    test.each(HEAD_DIMS)('what follows a packed sequence is not read, head dim %d', async (headDim) => {
      // Lengths that end within a tile; of the second sequence everything is Infinity, or nothing.
      const lengths = [70, 33, 140];
      const starts = [0, 70, 103, 243];
      const run = async (poison: number | null): Promise<number[]> => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) => {
          const values = draw(name, 243, 1, headDim);
          return make(
            device,
            'bfloat16',
            [243, 1, headDim],
            values.map((x, i) => (poison !== null && i >= 70 * headDim && i < 103 * headDim ? poison : x)),
          );
        });
        const { out, lse } = flashAttentionVarlen(q, k, v, { cuSeqlensQ: starts, returnLse: true });
        const outside = (_: number, i: number): boolean => i < lengths[0] || i >= lengths[0] + lengths[1];
        const rows = await bitsOf(out);
        return [...rows.filter((x, i) => outside(x, Math.floor(i / headDim))), ...(await bitsOf(lse)).filter(outside)];
      };
      const expected = await run(null);
      for (const poison of [NaN, Infinity]) expect(await run(poison)).toEqual(expected);
    });

    test.each(HEAD_DIMS)('packed sequences of one length are a batch, head dim %d', async (headDim) => {
      for (const causal of [false, true]) {
        const [batch, length] = [3, 150];
        const tensors = (shape: number[]): Tensor[] =>
          ['q', 'k', 'v'].map((name) => make(device, 'float16', shape, draw(name, batch * length, 1, headDim)));
        const [q, k, v] = tensors([batch, length, 1, headDim]);
        const [pq, pk, pv] = tensors([batch * length, 1, headDim]);
        const packed = flashAttentionVarlen(pq, pk, pv, { cuSeqlensQ: [0, 150, 300, 450], causal });
        expect(await bitsOf(packed)).toEqual(await bitsOf(flashAttention(q, k, v, { causal })));
      }
    });
  }, NATIVE);

  describeBackends(
    (device) => {
      test.each(HEAD_DIMS)('the same bits in 50 runs, head dim %d', async (headDim) => {
        const [q, k, v] = ['q', 'k', 'v'].map((name) =>
          make(device, 'bfloat16', [2, 330, 2, headDim], new Random(name).normals(2 * 330 * 2 * headDim)),
        );
        const run = async (): Promise<Buffer> => {
          const { out, lse } = flashAttention(q, k, v, { causal: true, returnLse: true });
          const bytes = (await Promise.all([out, lse].map((each) => each.raw()))).map(({ buffer }) =>
            Buffer.from(buffer),
          );
          for (const each of [out, lse]) each.dispose();
          return Buffer.concat(bytes);
        };
        const first = await run();
        for (let i = 1; i < 50; i++) expect((await run()).equals(first)).toBe(true);
      });

      // Warps of one warpgroup that wait for the same copy may wake up far apart: once in some thousand calls one was left behind for ever.
      test('thousands of calls in a row end', async () => {
        const [q, k, v] = ['q', 'k', 'v'].map(() => zeros([4, 1024, 32, 64], { dtype: 'bfloat16', device }));
        for (let i = 0; i < 10; i++) {
          for (let call = 0; call < 500; call++) flashAttention(q, k, v, { causal: true }).dispose();
          await deviceNamed(device).synchronize();
        }
        expect((await flashAttention(q, k, v, { causal: true }).data()).every((x) => x === 0)).toBe(true);
      });
    },
    ['cuda'],
  );
});

/** Attention in a process of its own, as TERNFLASH_ATTENTION_KERNEL is read once: its output, or the name and message of its error. */
async function attend(library: Library, headDim: number, alibi: boolean): Promise<number[] | string> {
  const device = 'cuda' as DeviceName;
  const values = Array.from({ length: 40 * headDim }, (_, i) => Math.sin(i));
  const x = library.tensor(values, { shape: [1, 40, 1, headDim], dtype: 'bfloat16', device });
  const alibiSlopes = alibi ? library.tensor([0.5], { shape: [1], dtype: 'float32', device }) : undefined;
  try {
    return Array.from(await library.flashAttention(x, x, x, { alibiSlopes }).data());
  } catch (error) {
    return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  }
}

const cuda = BACKENDS.find(({ name }) => name === 'cuda');
const onCuda = cuda?.skipped === null ? describe : describe.skip;

onCuda(`TERNFLASH_ATTENTION_KERNEL, cuda${cuda?.skipped ? ` — skipped: ${cuda.skipped}` : ''}`, () => {
  const run = (kernel: string, headDim: number, alibi: boolean): Promise<number[] | string> =>
    resultOfChild(attend, [headDim, alibi], { env: { TERNFLASH_ATTENTION_KERNEL: kernel } });

  test('portable and hopper agree', async () => {
    const [portable, hopper] = (await Promise.all(
      ['portable', 'hopper'].map((each) => run(each, 64, false)),
    )) as number[][];
    expect(hopper).toHaveLength(40 * 64);
    hopper.forEach((x, i) => expect(Math.abs(x - portable[i])).toBeLessThan(0.02));
  });

  test.each([
    ['ALiBi', 64, true],
    ['another head dim', 72, false],
  ])('hopper refuses %s', async (_, headDim, alibi) => {
    expect(await run('hopper', headDim, alibi)).toMatch(
      /^KernelError: .*expected attention for which there is a kernel for compute capability 9\.0/,
    );
  });

  test('another value is refused', async () => {
    expect(await run('fast', 64, false)).toMatch(
      /^KernelError: .*expected TERNFLASH_ATTENTION_KERNEL=auto, portable or hopper/,
    );
  });
});
