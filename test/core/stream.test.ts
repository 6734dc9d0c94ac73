// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  crossEntropy,
  device as deviceNamed,
  devices,
  embedding,
  emptyCache,
  full,
  getThreads,
  KernelError,
  linear,
  mul,
  ones,
  OptionError,
  type OutOfMemoryError,
  scale,
  setThreads,
  tensor,
  tidy,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { describeBackends, hasCpu, NATIVE } from '../harness.js';
import { describe as describeValue } from '../../lib/describe.js';
import { Random } from '../random.js';
import { inChild, resultOfChild, type Library } from './child.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

const numbers = async (t: Tensor): Promise<number[]> => Array.from(await t.data());
const bytesOf = async (t: Tensor): Promise<Buffer> => {
  const raw = await t.raw();
  return Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength);
};
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** `length` products of n x n matrices in a row, each needing the one before: ones again at the end. */
function chain(length: number, { n = 512, device = 'cpu' }: { n?: number; device?: DeviceName } = {}): Tensor {
  const w = full([n, n], 1 / n, { device });
  let x = ones([n, n], { device });
  for (let i = 0; i < length; i++) {
    const next = linear(x, w);
    x.dispose();
    x = next;
  }
  w.dispose();
  return x;
}

describe('errors that a kernel finds', () => {
  describeBackends((device) => {
    const badLookup = (position: number): Tensor => {
      const ids = new Int32Array(4);
      ids[position] = 7;
      return tidy(() => embedding(ones([3, 2], { device }), tensor(ids, { device })));
    };
    const message = (position: number): string => `embedding: expected ids in 0..2, got 7 at position ${position}`;

    test('arrive at the next read, named, and once', async () => {
      const good = tensor([1, 2], { device });
      const bad = badLookup(1);
      const caught: unknown = await good.data().catch((error: unknown) => error);
      expect(caught).toBeInstanceOf(KernelError);
      expect(caught).toMatchObject({ message: message(1), code: 'ERR_KERNEL', op: 'embedding', name: 'KernelError' });
      // The device goes on; the output of the op that failed is zeros.
      expect(await numbers(good)).toEqual([1, 2]);
      expect(await numbers(bad)).toEqual(new Array(8).fill(0));
      expect(await numbers(add(good, good))).toEqual([2, 4]);
    });

    test('or at synchronize()', async () => {
      badLookup(2);
      await expect(deviceNamed(device).synchronize()).rejects.toThrow(new KernelError(message(2), 'embedding'));
      await expect(deviceNamed(device).synchronize()).resolves.toBeUndefined();
    });

    test('the first of several is the one that is told', async () => {
      badLookup(3);
      badLookup(0);
      tidy(() => crossEntropy(ones([2, 3], { device }), tensor([9, 9], { dtype: 'int32', device })).shape);
      await expect(deviceNamed(device).synchronize()).rejects.toThrow(new KernelError(message(3), 'embedding'));
      await deviceNamed(device).synchronize();
    });

    test('a read asked for before does not hear of it', async () => {
      const x = tensor([1, 2], { device });
      const before = x.data();
      badLookup(0);
      const after = x.data();
      await expect(after).rejects.toThrow(message(0));
      expect(Array.from(await before)).toEqual([1, 2]);
    });

    test('in a target of crossEntropy, and in its gradient', async () => {
      const logits = ones([2, 3], { device, requiresGrad: true });
      const loss = crossEntropy(logits, tensor([0, 3], { dtype: 'int32', device }));
      await expect(loss.item()).rejects.toMatchObject({ op: 'crossEntropy', code: 'ERR_KERNEL' });
      loss.backward();
      await deviceNamed(device)
        .synchronize()
        .catch((error: KernelError) => expect(error.op).toBe('crossEntropyBackward'));
      expect((await numbers(logits)).every((value) => value === 1)).toBe(true);
    });
  });
});

