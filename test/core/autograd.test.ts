// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  cast,
  checkpoint,
  checkpointWith,
  device as deviceNamed,
  DeviceError,
  DTypeError,
  embedding,
  flashAttention,
  full,
  grad,
  keep,
  linear,
  mean,
  mul,
  noGrad,
  ones,
  OptionError,
  scale,
  ShapeError,
  sum,
  tensor,
  tidy,
  valueAndGrad,
  zeros,
  type Tensor,
} from '../../lib/index.js';
import { describeBackends, hasCpu } from '../harness.js';
import { Random } from '../random.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

describeBackends((device) => {
  const leaf = (values: number | number[] | number[][]): Tensor => tensor(values, { device, requiresGrad: true });
  const constant = (values: number | number[] | number[][]): Tensor => tensor(values, { device });
  const gradOf = async (x: Tensor): Promise<number[]> => {
    if (!x.grad) throw new Error('expected a gradient, got none');
    expect([x.grad.shape, x.grad.dtype, x.grad.device, x.grad.requiresGrad]).toEqual([
      x.shape,
      x.dtype,
      x.device,
      false,
    ]);
    return Array.from(await x.grad.data());
  };
  const overwrite = (t: Tensor, value: number): void => t.device.backend.fill({ out: t.arg, value });
  const bytes = (): number => deviceNamed(device).memory().bytes;
  const tensors = (): number => deviceNamed(device).memory().tensors;

  describe('the chain rule, by hand', () => {
    test('(3x + 2)² at 1 and -2', async () => {
      const x = leaf([1, -2]);
      const inner = add(scale(x, 3), constant(2).reshape(1));
      const y = mul(inner, inner);
      expect(Array.from(await y.data())).toEqual([25, 16]);
      sum(y).backward();
      expect(await gradOf(x)).toEqual([2 * 5 * 3, 2 * -4 * 3]);
    });

    test('mean((Wx + b)²) for W, x and b', async () => {
      const [x, w, b] = [
        leaf([[1, 2]]),
        leaf([
          [3, 4],
          [5, 6],
        ]),
        leaf([-1, 1]),
      ];
      const y = linear(x, w, b); // [10, 18]
      expect(Array.from(await y.data())).toEqual([10, 18]);
      mean(mul(y, y)).backward(); // dy = y
      expect(await gradOf(b)).toEqual([10, 18]);
      expect(await gradOf(w)).toEqual([10, 20, 18, 36]);
      expect(await gradOf(x)).toEqual([10 * 3 + 18 * 5, 10 * 4 + 18 * 6]);
    });

    test('a gradient given from outside', async () => {
      const x = leaf([1, 2, 3]);
      const y = mul(x, x);
      const start = constant([1, 10, 100]);
      y.backward(start);
      expect(await gradOf(x)).toEqual([2, 40, 600]);
      expect(Array.from(await start.data())).toEqual([1, 10, 100]);
    });

    test('broadcast operands collect over what they were repeated for', async () => {
      const [x, row, column, scalar] = [
        leaf([
          [1, 2, 3],
          [4, 5, 6],
        ]),
        leaf([1, 10, 100]),
        leaf([[1], [2]]),
        leaf(2),
      ];
      sum(mul(mul(mul(x, row), column), scalar)).backward();
      expect(await gradOf(row)).toEqual([2 * (1 + 2 * 4), 2 * (2 + 2 * 5), 2 * (3 + 2 * 6)]);
      expect(await gradOf(column)).toEqual([2 * 321, 2 * 654]);
      expect(await gradOf(scalar)).toEqual([321 + 2 * 654]);
      expect(await gradOf(x)).toEqual([2, 20, 200, 4, 40, 400]);
    });

    test('views, copies and dtypes on the way', async () => {
      const x = leaf([
        [1, 2, 3],
        [4, 5, 6],
      ]);
      const y = cast(x.transpose().reshape(2, 3), 'bfloat16'); // [[1, 4, 2], [5, 3, 6]]
      sum(
        mul(
          cast(y, 'float32'),
          constant([
            [1, 2, 3],
            [4, 5, 6],
          ]),
        ),
      ).backward();
      expect(await gradOf(x)).toEqual([1, 3, 5, 2, 4, 6]);
    });
  });

  describe('tensors used more than once', () => {
    test('x + x, x · x, x · x + x', async () => {
      for (const [f, expected] of [
        [(x: Tensor) => add(x, x), [2, 2]],
        [(x: Tensor) => mul(x, x), [6, -8]],
        [(x: Tensor) => add(mul(x, x), x), [7, -7]],
        [(x: Tensor) => mul(mul(x, x), x), [27, 48]],
      ] as const) {
        const x = leaf([3, -4]);
        sum(f(x)).backward();
        expect(await gradOf(x)).toEqual(expected);
      }
    });

    test('diamonds: x⁴ + x², and one more on top', async () => {
      const x = leaf([2]);
      const y = mul(x, x);
      const z = add(mul(y, y), y);
      z.backward();
      expect(await gradOf(x)).toEqual([4 * 8 + 2 * 2]);
      const u = leaf([1]);
      let top = u;
      for (let i = 0; i < 20; i++) top = add(top, top); // 2^20 paths, each node once
      top.backward();
      expect(await gradOf(u)).toEqual([2 ** 20]);
    });

    test('a short and a long way to the same tensor', async () => {
      const x = leaf([3]);
      const long = scale(scale(scale(x, 2), 5), 7);
      add(mul(long, x), x).backward(); // 70 x² + x
      expect(await gradOf(x)).toEqual([421]);
    });

    test('a result that nobody uses changes nothing', async () => {
      const x = leaf([3]);
      const y = mul(x, x);
      const unused = scale(y, 100);
      y.backward();
      expect(await gradOf(x)).toEqual([6]);
      expect(unused.grad).toBeNull();
    });

    test('one of two outputs used', async () => {
      const [q, k, v] = [1, 2, 3].map((seed) => keep(full([1, 2, 1, 2], seed, { device, requiresGrad: true })));
      const { lse } = flashAttention(q, k, v, { returnLse: true });
      sum(lse).backward();
      // All keys are equal: lse = log(2) + q·k/√2, and d lse / dq = k/√2.
      for (const value of await gradOf(q)) expect(value).toBeCloseTo(2 / Math.SQRT2, 5);
      expect(await gradOf(v)).toEqual([0, 0, 0, 0]);
    });
  });

  describe('an op with two outputs', () => {
    // Attention and its lse, with everything by hand: s = q·k/√2, p = softmax(s), out = p v, lse = log Σ exp(s).
    const [queries, keys, dim] = [3, 4, 2];
    const numbers = (name: string, count: number): number[] => Array.from(new Random(name).normals(count), Math.fround);
    const values = { q: numbers('q', queries * dim), k: numbers('k', keys * dim), v: numbers('v', keys * dim) };
    const weights = { out: numbers('dOut', queries * dim), lse: numbers('dLse', queries) };
    type Use = { out: boolean; lse: boolean };

    function byHand(use: Use): Record<'q' | 'k' | 'v', number[]> {
      const { q, k, v } = values;
      const gradients = { q: q.map(() => 0), k: k.map(() => 0), v: v.map(() => 0) };
      const scale = 1 / Math.SQRT2;
      const dot = (a: number[], i: number, b: number[], j: number): number =>
        a[i * dim] * b[j * dim] + a[i * dim + 1] * b[j * dim + 1];
      const index = Array.from({ length: keys }, (_, j) => j);
      for (let i = 0; i < queries; i++) {
        const e = index.map((j) => Math.exp(scale * dot(q, i, k, j)));
        const total = e.reduce((a, b) => a + b);
        const p = e.map((each) => each / total);
        const dP = index.map((j) => (use.out ? dot(weights.out, i, v, j) : 0));
        const mean = p.reduce((a, each, j) => a + each * dP[j], 0);
        for (const j of index) {
          const dS = scale * p[j] * (dP[j] - mean + (use.lse ? weights.lse[i] : 0));
          for (let d = 0; d < dim; d++) {
            gradients.q[i * dim + d] += dS * k[j * dim + d];
            gradients.k[j * dim + d] += dS * q[i * dim + d];
            if (use.out) gradients.v[j * dim + d] += p[j] * weights.out[i * dim + d];
          }
        }
      }
      return gradients;
    }

    type Outputs = Tensor[];
    const attend = (q: Tensor, k: Tensor, v: Tensor): Outputs => {
      const { out, lse } = flashAttention(q, k, v, { returnLse: true });
      return [out, lse];
    };
    const runs: Record<string, (q: Tensor, k: Tensor, v: Tensor) => Outputs> = {
      'called directly': attend,
      'in a checkpoint': (q, k, v) => checkpoint(attend, q, k, v),
      'in a selective checkpoint': (q, k, v) => checkpointWith({ policy: 'selective' }, attend, q, k, v),
      'in a checkpoint in a checkpoint': (q, k, v) =>
        checkpoint((a: Tensor, b: Tensor, c: Tensor): Outputs => checkpoint(attend, a, b, c), q, k, v),
      'its outputs through another checkpoint': (q, k, v) =>
        checkpoint(
          (out: Tensor, lse: Tensor): Outputs => [scale(out, 1), scale(lse, 1)],
          ...(attend(q, k, v) as [Tensor, Tensor]),
        ),
    };
    const uses: [string, Use][] = [
      ['the first', { out: true, lse: false }],
      ['the second', { out: false, lse: true }],
      ['both', { out: true, lse: true }],
    ];

    describe.each(Object.keys(runs))('%s', (run) => {
      test.each(uses)('%s used', async (_, use) => {
        const make = (name: 'q' | 'k' | 'v', count: number): Tensor =>
          tensor(values[name], { shape: [1, count, 1, dim], device, requiresGrad: true });
        const [q, k, v] = [make('q', queries), make('k', keys), make('v', keys)];
        const [out, lse] = runs[run](q, k, v);
        const terms = [
          use.out && sum(mul(out, tensor(weights.out, { shape: out.shape, device }))),
          use.lse && sum(mul(lse, tensor(weights.lse, { shape: lse.shape, device }))),
        ].filter((term): term is Tensor => term !== false);
        terms.reduce((a, b) => add(a, b)).backward();
        const expected = byHand(use);
        for (const [name, leafOf] of [
          ['q', q],
          ['k', k],
          ['v', v],
        ] as const) {
          const got = await gradOf(leafOf);
          // Numbers of order one: a few dozen float32 roundings.
          expected[name].forEach((value, i) => expect(Math.abs(got[i] - value)).toBeLessThan(32 * 2 ** -24));
          expect(expected[name].some((value) => value !== 0)).toBe(name !== 'v' || use.out);
        }
      });
    });
  });

  describe('what collects', () => {
    test('only what requires a gradient', async () => {
      const [x, w] = [constant([[1, 2]]), leaf([[3, 4]])];
      sum(linear(x, w)).backward();
      expect(x.grad).toBeNull();
      expect(await gradOf(w)).toEqual([1, 2]);
    });

    test('two backward passes add up, until clearGrad()', async () => {
      const x = leaf([1, 2]);
      sum(mul(x, x)).backward();
      const first = x.grad as Tensor;
      sum(scale(x, 10)).backward();
      expect(await gradOf(x)).toEqual([12, 14]);
      const before = tensors();
      x.clearGrad();
      expect([x.grad, first.isDisposed, tensors()]).toEqual([null, true, before - 1]);
      sum(x).backward();
      expect(await gradOf(x)).toEqual([1, 1]);
    });

    test('only leaves that require it, and nothing in between', async () => {
      const [x, c] = [leaf([2]), constant([5])];
      const y = mul(x, c);
      const z = mul(y, y);
      z.backward();
      expect([c.grad, y.grad, z.grad]).toEqual([null, null, null]);
      expect([c.requiresGrad, y.requiresGrad]).toEqual([false, true]);
      expect(await gradOf(x)).toEqual([100]);
    });

    test('a leaf by itself', async () => {
      const x = leaf([2]);
      x.backward();
      x.backward(constant([5]));
      expect(await gradOf(x)).toEqual([6]);
    });

    test('a tensor that is made a leaf later', async () => {
      const x = constant([3]);
      expect(mul(x, x).requiresGrad).toBe(false);
      x.requiresGrad = true;
      mul(x, x).backward();
      expect(await gradOf(x)).toEqual([6]);
    });

    test('16-bit leaves collect in their dtype', async () => {
      const x = tensor([1, 2], { dtype: 'bfloat16', device, requiresGrad: true });
      sum(mul(x, x)).backward();
      expect(await gradOf(x)).toEqual([2, 4]);
    });

    test('a disposed leaf is passed over, without a trace', async () => {
      const [x, y] = [leaf([2, 3]), leaf([5, 7])];
      const loss = sum(mul(x, y));
      x.dispose();
      loss.backward();
      expect(x.grad).toBeNull();
      expect(await gradOf(y)).toEqual([2, 3]);
      const held = bytes();
      loss.dispose();
      y.dispose();
      expect(held - bytes()).toBe(4 + 8 + 8); // loss, y, its gradient
    });
  });

  describe('gradients have memory of their own', () => {
    test('a + b: writing into a.grad changes neither b.grad nor the gradient given', async () => {
      const [a, b] = [leaf([1, 2]), leaf([3, 4])];
      const start = constant([5, 6]);
      add(a, b).backward(start);
      overwrite(a.grad as Tensor, 9);
      expect([await gradOf(a), await gradOf(b)]).toEqual([
        [9, 9],
        [5, 6],
      ]);
      overwrite(b.grad as Tensor, 8);
      expect([await gradOf(a), await gradOf(b)]).toEqual([
        [9, 9],
        [8, 8],
      ]);
      expect(Array.from(await start.data())).toEqual([5, 6]);
    });

    test('the same through views and through a second pass, which adds in place', async () => {
      const [a, b] = [leaf([1, 2]), leaf([[3, 4]])];
      const start = constant([5, 6]);
      for (let pass = 1; pass <= 2; pass++) {
        add(a.reshape(1, 2), b).reshape(2).backward(start);
        expect([await gradOf(a), await gradOf(b)]).toEqual([
          [5 * pass, 6 * pass],
          [5 * pass, 6 * pass],
        ]);
      }
      expect(Array.from(await start.data())).toEqual([5, 6]);
      overwrite(a.grad as Tensor, 0);
      expect(await gradOf(b)).toEqual([10, 12]);
    });

    test('a leaf that is itself the root', async () => {
      const x = leaf([1]);
      const start = constant([7]);
      x.backward(start);
      overwrite(x.grad as Tensor, 0);
      expect(Array.from(await start.data())).toEqual([7]);
    });

    test('and a detached look at a gradient keeps what it saw', async () => {
      const x = leaf([1]);
      scale(x, 3).backward();
      const seen = (x.grad as Tensor).detach();
      scale(x, 4).backward();
      expect([await gradOf(x), Array.from(await seen.data())]).toEqual([[7], [3]]);
    });
  });

  describe('errors', () => {
    const expectError = (call: () => void, error: Error): void => {
      expect(call).toThrow(error);
      expect(call).toThrow(error.constructor as new () => Error);
    };

    test('backward twice on one graph', async () => {
      const [x, other] = [leaf([2]), leaf([3])];
      const y = mul(x, x);
      const loss = sum(y);
      loss.backward();
      expectError(
        () => loss.backward(),
        new OptionError('backward: expected a graph not used before, got one whose sum was already released'),
      );
      // Also by another way to the same node; and nothing is changed before it is found.
      const again = add(mul(other, other), y);
      expectError(
        () => again.backward(),
        new OptionError('backward: expected a graph not used before, got one whose mul was already released'),
      );
      expect(other.grad).toBeNull();
      expect(await gradOf(x)).toEqual([4]);
    });

    test('a tensor of several elements needs a gradient', () => {
      const x = leaf([1, 2]);
      expectError(
        () => mul(x, x).backward(),
        new ShapeError('backward: expected a tensor of one element or a gradient, got shape [2]'),
      );
      expect(x.grad).toBeNull();
    });

    test('a tensor without a gradient', () => {
      const message = 'backward: expected a tensor that requires a gradient, got one that does not';
      expectError(() => constant(1).backward(), new OptionError(message));
      const x = leaf(1);
      expectError(() => noGrad(() => mul(x, x)).backward(), new OptionError(message));
      expectError(() => mul(x, x).detach().backward(), new OptionError(message));
      expectError(() => cast(x, 'int32').backward(), new OptionError(message));
    });

    test('a gradient that does not fit', () => {
      const x = leaf([1, 2]);
      expectError(
        () => mul(x, x).backward(constant([1, 2, 3])),
        new ShapeError('backward: expected gradient of shape [2] to match the tensor, got [3]'),
      );
      expectError(
        () => mul(x, x).backward(zeros([2], { dtype: 'float16', device })),
        new DTypeError('backward: expected gradient of dtype float32 like tensor, got float16'),
      );
      const gone = constant([1, 2]);
      gone.dispose();
      expect(() => mul(x, x).backward(gone)).toThrow(
        'backward: expected a live tensor for gradient, got a disposed one of shape [2]',
      );
      expect(x.grad).toBeNull();
    });

    const other = device === 'cpu' ? 'reference' : 'cpu';
    (other === 'reference' || hasCpu ? test : test.skip)('a gradient on another device', () => {
      const x = leaf([1, 2]);
      expectError(
        () => mul(x, x).backward(ones([2], { device: other })),
        new DeviceError(`backward: expected gradient on ${device} like tensor, got ${other}`),
      );
    });
  });

  describe('grad() and valueAndGrad()', () => {
    test('value and gradients of all arguments', async () => {
      const [x, y] = [constant([1, 2]), constant([3, 4])];
      const { value, gradients } = valueAndGrad((a: Tensor, b: Tensor) => sum(mul(mul(a, a), b)))(x, y);
      expect(await value.item()).toBe(1 * 3 + 4 * 4);
      expect(await Promise.all(gradients.map(async (each) => Array.from(await (each as Tensor).data())))).toEqual([
        [6, 16],
        [1, 4],
      ]);
      expect([x.requiresGrad, x.grad, value.requiresGrad]).toEqual([false, null, false]);
      const [dx] = grad((a: Tensor) => sum(scale(a, 5)))(x);
      expect(Array.from(await (dx as Tensor).data())).toEqual([5, 5]);
    });

    test('null for integers, zeros for arguments that do not matter', async () => {
      const ids = tensor([1, 0, 1], { dtype: 'int32', device });
      const [table, unused] = [
        constant([
          [1, 2],
          [3, 4],
        ]),
        constant([[7]]),
      ];
      const gradients = grad<[Tensor, Tensor, Tensor]>((t, i) => sum(embedding(t, i)))(table, ids, unused);
      expect(gradients[1]).toBeNull();
      expect(Array.from(await (gradients[0] as Tensor).data())).toEqual([1, 1, 2, 2]);
      expect([(gradients[2] as Tensor).shape, Array.from(await (gradients[2] as Tensor).data())]).toEqual([
        [1, 1],
        [0],
      ]);
    });

    test('grad fields are left alone, of arguments and of leaves from outside', async () => {
      const [x, w] = [leaf([1, 2]), leaf([3, 4])];
      sum(add(x, w)).backward();
      const [dx] = grad((a: Tensor) => sum(mul(a, mul(w, x))))(x); // x is a constant in there, a is not
      expect(Array.from(await (dx as Tensor).data())).toEqual([3, 8]);
      expect([await gradOf(x), await gradOf(w)]).toEqual([
        [1, 1],
        [1, 1],
      ]);
      expect([x.requiresGrad, w.requiresGrad]).toEqual([true, true]);
    });

    test('the same tensor twice is two arguments', async () => {
      const x = constant([3]);
      const gradients = grad((a: Tensor, b: Tensor) => mul(mul(a, a), b))(x, x);
      expect(await Promise.all(gradients.map((each) => (each as Tensor).item()))).toEqual([18, 9]);
    });

    test('the argument itself as the value', async () => {
      const { value, gradients } = valueAndGrad((a: Tensor) => a)(constant([3]));
      expect([await value.item(), await (gradients[0] as Tensor).item()]).toEqual([3, 1]);
    });

    test('works inside noGrad, inside tidy and inside each other', async () => {
      const x = constant([3]);
      const cube = (a: Tensor): Tensor => mul(mul(a, a), a);
      const [inNoGrad] = noGrad(() => grad(cube)(x));
      const [inTidy] = tidy(() => grad(cube)(x));
      expect([await (inNoGrad as Tensor).item(), await (inTidy as Tensor).item()]).toEqual([27, 27]);
      // The inner gradient is a number to the outer pass: d/da (a · 27) = 27.
      const [nested] = grad((a: Tensor) => mul(a, grad(cube)(x)[0] as Tensor))(x);
      expect(await (nested as Tensor).item()).toBe(27);
    });

    test('gradients have memory of their own, and nothing else is left', async () => {
      const [x, y] = [constant([1, 2]), constant([3, 4])];
      const before = [tensors(), bytes()];
      const { value, gradients } = valueAndGrad((a: Tensor, b: Tensor) => sum(add(mul(a, b), add(a, b))))(x, y);
      expect([tensors() - before[0], bytes() - before[1]]).toEqual([3, 4 + 8 + 8]);
      overwrite(gradients[0] as Tensor, 9);
      expect(Array.from(await (gradients[1] as Tensor).data())).toEqual([2, 3]);
      for (const each of [value, ...gradients]) each?.dispose();
      expect([tensors(), bytes()]).toEqual(before);
    });

    test('errors', () => {
      const x = constant([1, 2]);
      expect(() => grad((a: Tensor) => mul(a, a))(x)).toThrow(
        new ShapeError('backward: expected a tensor of one element or a gradient, got shape [2]'),
      );
      expect(() => grad<[Tensor]>(() => constant(1))(x)).toThrow(
        new OptionError('backward: expected a tensor that requires a gradient, got one that does not'),
      );
      expect(() => grad<[Tensor]>(() => 1 as unknown as Tensor)(x)).toThrow(
        new OptionError('grad: expected a Tensor for the result of fn, got 1'),
      );
      expect(() => grad((a: Tensor) => a)(1 as unknown as Tensor)).toThrow(
        new OptionError('grad: expected a Tensor for argument 0, got 1'),
      );
    });
  });

  describe('memory', () => {
    test('a graph 10,000 deep', async () => {
      const before = tensors();
      const x = leaf([1]);
      const y = tidy(() => {
        let sumSoFar = x;
        for (let i = 0; i < 10_000; i++) sumSoFar = add(sumSoFar, x);
        return sumSoFar;
      });
      expect(tensors() - before).toBe(2); // add saves nothing
      expect(await y.item()).toBe(10_001);
      y.backward();
      expect(await gradOf(x)).toEqual([10_001]);
      expect(tensors() - before).toBe(3);
    });

    test('what was saved is released as the backward pass goes', () => {
      const [count, n] = [50, 1000];
      const block = 4 * n;
      const x = ones([n], { device, requiresGrad: true });
      const before = bytes();
      const loss = tidy(() => {
        let y = x;
        for (let i = 0; i < count; i++) y = mul(y, x);
        return sum(y);
      });
      // Each product but the last is saved by the next one.
      expect(bytes() - before).toBe((count - 1) * block + 4);
      deviceNamed(device).resetPeakMemory();
      loss.backward();
      // One product is freed for each step back, so the gradients under way hardly add to what the forward pass held: on the way are the
      // gradient that arrived, the two it gives, the sum with what x collected, and a sum's factor.
      expect(deviceNamed(device).memory().peakBytes - before).toBeLessThanOrEqual((count - 1 + 4) * block + 8);
      expect(bytes() - before).toBe(block + 4); // the gradient of x, the loss
      loss.dispose();
      x.clearGrad();
      expect(bytes()).toBe(before);
    });

    test('what the graph holds is freed by backward() even if every handle was disposed before', async () => {
      const x = leaf([1, 2]);
      const y = mul(x, x);
      const z = mul(y, y);
      const loss = sum(z);
      const held = bytes();
      y.dispose();
      z.dispose();
      expect(held - bytes()).toBe(8); // z, which nobody saved
      loss.backward();
      expect(await gradOf(x)).toEqual([4, 32]);
      loss.dispose();
      expect(held - bytes()).toBe(8 + 8 + 4 - 8); // z, y and the loss are gone, the gradient is new
    });

    test('a branch that leads to no gradient is released too', () => {
      const x = leaf([1, 2]);
      const before = bytes();
      const used = mul(x, x);
      const [a, b] = [scale(used, 2), mul(used, used)];
      sum(a).backward();
      a.dispose();
      used.dispose();
      b.dispose();
      // mul(used, used) was not on the way and keeps what it saved, until it is collected.
      expect(bytes() - before).toBeLessThanOrEqual(8 + 8 + 4);
    });
  });
});
