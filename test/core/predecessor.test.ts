// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** The integration cases of the Rust predecessor, which ran them and checked shapes at most; here with the numbers they should give. */

import {
  add,
  bitLinear,
  crossEntropy,
  dequantizeTernary,
  device as deviceNamed,
  embedding,
  flashAttention,
  linear,
  quantizeTernary,
  randn,
  rmsNorm,
  rope,
  swiglu,
  tensor,
  TernaryTensor,
  ternaryMatmul,
  tidy,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends, hasCpu } from '../harness.js';
import { Random } from '../random.js';

const numbers = async (t: Tensor | null): Promise<Float64Array> => {
  if (!t) throw new Error('expected a tensor, got none');
  return Float64Array.from(await t.data());
};

const largest = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** Largest difference, relative to the largest number: what two float32 computations of one thing are compared by. */
function difference(got: Float64Array, expected: Float64Array): number {
  expect(got.length).toBe(expected.length);
  const size = largest(expected);
  expect(size).toBeGreaterThan(0);
  return largest(got.map((value, i) => value - expected[i])) / size;
}

describe('a two-layer transformer, forward and backward', () => {
  const [vocabulary, batch, sequence, heads, keyHeads, headDim, inner] = [50, 2, 24, 4, 2, 8, 48];
  const hidden = heads * headDim;
  const random = new Random('transformer');
  const shapes: Record<string, number[]> = { embedding: [vocabulary, hidden], norm: [hidden] };
  for (const layer of [0, 1]) {
    Object.assign(shapes, {
      [`${layer}.norm1`]: [hidden],
      [`${layer}.norm2`]: [hidden],
      [`${layer}.q`]: [heads * headDim, hidden],
      [`${layer}.k`]: [keyHeads * headDim, hidden],
      [`${layer}.v`]: [keyHeads * headDim, hidden],
      [`${layer}.o`]: [hidden, heads * headDim],
      [`${layer}.gate`]: [inner, hidden],
      [`${layer}.up`]: [inner, hidden],
      [`${layer}.down`]: [hidden, inner],
    });
  }
  const size = (shape: number[]): number => shape.reduce((product, each) => product * each, 1);
  const initial = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [
      name,
      name.includes('norm')
        ? random.normals(size(shape), 0.1).map((value) => 1 + value)
        : random.normals(size(shape), 1 / Math.sqrt(hidden)),
    ]),
  );
  const tokens = random.integers(batch * (sequence + 1), 0, vocabulary - 1);
  const column = (offset: number): number[] =>
    Array.from(
      { length: batch * sequence },
      (_, i) => tokens[Math.floor(i / sequence) * (sequence + 1) + (i % sequence) + offset],
    );

  interface Result {
    logits: Float64Array;
    loss: number;
    gradients: Record<string, Float64Array>;
  }

  async function run(device: DeviceName, values: Record<string, Float64Array>): Promise<Result> {
    const p = Object.fromEntries(
      Object.entries(values).map(([name, each]) => [
        name,
        tensor(each, { shape: shapes[name], device, requiresGrad: true }),
      ]),
    );
    const { logits, loss } = tidy(() => {
      let x = embedding(p.embedding, tensor(column(0), { shape: [batch, sequence], dtype: 'int32', device }));
      for (const layer of [0, 1]) {
        const own = (name: string): Tensor => p[`${layer}.${name}`];
        const normed = rmsNorm(x, own('norm1'));
        const q = rope(linear(normed, own('q')).reshape(batch, sequence, heads, headDim));
        const k = rope(linear(normed, own('k')).reshape(batch, sequence, keyHeads, headDim));
        const v = linear(normed, own('v')).reshape(batch, sequence, keyHeads, headDim);
        const mixed = flashAttention(q, k, v, { causal: true }).reshape(batch, sequence, hidden);
        x = add(x, linear(mixed, own('o')));
        const again = rmsNorm(x, own('norm2'));
        x = add(x, linear(swiglu(linear(again, own('gate')), linear(again, own('up'))), own('down')));
      }
      const logits = linear(rmsNorm(x, p.norm), p.embedding).reshape(batch * sequence, vocabulary);
      return { logits, loss: crossEntropy(logits, tensor(column(1), { dtype: 'int32', device })) };
    });
    loss.backward();
    const gradients: Record<string, Float64Array> = {};
    for (const [name, each] of Object.entries(p)) gradients[name] = await numbers(each.grad);
    const result = { logits: await numbers(logits), loss: await loss.item(), gradients };
    for (const each of [logits, loss, ...Object.values(p)]) each.dispose();
    return result;
  }

  test('the gradient is the slope of the loss', async () => {
    const { loss, gradients } = await run('reference', initial);
    expect(loss).toBeGreaterThan(1);
    expect(Object.keys(gradients).sort()).toEqual(Object.keys(shapes).sort());
    for (const name of ['embedding', 'norm', '0.norm1', '0.q', '0.k', '0.v', '0.o', '1.gate', '1.up', '1.down']) {
      // Along the gradient itself the slope is its norm. The loss is held in float32, so steps are large and the error of third order is
      // taken out by a second pair of them.
      const gradient = gradients[name];
      const norm = Math.hypot(...gradient);
      expect(norm).toBeGreaterThan(1e-3);
      const at = async (t: number): Promise<number> => {
        const moved = initial[name].map((value, i) => value + (t * gradient[i]) / norm);
        return (await run('reference', { ...initial, [name]: moved })).loss;
      };
      const slope = async (h: number): Promise<number> => ((await at(h)) - (await at(-h))) / (2 * h);
      const h = 0.04;
      const found = (4 * (await slope(h)) - (await slope(2 * h))) / 3;
      expect({ name, ratio: Math.round((found / norm) * 100) / 100 }).toEqual({ name, ratio: 1 });
    }
  });

  (hasCpu ? test : test.skip)('cpu gives what the reference gives', async () => {
    const [got, expected] = [await run('cpu', initial), await run('reference', initial)];
    // Some twenty float32 roundings one after the other, each of 2^-24 at most, in sums of at most 50 terms of either sign.
    const bound = 200 * 2 ** -24;
    expect(difference(got.logits, expected.logits)).toBeLessThan(bound);
    expect(Math.abs(got.loss - expected.loss)).toBeLessThan(bound * expected.loss);
    for (const name of Object.keys(shapes)) {
      expect({ name, close: difference(got.gradients[name], expected.gradients[name]) < bound }).toEqual({
        name,
        close: true,
      });
    }
  });

  describeBackends((device) => {
    test('a token changes nothing before it', async () => {
      const full = await run(device, initial);
      const place = batch * sequence - 1; // input token of the last row
      const before = tokens[(batch - 1) * (sequence + 1) + sequence - 1];
      tokens[(batch - 1) * (sequence + 1) + sequence - 1] = (before + 1) % vocabulary;
      const changed = await run(device, initial);
      tokens[(batch - 1) * (sequence + 1) + sequence - 1] = before;
      expect(changed.logits.slice(0, place * vocabulary)).toEqual(full.logits.slice(0, place * vocabulary));
      expect(changed.logits.slice(place * vocabulary)).not.toEqual(full.logits.slice(place * vocabulary));
    });
  });
});