describe('time()', () => {
  describeBackends((device) => {
    test('is that of its ops, without what was queued before', async () => {
      const place = deviceNamed(device);
      // So much that a processor that is busy elsewhere for a moment does not count.
      const [length, n] = device === 'reference' ? [8, 128] : [50, 512];
      const start = performance.now();
      const ops = await place.time(() => chain(length, { n, device }).dispose());
      expect(ops).toBeGreaterThan(0);
      expect(ops).toBeLessThanOrEqual(performance.now() - start);
      chain(length, { n, device }).dispose();
      const nothing = await place.time(() => undefined);
      expect(nothing).toBeGreaterThanOrEqual(0);
      expect(nothing).toBeLessThan(ops);
    });

    test('refuses what it cannot time, and tells what failed', async () => {
      const place = deviceNamed(device);
      const asynchronous = (async () => Promise.reject(new Error('unheard'))) as () => void;
      expect(() => place.time(asynchronous)).toThrow(
        new OptionError('time: expected a function that returns without a promise, got an async function'),
      );
      expect(() => place.time(3 as never)).toThrow(new OptionError('time: expected a function for run, got 3'));
      expect(() =>
        place.time(() => {
          throw new RangeError('its own');
        }),
      ).toThrow(new RangeError('its own'));
      await expect(
        place.time(() => {
          const ids = tensor([9], { dtype: 'int32', device });
          tidy(() => void embedding(ones([3, 2], { device }), ids).shape);
        }),
      ).rejects.toMatchObject({ op: 'embedding', code: 'ERR_KERNEL' });
    });
  });
});

describe('too little memory', () => {
  describeBackends((device) => {
    test('is an error that leaves everything as it was', async () => {
      // In a process of its own: what a system does to one that asks for too much, it does to that one.
      const { failures, before, after, doubled } = await resultOfChild(
        async (library, device) => {
          const x = library.tensor([1, 2, 3], { device });
          const held = (): number[] => [library.memory()[device].tensors, library.memory()[device].bytes];
          const before = held();
          const failures = [
            () => library.zeros([2 ** 45], { device }),
            () => library.add(library.zeros([2 ** 23, 1], { device }), library.zeros([1, 2 ** 22], { device })),
          ].map((call) => {
            try {
              library.tidy(call);
              return null;
            } catch (error) {
              const { name, message, code, bytesRequested, bytesFree } = error as OutOfMemoryError;
              return {
                name,
                message,
                code,
                bytesRequested,
                bytesFree,
                isOurs: error instanceof library.OutOfMemoryError,
              };
            }
          });
          return { failures, before, after: held(), doubled: Array.from(await library.scale(x, 2).data()) };
        },
        [device] as ['cpu' | 'reference'],
      );
      const bytes = 4 * 2 ** 45;
      for (const [i, op] of ['zeros', 'add'].entries()) {
        const bytesFree = failures[i]?.bytesFree as number;
        expect(failures[i]).toEqual({
          name: 'OutOfMemoryError',
          message: `${op}: expected ${bytes} bytes of free memory on ${device}, got ${bytesFree} bytes free`,
          code: 'ERR_OUT_OF_MEMORY',
          bytesRequested: bytes,
          bytesFree,
          isOurs: true,
        });
        expect(bytesFree).toBeGreaterThan(0);
        expect(bytesFree).toBeLessThan(bytes);
      }
      expect(after).toEqual(before);
      expect(doubled).toEqual([2, 4, 6]);
    });
  });
});

