// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Times the ops of the cpu device: `npm run bench [-- name …]`, where a name picks the cases that contain it. Every case is checked against an
 * independent float64 result before it is timed. Prints one line a case and writes bench-results/<time>.json.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import * as path from 'node:path';
import { device, getThreads, setThreads } from '../lib/device.js';
import { native, packageRoot } from '../lib/native.js';
import { benchCases, type BenchCase, type Unit } from './cases.js';

const MIN_SECONDS = 0.6;
const MIN_RUNS = 5;

interface Result {
  name: string;
  threads: number;
  /** Median, in milliseconds. */
  milliseconds: number;
  fastest: number;
  /** Billions a second, by the median. */
  rate: number;
  /** Of what: operations or bytes. */
  unit: Unit;
  /** Share of the measured float32 multiply-add rate of as many threads; null for integers and bytes. */
  ofPeak: number | null;
}

async function time(bench: BenchCase): Promise<{ median: number; fastest: number }> {
  const cpu = device('cpu');
  const once = async (): Promise<number> => {
    const start = performance.now();
    bench.run();
    await cpu.synchronize();
    return performance.now() - start;
  };
  await once();
  const times: number[] = [];
  const begin = performance.now();
  while (times.length < MIN_RUNS || performance.now() - begin < MIN_SECONDS * 1000) times.push(await once());
  times.sort((a, b) => a - b);
  return { median: times[times.length >> 1], fastest: times[0] };
}

async function main(): Promise<void> {
  if (!native) throw new Error('bench: expected the native addon (npm run build:native), got none');
  const filters = process.argv.slice(2).filter((each) => !each.startsWith('--'));
  const all = getThreads();
  const peak = native.fmaPeak(0.3);
  const model = cpus()[0].model;
  console.log(
    `${model}, ${native.isa}, ${all} threads; float32 multiply-add ceiling ${(peak.oneThread / 1e9).toFixed(0)} GFLOP/s on one, ${(peak.allThreads / 1e9).toFixed(0)} on all`,
  );
  const results: Result[] = [];
  for (const make of benchCases()) {
    if (filters.length > 0 && !filters.some((filter) => make.name.includes(filter))) continue;
    const bench = make.prepare();
    await bench.check();
    for (const threads of all > 1 ? [1, all] : [1]) {
      setThreads(threads);
      const { median, fastest } = await time(bench);
      const rate = bench.amount / (median / 1000);
      const ceiling = threads === 1 ? peak.oneThread : peak.allThreads;
      const ofPeak = make.unit === 'float operations' ? rate / ceiling : null;
      results.push({
        name: make.name,
        threads,
        milliseconds: median,
        fastest,
        rate: rate / 1e9,
        unit: make.unit,
        ofPeak,
      });
      const columns = [
        make.name.padEnd(62),
        `${threads} thread${threads > 1 ? 's' : ' '}`,
        `${median.toFixed(3).padStart(9)} ms`,
        `${(rate / 1e9).toFixed(1).padStart(7)} ${make.unit === 'bytes' ? 'GB/s  ' : 'Gop/s '}`,
        ofPeak === null ? '' : `${(100 * ofPeak).toFixed(0).padStart(3)} % of peak`,
      ];
      console.log(columns.join(' | '));
    }
    setThreads(all);
    bench.dispose();
  }
  const folder = path.join(packageRoot(), 'bench-results');
  mkdirSync(folder, { recursive: true });
  const date = new Date().toISOString();
  const file = path.join(folder, `${date.replaceAll(':', '-')}.json`);
  writeFileSync(file, JSON.stringify({ date, processor: model, isa: native.isa, peak, results }, null, 2));
  console.log(`\nwritten: ${path.relative(process.cwd(), file)}`);
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
