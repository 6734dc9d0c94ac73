// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { execFileSync } from 'node:child_process';
import * as path from 'node:path';
import {
  device as deviceNamed,
  DisposedError,
  DTypeError,
  flashAttention,
  getThreads,
  manualSeed,
  OptionError,
  setThreads,
  ShapeError,
  type FlashAttentionOptions,
  type Tensor,
} from '../../lib/index.js';
import type { AttentionCase } from '../cases.js';
import { flashAttentionSpec } from '../formulas/flash-attention.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, hasCpu, make } from '../harness.js';
import { describeGolden, describeOp, type GoldenCase } from '../op-tests.js';
import { Random } from '../random.js';

type Sizes = [number, number, number, number, number, number];

/** Options as in test/fixtures/manifest.json; the sizes are B, Sq, Sk, H, G, D. */
function golden(
  fixture: string,
  [batch, queries, keys, heads, keyHeads, headDim]: Sizes,
  options: Pick<AttentionCase, 'causal' | 'window' | 'scale' | 'softcap' | 'alibi' | 'sinks'> = {},
): GoldenCase<AttentionCase> {
  return {
    fixture,
    c: { name: fixture, batch, queries, keys, heads, keyHeads, headDim, ...options },
    names: { alibiSlopes: 'alibi_slopes' },
  };
}

const CAUSAL = { causal: true };

describeGolden(flashAttentionSpec, [
  golden('attention_mha', [1, 37, 37, 2, 2, 64]),
  golden('attention_causal', [2, 65, 65, 2, 2, 64], CAUSAL),
  golden('attention_gqa_causal', [1, 49, 49, 4, 2, 64], CAUSAL),
  golden('attention_mqa', [1, 33, 70, 4, 1, 64]),
  golden('attention_cross_causal_longer_k', [1, 20, 75, 2, 1, 64], CAUSAL),
  golden('attention_causal_longer_q', [1, 40, 25, 2, 2, 64], CAUSAL),
  golden('attention_window', [1, 80, 80, 2, 1, 64], { causal: true, window: [16, 0] }),
  golden('attention_window_two_sided', [1, 60, 60, 2, 2, 64], { window: [7, 11] }),
  golden('attention_scale', [1, 40, 40, 2, 2, 64], { scale: 0.5 }),
  golden('attention_decode', [3, 1, 129, 8, 2, 64], CAUSAL),
  golden('attention_head_dim_32', [1, 40, 40, 2, 2, 32], CAUSAL),
  golden('attention_head_dim_80', [1, 40, 40, 1, 1, 80]),
  golden('attention_head_dim_128', [1, 40, 40, 1, 1, 128], CAUSAL),
  golden('attention_head_dim_256', [1, 33, 33, 1, 1, 256], CAUSAL),
  golden('attention_softcap', [1, 50, 50, 2, 2, 64], { causal: true, softcap: 15 }),
  golden('attention_alibi', [1, 50, 50, 4, 2, 64], { causal: true, alibi: 'heads' }),
  golden('attention_sinks', [1, 50, 50, 4, 2, 64], { causal: true, sinks: true }),
]);

describeOp(flashAttentionSpec);

const { shape: wrongShape, option, dtype: wrongDType, disposed } = ERROR_CODES;

