// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import * as path from 'node:path';
import {
  device as deviceNamed,
  embedding,
  emptyCache,
  flashAttention,
  getThreads,
  KernelError,
  linear,
  OptionError,
  randn,
  setThreads,
  sum,
  tidy,
  type Tensor,
} from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import { bitsOf, hasCpu, make } from '../harness.js';

const onCpu = hasCpu ? describe : describe.skip;
const library = path.join(packageRoot(), '.out', 'lib', 'index.js');

/** Runs a script that sees the library as `t`, in a process of its own. */
function child(
  script: string,
  environment: Record<string, string> = {},
): { status: number | null; out: string; error: string } {
  const run = spawnSync(process.execPath, ['-e', `const t = require(${JSON.stringify(library)});\n${script}`], {
    encoding: 'utf8',
    timeout: 50_000,
    env: { ...process.env, TERNFLASH_POISON: '', ...environment },
  });
  return { status: run.status, out: run.stdout.trim(), error: run.stderr };
}

onCpu('the stream of the cpu device', () => {
  test('ops return at once and the event loop stays free while they run', async () => {
    const x = randn([1024, 1024], { device: 'cpu', seed: 1 });
    await deviceNamed('cpu').synchronize();
    let ticks = 0;
    let done = false;
    const y = tidy(() => {
      let h: Tensor = x;
      for (let i = 0; i < 12; i++) h = linear(h, x);
      return h;
    });
    const finished = deviceNamed('cpu')
      .synchronize()
      .then(() => (done = true));
    // Queuing took no time worth speaking of: the work is still to be done, and turns of the loop pass meanwhile.
    while (!done) {
      await new Promise((resolve) => setImmediate(resolve));
      ticks++;
    }
    await finished;
    expect(ticks).toBeGreaterThan(100);
    y.dispose();
    x.dispose();
  });

  test('writes, ops and reads keep their order, and memory is reused only behind the ops that use it', async () => {
    const reads: Promise<number>[] = [];
    for (let i = 0; i < 200; i++) {
      const x = make('cpu', 'float32', [1000], new Array(1000).fill(i));
      const total = sum(x);
      x.dispose(); // its memory goes to the next tensor, while the sum is queued
      reads.push(total.item());
      total.dispose();
    }
    expect(await Promise.all(reads)).toEqual(Array.from({ length: 200 }, (_, i) => 1000 * i));
  });

  test('a failed kernel is told at the next wait, by name, once, and everything goes on', async () => {
    const weight = make('cpu', 'float32', [2, 1], [1, 2]);
    const out = embedding(weight, make('cpu', 'int32', [2], [0, 2]));
    const later = sum(weight);
    const error = await out.data().then(
      () => null,
      (caught: unknown) => caught,
    );
    expect(error).toBeInstanceOf(KernelError);
    expect((error as KernelError).op).toBe('embedding');
    expect((error as KernelError).message).toBe('embedding: expected ids in 0..1, got 2 at position 1');
    expect(await later.item()).toBe(3);
    expect([...(await out.data())]).toEqual([0, 0]);
    await deviceNamed('cpu').synchronize();
  });

  test('the number of threads changes no bit', async () => {
    const threads = getThreads();
    const run = async (count: number): Promise<number[][]> => {
      setThreads(count);
      const x = randn([2, 70, 4, 32], { device: 'cpu', seed: 3, requiresGrad: true });
      const out = flashAttention(x, x, x, { causal: true });
      const total = sum(linear(out.reshape(140, 128), randn([65, 128], { device: 'cpu', seed: 4 })));
      total.backward();
      return [await bitsOf(out), await bitsOf(total), await bitsOf(x.grad as Tensor)];
    };
    try {
      const one = await run(1);
      expect(await run(2)).toEqual(one);
      expect(await run(5)).toEqual(one);
    } finally {
      setThreads(threads);
    }
    expect(() => setThreads(0)).toThrow(OptionError);
  });

  test('attention over 16,384 tokens, forward and backward, takes less than 64 MB beyond its inputs and outputs', async () => {
    const cpu = deviceNamed('cpu');
    const length = 16384;
    const [q, k, v] = [5, 6, 7].map((seed) => randn([1, length, 1, 64], { device: 'cpu', seed, requiresGrad: true }));
    const dOut = randn([1, length, 1, 64], { device: 'cpu', seed: 8 });
    await cpu.synchronize();
    emptyCache();
    await cpu.synchronize();
    const before = process.memoryUsage().rss;
    cpu.resetPeakMemory();
    const counted = cpu.memory().bytes;
    const out = flashAttention(q, k, v);
    tidy(() => out.backward(dOut));
    const peak = cpu.memory().peakBytes - counted;
    await cpu.synchronize();
    const resident = process.memoryUsage().rss - before;
    const tensorBytes = length * 64 * 4;
    const results = 4 * tensorBytes; // out, dq, dk, dv
    expect(peak - results).toBeLessThan(64 * 2 ** 20);
    expect(resident - results).toBeLessThan(64 * 2 ** 20);
    // An S x S matrix would be a gigabyte. What there is: lse and delta.
    expect(peak - results).toBeLessThanOrEqual(4 * length * 4);
    for (const each of [q, k, v, dOut, out]) each.dispose();
  });

  test('a process ends by itself with work in flight, and waits for what it awaits', () => {
    const work = 'const x = t.randn([512, 512]); let y = x; for (let i = 0; i < 200; i++) y = t.linear(y, x);';
    expect(child(work)).toEqual({ status: 0, out: '', error: '' });
    const waited = child(`${work} t.sum(t.mul(t.tensor([2, 3]), t.tensor([4, 5]))).item().then(console.log)`);
    expect(waited).toEqual({ status: 0, out: '23', error: '' });
  });

  test.each(['base', 'avx2', 'avx512', 'avx512vnni'])(
    'instruction set %s: the same integers, and floats within rounding',
    async (isa) => {
      const script = `(async () => {
      const x = t.randn([5, 300], { seed: 1 }), w = t.randn([70, 300], { seed: 2 });
      const packed = t.quantizeTernary(w);
      const exact = await t.ternaryMatmul(x, packed).data();
      const floats = await t.linear(x, w).data();
      const q = t.randn([1, 33, 2, 40], { seed: 3 });
      const attention = await t.flashAttention(q, q, q, { causal: true }).data();
      console.log(JSON.stringify([t.devices()[1].reason, [...exact], [...floats], [...attention]]));
    })()`;
      const capped = child(script, { TERNFLASH_ISA: isa });
      expect(capped.error).toBe('');
      const plain = child(script, { TERNFLASH_NATIVE: '0' });
      const [reason, exact, floats, attention] = JSON.parse(capped.out) as [string, number[], number[], number[]];
      const [without, exactPlain, floatsPlain, attentionPlain] = JSON.parse(plain.out) as [
        string,
        number[],
        number[],
        number[],
      ];
      expect(without).toBe('no native addon (the native addon is switched off by TERNFLASH_NATIVE=0)');
      // A level this processor lacks gives the best one below it.
      expect(reason).toMatch(/^native kernels for (base|avx2|avx512|avx512vnni), \d+ threads$/);
      if (isa === 'base') expect(reason).toContain('for base,');
      expect(exact).toEqual(exactPlain);
      floats.forEach((value, i) => expect(Math.abs(value - floatsPlain[i])).toBeLessThan(300 * 2 ** -24 * 20));
      attention.forEach((value, i) => expect(Math.abs(value - attentionPlain[i])).toBeLessThan(1e-5));
    },
  );
});

