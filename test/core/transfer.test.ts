// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { Worker } from 'node:worker_threads';
import {
  add,
  device as deviceNamed,
  DeviceError,
  discardTransfer,
  DisposedError,
  embedding,
  full,
  KernelError,
  linear,
  mul,
  ones,
  OptionError,
  pendingTransfers,
  randn,
  receiveTensor,
  reclaimTransfers,
  sum,
  tensor,
  tidy,
  type DeviceName,
  type Tensor,
  type TensorMessage,
} from '../../lib/index.js';
import type { DType } from '../../lib/dtype.js';
import { bitsOf, describeBackends, hasCpu } from '../harness.js';
import { LIBRARY, messageOf, resultOfChild } from './child.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

const GONE = 'receiveTensor: expected a message of this process that was neither received nor discarded, got another';

/** A worker that runs `source`, where `library`, `parentPort` and `device` are at hand. */
function workerOn(device: DeviceName, source: string): Worker {
  const preamble = `const library = require(${JSON.stringify(LIBRARY)}), device = ${JSON.stringify(device)};
    const { parentPort } = require('node:worker_threads');`;
  return new Worker(preamble + source, { eval: true });
}

describeBackends((device) => {
  const held = (): [number, number] => {
    const { tensors, bytes } = deviceNamed(device).memory();
    return [tensors, bytes];
  };
  const isNative = device !== 'reference';

  test.each<[DType, boolean]>([
    ['float32', true],
    ['float16', true],
    ['bfloat16', false],
    ['int8', false],
    ['uint8', false],
    ['int32', false],
  ])('given away and received in one thread: %s', async (dtype, requiresGrad) => {
    const x = tensor([[1, 2, 3]], { dtype, device, ...(requiresGrad && { requiresGrad }) });
    const bits = await bitsOf(x);
    const before = held();
    const pending = pendingTransfers();
    const given = x.transfer();
    // At once, not when it is done.
    expect(x.isDisposed).toBe(true);
    expect(held()).toEqual([before[0] - 1, before[1] - x.bytes]);
    const { message, transferList } = await given;
    expect(message).toMatchObject({ dtype, device, shape: [1, 3], requiresGrad });
    expect(transferList.length).toBe(isNative ? 0 : 1);
    expect(pendingTransfers().bytes - pending.bytes).toBe(isNative ? x.bytes : 0);
    const y = receiveTensor(structuredClone(message, { transfer: transferList }));
    expect([y.dtype, y.shape, y.requiresGrad, y.grad]).toEqual([dtype, [1, 3], requiresGrad, null]);
    expect(held()).toEqual(before);
    expect(pendingTransfers()).toEqual(pending);
    expect(await bitsOf(y)).toEqual(bits);
    y.dispose();
    expect(held()).toEqual([before[0] - 1, before[1] - y.bytes]);
  });

  test('what was queued on it has run, and the event loop goes on meanwhile', async () => {
    // Some 30 ms of work.
    const n = deviceNamed(device).type === 'cuda' ? 2048 : 300;
    const w = full([n, n], 1 / n, { device });
    let x = ones([n, n], { device });
    for (let i = 0; i < (isNative ? 100 : 2); i++) {
      const next = linear(x, w);
      x.dispose();
      x = next;
    }
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    const { message } = await x.transfer();
    clearInterval(timer);
    if (isNative) expect(turns).toBeGreaterThan(1); // the reference computes when it is called
    const y = receiveTensor(message);
    const values = await y.data();
    expect(values.every((value) => Math.abs(value - 1) < 1e-4)).toBe(true);
    y.dispose();
    w.dispose();
  });

  test('is reused by what is made later, like any other block', async () => {
    for (let round = 0; round < 20; round++) {
      const x = full([100 + round], round, { device });
      const y = receiveTensor((await x.transfer()).message);
      const z = add(y, y);
      y.dispose();
      const other = ones([100 + round], { device });
      expect((await z.data())[99]).toBe(2 * round);
      z.dispose();
      other.dispose();
    }
  });

  test('belongs to the tidy it is received in', async () => {
    const before = held();
    const { message } = await ones([3], { device }).transfer();
    tidy(() => receiveTensor(message).shape);
    expect(held()).toEqual(before);
  });

  test('a leaf goes without its gradient, and learns on', async () => {
    const x = tensor([3], { device, requiresGrad: true });
    mul(x, x).backward();
    const before = held();
    const y = receiveTensor((await x.transfer()).message);
    expect(held()).toEqual([before[0] - 1, before[1] - 4]);
    mul(y, y).backward();
    expect(await (y.grad as Tensor).item()).toBe(6);
  });

  describe('what cannot be given away stays', () => {
    const refused = async (x: Tensor, message: string): Promise<void> => {
      const before = held();
      await expect(x.transfer()).rejects.toThrow(new OptionError(message));
      expect([x.isDisposed, ...held()]).toEqual([false, ...before]);
    };
    const shared = 'transfer: expected a tensor that shares its memory with no view or graph, got one that does';

    test('a result of an op with a gradient', () =>
      refused(
        mul(ones([2], { device, requiresGrad: true }), ones([2], { device })),
        'transfer: expected a leaf, got the result of mul',
      ));

    test('a view, and what has one', async () => {
      const x = ones([2], { device });
      const view = x.reshape(1, 2);
      await refused(x, shared);
      await refused(view, shared);
      view.dispose();
      expect(receiveTensor((await x.transfer()).message).shape).toEqual([2]);
    });

    test('what a graph needs, until it was used', async () => {
      const x = ones([2], { device, requiresGrad: true });
      const y = sum(mul(x, x));
      await refused(x, shared);
      y.backward();
      expect(receiveTensor((await x.transfer()).message).requiresGrad).toBe(true);
    });

    test('a disposed one', async () => {
      const x = ones([2], { device });
      x.dispose();
      await expect(x.transfer()).rejects.toThrow(DisposedError);
    });
  });

  test('a failed kernel before it: the transfer says so, and the memory is free', async () => {
    const pending = pendingTransfers();
    const before = held();
    const bad = tidy(() => embedding(ones([3, 2], { device }), tensor(new Int32Array([7]), { device })));
    await expect(bad.transfer()).rejects.toThrow(KernelError);
    expect(held()).toEqual(before);
    expect(pendingTransfers()).toEqual(pending);
    await deviceNamed(device).synchronize();
  });

  describe('messages that give no tensor', () => {
    test('received twice, discarded, discarded after being received', async () => {
      const [first, second] = [
        (await ones([2], { device }).transfer()).message,
        (await ones([2], { device }).transfer()).message,
      ];
      const x = receiveTensor(first);
      const before = held();
      expect(() => receiveTensor(first)).toThrow(new OptionError(GONE));
      expect(discardTransfer(first)).toBe(false);
      expect(discardTransfer(second)).toBe(true);
      expect(discardTransfer(second)).toBe(false);
      expect(() => receiveTensor(second)).toThrow(new OptionError(GONE));
      expect(held()).toEqual(before);
      expect(Array.from(await x.data())).toEqual([1, 1]);
    });

    test('changed or made up', async () => {
      const { message } = await ones([2, 3], { device }).transfer();
      const before = held();
      const changed =
        (change: object): (() => Tensor) =>
        () =>
          receiveTensor({ ...message, ...change } as TensorMessage);
      expect(changed({ shape: [2, 4] })).toThrow(new OptionError(GONE));
      expect(changed({ dtype: 'float16' })).toThrow(new OptionError(GONE));
      expect(changed({ parcel: '0123' })).toThrow(new OptionError(GONE));
      expect(changed({ parcel: 7 })).toThrow(new OptionError(GONE));
      expect(changed({ parcel: undefined })).toThrow(new OptionError(GONE));
      expect(changed({ shape: [6, 0] })).toThrow('receiveTensor: expected at most 8 positive integers for shape');
      expect(changed({ dtype: 'float8' })).toThrow(OptionError);
      expect(changed({ dtype: 'int32', requiresGrad: true })).toThrow(
        'receiveTensor: expected a float dtype with requiresGrad, got int32',
      );
      expect(changed({ requiresGrad: 1 })).toThrow(OptionError);
      expect(changed({ device: 'tpu' })).toThrow(DeviceError);
      expect(changed({ kind: 'x' })).toThrow(
        new OptionError('receiveTensor: expected what Tensor.transfer gave for message, got something else'),
      );
      expect(() => receiveTensor(null as unknown as TensorMessage)).toThrow(OptionError);
      expect(() => discardTransfer('x' as unknown as TensorMessage)).toThrow(OptionError);
      expect(held()).toEqual(before);
      // None of that has harmed it.
      expect(Array.from(await receiveTensor(message).data())).toEqual(new Array(6).fill(1));
    });
  });

  describe('between threads', () => {
    test('there and back again, with the counts', async () => {
      const before = held();
      const worker = workerOn(
        device,
        `parentPort.once('message', async (message) => {
          const x = library.receiveTensor(message);
          const held = [library.memory()[device]];
          const y = library.add(x, x);
          x.dispose();
          const { message: answer, transferList } = await y.transfer();
          held.push(library.memory()[device]);
          parentPort.postMessage({ answer, held }, transferList);
          parentPort.close();
        });`,
      );
      const x = randn([50, 7], { device, seed: 4, dtype: 'float32' });
      const expected = Array.from(await x.data()).map((value) => 2 * value);
      const { message, transferList } = await x.transfer();
      worker.postMessage(message, transferList);
      expect(held()).toEqual(before);
      const { answer, held: there } = await messageOf<{
        answer: TensorMessage;
        held: { tensors: number; bytes: number }[];
      }>(worker);
      expect(there.map(({ tensors, bytes }) => [tensors, bytes])).toEqual([
        [1, 1400],
        [0, 0],
      ]);
      await worker.terminate();
      // Its thread has ended by now, and it is here all the same.
      const y = receiveTensor(answer);
      expect(held()).toEqual([before[0] + 1, before[1] + 1400]);
      expect(Array.from(await y.data())).toEqual(expected);
    });

    test('as workerData', async () => {
      const { message, transferList } = await tensor([4, 5], { device }).transfer();
      const worker = new Worker(
        `const library = require(${JSON.stringify(LIBRARY)});
         const { workerData, parentPort } = require('node:worker_threads');
         library.receiveTensor(workerData).data().then((values) => parentPort.postMessage(Array.from(values)));`,
        { eval: true, workerData: message, transferList },
      );
      expect(await messageOf(worker)).toEqual([4, 5]);
    });
  });
});

