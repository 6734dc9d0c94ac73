// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  arange,
  device as deviceNamed,
  devices,
  DeviceError,
  DisposedError,
  DTypeError,
  full,
  getDefaultDevice,
  linear,
  mul,
  ones,
  OptionError,
  randn,
  scale,
  setDefaultDevice,
  ShapeError,
  sum,
  tensor,
  tensorFromRaw,
  uniform,
  zeros,
  type DeviceName,
  type NestedArray,
  type Tensor,
  type TensorOptions,
} from '../../lib/index.js';
import { DTYPES, type DType } from '../../lib/dtype.js';
import { BACKENDS, bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, hasCpu } from '../harness.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

const numbers = async (t: Tensor): Promise<number[]> => Array.from(await t.data());

describe('creation', () => {
  describeBackends((device) => {
    test('a scalar', async () => {
      const x = tensor(3.5, { device });
      expect([x.shape, x.size, x.dtype, x.bytes, x.device.id, x.requiresGrad, x.grad]).toEqual([
        [],
        1,
        'float32',
        4,
        device,
        false,
        null,
      ]);
      expect(await x.item()).toBe(3.5);
      expect(await numbers(x)).toEqual([3.5]);
    });

    test('nested arrays, in row-major order', async () => {
      const x = tensor(
        [
          [
            [1, 2],
            [3, 4],
            [5, 6],
          ],
        ],
        { device },
      );
      expect([x.shape, x.size, x.bytes]).toEqual([[1, 3, 2], 6, 24]);
      expect(await numbers(x)).toEqual([1, 2, 3, 4, 5, 6]);
    });

    test.each([
      [Float32Array.of(1.5, -2), 'float32'],
      [Float64Array.of(1.5, -2), 'float32'],
      [Int8Array.of(-128, 127), 'int8'],
      [Uint8Array.of(0, 255), 'uint8'],
      [Int32Array.of(-(2 ** 31), 2 ** 31 - 1), 'int32'],
    ] as const)('typed arrays keep their dtype: %p', async (values, dtype) => {
      const x = tensor(values, { device });
      expect([x.shape, x.dtype]).toEqual([[2], dtype]);
      expect(await numbers(x)).toEqual(Array.from(values));
    });

    test('shape, dtype and requiresGrad can be chosen; values are copied at the call', async () => {
      const values = Float32Array.of(1, 2, 3, 4, 5, 6);
      const x = tensor(values, { shape: [2, 3], dtype: 'bfloat16', device, requiresGrad: true });
      values.fill(9);
      expect([x.shape, x.dtype, x.requiresGrad, x.bytes]).toEqual([[2, 3], 'bfloat16', true, 12]);
      expect(await numbers(x)).toEqual([1, 2, 3, 4, 5, 6]);
      const y = tensor([300, -1, 2.7], { dtype: 'uint8', device });
      expect(await y.data()).toEqual(Uint8Array.of(255, 0, 2));
      expect((await tensor([7], { shape: [1, 1, 1], device }).data()).length).toBe(1);
    });

    test('data() and raw() give the array that fits the dtype', async () => {
      const expected = {
        float32: Float32Array,
        float16: Float32Array,
        bfloat16: Float32Array,
        int8: Int8Array,
        uint8: Uint8Array,
        int32: Int32Array,
      };
      for (const dtype of DTYPES) {
        const x = ones([3], { dtype, device });
        const data = await x.data();
        expect([dtype, data.constructor.name, Array.from(data)]).toEqual([dtype, expected[dtype].name, [1, 1, 1]]);
        const raw = await x.raw();
        const half = dtype === 'float16' || dtype === 'bfloat16';
        expect([dtype, raw.constructor.name]).toEqual([dtype, half ? 'Uint16Array' : expected[dtype].name]);
        expect(raw[2]).toBe(dtype === 'float16' ? 0x3c00 : dtype === 'bfloat16' ? 0x3f80 : 1);
      }
    });

    test('what data() gives is a copy', async () => {
      const x = tensor([1, 2], { device });
      (await x.data()).fill(9);
      (await x.raw()).fill(9);
      expect(await numbers(x)).toEqual([1, 2]);
    });

    test('the shape cannot be changed from outside', () => {
      const shape = [2, 2];
      const x = zeros(shape, { device });
      shape[0] = 7;
      expect(x.shape).toEqual([2, 2]);
      expect(() => (x.shape as number[]).push(1)).toThrow(TypeError);
    });

    test.each(DTYPES)('zeros, ones, full: %s', async (dtype) => {
      const options = { dtype, device };
      expect(await numbers(zeros([2, 3], options))).toEqual([0, 0, 0, 0, 0, 0]);
      expect(await numbers(ones([65], options))).toEqual(new Array(65).fill(1));
      expect(await numbers(full([], 100, options))).toEqual([100]);
      const saturated = { float32: 1e5, float16: Infinity, bfloat16: 99840, int8: 127, uint8: 255, int32: 1e5 }[dtype];
      expect(await numbers(full([3], 1e5, options))).toEqual([saturated, saturated, saturated]);
      expect(full([3], 1, options).dtype).toBe(dtype);
    });

    test('zeros is float32 and may require a gradient', () => {
      const x = zeros([2], { device, requiresGrad: true });
      expect([x.dtype, x.requiresGrad]).toEqual(['float32', true]);
    });

    test.each([
      [[5], [0, 1, 2, 3, 4], 'int32'],
      [[2, 5], [2, 3, 4], 'int32'],
      [[5, 2, -1], [5, 4, 3], 'int32'],
      [[0, 1, 0.25], [0, 0.25, 0.5, 0.75], 'float32'],
      [[0, 7, 3], [0, 3, 6], 'int32'],
      [[1, -1, -0.5], [1, 0.5, 0, -0.5], 'float32'],
      [[2.5], [0, 1, 2], 'float32'],
    ] as [[number, number?, number?], number[], DType][])('arange(%p)', async ([start, stop, step], values, dtype) => {
      const x = arange(start, stop, step, { device });
      expect([x.shape, x.dtype]).toEqual([[values.length], dtype]);
      expect(await numbers(x)).toEqual(values);
    });

    test('arange in a dtype of choice', async () => {
      const x = arange(3, undefined, 1, { dtype: 'bfloat16', device });
      expect([x.dtype, await numbers(x)]).toEqual(['bfloat16', [0, 1, 2]]);
    });

    test.each(FLOAT_DTYPES)('randn and uniform in %s: options are used, dtypes are rounded', async (dtype) => {
      const wide = randn([1000], { device, seed: 3 });
      const narrow = randn([1000], { dtype, device, seed: 3, requiresGrad: true });
      expect([narrow.dtype, narrow.requiresGrad, narrow.shape]).toEqual([dtype, true, [1000]]);
      const rounded = await wide.to({ dtype });
      expect(await bitsOf(narrow)).toEqual(await bitsOf(rounded));
      const moved = await numbers(uniform([1000], { dtype, device, seed: 3, low: 4, high: 8 }));
      const plain = await numbers(uniform([1000], { device, seed: 3 }));
      const expected = await numbers(
        tensor(
          plain.map((value) => 4 + Math.fround(value) * 4),
          { dtype, device },
        ),
      );
      // The library rounds to float32 in between, which matters to a tie at most.
      moved.forEach((value, i) => expect(Math.abs(value - expected[i])).toBeLessThanOrEqual(2 ** -7 * 8));
      expect(Math.min(...moved)).toBeGreaterThanOrEqual(4);
      expect(Math.max(...moved)).toBeLessThanOrEqual(8);
    });

    test('tensorFromRaw takes any view of bytes', async () => {
      const bytes = new Uint8Array([9, 9, 9, 9, 0x80, 0x3f, 0x00, 0x40, 9]);
      const x = tensorFromRaw(bytes.subarray(4, 8), [2, 1], { dtype: 'bfloat16', device, requiresGrad: true });
      expect([x.shape, x.dtype, x.requiresGrad, await numbers(x)]).toEqual([[2, 1], 'bfloat16', true, [1, 2]]);
      expect(await numbers(tensorFromRaw(new DataView(bytes.buffer, 4, 2), [], { dtype: 'bfloat16', device }))).toEqual(
        [1],
      );
      const floats = Float32Array.of(7, 8, 9);
      expect(await numbers(tensorFromRaw(floats.subarray(1), [2], { dtype: 'float32', device }))).toEqual([8, 9]);
    });

    const ragged = 'tensor: expected nested arrays of equal, positive lengths, got ragged or empty ones';
    const made = (
      message: string,
      type: typeof ShapeError | typeof DTypeError | typeof OptionError | typeof DeviceError,
      call: () => unknown,
    ) => ({
      message,
      type,
      code: new Map<unknown, string>([
        [ShapeError, ERROR_CODES.shape],
        [DTypeError, ERROR_CODES.dtype],
        [OptionError, ERROR_CODES.option],
        [DeviceError, ERROR_CODES.device],
      ]).get(type) as string,
      call,
    });
    describeErrors(device, [
      ...([[[1], [1, 2]], [[1], 2], [1, [2]], [], [[]], [[[1]], [[1], [2]]]] as NestedArray[]).map((values) =>
        made(ragged, ShapeError, () => tensor(values, { device })),
      ),
      made('tensor: expected numbers in nested arrays, got "a"', OptionError, () =>
        tensor([1, 'a'] as unknown as number[], { device }),
      ),
      made('tensor: expected numbers in nested arrays, got undefined', OptionError, () =>
        tensor(undefined as unknown as number[], { device }),
      ),
      made(
        'tensor: expected one of Float32Array, Float64Array, Int8Array, Uint8Array, Int32Array, got Uint16Array',
        DTypeError,
        () => tensor(new Uint16Array(2) as unknown as Uint8Array, { device }),
      ),
      made('tensor: expected 6 values for shape [2, 3], got 5', ShapeError, () =>
        tensor(new Float32Array(5), { shape: [2, 3], device }),
      ),
      made('tensor: expected at most 8 positive integers for shape, got [0]', ShapeError, () =>
        tensor(new Float32Array(0), { device }),
      ),
      made('zeros: expected at most 8 positive integers for shape, got [2, 0]', ShapeError, () =>
        zeros([2, 0], { device }),
      ),
      made('ones: expected at most 8 positive integers for shape, got [-1]', ShapeError, () => ones([-1], { device })),
      made('full: expected at most 8 positive integers for shape, got [1.5]', ShapeError, () =>
        full([1.5], 0, { device }),
      ),
      made('zeros: expected at most 8 positive integers for shape, got [1, 1, 1, 1, 1, 1, 1, 1, 1]', ShapeError, () =>
        zeros(new Array<number>(9).fill(1), { device }),
      ),
      made('zeros: expected at most 8 positive integers for shape, got 3', ShapeError, () =>
        zeros(3 as unknown as number[], { device }),
      ),
      made('full: expected a number for value, got "1"', OptionError, () =>
        full([1], '1' as unknown as number, { device }),
      ),
      made('zeros: expected fewer than 2^53 bytes, got shape [4503599627370496]', ShapeError, () =>
        zeros([2 ** 52], { device }),
      ),
      made('zeros: expected only dtype, device, requiresGrad as options, got dType', OptionError, () =>
        zeros([1], { dType: 'float32', device } as TensorOptions),
      ),
      made(
        'zeros: expected one of float32, float16, bfloat16, int8, uint8, int32 for dtype, got "float64"',
        DTypeError,
        () => zeros([1], { dtype: 'float64' as DType, device }),
      ),
      made('zeros: expected a float dtype with requiresGrad, got int8', DTypeError, () =>
        zeros([1], { dtype: 'int8', device, requiresGrad: true }),
      ),
      made('zeros: expected a boolean for requiresGrad, got 1', OptionError, () =>
        zeros([1], { device, requiresGrad: 1 as unknown as boolean }),
      ),
      made('arange: expected a step that leads from 0 to 3, got -1', OptionError, () => arange(0, 3, -1, { device })),
      made('arange: expected a step that leads from 0 to 3, got 0', OptionError, () => arange(0, 3, 0, { device })),
      made('arange: expected a step that leads from 0 to 0, got 1', OptionError, () =>
        arange(0, undefined, 1, { device }),
      ),
      made('arange: expected a finite number for stop, got NaN', OptionError, () => arange(0, NaN, 1, { device })),
      made('randn: expected a float dtype, got int32', DTypeError, () => randn([1], { dtype: 'int32', device })),
      made('randn: expected a finite number of at least 0 for std, got NaN', OptionError, () =>
        randn([1], { std: NaN, device }),
      ),
      made('uniform: expected a finite number of at least 0 for high, got Infinity', OptionError, () =>
        uniform([1], { high: Infinity, device }),
      ),
      made(
        'uniform: expected only dtype, device, requiresGrad, seed, low, high as options, got mean',
        OptionError,
        () => uniform([1], { mean: 1, device } as TensorOptions),
      ),
      made('randn: expected an integer from 0 to 2^53 - 1 for seed, got -1', OptionError, () =>
        randn([1], { seed: -1, device }),
      ),
      made('tensorFromRaw: expected 8 bytes for float32 [2], got 6', ShapeError, () =>
        tensorFromRaw(new Uint8Array(6), [2], { dtype: 'float32', device }),
      ),
    ]);
  });

  test.each([
    ['gpu', 'device: expected auto, reference, cpu, cuda or cuda:N, got "gpu"'],
    ['cuda:x', 'device: expected auto, reference, cpu, cuda or cuda:N, got "cuda:x"'],
    [7, 'device: expected auto, reference, cpu, cuda or cuda:N, got 7'],
  ])('an unknown device: %p', (name, message) => {
    expect(() => zeros([1], { device: name as 'cpu' })).toThrow(new DeviceError(message));
  });
});