(hasCpu ? describe : describe.skip)('the stream of the cpu device', () => {
  const cpu = 'cpu' as const;

  test('ops return at once, and the event loop is free while they run', async () => {
    // As long as it takes for a timer of a millisecond to tick five times; an op that computed at the call, or a read that blocked, would
    // let it tick never.
    let ticks = 0;
    for (let length = 64; ticks < 5 && length <= 4096; length *= 4) {
      const x = chain(length);
      ticks = 0;
      const timer = setInterval(() => ticks++, 1);
      const values = await x.data();
      clearInterval(timer);
      expect(values[0]).toBeCloseTo(1, 3);
      x.dispose();
    }
    expect(ticks).toBeGreaterThanOrEqual(5);
  });

  test('a promise is settled when its ops are done, not before', async () => {
    const x = chain(100);
    let settled = false;
    const done = deviceNamed(cpu)
      .synchronize()
      .then(() => (settled = true));
    await nextTurn();
    expect(settled).toBe(false);
    await done;
    expect((await x.data()).every((value) => Math.abs(value - 1) < 1e-3)).toBe(true);
  });

  (process.platform === 'linux' ? test : test.skip)('freed memory is kept for reuse, until emptyCache()', async () => {
    const megabytes = await resultOfChild(async (library) => {
      const device = library.device('cpu');
      const resident = async (): Promise<number> => {
        await device.synchronize();
        return process.memoryUsage().rss / 2 ** 20;
      };
      const fill = (): void => {
        const all = Array.from({ length: 8 }, () => library.ones([2 ** 23], { device }));
        for (const each of all) each.dispose();
      };
      const start = await resident();
      fill();
      const filled = await resident();
      fill();
      const again = await resident();
      library.emptyCache();
      return { filled: filled - start, again: again - start, emptied: (await resident()) - start };
    }, []);
    expect(megabytes.filled).toBeGreaterThan(200); // 8 blocks of 32 MiB
    expect(megabytes.again).toBeLessThan(megabytes.filled + 32);
    expect(megabytes.emptied).toBeLessThan(100);
  });

  describe('threads', () => {
    const before = getThreads();
    afterEach(() => setThreads(before));

    test('their number is what was set', () => {
      setThreads(3);
      expect(getThreads()).toBe(3);
      expect(devices().find((each) => each.id === 'cpu')?.reason).toMatch(/^native kernels for [a-z0-9]+, 3 threads$/);
      for (const count of [0, 257, 1.5, NaN, '2']) {
        expect(() => setThreads(count as number)).toThrow(
          new OptionError(`setThreads: expected an integer from 1 to 256 for count, got ${describeValue(count)}`),
        );
      }
      expect(getThreads()).toBe(3);
    });

    test('does not change a bit of matmul, attention and sums', async () => {
      const random = new Random('threads');
      const draw = (...shape: number[]): Tensor =>
        tensor(random.normals(shape.reduce((a, b) => a * b)), { shape, device: cpu, requiresGrad: true });
      const [a, b, q, k, v, x] = [
        draw(301, 517),
        draw(259, 517),
        draw(2, 333, 4, 32),
        draw(2, 301, 2, 32),
        draw(2, 301, 2, 32),
        draw(77, 1001),
      ];
      const { flashAttention, sum } = jest.requireActual<Library>('../../lib/index.js');
      const all: Buffer[][] = [];
      for (const count of [1, 2, 5]) {
        setThreads(count);
        const results = [
          linear(a, b),
          flashAttention(q, k, v, { causal: true }),
          sum(x),
          sum(x, { axis: 0 }),
          sum(x, { axis: 1 }),
        ];
        for (const each of results) each.backward(ones(each.shape, { device: cpu }));
        const gradients = [a, b, q, k, v, x].map((each) => each.grad as Tensor);
        all.push(await Promise.all([...results, ...gradients].map(bytesOf)));
        for (const each of [a, b, q, k, v, x]) each.clearGrad();
        for (const each of results) each.dispose();
      }
      expect(all[0].map((each) => each.length / 4)).toEqual([
        301 * 259,
        2 * 333 * 128,
        1,
        1001,
        77,
        301 * 517,
        259 * 517,
        2 * 333 * 128,
        2 * 301 * 64,
        2 * 301 * 64,
        77 * 1001,
      ]);
      for (const other of all.slice(1))
        expect(other.map((each, i) => each.equals(all[0][i]))).toEqual(all[0].map(() => true));
    });

    test('may be changed while ops are queued', async () => {
      const x = chain(30, { n: 256 });
      for (let i = 0; i < 20; i++) {
        setThreads((i % 4) + 1);
        await nextTurn();
      }
      expect((await x.data()).every((value) => Math.abs(value - 1) < 1e-3)).toBe(true);
    });

    test('TERNFLASH_THREADS sets it at the start', async () => {
      expect(await resultOfChild((library) => library.getThreads(), [], { env: { TERNFLASH_THREADS: '3' } })).toBe(3);
    });
  });
});

