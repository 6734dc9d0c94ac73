// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Times the ops of the cpu device, or of another: `npm run bench [-- --device cuda] [name …]`, where a name picks the cases that
 * contain it, or is flash-attention, ternary, memory or all.
 * Every case is checked against an independent float64 result before it is timed. Prints one line a case and writes bench-results/<time>.json.
 * A GPU has cases of its own, gpu-run.ts; `--suite` picks the others. See options.ts.
 */
import { cpus } from 'node:os';
import { device, devices, getThreads, setThreads } from '../lib/device.js';
import { native } from '../lib/native.js';
import { benchCases, type BenchCase, type Unit } from './cases.js';
import { runGpuSuite } from './gpu-run.js';
import { runModel } from './model.js';
import { runOnnxruntime } from './onnxruntime.js';
import { DEVICE, FILTERS, isWanted, ONCE, PEER, SUITE, THREADS } from './options.js';
import { writeResults } from './results.js';
import { runTorchAttention } from './torch-attention.js';

const MIN_SECONDS = 0.6;
const MIN_RUNS = 5;
/** Of a GPU, runs are queued for as long as this and waited for together: waiting after each would be most of what is timed. */
const MIN_BATCH_MILLISECONDS = 10;
const MAX_BATCH = 1000;

interface Result {
  name: string;
  /** Of the cpu device; null on another. */
  threads: number | null;
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
  times.sort((a, b) => a - b);
  return { median: times[times.length >> 1], fastest: times[0] };
}

async function main(): Promise<void> {
  if (PEER === 'torch') return runTorchAttention();
  if (!native) throw new Error('bench: expected the native addon (npm run build:native), got none');
  if (THREADS !== null) setThreads(THREADS);
  if (PEER === 'onnxruntime') return runOnnxruntime();
  if (SUITE === 'gpu') return runGpuSuite();
  if (SUITE === 'model') return runModel();
  const all = getThreads();
  const place = device(DEVICE);
  const onCpu = place.type === 'cpu';
  // The ceiling is that of the processor.
  const peak = onCpu ? native.fmaPeak(0.3) : null;
  const model = onCpu ? cpus()[0].model : `${place.id} ${devices().find(({ id }) => id === place.id)?.reason ?? ''}`;
  if (peak === null) console.log(model);
  else {
    console.log(
      `${model}, ${native.isa}, ${all} threads; float32 multiply-add ceiling ${(peak.oneThread / 1e9).toFixed(0)} GFLOP/s on one, ${(peak.allThreads / 1e9).toFixed(0)} on all`,
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
    for (const threads of !onCpu ? [null] : all > 1 ? [1, all] : [1]) {
      if (threads !== null) setThreads(threads);
      const { median, fastest } = await time(bench);
      const rate = bench.amount / (median / 1000);
      const ceiling = threads === 1 ? peak?.oneThread : peak?.allThreads;
      const ofPeak = ceiling !== undefined && make.unit === 'float operations' ? rate / ceiling : null;
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
        threads === null ? place.id : `${threads} thread${threads > 1 ? 's' : ' '}`,
        `${median.toFixed(3).padStart(9)} ms`,
        `${(rate / 1e9).toFixed(1).padStart(7)} ${make.unit === 'bytes' ? 'GB/s  ' : 'Gop/s '}`,
        ofPeak === null ? '' : `${(100 * ofPeak).toFixed(0).padStart(3)} % of peak`,
      ];
      console.log(columns.join(' | '));
    }
    setThreads(all);
    bench.dispose();
  }
  if (ONCE) return;
  writeResults({ device: place.id, processor: model, isa: native.isa, peak, results });
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
