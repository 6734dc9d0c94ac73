// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device } from '../lib/device.js';
import { empty } from '../lib/tensor.js';
import { DEVICE, SMALL } from './options.js';

/**
 * Times what the device does, with the clock of the host.
 *
 * Runs are queued for at least MIN_MILLISECONDS and waited for together, so that the wait is a thousandth of what is timed. Where JavaScript
 * takes longer to queue a run than the device to do it, the device would be waiting in between; then it is given a head start: other work is
 * queued first, long enough for all runs to be queued behind it, and its own time, measured in turns, is taken off.
 */
const MIN_MILLISECONDS = 20;
const MAX_RUNS = 1000;
/** With a head start: what the driver queues without blocking holds so many runs of a few kernels each. */
const MAX_QUEUED_RUNS = 200;
const BUDGET_MILLISECONDS = 180;
const MIN_SAMPLES = 5;
const FILLER_BYTES = SMALL ? 2 ** 16 : 2 ** 28;

export interface Timing {
  /** Median, quartiles; of one run on the device, in milliseconds. */
  ms: number;
  low: number;
  high: number;
  /** What queueing a run takes of the JavaScript thread. */
  callMs: number;
  headStart: boolean;
}

const quantile = (sorted: readonly number[], q: number): number => sorted[Math.round((sorted.length - 1) * q)];

export async function timeOnDevice(run: () => void): Promise<Timing> {
  const place = device(DEVICE);
  const measure = async (runs: number, fillers = 0): Promise<{ total: number; calls: number }> => {
    using filler = empty('bench', [FILLER_BYTES], 'uint8', place);
    await place.synchronize();
    const start = performance.now();
    for (let i = 0; i < fillers; i++) place.backend.fill({ out: filler.arg, value: 0 });
    const queued = performance.now();
    for (let i = 0; i < runs; i++) run();
    const calls = performance.now() - queued;
    await place.synchronize();
    return { total: performance.now() - start, calls };
  };
  await measure(2);
  let runs = 1;
  let first = await measure(runs);
  while (first.total < 2 && runs < MAX_RUNS) {
    runs *= 2;
    first = await measure(runs);
  }
  const perRun = first.total / runs;
  const callMs = first.calls / runs;
  const samples: number[] = [];
  const begin = performance.now();
  const goOn = (): boolean => samples.length < MIN_SAMPLES || performance.now() - begin < BUDGET_MILLISECONDS;
  const headStart = callMs > perRun / 3;
  if (!headStart) {
    const count = Math.min(MAX_RUNS, Math.ceil(MIN_MILLISECONDS / perRun));
    while (goOn()) samples.push((await measure(count)).total / count);
  } else {
    const count = Math.min(MAX_QUEUED_RUNS, Math.ceil(MIN_MILLISECONDS / perRun));
    const filler = (await measure(0, 20)).total / 20;
    const fillers = Math.max(2, Math.ceil((1.5 * count * callMs) / filler));
    while (goOn()) {
      const without = await measure(0, fillers);
      const both = await measure(count, fillers);
      samples.push(Math.max(0, both.total - without.total) / count);
    }
  }
  samples.sort((a, b) => a - b);
  return { ms: quantile(samples, 0.5), low: quantile(samples, 0.25), high: quantile(samples, 0.75), callMs, headStart };
}