describe('item()', () => {
  describeBackends((device) => {
    test('takes the only element, whatever the shape', async () => {
      expect(await tensor([[[-7]]], { dtype: 'int8', device }).item()).toBe(-7);
    });
    describeErrors(device, [
      {
        message: 'item: expected a tensor of one element, got shape [2, 2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => t([2, 2]).item(),
      },
    ]);
  });
});

describe('views and copies', () => {
  describeBackends((device) => {
    /** Overwrites the memory of a tensor behind the library's back: what sees the change shares the memory. */
    const overwrite = (t: Tensor, value: number): void => deviceNamed(device).backend.fill({ out: t.arg, value });

    test('reshape and detach share memory', async () => {
      const x = tensor(
        [
          [1, 2],
          [3, 4],
        ],
        { device },
      );
      const [reshaped, detached] = [x.reshape(4), x.detach()];
      overwrite(x, 9);
      expect(await numbers(reshaped)).toEqual([9, 9, 9, 9]);
      expect([detached.shape, await numbers(detached)]).toEqual([
        [2, 2],
        [9, 9, 9, 9],
      ]);
      overwrite(reshaped, 5);
      expect(await numbers(x)).toEqual([5, 5, 5, 5]);
    });

    test('transpose is a copy', async () => {
      const x = tensor(
        [
          [1, 2, 3],
          [4, 5, 6],
        ],
        { device },
      );
      const y = x.transpose();
      overwrite(x, 9);
      expect([y.shape, await numbers(y)]).toEqual([
        [3, 2],
        [1, 4, 2, 5, 3, 6],
      ]);
      const z = y.transpose(1, 0);
      overwrite(y, 0);
      expect([z.shape, await numbers(z)]).toEqual([
        [2, 3],
        [1, 2, 3, 4, 5, 6],
      ]);
    });

    test('to() and cast() are copies even where nothing changes', async () => {
      const x = tensor([1, 2], { device });
      const [moved, converted] = [await x.to({}), x.cast('float32')];
      overwrite(x, 9);
      expect([await numbers(moved), await numbers(converted)]).toEqual([
        [1, 2],
        [1, 2],
      ]);
    });

    test('a view outlives what it was made from', async () => {
      const x = tensor([1, 2, 3, 4], { device });
      const y = x.reshape(2, 2);
      x.dispose();
      expect(await numbers(y)).toEqual([1, 2, 3, 4]);
    });

    test('detach is outside the graph', async () => {
      const x = tensor([2, 3], { device, requiresGrad: true });
      const y = mul(x, x);
      const z = y.detach();
      expect([y.requiresGrad, z.requiresGrad]).toEqual([true, false]);
      sum(mul(x, z)).backward();
      expect(await numbers(x.grad as Tensor)).toEqual([4, 9]); // and not 3 x²
    });
  });
});

