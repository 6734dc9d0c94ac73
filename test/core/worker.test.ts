// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { getDefaultDevice, linear, randn, type DeviceName, type Tensor } from '../../lib/index.js';
import { describeBackends, hasCpu, NATIVE } from '../harness.js';
import { LIBRARY, messageOf, resultOfChild, startWorker, type Library } from './child.js';

/** A little training step, as numbers. */
const compute = async (library: Library, seed: number, device: DeviceName): Promise<number[][]> => {
  const draw = (offset: number, ...shape: number[]): Tensor =>
    library.randn(shape, { seed: seed + offset, device, requiresGrad: true });
  const [x, w, q] = [draw(0, 33, 65), draw(1, 17, 65), draw(2, 1, 40, 2, 16)];
  const results: number[][] = [];
  for (let round = 0; round < 20; round++) {
    const y = library.tidy(() => library.sum(library.linear(x, w)));
    const z = library.tidy(() => library.sum(library.flashAttention(q, q, q, { causal: true })));
    y.backward();
    z.backward();
    results.push([await y.item(), await z.item()]);
    y.dispose();
    z.dispose();
  }
  for (const each of [x, w, q]) results.push(Array.from(await (each.grad as Tensor).data()));
  return results;
};

describe('worker threads', () => {
  describeBackends((device) => {
    const here = (seed: number): Promise<number[][]> =>
      compute(jest.requireActual<Library>('../../lib/index.js'), seed, device);

    test('several compute at the same time as this one, each in its own stream', async () => {
      const seeds = [1, 2, 3];
      const workers = seeds.map((seed) => startWorker(compute, [seed, device]));
      const [mine, ...theirs] = await Promise.all([here(4), ...workers.map((worker) => messageOf<number[][]>(worker))]);
      await Promise.all(workers.map((worker) => worker.terminate()));
      for (const [i, seed] of seeds.entries()) expect(theirs[i]).toEqual(await here(seed));
      expect(mine).toEqual(await here(4));
      expect(new Set([mine, ...theirs].map(([[first]]) => first)).size).toBe(4);
    });

    test('a worker that ends by itself leaves the others alone', async () => {
      const worker = startWorker(
        (library, device) =>
          library
            .ones([5], { device })
            .data()
            .then((values) => values[4]),
        [device],
      );
      const ended = new Promise((resolve) => worker.once('exit', resolve));
      expect(await messageOf(worker)).toBe(1);
      expect(await ended).toBe(0);
      expect((await here(1)).length).toBe(23);
    });
  });

  describeBackends((device) => {
    // By turns: ops queued alone, with reads under way, with a timer that queues more, and a loop that does until it is stopped.
    test.each(['queued', 'reading', 'timer', 'loop'])(
      'one that is terminated in the middle of ops harms nobody: %s',
      async (how) => {
        // In a process of its own, so that a crash is a test that fails and not the end of all tests.
        const rounds = 20;
        const result = await resultOfChild(
          async (library, path, device, how, rounds) => {
            const { Worker } = await import('node:worker_threads');
            const source = `
          const library = require(${JSON.stringify(path)});
          const device = ${JSON.stringify(device)};
          const how = ${JSON.stringify(how)};
          const w = library.ones([512, 512], { device });
          const queue = (count) => {
            for (let i = 0; i < count; i++) {
              const y = library.linear(w, w);
              if (how !== 'queued' && i % 10 === 0) {
                void y.data();
                void library.device(device).synchronize();
              }
              y.dispose();
            }
          };
          queue(1000);
          if (how === 'loop') setImmediate(() => { for (;;) queue(1); });
          else setInterval(() => how === 'timer' && queue(10), 0);
          require('node:worker_threads').parentPort.postMessage('busy');`;
            const x = library.randn([64, 64], { device, seed: 1 });
            const products: number[] = [];
            const codes: number[] = [];
            for (let round = 0; round < rounds; round++) {
              const worker = new Worker(source, { eval: true });
              await new Promise((resolve, reject) => {
                worker.once('message', resolve);
                worker.once('error', reject);
              });
              await new Promise((resolve) => setTimeout(resolve, round % 7));
              codes.push(await worker.terminate());
              products.push((await library.linear(x, x).data())[77]);
            }
            return { codes, products };
          },
          [LIBRARY, device, how, rounds] as [string, DeviceName, string, number],
        );
        const x = randn([64, 64], { device, seed: 1 });
        const expected = (await linear(x, x).data())[77];
        expect(result).toEqual({ codes: new Array(rounds).fill(1), products: new Array(rounds).fill(expected) });
      },
    );

    test('the addon can be loaded in workers alone, unloaded with the last, and loaded again', async () => {
      // The main thread of this process never loads it.
      const sums = await resultOfChild(
        async (_, library, device) => {
          const { Worker } = await import('node:worker_threads');
          const source = `
          const library = require(${JSON.stringify(library)});
          const x = library.ones([100, 100], { device: ${JSON.stringify(device)} });
          const y = library.linear(x, x);
          y.data().then((values) => {
            require('node:worker_threads').parentPort.postMessage(values.reduce((a, b) => a + b));
            for (let i = 0; i < 1000; i++) library.linear(x, x); // still queued when the thread ends
          });`;
          const sums: number[] = [];
          for (let i = 0; i < 6; i++) {
            const workers = Array.from({ length: (i % 2) + 1 }, () => new Worker(source, { eval: true }));
            const ends = workers.map(
              (worker) =>
                new Promise<void>((resolve, reject) => {
                  worker.on('message', (sum: number) => sums.push(sum));
                  worker.on('error', reject);
                  worker.on('exit', () => resolve());
                }),
            );
            await Promise.all(ends);
          }
          return sums;
        },
        [LIBRARY, device] as [string, DeviceName],
        { load: false },
      );
      expect(sums).toEqual(new Array(9).fill(1e6));
    });

    test('a process ends well while workers compute', async () => {
      await resultOfChild(
        async (_, library, device) => {
          const { Worker } = await import('node:worker_threads');
          const source = `
          const library = require(${JSON.stringify(library)});
          const x = library.ones([512, 512], { device: ${JSON.stringify(device)} });
          for (let i = 0; i < 3000; i++) library.linear(x, x).dispose();
          void x.data();
          require('node:worker_threads').parentPort.postMessage('busy');`;
          const workers = [0, 1].map(() => new Worker(source, { eval: true }));
          await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
          process.on('exit', () => undefined);
          setImmediate(() => process.exit(0));
        },
        [LIBRARY, device] as [string, DeviceName],
        { load: false },
      );
    });
  }, NATIVE);

  (hasCpu ? test : test.skip)('each has its own memory count, default device and random sequence', async () => {
    const held = randn([1000], { device: 'cpu' });
    const mine = getDefaultDevice();
    expect(mine.id).not.toBe('reference');
    const worker = startWorker((library) => {
      const x = library.zeros([3], { device: 'cpu' });
      library.setDefaultDevice('reference');
      return { memory: library.memory().cpu, size: x.size };
    }, []);
    expect(await messageOf(worker)).toMatchObject({
      memory: { tensors: 1, bytes: 12, peakBytes: 12, offloadedBytes: 0 },
      size: 3,
    });
    expect(getDefaultDevice()).toBe(mine);
    expect(randn([1]).device).toBe(mine);
    held.dispose();
  });
});
