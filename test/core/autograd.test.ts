// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  device as deviceNamed,
  grad,
  linear,
  mul,
  noGrad,
  OptionError,
  scale,
  ShapeError,
  sum,
  swiglu,
  tidy,
  valueAndGrad,
  type Tensor,
} from '../../lib/index.js';
import { describeBackends, make } from '../harness.js';

const values = async (tensor: Tensor | null): Promise<number[]> => [...((await tensor?.data()) ?? [])];

describeBackends((device) => {
  const leaf = (numbers: number[]): Tensor => make(device, 'float32', [numbers.length], numbers, true);

  test('the chain rule by hand: d/dx sum((3x)^2 + x) = 18x + 1', async () => {
    const x = leaf([1, -2, 0.5]);
    const tripled = scale(x, 3);
    sum(add(mul(tripled, tripled), x)).backward();
    expect(await values(x.grad)).toEqual([19, -35, 10]);
  });

  test('a diamond: both paths add up', async () => {
    const x = leaf([2]);
    const left = scale(x, 3);
    const right = scale(x, 5);
    sum(mul(left, right)).backward(); // 15 x^2
    expect(await values(x.grad)).toEqual([60]);
  });

  test('gradients add up over calls until they are cleared', async () => {
    const x = leaf([1, 2]);
    sum(scale(x, 2)).backward();
    sum(scale(x, 3)).backward();
    expect(await values(x.grad)).toEqual([5, 5]);
    x.clearGrad();
    expect(x.grad).toBeNull();
    sum(x).backward();
    expect(await values(x.grad)).toEqual([1, 1]);
  });

  test('the gradients of two leaves never share memory', async () => {
    const [a, b] = [leaf([1, 1]), leaf([1, 1])];
    sum(add(a, b)).backward();
    const gradient = a.grad as Tensor;
    gradient.device.backend.fill({ out: gradient.arg, value: 7 });
    expect(await values(b.grad)).toEqual([1, 1]);
  });

  test('a leaf is its own result', async () => {
    const x = make(device, 'float32', [], [3], true);
    x.backward();
    expect(await values(x.grad)).toEqual([1]);
  });

  test('a given gradient is used; without one the tensor has to be of one element', async () => {
    const x = leaf([1, 2]);
    scale(x, 2).backward(make(device, 'float32', [2], [10, 100]));
    expect(await values(x.grad)).toEqual([20, 200]);
    expect(() => scale(x, 2).backward()).toThrow(ShapeError);
    expect(() => scale(x, 2).backward(make(device, 'float32', [3], [1, 1, 1]))).toThrow(ShapeError);
  });

  test('a graph is used once, and using it twice changes nothing', async () => {
    const x = leaf([1]);
    const y = sum(mul(x, x));
    y.backward();
    expect(() => y.backward()).toThrow(
      'backward: expected a graph not used before, got one whose sum was already released',
    );
    expect(await values(x.grad)).toEqual([2]);
  });

  test('what requires no gradient gets none', () => {
    const plain = make(device, 'float32', [1], [1]);
    expect(() => sum(plain).backward()).toThrow(OptionError);
    const x = leaf([1]);
    const y = noGrad(() => scale(x, 2));
    expect(y.requiresGrad).toBe(false);
    expect(() => sum(y).backward()).toThrow(OptionError);
    expect(() => noGrad(async () => {})).toThrow(OptionError);
    expect(scale(x.detach(), 2).requiresGrad).toBe(false);
  });

  test('ten thousand ops deep', async () => {
    const x = leaf([1]);
    const one = make(device, 'float32', [1], [1]);
    let y: Tensor = x;
    for (let i = 0; i < 10_000; i++) y = add(y, one);
    sum(y).backward();
    expect(await values(x.grad)).toEqual([1]);
  });

  test('what was saved is released as the pass goes', () => {
    const where = deviceNamed(device);
    const x = make(device, 'float32', [64, 64], new Array(4096).fill(0.5), true);
    const before = where.memory().bytes;
    const y = tidy(() => {
      let h: Tensor = x;
      for (let i = 0; i < 10; i++) h = swiglu(h, h);
      return sum(h);
    });
    const held = where.memory().bytes - before;
    expect(held).toBeGreaterThan(9 * 16384);
    where.resetPeakMemory();
    tidy(() => y.backward());
    // Nothing is left but the gradient and y; on the way at most four tensors more than was held.
    expect(where.memory().bytes - before).toBe(16384 + 4);
    expect(where.memory().peakBytes - before - held).toBeLessThanOrEqual(4 * 16384 + 64);
    y.dispose();
    x.dispose();
  });

  test('grad and valueAndGrad give gradients of the arguments and touch nobody else', async () => {
    const closed = leaf([2, 2]);
    const x = make(device, 'float32', [2], [1, 3]);
    const ids = make(device, 'int32', [1], [1]);
    const fn = (a: Tensor, b: Tensor, index: Tensor): Tensor => sum(mul(mul(a, b), scale(closed, index.size)));
    const { value, gradients } = valueAndGrad(fn)(x, x, ids);
    expect(await value.item()).toBe(20);
    expect(await values(gradients[0])).toEqual([2, 6]);
    expect(await values(gradients[1])).toEqual([2, 6]);
    expect(gradients[2]).toBeNull();
    expect(closed.grad).toBeNull();
    expect(x.grad).toBeNull();
    const unused = grad((a: Tensor, b: Tensor) => sum(scale(a, 2 + 0 * b.size)))(x, x);
    expect(await values(unused[1])).toEqual([0, 0]);
  });

  test('only the gradients that are wanted are computed', async () => {
    const x = make(device, 'float32', [1, 2], [1, 2]);
    const w = make(device, 'float32', [1, 2], [3, 4], true);
    sum(linear(x, w)).backward();
    expect(x.grad).toBeNull();
    expect(await values(w.grad)).toEqual([1, 2]);
  });
});
