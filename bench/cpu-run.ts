// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device, getThreads, setThreads } from '../lib/device.js';
import { native } from '../lib/native.js';
import { benchCases, type BenchCase } from './cases.js';
import { memoryOf } from './memory-use.js';
import { DEVICE, FILTERS, isWanted, ONCE } from './options.js';
import { hardwareOf, writeResults } from './results.js';
import { OURS, type Ceiling, type Result } from './schema.js';
import { timesOf } from './statistics.js';

/** The cases of the cpu device: each is checked against an independent float64 result, then timed with one thread and with all. */

const MIN_SECONDS = 0.6;
const MIN_RUNS = 5;
/** Of a GPU, runs are queued for as long as this and waited for together: waiting after each would be most of what is timed. */
const MIN_BATCH_MILLISECONDS = 10;
const MAX_BATCH = 1000;

async function time(bench: BenchCase): Promise<ReturnType<typeof timesOf>> {
  const place = device(DEVICE);
  /** Milliseconds a run, of `count` queued together. */
  const batch = async (count: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < count; i++) bench.run();
    await place.synchronize();
    return (performance.now() - start) / count;
  };
  await batch(1);
  let count = 1;
  if (place.type === 'cuda') {
    while (count < MAX_BATCH && count * (await batch(count)) < MIN_BATCH_MILLISECONDS)
      count = Math.min(2 * count, MAX_BATCH);
  }
  const times: number[] = [];
  const begin = performance.now();
  while (times.length < MIN_RUNS || performance.now() - begin < MIN_SECONDS * 1000) times.push(await batch(count));
  return timesOf(times);
}

/** The rate of float32 multiply-adds of so many threads. */
export function multiplyAddCeiling(threads: number, perSecond: number): Ceiling {
  const name = `float32 multiply-adds, ${threads} thread${threads > 1 ? 's' : ''}`;
  return { name, unit: 'float operations', perSecond };
}

export async function runCpuSuite(): Promise<void> {
  const all = getThreads();
  const place = device(DEVICE);
  const onCpu = place.type === 'cpu';
  // The ceiling is that of the processor.
  const peak = onCpu && native ? native.fmaPeak(0.3) : null;
  const hardware = hardwareOf(place);
  if (peak === null) console.log(`${place.id} ${hardware}`);
  else {
    console.log(
      `${hardware}, ${native?.isa}, ${all} threads; float32 multiply-add ceiling ${(peak.oneThread / 1e9).toFixed(0)} GFLOP/s on one, ${(peak.allThreads / 1e9).toFixed(0)} on all`,
    );
  }
  const results: Result[] = [];
  const picked = benchCases().filter(isWanted);
  if (picked.length === 0) throw new Error(`bench: expected the name or group of a case, got ${FILTERS.join(' ')}`);
  for (const make of picked) {
    const bench = make.prepare();
    if (ONCE) {
      bench.run();
      await place.synchronize();
      bench.dispose();
      console.log(make.name);
      continue;
    }
    await bench.check();
    const memory = await memoryOf(bench.run);
    for (const threads of !onCpu ? [null] : all > 1 ? [1, all] : [1]) {
      if (threads !== null) setThreads(threads);
      const times = await time(bench);
      const { median } = times.milliseconds;
      const rate = bench.amount / (median / 1000);
      const perSecond = threads === 1 ? peak?.oneThread : peak?.allThreads;
      const ceiling =
        threads !== null && perSecond !== undefined && make.unit === 'float operations'
          ? multiplyAddCeiling(threads, perSecond)
          : null;
      results.push({
        name: make.name,
        ...make.subject,
        by: OURS,
        variant: null,
        threads,
        ...times,
        callMilliseconds: null,
        work: { [make.unit]: bench.amount },
        ceiling,
        memory,
        note: null,
      });
      const columns = [
        make.name.padEnd(62),
        threads === null ? place.id : `${threads} thread${threads > 1 ? 's' : ' '}`,
        `${median.toFixed(3).padStart(9)} ms`,
        `${(rate / 1e9).toFixed(1).padStart(7)} ${make.unit === 'bytes' ? 'GB/s  ' : 'Gop/s '}`,
        ceiling === null ? '' : `${((100 * rate) / ceiling.perSecond).toFixed(0).padStart(3)} % of peak`,
      ];
      console.log(columns.join(' | '));
    }
    setThreads(all);
    bench.dispose();
  }
  if (!ONCE) writeResults(place, results);
}
