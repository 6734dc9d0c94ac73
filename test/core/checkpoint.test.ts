// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  checkpoint,
  add,
  device as deviceNamed,
  flashAttention,
  linear,
  mul,
  OptionError,
  randn,
  reshape,
  rmsNorm,
  scale,
  sum,
  swiglu,
  tidy,
  uniform,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends, make } from '../harness.js';
import { Random } from '../random.js';

describeBackends((device) => {
  const leaf = (name: string, shape: number[]): Tensor =>
    make(device, 'float32', shape, new Random(name).normals(shape.reduce((a, b) => a * b, 1)), true);

  interface Network {
    leaves: Tensor[];
    layer(x: Tensor): Tensor;
  }

  const network = (): Network => {
    const norm = leaf('norm', [16]);
    const [up, gate, down, query] = [
      leaf('up', [32, 16]),
      leaf('gate', [32, 16]),
      leaf('down', [16, 32]),
      leaf('q', [16, 16]),
    ];
    return {
      leaves: [norm, up, gate, down, query],
      layer: (x) => {
        const q = reshape(linear(rmsNorm(x, norm), query), [1, 6, 2, 8]);
        const mixed = add(x, reshape(flashAttention(q, q, q, { causal: true }), [6, 16]));
        return add(mixed, linear(swiglu(linear(mixed, gate), linear(mixed, up)), down));
      },
    };
  };

  const run = async (wrap: (layer: (x: Tensor) => Tensor) => (x: Tensor) => Tensor): Promise<number[][]> => {
    const { leaves, layer } = network();
    const x = leaf('x', [6, 16]);
    const wrapped = wrap(layer);
    const out = tidy(() => wrapped(wrapped(x)));
    const result = [await bitsOf(out)];
    out.backward(make(device, 'float32', [6, 16], new Random('dout').normals(96)));
    for (const each of [x, ...leaves]) result.push(await bitsOf(each.grad as Tensor));
    return result;
  };

  test('values and gradients are those without checkpointing, to the bit, also nested', async () => {
    const plain = await run((layer) => layer);
    expect(plain).toHaveLength(7);
    expect(await run((layer) => (x) => checkpoint(layer, x))).toEqual(plain);
    expect(await run((layer) => (x) => checkpoint((h: Tensor) => checkpoint(layer, h), x))).toEqual(plain);
  });

  test('fn runs twice: once forward and once backward', () => {
    let runs = 0;
    const x = leaf('x', [4]);
    const y = checkpoint((h: Tensor) => {
      runs++;
      return mul(h, h);
    }, x);
    expect(runs).toBe(1);
    sum(y).backward();
    expect(runs).toBe(2);
  });

  test('several inputs, an integer among them, and several results', async () => {
    const [a, b] = [leaf('a', [3]), leaf('b', [3])];
    const ids = make(device, 'int32', [1], [1]);
    const [product, total] = checkpoint(
      (x: Tensor, y: Tensor, index: Tensor) => [scale(mul(x, y), index.size), add(x, y)],
      a,
      b,
      ids,
    );
    sum(add(product, total)).backward();
    const [av, bv] = [await a.data(), await b.data()];
    expect([...(await (a.grad as Tensor).data())]).toEqual(Array.from(bv, (value) => Math.fround(value + 1)));
    expect([...(await (b.grad as Tensor).data())]).toEqual(Array.from(av, (value) => Math.fround(value + 1)));
  });

  test('parameters are reached even if no input requires a gradient', async () => {
    const w = leaf('w', [3]);
    const x = make(device, 'float32', [3], [1, 2, 3]);
    sum(checkpoint((h: Tensor) => mul(h, w), x)).backward();
    expect([...(await (w.grad as Tensor).data())]).toEqual([1, 2, 3]);
    expect(checkpoint((h: Tensor) => mul(h, h), x).requiresGrad).toBe(false);
  });

  test('an input handed through keeps its own gradient path', async () => {
    const x = leaf('x', [2]);
    const y = mul(x, make(device, 'float32', [2], [3, 3]));
    sum(checkpoint((h: Tensor) => h, y)).backward();
    expect([...(await (x.grad as Tensor).data())]).toEqual([3, 3]);
  });

  test('random numbers drawn inside are the same the second time, and those after are not disturbed', async () => {
    const x = make(device, 'float32', [8], new Array(8).fill(1), true);
    const y = checkpoint((h: Tensor) => mul(h, uniform([8], { device })), x);
    const drawn = await y.data();
    sum(y).backward();
    expect([...(await (x.grad as Tensor).data())]).toEqual([...drawn]);
    const next = await randn([2], { device }).data();
    expect([...next]).not.toEqual([...drawn.slice(0, 2)]);
  });

  test('the measured peak falls to the inputs of the segments and one segment', async () => {
    const size = 64 * 256;
    const where = deviceNamed(device);
    const x = make(device, 'float32', [64, 256], new Random('x').normals(size), true);
    const segment = (h: Tensor): Tensor => {
      let y = h;
      for (let i = 0; i < 4; i++) y = swiglu(y, y);
      return y;
    };
    const peak = (wrap: (h: Tensor) => Tensor): number => {
      const before = where.memory().bytes;
      where.resetPeakMemory();
      tidy(() => {
        let h: Tensor = x;
        for (let i = 0; i < 6; i++) h = tidy(() => wrap(h));
        sum(h).backward();
      });
      const above = where.memory().peakBytes - before;
      x.clearGrad();
      expect(where.memory().bytes).toBe(before);
      return above / (size * 4);
    };
    const [plain, checkpointed] = [peak(segment), peak((h) => checkpoint(segment, h))];
    await where.synchronize();
    // In tensors: 24 results are kept, against 6 segment inputs and the 4 of one segment; a few gradients come on top.
    expect(plain).toBeGreaterThan(23);
    expect(checkpointed).toBeLessThan(6 + 4 + 5);
    x.dispose();
  });

  test('refuses what is not a function of tensors to tensors', () => {
    const x = leaf('x', [1]);
    expect(() => checkpoint(3 as unknown as (x: Tensor) => Tensor, x)).toThrow(OptionError);
    expect(() => checkpoint((() => 3) as unknown as (x: Tensor) => Tensor, x)).toThrow(
      'checkpoint: expected fn to return a tensor or an array of tensors',
    );
  });
});