test('without the addon the reference backend is the default, and cpu says why it is not there', () => {
  const script = `console.log(t.getDefaultDevice().id);
    try { t.device('cpu') } catch (error) { console.log(error.code, error.message) }`;
  expect(child(script, { TERNFLASH_NATIVE: '0' }).out.split('\n')).toEqual([
    'reference',
    'ERR_DEVICE device: expected a usable device, got cpu: no native addon (the native addon is switched off by TERNFLASH_NATIVE=0)',
  ]);
});

test('the garbage collector frees what nobody disposed', () => {
  const script = `(async () => {
    for (let i = 0; i < 50; i++) t.sum(t.mul(t.randn([1000]), t.randn([1000])));
    { const x = t.randn([1000], { requiresGrad: true }); t.sum(t.mul(x, x)); }
    for (let i = 0; i < 20; i++) { await new Promise((r) => setTimeout(r, 10)); gc(); }
    console.log(JSON.stringify(t.memory()[t.getDefaultDevice().id].bytes));
  })()`;
  for (const native of ['0', '1']) {
    const run = spawnSync(
      process.execPath,
      ['--expose-gc', '-e', `const t = require(${JSON.stringify(library)});\n${script}`],
      {
        encoding: 'utf8',
        env: { ...process.env, TERNFLASH_NATIVE: native },
      },
    );
    expect(Number(run.stdout)).toBeLessThan(16000);
  }
});