describe('to()', () => {
  const present = BACKENDS.filter(({ skipped }) => skipped === null).map(
    ({ name }) => deviceNamed(name).id as DeviceName,
  );
  const pairs = present.flatMap((from) => present.map((to) => [from, to] as const));

  test.each(pairs)('from %s to %s, every dtype to every dtype', async (from, to) => {
    for (const source of DTYPES) {
      const x = tensor(
        [
          [1.7, 2.2, 300],
          [100, 0, 5],
        ],
        { dtype: source, device: from },
      );
      for (const dtype of DTYPES) {
        const y = await x.to({ dtype, device: to });
        const expected = tensor(Float64Array.from(await x.data()), { shape: [2, 3], dtype, device: to });
        expect([y.device, y.dtype, y.shape]).toEqual([deviceNamed(to), dtype, [2, 3]]);
        expect(await bitsOf(y)).toEqual(await bitsOf(expected));
      }
      const moved = await x.to({ device: to });
      expect([moved.dtype, moved.device.id, await bitsOf(moved)]).toEqual([source, to, await bitsOf(x)]);
    }
  });

  describeBackends((device) => {
    test('a leaf stays one, a copy has a gradient of its own', async () => {
      const x = tensor([1, 2], { device, requiresGrad: true });
      const y = await x.to({ dtype: 'bfloat16' });
      expect(y.requiresGrad).toBe(true);
      sum(y).backward();
      expect([await numbers(y.grad as Tensor), x.grad]).toEqual([[1, 1], null]);
      expect((await x.to({ dtype: 'int8' })).requiresGrad).toBe(false);
    });

    test('waits for what was queued before and not for what comes after', async () => {
      const x = tensor([1, 2], { device });
      const doubled = scale(x, 2);
      const copy = doubled.to({ dtype: 'int32' });
      deviceNamed(device).backend.fill({ out: doubled.arg, value: 0 });
      expect(await numbers(await copy)).toEqual([2, 4]);
    });

    describeErrors(device, [
      {
        message: 'to: expected one of float32, float16, bfloat16, int8, uint8, int32 for dtype, got "int64"',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => t([2]).to({ dtype: 'int64' as DType }),
      },
      {
        message: 'to: expected only dtype, device as options, got requiresGrad',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => t([2]).to({ requiresGrad: true } as object),
      },
    ]);
  });

  (hasCpu ? test : test.skip)('ops do not mix devices', () => {
    const [a, b] = [ones([2], { device: 'cpu' }), ones([2], { device: 'reference' })];
    expect(() => add(a, b)).toThrow(new DeviceError('add: expected b on cpu like a, got reference'));
    expect(() => linear(ones([1, 2], { device: 'reference' }), a.reshape(1, 2))).toThrow(
      new DeviceError('linear: expected weight on reference like x, got cpu'),
    );
  });
});