describe('attention over 1,024 tokens', () => {
  const [sequence, heads, keyHeads, headDim] = [1024, 2, 1, 32];

  function run(device: DeviceName, dtype: 'float32' | 'bfloat16'): Tensor[] {
    const draw = (seed: number, count: number): Tensor =>
      randn([1, sequence, count, headDim], { seed, device, dtype, requiresGrad: true });
    const [q, k, v] = [draw(1, heads), draw(2, keyHeads), draw(3, keyHeads)];
    const { out, lse } = flashAttention(q, k, v, { causal: true, returnLse: true });
    out.backward(randn(out.shape, { seed: 4, device, dtype }));
    return [out, lse, q.grad as Tensor, k.grad as Tensor, v.grad as Tensor, v];
  }

  const expected: Record<string, Promise<Float64Array[]>> = {};
  const expectedOf = (dtype: 'float32' | 'bfloat16'): Promise<Float64Array[]> =>
    (expected[dtype] ??= Promise.all(run('reference', dtype).map(numbers)));

  test('the reference: the first token sees itself, the last the softmax of all', async () => {
    const [out, lse, , , , v] = await expectedOf('float32');
    for (let h = 0; h < heads; h++) {
      expect(Array.from(out.slice(h * headDim, (h + 1) * headDim))).toEqual(Array.from(v.slice(0, headDim)));
    }
    const [q, k] = await Promise.all([
      numbers(randn([1, sequence, heads, headDim], { seed: 1, device: 'reference' })),
      numbers(randn([1, sequence, keyHeads, headDim], { seed: 2, device: 'reference' })),
    ]);
    for (let h = 0; h < heads; h++) {
      const last = ((sequence - 1) * heads + h) * headDim;
      const weights = Float64Array.from({ length: sequence }, (_, j) => {
        let score = 0;
        for (let d = 0; d < headDim; d++) score += q[last + d] * k[j * headDim + d];
        return Math.exp(score / Math.sqrt(headDim));
      });
      const total = weights.reduce((a, b) => a + b);
      expect(lse[h * sequence + sequence - 1]).toBeCloseTo(Math.log(total), 5);
      for (let d = 0; d < headDim; d++) {
        const mixed = weights.reduce((sum, weight, j) => sum + weight * v[j * headDim + d], 0) / total;
        expect(out[last + d]).toBeCloseTo(mixed, 6);
      }
    }
  });

  (hasCpu ? test : test.skip).each([
    // Sums of 1,024 terms of either sign in float32; and bfloat16 results, which are rounded to 2^-9 of themselves.
    ['float32', 64 * 2 ** -24],
    ['bfloat16', 2 * 2 ** -8],
  ] as const)('cpu gives what the reference gives, forward and backward, in %s', async (dtype, bound) => {
    const wanted = await expectedOf(dtype);
    const got = await Promise.all(run('cpu', dtype).map(numbers));
    for (const [i, name] of ['out', 'lse', 'dQ', 'dK', 'dV'].entries()) {
      const error = difference(got[i], wanted[i]);
      expect({ name, within: error < bound }).toEqual({ name, within: true });
    }
  });

  describeBackends((device) => {
    test('holds no matrix of tokens by tokens', () => {
      const draw = (seed: number, count: number): Tensor =>
        randn([1, sequence, count, headDim], { seed, device, requiresGrad: true });
      const [q, k, v] = [draw(1, heads), draw(2, keyHeads), draw(3, keyHeads)];
      const meter = deviceNamed(device);
      const start = meter.memory().bytes;
      meter.resetPeakMemory();
      const out = flashAttention(q, k, v, { causal: true });
      out.backward(out);
      const gradients = [q, k, v].reduce((bytes, each) => bytes + (each.grad as Tensor).bytes, 0);
      const rows = 4 * sequence * heads; // lse and delta, a float32 for each query and head
      expect(meter.memory().peakBytes - start).toBeLessThanOrEqual(out.bytes + gradients + 2 * rows);
      expect(2 * rows).toBeLessThan((4 * sequence * sequence) / 10);
      for (const each of [q, k, v, out]) each.dispose();
    });
  });
});

