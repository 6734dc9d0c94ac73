// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** What the Rust predecessor got wrong, each as a test of what is right. */

import {
  add,
  CausalLM,
  crossEntropy,
  device as deviceNamed,
  dropout,
  flashAttention,
  geglu,
  layerNorm,
  linear,
  linearCrossEntropy,
  manualSeed,
  memoryReductionFactor,
  ones,
  OptionError,
  quantizeTernary,
  randn,
  rmsNorm,
  rope,
  softmax,
  sum,
  swiglu,
  tensor,
  TernaryTensor,
  ternaryMatmul,
  tidy,
  type FlashAttentionOptions,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends, make } from '../harness.js';
import { Random } from '../random.js';

/** The formula of attention for one batch entry and head, [S, D] row by row. */
function byHand(
  [q, k, v]: readonly Float64Array[],
  headDim: number,
  sees: (query: number, key: number) => boolean,
  score: (s: number) => number = (s) => s,
): number[] {
  const [queries, keys] = [q.length / headDim, k.length / headDim];
  const out: number[] = [];
  for (let i = 0; i < queries; i++) {
    const weights = Array.from({ length: keys }, (_, j) => {
      if (!sees(i, j)) return 0;
      let s = 0;
      for (let d = 0; d < headDim; d++) s += q[i * headDim + d] * k[j * headDim + d];
      return Math.exp(score(s / Math.sqrt(headDim)));
    });
    const total = weights.reduce((a, b) => a + b);
    for (let d = 0; d < headDim; d++) {
      out.push(weights.reduce((a, weight, j) => a + weight * v[j * headDim + d], 0) / total);
    }
  }
  return out;
}

