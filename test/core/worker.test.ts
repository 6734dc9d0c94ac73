// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { hasCpu } from '../harness.js';

const library = JSON.stringify(path.join(packageRoot(), '.out', 'lib', 'index.js'));

/** Runs a script in a process of its own: a crash would be its exit status. */
function run(script: string): { status: number | null; signal: string | null; out: string } {
  const child = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', timeout: 50_000 });
  return { status: child.status, signal: child.signal, out: child.stdout.trim() };
}

const BUSY = `
  const t = require(${library});
  const { parentPort } = require('node:worker_threads');
  const x = t.randn([256, 256], { seed: 1, std: 0.06 });
  (async () => {
    for (;;) {
      t.tidy(() => { let y = x; for (let i = 0; i < 20; i++) y = t.linear(y, x); return y; }).data();
      parentPort.postMessage('busy');
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();`;

(hasCpu ? describe : describe.skip)('worker threads', () => {
  test('several compute at the same time, each with devices of its own', () => {
    const script = `
      const { Worker, isMainThread } = require('node:worker_threads');
      const t = require(${library});
      const work = \`
        const t = require(${library.replaceAll('"', '\\"')});
        const { parentPort, workerData } = require('node:worker_threads');
        (async () => {
          let total = 0;
          for (let i = 0; i < 50; i++) {
            const x = t.full([64, 64], workerData), y = t.linear(x, x), s = t.sum(y);
            total += await s.item();
            x.dispose(); y.dispose(); s.dispose();
          }
          parentPort.postMessage([total, t.memory().cpu.bytes]);
        })()\`;
      const results = [1, 2, 3].map((value) => new Promise((resolve) => new Worker(work, { eval: true, workerData: value }).once('message', resolve)));
      Promise.all(results).then((all) => console.log(JSON.stringify(all)));`;
    const { status, out } = run(script);
    expect(status).toBe(0);
    // sum of a 64 x 64 matrix of 64 v^2, fifty times
    expect(JSON.parse(out)).toEqual([1, 2, 3].map((value) => [50 * 64 * 64 * 64 * value * value, 0]));
  });

  test('a worker killed in the middle of ops takes nobody along, also where only workers load the addon', () => {
    for (const preload of [`require(${library});`, '']) {
      const script = `
        ${preload}
        const { Worker } = require('node:worker_threads');
        (async () => {
          for (let i = 0; i < 20; i++) {
            const worker = new Worker(${JSON.stringify(BUSY)}, { eval: true });
            await new Promise((resolve) => worker.once('message', resolve));
            await worker.terminate();
          }
          console.log('alive');
        })();`;
      expect(run(script)).toEqual({ status: 0, signal: null, out: 'alive' });
    }
  });
});
