// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import { device, getThreads, linear, memory, pendingTransfers, randn, reclaimTransfers } from '../../lib/index.js';
import { Random } from '../random.js';
import { Findings, type Scenario } from './scenario.js';

const LIBRARY = path.join(__dirname, '..', '..', 'lib', 'index.js');

/** What a worker does when its end comes; by turns. */
const WORK = {
  ops: 'while (true) library.linear(x, x).dispose();',
  reads:
    'const read = () => { for (let i = 0; i < 10; i++) void library.linear(x, x).data(); setImmediate(read); }; read();',
  gradients:
    'const w = library.randn([64, 64], { requiresGrad: true }); while (true) { library.tidy(() => library.sum(library.linear(x, w)).backward()); w.clearGrad(); }',
  attention:
    'const q = library.randn([1, 64, 4, 32]); while (true) library.flashAttention(q, q, q, { causal: true }).dispose();',
  captured:
    'const graph = library.capture(() => library.linear(x, x)); const go = () => { for (let i = 0; i < 20; i++) void graph.replay(); setImmediate(go); }; go();',
  transfers:
    'const go = async () => { for (;;) { const { message } = await library.ones([64, 64]).transfer(); parent.postMessage({ message }); } }; void go();',
  training:
    "const model = new library.CausalLM({ vocabulary: 32, layers: 1, hidden: 16, heads: 2, intermediate: 16 }); const ids = library.tensor([[1, 2, 3]], { dtype: 'int32' }); const go = async () => { for (;;) { library.tidy(() => model.loss(ids, ids).backward()); model.clearGrad(); for await (const token of library.generate(model, [1], { maxTokens: 3 })) void token; } }; void go();",
  'leaving by itself': 'for (let i = 0; i < 50; i++) void library.linear(x, x).data(); process.exit(0);',
} as const;

const NAMES = Object.keys(WORK) as (keyof typeof WORK)[];

/** How many live at a time. */
const TOGETHER = 2;

function start(name: keyof typeof WORK): { worker: Worker; busy: Promise<void>; ended: Promise<void> } {
  const source = `
    const parent = require('node:worker_threads').parentPort;
    const library = require(${JSON.stringify(LIBRARY)});
    const x = library.ones([64, 64]);
    parent.postMessage('busy');
    ${WORK[name]}`;
  const worker = new Worker(source, { eval: true });
  const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
  const busy = new Promise<void>((resolve, reject) => {
    worker.once('message', () => resolve());
    worker.once('error', reject);
  });
  return { worker, busy, ended };
}

export const killedWorkers: Scenario = {
  summary: 'worker threads that are ended in the middle of ops',
  count: 1000,
  async run({ seed, count, only }, say) {
    const findings = new Findings();
    const random = new Random(`killed workers ${seed}`);
    const names = NAMES.filter((name) => only === null || name.includes(only));
    const x = randn([64, 64], { seed: 1 });
    const product = linear(x, x);
    const expected = await product.data();
    product.dispose();
    const { bytes: before } = memory().cpu;
    const residents: number[] = [];
    let done = 0;
    const one = async (index: number): Promise<void> => {
      const name = names[index % names.length];
      const { worker, busy, ended } = start(name);
      await busy;
      await new Promise((resolve) => setTimeout(resolve, random.integer(0, 5)));
      await worker.terminate();
      await ended;
      done++;
      say(`${done} ended, the last of them: ${name}`);
    };
    for (let index = 0; index < count; index += TOGETHER) {
      await Promise.all(Array.from({ length: Math.min(TOGETHER, count - index) }, (_, i) => one(index + i)));
      // This thread computes as before.
      const y = linear(x, x);
      const values = await y.data();
      y.dispose();
      if (values.some((value, i) => value !== expected[i]))
        findings.add('another result in the main thread', `after ${done}`);
      if (index % 50 === 0) {
        reclaimTransfers();
        global.gc?.();
        residents.push(process.memoryUsage.rss());
      }
    }
    await device('cpu').synchronize();
    reclaimTransfers();
    if (pendingTransfers().tensors > 0) findings.add('messages are left', String(pendingTransfers().tensors));
    if (memory().cpu.bytes !== before)
      findings.add('memory is not back at its start', `${memory().cpu.bytes - before}`);
    const megabytes = residents.map((bytes) => Math.round(bytes / 2 ** 20));
    const middle = megabytes[Math.floor(megabytes.length / 2)];
    const last = megabytes[megabytes.length - 1];
    // Node itself keeps some tens of KB of every worker thread.
    if (last - middle > 64 + count * 0.1) findings.add('resident memory grows', `${megabytes.join(', ')} MiB`);
    return {
      figures: {
        'workers ended': done,
        'kinds of work': names.length,
        'threads of the pool': getThreads(),
        'resident at the start, in the middle, at the end': `${megabytes[0]}, ${middle}, ${last} MiB`,
      },
      findings: findings.lines(),
    };
  },
};