describe('dispose()', () => {
  describeBackends((device) => {
    test('frees once, however often it is called', () => {
      const before = deviceNamed(device).memory();
      const x = zeros([100], { device });
      expect(deviceNamed(device).memory()).toMatchObject({ tensors: before.tensors + 1, bytes: before.bytes + 400 });
      expect(x.isDisposed).toBe(false);
      x.dispose();
      x.dispose();
      expect(x.isDisposed).toBe(true);
      expect(deviceNamed(device).memory()).toMatchObject({ tensors: before.tensors, bytes: before.bytes });
    });

    test('frees the gradient too', () => {
      const before = deviceNamed(device).memory().tensors;
      const x = zeros([4], { device, requiresGrad: true });
      const loss = sum(x);
      loss.backward();
      expect(x.grad).not.toBeNull();
      loss.dispose();
      x.dispose();
      expect(x.grad).toBeNull();
      expect(deviceNamed(device).memory().tensors).toBe(before);
    });

    test('using disposes at the end of the block, also by an exception', () => {
      const before = deviceNamed(device).memory().tensors;
      let seen: Tensor | undefined;
      const run = (fail: boolean): void => {
        using x = zeros([3], { device });
        seen = x;
        expect(deviceNamed(device).memory().tensors).toBe(before + 1);
        if (fail) throw new Error('stop');
      };
      run(false);
      expect(seen?.isDisposed).toBe(true);
      expect(() => run(true)).toThrow('stop');
      expect([seen?.isDisposed, deviceNamed(device).memory().tensors]).toEqual([true, before]);
    });

    test('what is known without the memory stays known', () => {
      const x = zeros([2, 3], { dtype: 'int8', device });
      x.dispose();
      expect([x.shape, x.size, x.dtype, x.bytes, String(x)]).toEqual([
        [2, 3],
        6,
        'int8',
        6,
        'Tensor(int8 [2, 3] on disposed)',
      ]);
    });

    /** Everything a tensor can be asked, and what it says once disposed. */
    const uses: [string, (x: Tensor) => unknown, string][] = [
      ['data', (x) => x.data(), 'data: expected a live tensor, got a disposed one of shape [1]'],
      ['raw', (x) => x.raw(), 'raw: expected a live tensor, got a disposed one of shape [1]'],
      ['item', (x) => x.item(), 'data: expected a live tensor, got a disposed one of shape [1]'],
      ['to', (x) => x.to({ dtype: 'int8', device }), 'to: expected a live tensor, got a disposed one of shape [1]'],
      ['detach', (x) => x.detach(), 'detach: expected a live tensor, got a disposed one of shape [1]'],
      ['device', (x) => x.device, 'Tensor.device: expected a live tensor, got a disposed one of shape [1]'],
      ['reshape', (x) => x.reshape(1, 1), 'reshape: expected a live tensor for x, got a disposed one of shape [1]'],
      ['transpose', (x) => x.transpose(0), 'transpose: expected a live tensor for x, got a disposed one of shape [1]'],
      ['cast', (x) => x.cast('int8'), 'cast: expected a live tensor for x, got a disposed one of shape [1]'],
      ['backward', (x) => x.backward(), 'backward: expected a live tensor for this, got a disposed one of shape [1]'],
      ['an op', (x) => add(x, x), 'add: expected a live tensor for a, got a disposed one of shape [1]'],
    ];
    test.each(uses)('%s throws DisposedError afterwards', async (_, use, message) => {
      const x = ones([1], { device, requiresGrad: true });
      x.dispose();
      let caught: unknown = null;
      try {
        await use(x);
      } catch (error) {
        caught = error;
      }
      expect(caught).toBeInstanceOf(DisposedError);
      expect(caught).toMatchObject({ message, code: 'ERR_DISPOSED', name: 'DisposedError' });
    });

    test('to() without a device says that it is to() that was called', async () => {
      const x = ones([1], { device });
      x.dispose();
      await expect(x.to({ dtype: 'int8' })).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    });

    test('clearGrad and dispose stay harmless', () => {
      const x = ones([1], { device });
      x.dispose();
      x.clearGrad();
      x.dispose();
      expect(x.isDisposed).toBe(true);
    });

    test('data() that was asked for before still arrives', async () => {
      const x = tensor([1, 2, 3], { device });
      const promise = x.data();
      x.dispose();
      const y = full([3], 9, { device }); // may well get the same memory
      expect(Array.from(await promise)).toEqual([1, 2, 3]);
      expect(await numbers(y)).toEqual([9, 9, 9]);
    });
  });
});