describe('the queue of a device', () => {
  describeBackends((device) => {
    test('writes, ops and reads run in the order they were called', async () => {
      const { backend } = deviceNamed(device);
      const x = tensor([1], { device });
      const bytes = new Uint8Array(Float32Array.of(2).buffer);
      const results: Promise<number>[] = [];
      const busy = chain(20, { device }); // so that everything below is queued before any of it runs
      for (let i = 0; i < 100; i++) {
        results.push(x.item());
        const y = scale(x, 10);
        new Float32Array(bytes.buffer)[0] = i;
        backend.write(x.arg.buffer, bytes);
        new Float32Array(bytes.buffer)[0] = NaN; // the write has its own copy
        results.push(y.item(), x.item());
        y.dispose();
      }
      const expected = Array.from({ length: 100 }, (_, i) => (i === 0 ? [1, 10, 0] : [i - 1, 10 * (i - 1), i])).flat();
      expect(await Promise.all(results)).toEqual(expected);
      busy.dispose();
    });

    test('memory may be freed and given out again while ops that use it are queued', async () => {
      const results: [number, Promise<Float32Array>][] = [];
      const busy = chain(20, { device });
      for (let i = 0; i < 300; i++) {
        const x = full([257], i, { device });
        const y = mul(x, x);
        x.dispose();
        const z = add(y, y);
        y.dispose();
        results.push([i, z.data() as Promise<Float32Array>]);
        z.dispose();
      }
      for (const [i, promise] of results) expect(new Set(await promise)).toEqual(new Set([Math.fround(2 * i * i)]));
      busy.dispose();
    });

    test('a thousand reads at once, each with its own values, settled in order', async () => {
      const order: number[] = [];
      const reads = Array.from({ length: 1000 }, async (_, i) => {
        const x = full([17], i, { device });
        const values = await scale(x, 2).data();
        order.push(i);
        return new Set(values);
      });
      (await Promise.all(reads)).forEach((values, i) => expect(values).toEqual(new Set([2 * i])));
      expect(order).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    });

    test('emptyCache with ops queued does no harm', async () => {
      const results: Promise<number[]>[] = [];
      for (let i = 0; i < 50; i++) {
        const x = full([1000], i, { device });
        const y = scale(x, 3);
        x.dispose();
        emptyCache();
        results.push(numbers(y));
        y.dispose();
        emptyCache();
      }
      (await Promise.all(results)).forEach((values, i) => expect(new Set(values)).toEqual(new Set([3 * i])));
    });

    describe('the end of a process', () => {
      test('comes by itself with work in flight, which is dropped', async () => {
        // 30,000 products of 512 x 512 are a minute of work at 130 GFLOP/s, and some tenths of a second on a GPU. What is asserted is that the process ends, and well.
        const { status, signal, stderr, result } = await inChild(
          (library, device) => {
            const w = library.ones([512, 512], { device });
            for (let i = 0; i < 30_000; i++) library.linear(w, w).dispose();
            return 'queued';
          },
          [device],
        );
        expect({ status, signal, stderr, result }).toEqual({ status: 0, signal: null, stderr: '', result: 'queued' });
      });

      test('waits for a read that was asked for', async () => {
        const result = await resultOfChild(
          (library, device) => {
            const n = 256;
            const w = library.full([n, n], 1 / n, { device });
            let x = library.ones([n, n], { device });
            for (let i = 0; i < 100; i++) x = library.linear(x, w);
            return x.data().then((values) => values[n]);
          },
          [device],
        );
        expect(result).toBeCloseTo(1, 3);
      });

      test('by process.exit() and by an exception, with work and reads in flight', async () => {
        const run = (how: string) =>
          inChild(
            (library, device, how) => {
              const w = library.ones([512, 512], { device });
              for (let i = 0; i < 10_000; i++) {
                const y = library.linear(w, w);
                if (i % 100 === 0) void y.data();
                y.dispose();
              }
              if (how === 'exit') process.exit(7);
              throw new Error('stop here');
            },
            [device, how] as [DeviceName, string],
          );
        expect(await run('exit')).toMatchObject({ status: 7, signal: null, stderr: '' });
        const thrown = await run('exception');
        expect(thrown).toMatchObject({ status: 1, signal: null });
        expect(thrown.stderr).toContain('Error: stop here');
      });

      test('says nothing of a failed kernel that nobody waited for', async () => {
        await resultOfChild(
          (library, device) => {
            library.embedding(library.ones([2, 2], { device }), library.tensor(Int32Array.of(5), { device }));
          },
          [device],
        );
      });
    });
  }, NATIVE);
});