describeBackends((device) => {
  const bytes = (): number => deviceNamed(device).memory().bytes;
  const numbers = async (t: Tensor): Promise<number[]> => Array.from(await t.data());

  /** Numbers of order one, computed in float32: a few dozen roundings apart. */
  const expectClose = (got: readonly number[], expected: readonly number[]): void => {
    expect(got.length).toBe(expected.length);
    got.forEach((value, i) => {
      if (!(Math.abs(value - expected[i]) < 64 * 2 ** -24)) throw new Error(`[${i}]: ${value}, not ${expected[i]}`);
    });
  };

  describe('masks', () => {
    const [sequence, headDim] = [70, 16];
    const values = ['q', 'k', 'v'].map((name) => new Random(name).normals(sequence * headDim).map(Math.fround));
    const attend = (options: FlashAttentionOptions & { returnLse?: false }): Promise<number[]> => {
      const [q, k, v] = values.map((each) => make(device, 'float32', [1, sequence, 1, headDim], each));
      return numbers(flashAttention(q, k, v, options));
    };

    test('a mask and causal together: both hold', async () => {
      const both = await attend({ causal: true, window: [5, 9] });
      expectClose(
        both,
        byHand(values, headDim, (i, j) => j <= i && j >= i - 5),
      );
      expect(both).not.toEqual(await attend({ causal: true }));
      expect(both).not.toEqual(await attend({ window: [5, 9] }));
    });

    test('softcap and a window together: both hold', async () => {
      const cap = (s: number): number => 0.5 * Math.tanh(s / 0.5);
      for (const causal of [false, true]) {
        const both = await attend({ softcap: 0.5, window: [5, 9], causal });
        const sees = (i: number, j: number): boolean => j >= i - 5 && j <= i + (causal ? 0 : 9);
        expectClose(both, byHand(values, headDim, sees, cap));
        expect(both).not.toEqual(await attend({ softcap: 0.5, causal }));
        expect(both).not.toEqual(await attend({ window: [5, 9], causal }));
      }
    });

    test('no kernel passes over the mask: what a query does not see changes no bit of it', async () => {
      // Query 60 sees keys 55 to 64.
      const run = async (changed: number[]): Promise<{ out: number[]; gradients: number[][] }> => {
        const [q, k, v] = values.map((each, which) => {
          const own = each.slice();
          if (which > 0) for (const j of changed) own.fill(1e3, j * headDim, (j + 1) * headDim);
          return make(device, 'float32', [1, sequence, 1, headDim], own, true);
        });
        const out = flashAttention(q, k, v, { window: [5, 4] });
        const dOut = new Float64Array(sequence * headDim).fill(1, 60 * headDim, 61 * headDim);
        out.backward(make(device, 'float32', out.shape, dOut));
        return {
          out: (await bitsOf(out)).slice(60 * headDim, 61 * headDim),
          gradients: await Promise.all([q, k, v].map((each) => numbers(each.grad as Tensor))),
        };
      };
      const plain = await run([]);
      const unseen = await run([0, 30, 54, 65, 69]);
      expect(unseen.out).toEqual(plain.out);
      expect(unseen.gradients).toEqual(plain.gradients);
      for (const gradient of plain.gradients.slice(1)) {
        const touched = Array.from({ length: sequence }, (_, j) => j).filter((j) =>
          gradient.slice(j * headDim, (j + 1) * headDim).some((value) => value !== 0),
        );
        expect(touched).toEqual([55, 56, 57, 58, 59, 60, 61, 62, 63, 64]);
      }
      for (const seen of [55, 64]) expect((await run([seen])).out).not.toEqual(plain.out);
    });
  });

  describe('fewer key heads than query heads', () => {
    const [batch, sequence, heads, keyHeads, headDim] = [3, 33, 6, 2, 16];
    const draw = (name: string, count: number): Float64Array =>
      new Random(name).normals(batch * sequence * count * headDim).map(Math.fround);

    /** Each key head as many times as query heads read it. */
    const repeated = (values: Float64Array): Float64Array => {
      const group = heads / keyHeads;
      return Float64Array.from({ length: values.length * group }, (_, i) => {
        const [row, rest] = [Math.floor(i / (heads * headDim)), i % (heads * headDim)];
        const [head, d] = [Math.floor(rest / headDim), rest % headDim];
        return values[(row * keyHeads + Math.floor(head / group)) * headDim + d];
      });
    };
    const [qs, ks, vs, dOuts] = [draw('q', heads), draw('k', keyHeads), draw('v', keyHeads), draw('dOut', heads)];
    const run = async (k: Float64Array, v: Float64Array, count: number): Promise<number[][]> => {
      const t = (values: Float64Array, n: number): Tensor =>
        make(device, 'float32', [batch, sequence, n, headDim], values, true);
      const leaves = [t(qs, heads), t(k, count), t(v, count)];
      const out = flashAttention(leaves[0], leaves[1], leaves[2], { causal: true });
      out.backward(t(dOuts, heads).detach());
      return Promise.all([out, ...leaves.map((leaf) => leaf.grad as Tensor)].map(numbers));
    };

    test('the kernels read K and V by the sizes these have', async () => {
      const [out, dQ, dK, dV] = await run(ks, vs, keyHeads);
      const whole = await run(repeated(ks), repeated(vs), heads);
      expectClose(out, whole[0]);
      expectClose(dQ, whole[1]);
      // The gradient of a key head is the sum of those of its repetitions.
      for (const [got, each] of [
        [dK, whole[2]],
        [dV, whole[3]],
      ]) {
        const expected = new Array<number>(got.length).fill(0);
        const owner = repeated(Float64Array.from(got, (_, i) => i));
        each.forEach((value, i) => (expected[owner[i]] += value));
        expectClose(got, expected);
      }
    });

    test('they are not copied', () => {
      const t = (n: number): Tensor => randn([2, 128, n, 32], { device, requiresGrad: true });
      const [q, k, v] = [t(8), t(1), t(1)];
      const before = bytes();
      deviceNamed(device).resetPeakMemory();
      const out = flashAttention(q, k, v);
      const rows = 4 * 2 * 8 * 128; // a float32 for each query of each head
      expect(deviceNamed(device).memory().peakBytes - before).toBe(out.bytes + rows);
      out.backward(out);
      const gradients = q.bytes + k.bytes + v.bytes;
      expect(deviceNamed(device).memory().peakBytes - before).toBeLessThanOrEqual(out.bytes + gradients + 2 * rows);
      for (const each of [q, k, v, out]) each.dispose();
    });
  });

  test('queries and keys of different numbers: decoding goes on from what is there', async () => {
    const [sequence, heads, headDim] = [65, 2, 16];
    const values = ['q', 'k', 'v'].map((name) => new Random(name).normals(sequence * heads * headDim));
    const row = heads * headDim;
    const attend = (first: number): Promise<number[]> => {
      const [q, k, v] = values.map((each, which) => {
        const from = which === 0 ? first : 0;
        return make(device, 'float32', [1, sequence - from, heads, headDim], each.subarray(from * row));
      });
      return numbers(flashAttention(q, k, v, { causal: true }));
    };
    const whole = await attend(0);
    for (const first of [1, 32, 64]) expectClose(await attend(first), whole.slice(first * row));
  });

  test('the fused loss keeps no logits for the backward pass', async () => {
    const [rows, features, vocabulary] = [96, 8, 4096];
    const x = randn([rows, features], { device, requiresGrad: true });
    const weight = randn([vocabulary, features], { device, requiresGrad: true });
    const targets = tensor(new Random('targets').integers(rows, 0, vocabulary - 1), { dtype: 'int32', device });
    const logits = 4 * rows * vocabulary;
    const before = bytes();
    const loss = tidy(() => linearCrossEntropy(x, weight, targets));
    expect(bytes() - before).toBeLessThan(logits / 100);
    loss.backward();
    const plain = tidy(() => crossEntropy(linear(x.detach(), weight.detach()), targets));
    expect(await loss.item()).toBeCloseTo(await plain.item(), 5);
    for (const each of [x, weight, targets, loss, plain]) each.dispose();
  });

  describe('dropout drops', () => {
    test('in attention', async () => {
      manualSeed(5);
      // One key: the softmax is 1, and what is left of it shows in the result.
      const [queries, p] = [4096, 0.25];
      const t = (n: number): Tensor => ones([1, n, 1, 1], { device });
      const out = await numbers(flashAttention(t(queries), t(1), t(1), { dropout: p }));
      const kept = Math.fround(1 / (1 - p));
      expect([...new Set(out)].sort()).toEqual([0, kept]);
      const share = out.filter((value) => value === 0).length / queries;
      expect(Math.abs(share - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / queries));
    });

    test('and alone', async () => {
      const out = await numbers(dropout(ones([64, 64], { device }), 0.5));
      expect([...new Set(out)].sort()).toEqual([0, 2]);
    });
  });

  describe('ternary weights', () => {
    const gaussian = (): Tensor => make(device, 'float32', [64, 256], new Random('weight').normals(64 * 256, 0.02));

    test('every option of the quantisation is read', async () => {
      const weight = make(device, 'float32', [2, 4], [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8]);
      const trits = async (options: object): Promise<number[]> =>
        Array.from(await quantizeTernary(weight, options).trits());
      expect(await trits({ method: 'threshold', threshold: 0.45 })).toEqual([0, 0, 0, 0, 1, -1, 1, -1]);
      expect(await trits({ method: 'threshold', threshold: 0.75 })).toEqual([0, 0, 0, 0, 0, 0, 0, -1]);
      expect(await trits({ method: 'percentile', percentile: 50, granularity: 'row' })).toEqual([
        0, 0, 1, -1, 0, 0, 1, -1,
      ]);
      expect(await trits({ method: 'percentile', percentile: 50, granularity: 'tensor' })).toEqual([
        0, 0, 0, 0, 1, -1, 1, -1,
      ]);
      expect(await trits({ method: 'meanStd', k: 0, granularity: 'tensor' })).toEqual([0, 0, 0, 0, 1, -1, 1, -1]);
      expect(await trits({ method: 'meanStd', k: 1, granularity: 'tensor' })).toEqual([0, 0, 0, 0, 0, 0, 1, -1]);
    });

    test('an option that would not be read is refused', () => {
      const weight = gaussian();
      for (const [options, message] of [
        [{ threshold: 0.5 }, 'quantizeTernary: expected threshold only with method threshold, got it with absmean'],
        [
          { quantizationThreshold: 0.5 },
          'quantizeTernary: expected only method, granularity, percentile, k, threshold as options, got quantizationThreshold',
        ],
      ] as [object, string][]) {
        expect(() => quantizeTernary(weight, options)).toThrow(new OptionError(message));
      }
      weight.dispose();
    });

    test('the threshold of ternary weight networks is 0.7 of the mean magnitude, not of the largest', async () => {
      const weight = gaussian();
      const sparsity = await quantizeTernary(weight, { method: 'twn' }).sparsity();
      // P(|z| < 0.7 √(2/π)) of the normal distribution: 0.4235. By the largest magnitude, about 2.8 σ, it would be over 0.9.
      expect(Math.abs(sparsity - 0.4235)).toBeLessThan(5 * Math.sqrt((0.42 * 0.58) / weight.size));
      expect(() => quantizeTernary(weight, { method: 'absmax' as 'twn' })).toThrow(OptionError);
    });

    test('a trit takes two bits: a sixteenth of float32, an eighth of bfloat16', () => {
      const ternary = quantizeTernary(gaussian());
      expect((8 * ternary.packed.bytes) / (64 * 256)).toBe(2);
      expect(ternary.bytes).toBe(ternary.packed.bytes + ternary.scale.bytes);
      expect(Math.round(ternary.compressionRatio())).toBe(16);
      expect(Math.round(ternary.compressionRatio('bfloat16'))).toBe(8);
    });
  });

  test('a checkpoint every 0 layers is refused, and everything goes on', async () => {
    using model = new CausalLM({ vocabulary: 5, layers: 2, hidden: 8, heads: 2, intermediate: 8 }, { device });
    const error = new OptionError('CheckpointConfig: expected an integer from 1 to 2147483647 for every, got 0');
    expect(() => (model.checkpointConfig = { every: 0 })).toThrow(error);
    expect(model.checkpointConfig.enabled).toBe(false);
    expect(() => memoryReductionFactor({ every: 0 }, 12)).toThrow(error);
    expect(memoryReductionFactor({ every: 5 }, 12)).toBe(3 / 12);
    const ids = tensor([[0, 1, 2, 3]], { dtype: 'int32', device });
    model.checkpointConfig = { every: 2 };
    model.checkpointConfig.every = 0;
    expect(() => model.loss(ids, ids)).toThrow(error);
    model.checkpointConfig.every = 1;
    const loss = model.loss(ids, ids);
    loss.backward();
    expect(await loss.item()).toBeGreaterThan(0);
  });

  describe('bfloat16', () => {
    const like = (dtype: 'float32' | 'bfloat16' | 'int32', shape: number[]): Tensor => ones(shape, { dtype, device });
    const trits = (): TernaryTensor => TernaryTensor.fromTrits(new Array(16).fill(1), [4, 4], 1, { device });
    const targets = (): Tensor => tensor([0, 1], { dtype: 'int32', device });
    const ops: [string, number[], (x: Tensor) => Tensor][] = [
      ['linear', [2, 4], (x) => linear(x, like('bfloat16', [4, 4]))],
      ['flashAttention', [1, 2, 1, 4], (x) => flashAttention(x, x, x)],
      ['rmsNorm', [2, 4], (x) => rmsNorm(x, null)],
      ['layerNorm', [2, 4], (x) => layerNorm(x, null, null)],
      ['rope', [1, 2, 1, 4], (x) => rope(x)],
      ['swiglu', [2, 4], (x) => swiglu(x, x)],
      ['geglu', [2, 4], (x) => geglu(x, x)],
      ['softmax', [2, 4], (x) => softmax(x)],
      ['dropout', [2, 4], (x) => dropout(x, 0.5)],
      ['crossEntropy', [2, 4], (x) => crossEntropy(x, targets())],
      ['ternaryMatmul', [2, 4], (x) => ternaryMatmul(x, trits())],
      ['quantizeTernary', [2, 4], (x) => quantizeTernary(x).scale],
    ];

    test.each(ops)('%s takes it, and says so where it is given something else', async (op, shape, call) => {
      expect((await numbers(call(like('bfloat16', shape)))).every(Number.isFinite)).toBe(true);
      const message = new RegExp(`^${op}: expected \\w+ of dtype float32 or float16 or bfloat16, got int32$`);
      expect(() => call(like('int32', shape))).toThrow(message);
    });

    test('and is not taken for another float type', () => {
      expect(() => add(like('float32', [2]), like('bfloat16', [2]))).toThrow(
        'add: expected b of dtype float32 like a, got bfloat16',
      );
      expect(sum(like('bfloat16', [2])).dtype).toBe('bfloat16');
    });
  });
});
