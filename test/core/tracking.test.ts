// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  checkpointWith,
  device as deviceNamed,
  leakReport,
  linear,
  liveTensors,
  mul,
  ones,
  OptionError,
  receiveTensor,
  scale,
  sum,
  tensor,
  tidy,
  trackTensors,
  zeros,
  type Tensor,
} from '../../lib/index.js';
import { describeBackends } from '../harness.js';
import { LIBRARY, resultOfChild } from './child.js';

const NO_RECORD =
  'liveTensors: expected tensors to be tracked (trackTensors(true) or TERNFLASH_TRACK=1), got no record';

/** Line of the caller in this file, as the stack tells it. */
const lineHere = (): number =>
  Number(/tracking\.test\.[jt]s:(\d+):\d+/.exec((new Error().stack ?? '').split('\n')[2])?.[1]);
const lineOf = (at: string): number => Number(/tracking\.test\.[jt]s:(\d+):\d+$/.exec(at)?.[1]);

describeBackends((device) => {
  beforeEach(() => trackTensors(true));
  afterEach(() => trackTensors(false));

  test('names the lines that made what is alive, most bytes first', () => {
    expect(liveTensors()).toEqual([]);
    const made: Tensor[] = [];
    const start = lineHere();
    for (let i = 1; i <= 3; i++) made.push(zeros([i, 4], { device }));
    made.push(tensor([1, 2], { device, dtype: 'int32' }));
    made.push(linear(made[2], made[2]));
    const live = liveTensors();
    expect(live.map(({ at, ...rest }) => ({ line: lineOf(at) - start, ...rest }))).toEqual([
      { line: 1, device, count: 3, bytes: 96, largest: { op: 'zeros', dtype: 'float32', shape: [3, 4], bytes: 48 } },
      { line: 3, device, count: 1, bytes: 36, largest: { op: 'linear', dtype: 'float32', shape: [3, 3], bytes: 36 } },
      { line: 2, device, count: 1, bytes: 8, largest: { op: 'tensor', dtype: 'int32', shape: [2], bytes: 8 } },
    ]);
    expect(leakReport()).toBe(
      [
        'tensors alive: 5, 140 bytes',
        `  3 on ${device}, 96 bytes, at ${live[0].at}; the largest: zeros float32 [3, 4]`,
        `  1 on ${device}, 36 bytes, at ${live[1].at}; the largest: linear float32 [3, 3]`,
        `  1 on ${device}, 8 bytes, at ${live[2].at}; the largest: tensor int32 [2]`,
      ].join('\n'),
    );
    for (const each of made) each.dispose();
    expect(leakReport()).toBe('tensors alive: 0, 0 bytes');
  });

  test('counts what memory() counts: views once, and what a graph holds', () => {
    const before = deviceNamed(device).memory();
    const x = ones([10], { device, requiresGrad: true });
    const loss = tidy(() => sum(mul(scale(x, 2), x).reshape(2, 5)));
    const check = (): void => {
      const { tensors, bytes } = deviceNamed(device).memory();
      const live = liveTensors();
      expect(live.reduce((total, { count }) => total + count, 0)).toBe(tensors - before.tensors);
      expect(live.reduce((total, each) => total + each.bytes, 0)).toBe(bytes - before.bytes);
    };
    check();
    expect(liveTensors().length).toBe(3);
    const start = lineHere();
    loss.backward();
    check();
    const gradient = liveTensors().find(({ at }) => lineOf(at) === start + 1);
    expect(gradient).toMatchObject({ count: 1, bytes: 40 });
    x.dispose();
    loss.dispose();
    check();
    expect(liveTensors()).toEqual([]);
  });

  test('follows what waits on the host, and what is received', async () => {
    const w = tensor([3], { device, requiresGrad: true });
    const y = tidy(() => checkpointWith({ offload: 'host' }, (a: Tensor) => mul(a, a), scale(w, 2)));
    expect(liveTensors().reduce((total, { count }) => total + count, 0)).toBe(3);
    y.backward();
    y.dispose();
    const given = w.transfer();
    expect(liveTensors()).toEqual([]);
    const start = lineHere();
    const { message } = await given;
    const z = receiveTensor(message);
    const [group] = liveTensors();
    expect([lineOf(group.at) - start, group.largest.op]).toEqual([2, 'receiveTensor']);
    z.dispose();
    expect(liveTensors()).toEqual([]);
  });

  test('an op after an await is found through it', async () => {
    const start = lineHere();
    const make = async (): Promise<Tensor> => {
      const x = tensor([1], { device });
      const copy = await x.to({ dtype: 'int32' });
      x.dispose();
      return copy;
    };
    const copy = await make();
    expect(liveTensors().map(({ at }) => lineOf(at) - start)).toEqual([3]);
    copy.dispose();
  });

  test('off, there is no record, and on again nothing is known of before', () => {
    const x = ones([2], { device });
    trackTensors(true);
    expect(liveTensors().length).toBe(1);
    trackTensors(false);
    expect(() => liveTensors()).toThrow(new OptionError(NO_RECORD));
    expect(() => leakReport()).toThrow(new OptionError(NO_RECORD));
    const y = ones([2], { device });
    trackTensors(true);
    expect(liveTensors()).toEqual([]);
    x.dispose();
    y.dispose();
    expect(() => trackTensors(1 as unknown as boolean)).toThrow(
      new OptionError('trackTensors: expected a boolean for on, got 1'),
    );
  });
});