describe('switches of the environment', () => {
  test('TERNFLASH_NATIVE=0 leaves the reference backend, and devices() says why', async () => {
    const result = await resultOfChild(
      async (library) => {
        let message = '';
        try {
          library.zeros([1], { device: 'cpu' });
        } catch (error) {
          message = `${(error as Error).name}: ${(error as Error).message}`;
        }
        library.setThreads(2);
        library.emptyCache();
        const x = library.tensor([3], { requiresGrad: true });
        library.mul(x, x).backward();
        const gradient = await (x.grad as Tensor).item();
        return { devices: library.devices(), message, threads: library.getThreads(), where: x.device.id, gradient };
      },
      [],
      { env: { TERNFLASH_NATIVE: '0' } },
    );
    const why = 'no native addon (the native addon is switched off by TERNFLASH_NATIVE=0)';
    expect(result).toEqual({
      devices: [
        { id: 'cuda', available: false, isDefault: false, reason: why },
        { id: 'cpu', available: false, isDefault: false, reason: why },
        { id: 'reference', available: true, isDefault: true, reason: 'plain TypeScript, always present' },
      ],
      message: `DeviceError: device: expected a usable device, got cpu: ${why}`,
      threads: 1,
      where: 'reference',
      gradient: 6,
    });
  });

  (hasCpu ? describe : describe.skip)('TERNFLASH_ISA', () => {
    const LEVELS =
      process.arch === 'arm64' ? ['base', 'dotprod'] : ['base', 'avx2', 'avx512', 'avx512vnni', 'avx512bf16'];
    const nameOf = (reason: string | undefined): string =>
      /^native kernels for ([a-z0-9]+),/.exec(reason ?? '')?.[1] ?? '';

    /** Ops of every kind at sizes that leave remainders of every vector width. */
    const program = async (library: Library, device: 'cpu' | 'reference') => {
      const draw = (seed: number, ...shape: number[]): Tensor =>
        library.randn(shape, { seed, device, requiresGrad: true });
      const [x, w, q, k, v] = [
        draw(1, 37, 131),
        draw(2, 67, 131),
        draw(3, 1, 45, 4, 24),
        draw(4, 1, 51, 2, 24),
        draw(5, 1, 51, 2, 24),
      ];
      const floats: Record<string, Tensor> = {
        linear: library.linear(x, w),
        rmsNorm: library.rmsNorm(x, null),
        softmax: library.softmax(x),
        swiglu: library.swiglu(x, x),
        attention: library.flashAttention(q, k, v, { causal: true }),
        mean: library.mean(x, { axis: 0 }),
      };
      for (const each of Object.values(floats)) each.backward(library.full(each.shape, 0.5, { device }));
      [x, w, q, k, v].forEach((each, i) => (floats[`gradient ${i}`] = each.grad as Tensor));
      const ternary = library.quantizeTernary(w);
      const exact: Record<string, Tensor> = {
        trits: ternary.packed,
        scale: ternary.scale,
        int8: library.ternaryMatmul(x, ternary),
        int8InBfloat16: library.ternaryMatmul(library.cast(x, 'bfloat16'), ternary),
        bitLinear: library.bitLinear(x, w),
        argmax: library.argmax(x),
        bfloat16: library.cast(x, 'bfloat16'),
        float16: library.cast(x, 'float16'),
        int32: library.sum(library.cast(library.scale(x, 1000), 'int32'), { axis: 0 }),
        embedding: library.embedding(w, library.arange(0, 67, 3, { device })),
        transpose: x.transpose(),
      };
      const floatValues: Record<string, number[]> = {};
      for (const [name, each] of Object.entries(floats)) floatValues[name] = Array.from(await each.data());
      const exactBits: Record<string, number[]> = {};
      for (const [name, each] of Object.entries(exact)) {
        const raw = await each.raw();
        exactBits[name] = Array.from(new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength));
      }
      return { reason: library.devices().find((each) => each.id === 'cpu')?.reason, floatValues, exactBits };
    };

    let truth: Awaited<ReturnType<typeof program>>;
    beforeAll(async () => {
      truth = await program(jest.requireActual<Library>('../../lib/index.js'), 'reference');
    });

    test.each(LEVELS)('%s gives the right results', async (level) => {
      const best = nameOf(devices().find((each) => each.id === 'cpu')?.reason);
      const { reason, floatValues, exactBits } = await resultOfChild(program, ['cpu'] as ['cpu'], {
        env: { TERNFLASH_ISA: level },
      });
      // A level this processor lacks is not taken.
      expect(nameOf(reason)).toBe(LEVELS[Math.min(LEVELS.indexOf(level), LEVELS.indexOf(best))]);
      expect(Object.keys(floatValues).sort()).toEqual(Object.keys(truth.floatValues).sort());
      for (const [name, expected] of Object.entries(truth.floatValues)) {
        const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        // At most 131 terms, each rounded in float32 relative to the largest result; errors that all pull the same way.
        const bound = 131 * 2 ** -24 * Math.max(1, largest);
        const worst = floatValues[name].reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
        expect([name, floatValues[name].length, worst <= bound]).toEqual([name, expected.length, true]);
      }
      expect(exactBits).toEqual(truth.exactBits);
    });
  });
});