(hasCpu ? describe : describe.skip)('transfers of the cpu device', () => {
  const device = 'cpu';

  test('copy nothing: 200 MB are once in memory', async () => {
    const { there, here, most, value } = await resultOfChild(
      async (library, path) => {
        const { Worker } = await import('node:worker_threads');
        const { readFileSync } = await import('node:fs');
        const rss = (): number => process.memoryUsage.rss() / 2 ** 20;
        const base = (library.ones([1], { device: 'cpu' }), rss());
        const worker = new Worker(
          `const library = require(${JSON.stringify(path)});
           const x = library.full([200, 1 << 18], 2, { device: 'cpu' }); // 200 MiB of float32
           x.transfer().then(({ message }) => require('node:worker_threads').parentPort.postMessage(message));`,
          { eval: true },
        );
        const ended = new Promise((resolve) => worker.once('exit', resolve)); // may come in the same turn as the message
        const message = await new Promise<TensorMessage>((resolve) => worker.once('message', resolve));
        const there = rss() - base;
        await ended;
        const x = library.receiveTensor(message);
        const y = library.sum(x); // reads all of it
        const value = await y.item();
        const here = rss() - base;
        const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'));
        return { there, here, most: Number(peak?.[1] ?? NaN) / 1024 - base, value };
      },
      [LIBRARY] as [string],
    );
    expect(value).toBe(2 * 200 * 2 ** 18);
    expect(there).toBeGreaterThan(190);
    expect(here).toBeGreaterThan(190);
    expect(most).toBeLessThan(300); // 200, and the worker's own
  });

  test('a message nobody receives outlives its sender, and can then be reclaimed', async () => {
    const pending = pendingTransfers();
    const worker = workerOn(
      device,
      `Promise.all([3, 5].map((n) => library.ones([n], { device }).transfer()))
        .then((all) => parentPort.postMessage(all.map(({ message }) => message)));`,
    );
    const ended = new Promise((resolve) => worker.once('exit', resolve));
    const [first, second] = await messageOf<TensorMessage[]>(worker);
    const { message: own } = await ones([9], { device }).transfer();
    await ended;
    expect(pendingTransfers()).toEqual({ tensors: pending.tensors + 3, bytes: pending.bytes + 4 * (3 + 5 + 9) });
    expect(receiveTensor(first).size).toBe(3);
    expect(reclaimTransfers()).toEqual({ tensors: 1, bytes: 20 });
    expect(reclaimTransfers()).toEqual({ tensors: 0, bytes: 0 });
    expect(() => receiveTensor(second)).toThrow(new OptionError(GONE));
    expect(receiveTensor(own).size).toBe(9); // its sender lives
    expect(pendingTransfers()).toEqual(pending);
  });

  test('a receiver that is terminated before it receives: the sender gives the message up', async () => {
    const pending = pendingTransfers();
    const worker = workerOn(device, `setInterval(() => undefined, 1000); parentPort.postMessage('ready');`);
    await messageOf(worker);
    const { message } = await ones([10], { device }).transfer();
    worker.postMessage(message);
    await worker.terminate();
    expect(pendingTransfers().bytes - pending.bytes).toBe(40);
    expect(discardTransfer(message)).toBe(true);
    expect(pendingTransfers()).toEqual(pending);
  });

  test('of several threads that have the same message one receives it', async () => {
    const { message } = await ones([1000], { device }).transfer();
    const workers = [0, 1, 2].map(() =>
      workerOn(
        device,
        `parentPort.once('message', (message) => {
          let result;
          try { result = library.receiveTensor(message).size; } catch (error) { result = error.code + ' ' + error.message; }
          parentPort.postMessage(result);
          parentPort.close();
        });`,
      ),
    );
    for (const worker of workers) worker.postMessage(message);
    const results = await Promise.all(workers.map((worker) => messageOf<string | number>(worker)));
    expect(results.map(String).sort()).toEqual(['1000', `ERR_OPTION ${GONE}`, `ERR_OPTION ${GONE}`]);
    expect(() => receiveTensor(message)).toThrow(OptionError);
    await Promise.all(workers.map((worker) => worker.terminate()));
  });

  // By turns: long queues before the transfer, transfers all the time, and both threads sending and receiving.
  test.each(['queued', 'transfers', 'both ways'])(
    'threads terminated in the middle of transfers harm nobody: %s',
    async (how) => {
      const rounds = 15;
      const { codes, products, left, received } = await resultOfChild(
        async (library, path, how, rounds) => {
          const { Worker } = await import('node:worker_threads');
          const source = `
          const library = require(${JSON.stringify(path)});
          const { parentPort } = require('node:worker_threads');
          const how = ${JSON.stringify(how)};
          const w = library.ones([256, 256], { device: 'cpu' });
          const send = async (x) => parentPort.postMessage((await x.transfer()).message);
          if (how === 'queued') {
            for (let i = 0; i < 300; i++) {
              const y = library.linear(w, w);
              for (let k = 0; k < 3; k++) library.linear(w, w).dispose();
              void send(y);
            }
          } else {
            setInterval(() => { for (let i = 0; i < 5; i++) void send(library.linear(w, w)); }, 0);
          }
          parentPort.on('message', (message) => send(library.receiveTensor(message)));
          parentPort.postMessage(null);`;
          const x = library.randn([64, 64], { device: 'cpu', seed: 1 });
          const products: number[] = [];
          const codes: number[] = [];
          let received = 0;
          const sent: TensorMessage[] = [];
          for (let round = 0; round < rounds; round++) {
            const worker = new Worker(source, { eval: true });
            const ready = new Promise<void>((resolve, reject) => {
              worker.on('error', reject);
              worker.on('message', (message: TensorMessage | null) => {
                // Ended at its start, or when a tensor has come.
                if (message !== null || round % 2 === 0) resolve();
                if (message === null) return;
                const y = library.receiveTensor(message);
                received++;
                const back = how === 'both ways' && received % 2 === 0;
                if (!back) {
                  y.dispose();
                  return;
                }
                void y.transfer().then(({ message }) => {
                  sent.push(message);
                  worker.postMessage(message);
                });
              });
            });
            await ready;
            await new Promise((resolve) => setTimeout(resolve, (round % 5) * 3));
            codes.push(await worker.terminate());
            const y = library.linear(x, x);
            products.push((await y.data())[77]);
            y.dispose();
          }
          // What this thread sent to the ended ones is its own to give up; what they sent is reclaimed.
          await new Promise((resolve) => setTimeout(resolve, 50)); // for messages still on their way
          await library.device('cpu').synchronize();
          for (const message of sent) library.discardTransfer(message);
          library.reclaimTransfers();
          const left = [library.pendingTransfers().tensors, library.memory().cpu.tensors];
          return { codes, products, left, received };
        },
        [LIBRARY, how, rounds] as [string, string, number],
      );
      const x = randn([64, 64], { device, seed: 1 });
      const expected = (await linear(x, x).data())[77];
      expect(codes).toEqual(new Array(rounds).fill(1));
      expect(products).toEqual(new Array(rounds).fill(expected));
      expect(left).toEqual([0, 1]); // x
      expect(received).toBeGreaterThan(0);
    },
  );

  test('a thread that ends with a transfer under way frees it', async () => {
    const result = await resultOfChild(
      async (library, path) => {
        const { Worker } = await import('node:worker_threads');
        const source = `
          const library = require(${JSON.stringify(path)});
          const w = library.ones([512, 512], { device: 'cpu' });
          for (let i = 0; i < 200; i++) library.linear(w, w).dispose();
          for (let i = 0; i < 50; i++) void library.ones([1 << 20], { device: 'cpu' }).transfer();
          require('node:worker_threads').parentPort.postMessage('sent');`;
        const totals: object[] = [];
        for (let round = 0; round < 5; round++) {
          const worker = new Worker(source, { eval: true });
          await new Promise((resolve) => worker.once('message', resolve));
          await worker.terminate();
          library.reclaimTransfers();
          totals.push(library.pendingTransfers());
        }
        return { totals, rss: process.memoryUsage.rss() / 2 ** 20 };
      },
      [LIBRARY] as [string],
    );
    expect(result.totals).toEqual(new Array(5).fill({ tensors: 0, bytes: 0 }));
    expect(result.rss).toBeLessThan(800); // 5 times 200 MiB were sent
  });

  test('messages pending when the addon goes with its last thread go with it', async () => {
    // The main thread of this process never loads it.
    const result = await resultOfChild(
      async (_, path) => {
        const { Worker } = await import('node:worker_threads');
        const source = `
          const library = require(${JSON.stringify(path)});
          const { parentPort, workerData } = require('node:worker_threads');
          let error = null;
          try { if (workerData) library.receiveTensor(workerData); } catch (caught) { error = caught.code; }
          const pending = library.pendingTransfers().tensors;
          library.ones([1000], { device: 'cpu' }).transfer()
            .then(({ message }) => parentPort.postMessage({ message, error, pending }));`;
        const results: unknown[] = [];
        let workerData: TensorMessage | null = null;
        for (let i = 0; i < 3; i++) {
          const worker = new Worker(source, { eval: true, workerData });
          const ended = new Promise((resolve) => worker.once('exit', resolve));
          const { message, ...rest } = await new Promise<{ message: TensorMessage }>((resolve) =>
            worker.once('message', resolve),
          );
          await ended;
          workerData = message;
          results.push(rest);
        }
        return results;
      },
      [LIBRARY] as [string],
      { load: false },
    );
    expect(result).toEqual([
      { error: null, pending: 0 },
      { error: 'ERR_OPTION', pending: 0 },
      { error: 'ERR_OPTION', pending: 0 },
    ]);
  });
});