describe('flashAttention', () => {
  describeBackends((device) => {
    const attend = (options: FlashAttentionOptions) => (t: (shape: number[]) => Tensor) =>
      flashAttention(t([1, 3, 2, 4]), t([1, 5, 2, 4]), t([1, 5, 2, 4]), options);

    test('hand-computed: equal scores average the values a query sees', async () => {
      const q = make(device, 'float32', [1, 3, 1, 1], [0, 0, 0]);
      const k = make(device, 'float32', [1, 3, 1, 1], [5, -1, 2]);
      const v = make(device, 'float32', [1, 3, 1, 1], [3, 9, 0]);
      const { out, lse } = flashAttention(q, k, v, { causal: true, returnLse: true });
      expect([...(await out.data())]).toEqual([3, 6, 4]);
      expect(Array.from(await lse.data(), (value) => Math.round(Math.exp(value) * 1e6) / 1e6)).toEqual([1, 2, 3]);
      expect([lse.shape, lse.dtype]).toEqual([[1, 1, 3], 'float32']);
    });

    test('hand-computed: two scores a log 3 apart weigh 1 to 3', async () => {
      const q = make(device, 'float32', [1, 1, 1, 1], [Math.log(3)]);
      const k = make(device, 'float32', [1, 2, 1, 1], [0, 1]);
      const v = make(device, 'float32', [1, 2, 1, 1], [0, 8]);
      const { out, lse } = flashAttention(q, k, v, { scale: 1, returnLse: true });
      expect(Math.abs((await out.item()) - 6)).toBeLessThan(6 * 2 ** -21);
      expect(Math.abs((await lse.item()) - Math.log(4))).toBeLessThan(2 ** -21);
    });

    test('queries that see no key: output 0, lse -Infinity, gradients 0', async () => {
      const random = new Random('no keys');
      const leaf = (s: number): Tensor => make(device, 'float32', [1, s, 1, 2], random.normals(2 * s), true);
      const [q, k, v] = [leaf(3), leaf(1), leaf(1)];
      const { out, lse } = flashAttention(q, k, v, { causal: true, returnLse: true });
      expect([...(await out.data())].slice(0, 4)).toEqual([0, 0, 0, 0]);
      expect([...(await lse.data())].slice(0, 2)).toEqual([-Infinity, -Infinity]);
      out.backward(make(device, 'float32', [1, 3, 1, 2], [100, 200, 300, 400, 5, 6]));
      expect(Array.from((await q.grad?.data()) ?? [], (value) => value + 0).slice(0, 4)).toEqual([0, 0, 0, 0]);
      expect([...((await v.grad?.data()) ?? [])]).toEqual([5, 6]);
    });

    test('finite inputs far out give no NaN: the largest score takes all', async () => {
      const q = make(device, 'float32', [1, 1, 1, 2], [1e15, 1e15], true);
      const k = make(device, 'float32', [1, 3, 1, 2], [1e15, 1e15, -1e15, -1e15, 1e14, 0], true);
      const v = make(device, 'float32', [1, 3, 1, 2], [1, 2, 3, 4, 5, 6], true);
      const out = flashAttention(q, k, v);
      expect([...(await out.data())]).toEqual([1, 2]);
      out.backward(make(device, 'float32', [1, 1, 1, 2], [1, 1]));
      for (const leaf of [q, k])
        expect(Array.from((await leaf.grad?.data()) ?? [], (value) => value + 0)).toEqual(new Array(leaf.size).fill(0));
      expect([...((await v.grad?.data()) ?? [])]).toEqual([1, 1, 0, 0, 0, 0]);
    });

    describe.each(FLOAT_DTYPES)('bit-equal, %s', (dtype) => {
      const run = async (): Promise<number[][]> => {
        const random = new Random('bit-equal');
        const leaf = (s: number, h: number): Tensor =>
          make(device, dtype, [2, s, h, 32], random.normals(2 * s * h * 32), true);
        const [q, k, v] = [leaf(129, 4), leaf(127, 2), leaf(127, 2)];
        const sinks = make(device, 'float32', [4], [1, 0, -1, 2], true);
        const alibiSlopes = make(device, 'float32', [4], [0.5, 0.25, 0.125, 0.0625]);
        const results: number[][] = [];
        for (const options of [{}, { softcap: 5, alibiSlopes, sinks, dropout: 0.2, deterministic: true }]) {
          manualSeed(2);
          const { out, lse } = flashAttention(q, k, v, { ...options, causal: true, returnLse: true });
          results.push(await bitsOf(out), await bitsOf(lse));
          out.backward(make(device, dtype, out.shape, new Random('dOut').normals(out.size)));
          for (const each of [q, k, v, sinks]) if (each.grad) results.push(await bitsOf(each.grad));
          for (const each of [q, k, v]) each.clearGrad();
          for (const each of [out, lse]) each.dispose();
        }
        for (const each of [q, k, v, sinks, alibiSlopes]) each.dispose();
        return results;
      };

      test('forward and backward on repeated runs, and whatever the number of threads', async () => {
        const threads = getThreads();
        try {
          const first = await run();
          expect(await run()).toEqual(first);
          // The reference computes in the calling thread.
          for (const count of device === 'reference' ? [] : [1, 2, 3]) {
            setThreads(count);
            expect(await run()).toEqual(first);
          }
        } finally {
          setThreads(threads);
        }
      });
    });

    test('memory is linear in S: no S x S matrix, forward and backward', async () => {
      // The reference is slow: a shorter sequence shows the same.
      const s = device === 'reference' ? 512 : 2048;
      const d = 16;
      const random = new Random('memory');
      const shape = [1, s, 1, d];
      const leaf = (requiresGrad: boolean): Tensor =>
        make(device, 'float32', shape, random.normals(s * d), requiresGrad);
      await deviceNamed(device).synchronize();
      deviceNamed(device).resetPeakMemory();
      const before = deviceNamed(device).memory().bytes;
      const [q, k, v, dOut] = [leaf(true), leaf(true), leaf(true), leaf(false)];
      const out = flashAttention(q, k, v, { causal: true });
      out.backward(dOut);
      const peak = deviceNamed(device).memory().peakBytes - before;
      // q k v dOut out and three gradients, and two float32 numbers a query: the lse and the workspace of the backward pass.
      expect(peak).toBeLessThanOrEqual(8 * q.bytes + 2 * 4 * s);
      expect(peak).toBeLessThan(4 * s * s);
      for (const each of [q, k, v, dOut, out]) each.dispose();
    });

    describeErrors(device, [
      {
        message: 'flashAttention: expected k of shape [2, Sk, G, 8] to match q [2, 3, 1, 8], got [2, 3, 1, 4]',
        type: ShapeError,
        code: wrongShape,
        call: (t) => flashAttention(t([2, 3, 1, 8]), t([2, 3, 1, 4]), t([2, 3, 1, 4])),
      },
      {
        message: 'flashAttention: expected v of shape [1, 5, 1, 4] to match k, got [1, 6, 1, 4]',
        type: ShapeError,
        code: wrongShape,
        call: (t) => flashAttention(t([1, 3, 1, 4]), t([1, 5, 1, 4]), t([1, 6, 1, 4])),
      },
      {
        message: 'flashAttention: expected q of shape [B, Sq, H, D], got [3, 1, 4]',
        type: ShapeError,
        code: wrongShape,
        call: (t) => flashAttention(t([3, 1, 4]), t([1, 5, 1, 4]), t([1, 5, 1, 4])),
      },
      {
        message: 'flashAttention: expected a number of key heads that divides the 4 query heads, got 3',
        type: ShapeError,
        code: wrongShape,
        call: (t) => flashAttention(t([1, 3, 4, 2]), t([1, 3, 3, 2]), t([1, 3, 3, 2])),
      },
      {
        message: 'flashAttention: expected a head dim of 1 to 256, got 257',
        type: ShapeError,
        code: wrongShape,
        call: (t) => flashAttention(t([1, 1, 1, 257]), t([1, 1, 1, 257]), t([1, 1, 1, 257])),
      },
      {
        message: 'flashAttention: expected k of dtype float32 like q, got bfloat16',
        type: DTypeError,
        code: wrongDType,
        call: (t) => flashAttention(t([1, 3, 1, 4]), t([1, 3, 1, 4], 'bfloat16'), t([1, 3, 1, 4])),
      },
      {
        message: 'flashAttention: expected a live tensor for v, got a disposed one of shape [1, 3, 1, 4]',
        type: DisposedError,
        code: disposed,
        call: (t) => {
          const v = t([1, 3, 1, 4]);
          v.dispose();
          return flashAttention(t([1, 3, 1, 4]), t([1, 3, 1, 4]), v);
        },
      },
      ...(
        [
          [{ causal: 1 as unknown as boolean }, 'expected a boolean for causal, got 1'],
          [{ window: [1] as unknown as [number, number] }, 'expected [left, right] for window, got [1]'],
          [{ window: [-2, 0] }, 'expected an integer from -1 to 2147483647 for window[0], got -2'],
          [{ window: [0, 0.5] }, 'expected an integer from -1 to 2147483647 for window[1], got 0.5'],
          [{ scale: 0 }, 'expected a finite number above 0 for scale, got 0'],
          [{ scale: NaN }, 'expected a finite number above 0 for scale, got NaN'],
          [{ returnLse: 'yes' as unknown as boolean }, 'expected a boolean for returnLse, got "yes"'],
          [
            { masked: true } as FlashAttentionOptions,
            'expected only causal, window, scale, softcap, alibiSlopes, sinks, dropout, deterministic, returnLse as options, got masked',
          ],
        ] as [FlashAttentionOptions, string][]
      ).map(([options, message]) => ({
        message: `flashAttention: ${message}`,
        type: OptionError,
        code: option,
        call: attend(options),
      })),
    ]);
  });
});

