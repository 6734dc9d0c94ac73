// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  AdamW,
  CausalLM,
  device,
  generate,
  linear,
  memory,
  quantizeTernary,
  randn,
  sum,
  tensor,
  ternaryMatmul,
  tidy,
} from '../../lib/index.js';
import { Findings, type Scenario } from './scenario.js';

/** Resident memory may grow so much from the first quarter of a loop to its end; what an op leaks, however little, is a million times as much. */
const MOST_GROWTH = 8 * 2 ** 20;

/** What is done over and over, and how many ops that is. */
const LOOPS: readonly { name: string; ops: number; share: number; make(): () => unknown }[] = [
  {
    name: 'ops that are disposed',
    ops: 4,
    share: 0.7,
    make() {
      const [x, w] = [randn([4, 32]), randn([32, 32])];
      const packed = quantizeTernary(w);
      return () => {
        tidy(() => void sum(linear(ternaryMatmul(x, packed), w)).shape);
      };
    },
  },
  {
    name: 'ops and their gradients',
    ops: 6,
    share: 0.2,
    make() {
      const [x, w] = [randn([4, 16]), randn([16, 16], { requiresGrad: true })];
      return () => {
        tidy(() => sum(linear(linear(x, w), w)).backward());
        w.clearGrad();
      };
    },
  },
  {
    name: 'reads and writes',
    ops: 2,
    share: 0.05,
    make() {
      const x = tensor(new Float32Array(64));
      const values = new Float32Array(64);
      return () => {
        x.write(values);
        return x.data();
      };
    },
  },
  {
    name: 'training steps of a model, and tokens',
    ops: 120,
    share: 0.05,
    make() {
      const model = new CausalLM({ vocabulary: 32, layers: 1, hidden: 16, heads: 2, intermediate: 16 });
      const optimizer = new AdamW(model.parameters());
      const ids = tensor([[1, 2, 3, 4]], { dtype: 'int32' });
      return async () => {
        tidy(() => model.loss(ids, ids).backward());
        optimizer.step();
        model.clearGrad();
        for await (const token of generate(model, [1, 2], { maxTokens: 2 })) if (token < 0) break;
      };
    },
  },
];

async function resident(): Promise<number> {
  await device('cpu').synchronize();
  // What the collector finds only the second time was held by what it finds the first.
  for (let i = 0; i < 3; i++) {
    global.gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage.rss();
}

export const steadyMemory: Scenario = {
  summary: 'ops in loops: resident memory stays where it is',
  count: 1_000_000,
  async run({ count, only }, say) {
    const findings = new Findings();
    const figures: Record<string, number | string> = {};
    let ops = 0;
    const kept: unknown[] = []; // so that tensors of one loop are not collected in the next
    for (const { name, ops: each, share, make } of LOOPS.filter(({ name }) => only === null || name.includes(only))) {
      const act = make();
      kept.push(act);
      const rounds = Math.ceil((count * share) / each);
      const { tensors } = memory().cpu;
      const measured: number[] = [];
      for (let quarter = 0; quarter < 4; quarter++) {
        say(`${name}, quarter ${quarter + 1}`);
        for (let i = 0; i < rounds / 4; i++) {
          const done = act();
          if (done instanceof Promise) await done;
          // Whoever queues without ever waiting fills the queue.
          else if (i % 256 === 0) await device('cpu').synchronize();
        }
        measured.push(await resident());
      }
      ops += rounds * each;
      const [first, last] = [measured[0], measured[3]];
      figures[name] = `${measured.map((bytes) => (bytes / 2 ** 20).toFixed(1)).join(', ')} MiB`;
      if (last - first > MOST_GROWTH) findings.add(`${name}: resident memory grows`, String(figures[name]));
      if (memory().cpu.tensors !== tensors)
        findings.add(`${name}: tensors are left`, `${memory().cpu.tensors - tensors}`);
    }
    return { figures: { ops, loops: kept.length, ...figures }, findings: findings.lines() };
  },
};