describe('a large batch', () => {
  const [batch, sequence, hidden, heads] = [128, 16, 32, 2];

  async function run(device: DeviceName, values: Float64Array, count: number): Promise<Float64Array[]> {
    const x = tensor(values, { shape: [count, sequence, hidden], device, requiresGrad: true });
    const w = tensor(new Random('weight').normals(hidden * hidden, 1 / Math.sqrt(hidden)), {
      shape: [hidden, hidden],
      device,
      requiresGrad: true,
    });
    const h = linear(rmsNorm(x, null), w).reshape(count, sequence, heads, hidden / heads);
    const out = flashAttention(h, h, h, { causal: true });
    out.backward(out.detach());
    return Promise.all([numbers(out), numbers(x.grad), numbers(w.grad)]);
  }
  const values = new Random('batch').normals(batch * sequence * hidden);

  (hasCpu ? test : test.skip)('cpu gives what the reference gives', async () => {
    const [got, expected] = [await run('cpu', values, batch), await run('reference', values, batch)];
    for (const i of [0, 1]) expect(difference(got[i], expected[i])).toBeLessThan(64 * 2 ** -24);
    // The weight's gradient adds up 2,048 rows.
    expect(difference(got[2], expected[2])).toBeLessThan(512 * 2 ** -24);
  });

  describeBackends((device) => {
    test('every entry gets what it gets alone', async () => {
      const [out, dX] = await run(device, values, batch);
      const block = sequence * hidden;
      for (const b of [0, 1, 63, 127]) {
        const alone = await run(device, values.slice(b * block, (b + 1) * block), 1);
        expect(difference(out.slice(b * block, (b + 1) * block), alone[0])).toBeLessThan(32 * 2 ** -24);
        expect(difference(dX.slice(b * block, (b + 1) * block), alone[1])).toBeLessThan(64 * 2 ** -24);
      }
    });
  });
});

