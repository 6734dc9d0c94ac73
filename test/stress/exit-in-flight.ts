// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawn } from 'node:child_process';
import * as path from 'node:path';
import { Findings, type Scenario } from './scenario.js';

const LIBRARY = path.join(__dirname, '..', '..', 'lib', 'index.js');

/** Work that is far from done. */
const QUEUED = 'const x = library.ones([512, 512]); for (let i = 0; i < 300; i++) library.linear(x, x).dispose();';

/** How a process ends with work in flight, and how that has to look: its exit code, or the signal. */
const ENDS: Readonly<Record<string, { source: string; code?: number; signal?: NodeJS.Signals }>> = {
  'process.exit': { source: `${QUEUED} process.exit(3);`, code: 3 },
  'process.exit with a read under way': { source: `${QUEUED} void x.data(); process.exit(3);`, code: 3 },
  'process.exit from a timer': { source: `${QUEUED} void x.data(); setTimeout(() => process.exit(3), 5);`, code: 3 },
  'process.exit in an exit handler': {
    source: `${QUEUED} process.on('exit', () => { library.linear(x, x); process.exit(3); });`,
    code: 3,
  },
  'the end of the program': { source: QUEUED, code: 0 },
  'the end of the program, nothing awaited': {
    source: `${QUEUED} void x.data(); void library.device('cpu').synchronize();`,
    code: 0,
  },
  'an exception nobody catches': { source: `${QUEUED} void x.data(); throw new Error('of the test');`, code: 1 },
  'a rejection nobody handles': { source: `${QUEUED} void Promise.reject(new Error('of the test'));`, code: 1 },
  'an op that fails, and is not read': {
    source: `${QUEUED} library.embedding(x, library.tensor([9999], { dtype: 'int32' }));`,
    code: 0,
  },
  SIGTERM: {
    source: `${QUEUED} console.log('busy'); setInterval(() => library.linear(x, x).dispose(), 0);`,
    signal: 'SIGTERM',
  },
  SIGINT: {
    source: `${QUEUED} console.log('busy'); setInterval(() => library.linear(x, x).dispose(), 0);`,
    signal: 'SIGINT',
  },
  'a graph in replay': {
    source: `const x = library.ones([512, 512]); const graph = library.capture(() => library.linear(x, x)); for (let i = 0; i < 300; i++) void graph.replay(); process.exit(3);`,
    code: 3,
  },
  'a tensor on its way': { source: `${QUEUED} void x.transfer(); process.exit(3);`, code: 3 },
  'a checkpoint being written': {
    source: `const model = new library.CausalLM({ vocabulary: 512, layers: 4, hidden: 128, heads: 4, intermediate: 256 }); const file = require('node:path').join(require('node:os').tmpdir(), 'ternflash-exit-' + process.pid); void model.save(file); setTimeout(() => process.exit(3), 5); process.on('exit', () => { for (const each of require('node:fs').readdirSync(require('node:os').tmpdir())) if (each.startsWith('ternflash-exit-' + process.pid)) require('node:fs').rmSync(require('node:path').join(require('node:os').tmpdir(), each)); });`,
    code: 3,
  },
  'worker threads at work': {
    source: `const { Worker } = require('node:worker_threads'); let busy = 0; for (let i = 0; i < 2; i++) { const worker = new Worker("const library = require(" + JSON.stringify(${JSON.stringify(LIBRARY)}) + "); const x = library.ones([256, 256]); require('node:worker_threads').parentPort.postMessage(0); for (;;) library.linear(x, x).dispose();", { eval: true }); worker.on('message', () => ++busy === 2 && process.exit(3)); }`,
    code: 3,
  },
};

interface End {
  code: number | null;
  signal: NodeJS.Signals | null;
  errors: string;
}

function runToEnd(source: string, kill: NodeJS.Signals | undefined): Promise<End> {
  return new Promise((resolve, reject) => {
    const program = `const library = require(${JSON.stringify(LIBRARY)}); ${source}`;
    const child = spawn(process.execPath, ['-e', program], {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 60_000,
      killSignal: 'SIGKILL',
    });
    let errors = '';
    child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
    child.stdout.once('data', () => kill && child.kill(kill));
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, errors }));
  });
}

export const exitInFlight: Scenario = {
  summary: 'processes that end with work in flight',
  count: 3,
  async run({ count, only }, say) {
    const findings = new Findings();
    const chosen = Object.entries(ENDS).filter(([name]) => only === null || name.includes(only));
    let ended = 0;
    for (let round = 0; round < count; round++) {
      for (const [name, { source, code, signal }] of chosen) {
        say(`${name}, round ${round + 1}`);
        const end = await runToEnd(source, signal);
        ended++;
        const fits = end.code === (code ?? null) && end.signal === (signal ?? null);
        if (!fits) findings.add(name, `exit code ${end.code}, signal ${end.signal}: ${end.errors.slice(0, 300)}`);
        else if (code !== 1 && end.errors !== '') findings.add(name, end.errors.slice(0, 300));
      }
    }
    return { figures: { 'ways to end': chosen.length, 'processes ended': ended }, findings: findings.lines() };
  },
};