describe('a process with TERNFLASH_TRACK', () => {
  const program = `const { ones, leakReport, add } = require(${JSON.stringify(LIBRARY)});
function leak() {
  return add(kept, kept);
}
const kept = ones([2, 3], { device: 'reference' });
for (let i = 0; i < 3; i++) leak();
ones([5], { device: 'reference' }).dispose();
console.log(leakReport());
`;
  let folder: string;
  beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash (a)-'))));
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each([
    ['cjs', ''],
    ['mjs', `import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);\n`],
  ])('set to 1 tracks from the start: %s', (extension, prefix) => {
    const file = path.join(folder, `leak.${extension}`);
    writeFileSync(file, prefix + program);
    const at = (line: number, column: number): string => `${file}:${line + (prefix ? 2 : 0)}:${column}`;
    const run = (value: string): { stdout: string; stderr: string } =>
      spawnSync(process.execPath, [file], { encoding: 'utf8', env: { ...process.env, TERNFLASH_TRACK: value } });
    expect(run('1').stdout).toBe(
      `tensors alive: 4, 96 bytes\n` +
        `  3 on reference, 72 bytes, at ${at(3, 10)}; the largest: add float32 [2, 3]\n` +
        `  1 on reference, 24 bytes, at ${at(5, 14)}; the largest: ones float32 [2, 3]\n`,
    );
    expect(run('0').stderr).toContain(NO_RECORD);
  });

  test('does not keep from the garbage collector what nobody holds', async () => {
    const counts = await resultOfChild(
      async (library) => {
        const collect = (globalThis as unknown as { gc: () => void }).gc;
        const litter = (): void => {
          for (let i = 0; i < 20; i++) library.zeros([1000], { device: 'reference' });
        };
        litter();
        const before = library.liveTensors()[0].count;
        for (let i = 0; i < 50 && library.liveTensors().length > 0; i++) {
          collect();
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
        return [before, library.liveTensors().length, library.memory().reference.tensors];
      },
      [],
      { env: { TERNFLASH_TRACK: '1' }, flags: ['--expose-gc'] },
    );
    expect(counts).toEqual([20, 0, 0]);
  });

  test('reaches worker threads', async () => {
    const live = await resultOfChild(
      async (_, library) => {
        const { Worker } = await import('node:worker_threads');
        const source = `const library = require(${JSON.stringify(library)});
          library.ones([2], { device: 'reference' });
          require('node:worker_threads').parentPort.postMessage(library.liveTensors()[0].count);`;
        const worker = new Worker(source, { eval: true });
        return new Promise<number>((resolve) => worker.once('message', resolve));
      },
      [LIBRARY] as [string],
      { load: false, env: { TERNFLASH_TRACK: '1' } },
    );
    expect(live).toBe(1);
  });
});