describe('toString()', () => {
  describeBackends((device) => {
    test('says dtype, shape and device', () => {
      expect(`${zeros([2, 3], { dtype: 'bfloat16', device })}`).toBe(`Tensor(bfloat16 [2, 3] on ${device})`);
      expect(String(tensor(1, { device }))).toBe(`Tensor(float32 [] on ${device})`);
    });
  });
});

describe('the default device', () => {
  const atTheStart = getDefaultDevice();
  afterEach(() => setDefaultDevice(atTheStart));
  test('is where tensors without a device option go, and what auto stands for', () => {
    setDefaultDevice('reference');
    expect(zeros([1]).device.id).toBe('reference');
    expect(deviceNamed('auto')).toBe(deviceNamed('reference'));
    expect(getDefaultDevice().type).toBe('reference');
    expect(zeros([1], { device: deviceNamed('reference') }).device.id).toBe('reference');
  });
  test('is the best one present at the start', () => {
    const present = BACKENDS.filter(({ skipped }) => skipped === null).map(({ name }) => name);
    const best = (['cuda', 'cpu', 'reference'] as const).find((name) => present.includes(name));
    expect(atTheStart.type).toBe(best);
    expect(randn([2]).device).toBe(atTheStart);
    // In the order of devices(), which also says so itself.
    expect(devices().filter(({ isDefault }) => isDefault)).toEqual([
      expect.objectContaining({ id: atTheStart.id, available: true }),
    ]);
    expect(devices().find(({ available }) => available)?.id).toBe(atTheStart.id);
  });
});
