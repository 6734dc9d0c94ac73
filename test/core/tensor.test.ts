// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  arange,
  DeviceError,
  device as deviceNamed,
  DisposedError,
  DTypeError,
  full,
  keep,
  manualSeed,
  memory,
  ones,
  OptionError,
  OutOfMemoryError,
  randn,
  ShapeError,
  tensor,
  tensorFromRaw,
  tidy,
  uniform,
  zeros,
  type Tensor,
} from '../../lib/index.js';
import { philox } from '../../lib/random.js';
import { bitsOf, describeBackends, make } from '../harness.js';

const values = async (of: Tensor): Promise<number[]> => [...(await of.data())];

describeBackends((device) => {
  test('made from nested arrays, typed arrays and numbers', async () => {
    const nested = tensor(
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
      { device },
    );
    expect([nested.shape, nested.dtype, nested.size, nested.bytes]).toEqual([[3, 2], 'float32', 6, 24]);
    expect(await values(nested)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(tensor(5, { device }).shape).toEqual([]);
    expect(await tensor(5, { device }).item()).toBe(5);
    const integers = tensor(Int32Array.of(1, -2), { device });
    expect(integers.dtype).toBe('int32');
    expect(await integers.data()).toEqual(Int32Array.of(1, -2));
    expect(tensor(new Float64Array(6), { shape: [2, 3], device }).shape).toEqual([2, 3]);
    expect(await values(tensor([1.7, -1.7, 300, NaN], { dtype: 'int8', device }))).toEqual([1, -1, 127, 0]);
  });

  test('zeros, ones, full, arange', async () => {
    expect(await values(zeros([2], { device }))).toEqual([0, 0]);
    expect(await values(ones([2], { dtype: 'int32', device }))).toEqual([1, 1]);
    expect(await values(full([3], -2.5, { dtype: 'bfloat16', device }))).toEqual([-2.5, -2.5, -2.5]);
    expect(await values(arange(4, undefined, 1, { device }))).toEqual([0, 1, 2, 3]);
    expect(await values(arange(5, 0, -2, { device }))).toEqual([5, 3, 1]);
    expect(arange(0, 1, 0.25, { device }).dtype).toBe('float32');
  });

  test('raw bits of 16-bit floats, both ways', async () => {
    const half = tensor([1, -2, 65504, 2 ** -24], { dtype: 'float16', device });
    expect(await half.raw()).toEqual(Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0001));
    const copy = tensorFromRaw(Uint16Array.of(0x3f80, 0x7fc1), [2], { dtype: 'bfloat16', device });
    expect(await bitsOf(copy)).toEqual([0x3f80, 0x7fc1]);
    expect(() => tensorFromRaw(Uint16Array.of(1), [2], { dtype: 'bfloat16', device })).toThrow(
      'tensorFromRaw: expected 4 bytes for bfloat16 [2], got 2',
    );
  });

  test('random numbers: seeded, of the right distribution, the same on every device', async () => {
    manualSeed(11);
    const [a, b] = [await values(randn([3], { device })), await values(uniform([3], { device }))];
    manualSeed(11);
    expect(await values(randn([3], { device }))).toEqual(a);
    expect(await values(uniform([3], { device: 'reference' }))).toEqual(b);
    expect(await values(randn([3], { device, seed: 11 }))).toEqual(a);
    const many = await values(randn([20000], { device, seed: 1, mean: 2, std: 3 }));
    const average = many.reduce((total, value) => total + value, 0) / many.length;
    const variance = many.reduce((total, value) => total + (value - average) ** 2, 0) / many.length;
    expect(Math.abs(average - 2)).toBeLessThan(4 * (3 / Math.sqrt(20000)));
    expect(Math.abs(variance / 9 - 1)).toBeLessThan(4 * Math.sqrt(2 / 20000));
    const flat = await values(uniform([20000], { device, seed: 1, low: -1, high: 3 }));
    expect(Math.min(...flat)).toBeGreaterThanOrEqual(-1);
    expect(Math.max(...flat)).toBeLessThan(3);
    expect(Math.abs(flat.reduce((total, value) => total + value, 0) / 20000 - 1)).toBeLessThan(
      4 * Math.sqrt(16 / 12 / 20000),
    );
  });

  test('to another device and dtype: a copy outside the graph', async () => {
    const x = make(device, 'float32', [2], [1.00390625, 2], true);
    const copy = await x.to({ device: 'reference', dtype: 'bfloat16' });
    expect([copy.device.id, copy.dtype, copy.requiresGrad, copy.node]).toEqual(['reference', 'bfloat16', true, null]);
    expect(await values(copy)).toEqual([1, 2]);
    const back = await copy.to({ device });
    expect([back.device.type, back.dtype]).toEqual([device, 'bfloat16']);
    const integers = await x.to({ dtype: 'int32' });
    expect([integers.requiresGrad, await values(integers)]).toEqual([false, [1, 2]]);
  });

  test('a disposed tensor says so, everywhere', async () => {
    const x = make(device, 'float32', [2, 2], [1, 2, 3, 4]);
    x.dispose();
    x.dispose();
    expect(x.isDisposed).toBe(true);
    expect(String(x)).toBe('Tensor(float32 [2, 2] on disposed)');
    await expect(x.data()).rejects.toThrow(DisposedError);
    await expect(x.raw()).rejects.toThrow('raw: expected a live tensor, got a disposed one of shape [2, 2]');
    await expect(x.to({ dtype: 'int8' })).rejects.toThrow(DisposedError);
    for (const use of [
      () => x.reshape(4),
      () => x.transpose(),
      () => x.cast('int8'),
      () => x.detach(),
      () => x.backward(),
      () => x.device,
    ]) {
      expect(use).toThrow(DisposedError);
    }
  });

  test('memory is counted: views once, peaks kept', () => {
    const where = deviceNamed(device);
    const before = where.memory();
    const x = zeros([10, 10], { device });
    const view = x.reshape(100);
    expect(where.memory()).toMatchObject({ tensors: before.tensors + 1, bytes: before.bytes + 400 });
    x.dispose();
    expect(where.memory().bytes).toBe(before.bytes + 400);
    view.dispose();
    expect(where.memory().bytes).toBe(before.bytes);
    where.resetPeakMemory();
    ones([25], { device }).dispose();
    expect(where.memory().peakBytes).toBe(before.bytes + 100);
    expect(memory()[where.id]).toEqual(where.memory());
  });

  test('tidy disposes what was made inside, but not what it returns or is told to keep', () => {
    const where = deviceNamed(device);
    const before = where.memory().bytes;
    let kept: Tensor | undefined;
    let lost: Tensor | undefined;
    const result = tidy(() => {
      lost = ones([4], { device });
      kept = keep(ones([5], { device }));
      const inner = tidy(() => ({ list: [ones([6], { device })], name: 'x' }));
      return { inner, again: inner.list[0] };
    });
    expect(lost?.isDisposed).toBe(true);
    expect(kept?.isDisposed).toBe(false);
    expect(result.again.isDisposed).toBe(false);
    expect(where.memory().bytes).toBe(before + 4 * 11);
    kept?.dispose();
    result.again.dispose();
    expect(() =>
      tidy(() => {
        lost = ones([4], { device });
        throw new Error('inside');
      }),
    ).toThrow('inside');
    expect(lost?.isDisposed).toBe(true);
    expect(() => tidy(async () => ones([4], { device }))).toThrow(OptionError);
    expect(where.memory().bytes).toBe(before);
  });

  test('using disposes at the end of the block', () => {
    let escaped: Tensor;
    {
      using x = ones([2], { device });
      escaped = x;
    }
    expect(escaped.isDisposed).toBe(true);
  });

  test('too much memory is an error with numbers, and nothing else suffers', async () => {
    const before = deviceNamed(device).memory();
    const x = make(device, 'float32', [1], [4]);
    let caught: unknown;
    try {
      zeros([2 ** 45], { device });
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(OutOfMemoryError);
    expect((caught as OutOfMemoryError).bytesRequested).toBe(2 ** 47);
    expect((caught as OutOfMemoryError).bytesFree).toBeGreaterThan(0);
    expect(await x.item()).toBe(4);
    x.dispose();
    expect(deviceNamed(device).memory().bytes).toBe(before.bytes);
  });

  test('wrong arguments are refused', () => {
    expect(() => tensor([[1, 2], [3]], { device })).toThrow(ShapeError);
    expect(() => tensor([], { device })).toThrow(ShapeError);
    expect(() => tensor([1, 2], { shape: [3], device })).toThrow('tensor: expected 3 values for shape [3], got 2');
    expect(() => tensor([1], { dtype: 'float64' as 'float32', device })).toThrow(DTypeError);
    expect(() => tensor([1], { dtype: 'int8', requiresGrad: true, device })).toThrow(DTypeError);
    expect(() => tensor('x' as unknown as number, { device })).toThrow(OptionError);
    expect(() => zeros([0], { device })).toThrow('zeros: expected at most 8 positive integers for shape, got [0]');
    expect(() => zeros([1.5], { device })).toThrow(ShapeError);
    expect(() => zeros([2], { devcie: device } as object)).toThrow(
      'zeros: expected only dtype, device, requiresGrad as options, got devcie',
    );
    expect(() => arange(0, 5, -1, { device })).toThrow('arange: expected a step that leads from 0 to 5, got -1');
    expect(() => randn([2], { seed: -1, device })).toThrow(OptionError);
    expect(() => randn([2], { dtype: 'int8', device })).toThrow(DTypeError);
  });
});

test('unknown and absent devices say why', () => {
  expect(() => deviceNamed('tpu' as 'cpu')).toThrow('device: expected auto, reference, cpu, cuda or cuda:N, got "tpu"');
  expect(() => deviceNamed('cuda:1')).toThrow(DeviceError);
});

test('Philox 4x32-10 gives the published numbers', () => {
  // Random123's known answers, for the counters and keys that two 53-bit numbers can express.
  const out = new Uint32Array(4);
  philox(out, 0, 0);
  expect([...out].map((word) => word.toString(16))).toEqual(['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']);
});