/** Forward and backward in a process of its own, whose peak of real memory also counts what kernels take for themselves. */
const LONG_SEQUENCE = `
  const { randn, flashAttention, device } = require(process.argv[1]);
  const { readFileSync } = require('node:fs');
  // Of this program alone where the system says so: maxRSS begins with the size of the process that started this one.
  const largest = () =>
    process.platform === 'linux'
      ? 1024 * Number(/VmHWM:\\s+(\\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))[1])
      : 1024 * process.resourceUsage().maxRSS;
  const s = 8192;
  const make = (seed) => randn([1, s, 1, 64], { seed, device: 'cpu', requiresGrad: seed > 0 });
  const [dOut, q, k, v] = [0, 1, 2, 3].map(make);
  device('cpu').synchronize().then(async () => {
    const before = largest();
    flashAttention(q, k, v, { causal: true }).backward(dOut);
    await device('cpu').synchronize();
    const computed = (await q.grad.data()).some((value) => value !== 0);
    console.log(JSON.stringify({ computed, sequence: s, tensorBytes: q.bytes, growth: largest() - before }));
  });
`;

(hasCpu ? describe : describe.skip)('flashAttention on cpu, 8,192 tokens', () => {
  test('the process grows by its results and a little workspace, not by S x S', () => {
    const library = path.join(__dirname, '..', '..', 'lib', 'index.js');
    const env = { ...process.env, TERNFLASH_POISON: '0' };
    const printed = execFileSync(process.execPath, ['-e', LONG_SEQUENCE, library], { encoding: 'utf8', env });
    const result = JSON.parse(printed) as { computed: boolean; sequence: number; tensorBytes: number; growth: number };
    const { computed, sequence, tensorBytes, growth } = result;
    expect(computed).toBe(true);
    // Out and three gradients; then as much again for the workspaces of both passes. S x S floats would be 256 MiB.
    const bound = 8 * tensorBytes;
    expect(bound).toBeLessThan((4 * sequence * sequence) / 4);
    expect(growth).toBeLessThan(bound);
  });
});