describe('quantisation, from weights to products', () => {
  const [rows, cols, m] = [256, 516, 9];
  const count = rows * cols;
  const random = new Random('quantisation');
  const weight = random.normals(count, 0.02).map(Math.fround);
  const inputs = random.normals(m * cols).map(Math.fround);

  describeBackends((device) => {
    let w: Tensor;
    let x: Tensor;
    let ternary: TernaryTensor;
    beforeAll(() => {
      w = tensor(weight, { shape: [rows, cols], device });
      x = tensor(inputs, { shape: [m, cols], device });
      ternary = quantizeTernary(w);
    });
    afterAll(() => {
      for (const each of [w, x, ternary]) each.dispose();
    });

    test('scale and trits are those of the formula', async () => {
      const gamma = weight.reduce((sum, value) => sum + Math.abs(value), 0) / count;
      const [scale] = await ternary.scale.data();
      expect(scale).toBe(Math.fround(gamma));
      const inverse = Math.fround(1 / scale);
      const trits = await ternary.trits();
      expect(trits.length).toBe(count);
      weight.forEach((value, i) => {
        const scaled = Math.fround(value * inverse);
        if (trits[i] !== (scaled > 0.5 ? 1 : scaled < -0.5 ? -1 : 0))
          throw new Error(`trit ${i}: got ${trits[i]} for ${scaled}`);
      });
    });

    test('a third is zeros, as the normal distribution has it', async () => {
      const sparsity = await ternary.sparsity();
      // P(|w| < γ/2) with γ = σ √(2/π): 0.3101; five standard errors of 132,096 draws.
      expect(Math.abs(sparsity - 0.3101)).toBeLessThan(5 * Math.sqrt((0.31 * 0.69) / count));
      const trits = await ternary.trits();
      expect(sparsity).toBe(trits.filter((trit) => trit === 0).length / count);
    });

    test('a sixteenth of the bytes of float32', () => {
      expect(ternary.bytes).toBe(count / 4 + 4);
      expect(ternary.compressionRatio()).toBe((4 * count) / (count / 4 + 4));
      expect(ternary.compressionRatio()).toBeGreaterThan(15.99);
      expect(ternary.compressionRatio()).toBeLessThan(16);
      expect(ternary.compressionRatio('bfloat16')).toBe(ternary.compressionRatio() / 2);
    });

    test('the error is what dequantizing shows, and what the distribution says', async () => {
      const back = await numbers(dequantizeTernary(ternary));
      const [scale] = await ternary.scale.data();
      const trits = await ternary.trits();
      expect(back).toEqual(Float64Array.from(trits, (trit) => trit * scale + 0));
      let [total, magnitude, worst] = [0, 0, 0];
      weight.forEach((value, i) => {
        const error = Math.abs(value - back[i]);
        total += error;
        magnitude += Math.abs(value);
        worst = Math.max(worst, error);
      });
      const error = await ternary.quantizationError(w);
      expect(error.mean).toBeCloseTo(total / count, 12);
      expect(error.max).toBe(worst);
      expect(error.relative).toBeCloseTo(total / magnitude, 12);
      // E|w - γ round(w/γ)| / E|w| of a normal w by numerical integration: 0.4526.
      const sigma = Math.sqrt(Math.PI / 2); // in units of γ
      let [above, below] = [0, 0];
      for (let u = 0.0005; u < 10; u += 0.001) {
        const density = Math.exp(-0.5 * (u / sigma) ** 2);
        above += Math.abs(u - Math.min(1, Math.round(u))) * density;
        below += u * density;
      }
      expect(Math.abs(error.relative - above / below)).toBeLessThan(0.01);
    });

    test('the product with float activations is that with the dequantized weight', async () => {
      const got = await numbers(ternaryMatmul(x, ternary, { activations: 'none' }));
      const expected = await numbers(linear(x, dequantizeTernary(ternary)));
      expect(difference(got, expected)).toBeLessThan(32 * 2 ** -24);
    });

    test('the product with int8 activations is off by their rounding at most', async () => {
      const got = await numbers(ternaryMatmul(x, ternary));
      const exact = await numbers(linear(x, dequantizeTernary(ternary)));
      const [scale] = await ternary.scale.data();
      const trits = await ternary.trits();
      let worst = 0;
      for (let i = 0; i < m; i++) {
        const top = largest(inputs.subarray(i * cols, (i + 1) * cols));
        for (let j = 0; j < rows; j++) {
          const used = trits.subarray(j * cols, (j + 1) * cols).filter((trit) => trit !== 0).length;
          // Each activation is off by half a step of top/127 at most.
          const bound = (0.5 * top * used * scale) / 127;
          const error = Math.abs(got[i * rows + j] - exact[i * rows + j]);
          if (!(error <= bound)) throw new Error(`[${i}, ${j}]: off by ${error}, bound ${bound}`);
          worst = Math.max(worst, error / bound);
        }
      }
      expect(worst).toBeGreaterThan(1e-4); // it is rounded
      expect(difference(got, exact)).toBeLessThan(0.02);
    });

    test('training and packed weights give the same bits', async () => {
      expect(await bitsOf(bitLinear(x, w))).toEqual(await bitsOf(ternaryMatmul(x, ternary)));
    });

    test('rebuilt from its trits it is the same', async () => {
      const again = TernaryTensor.fromTrits(await ternary.trits(), [rows, cols], (await ternary.scale.data())[0], {
        device,
      });
      expect(await bitsOf(again.packed)).toEqual(await bitsOf(ternary.packed));
      expect(await bitsOf(ternaryMatmul(x, again))).toEqual(await bitsOf(ternaryMatmul(x, ternary)));
      again.dispose();
    });
  });
});
