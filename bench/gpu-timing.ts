// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device } from '../lib/device.js';
import { empty } from '../lib/tensor.js';
import { DEVICE, SMALL } from './options.js';
import type { Result } from './schema.js';
import { timesOf } from './statistics.js';

/**
 * Times what the device does, by its own events.
 *
 * Runs are queued for at least MIN_MILLISECONDS and timed together. Where JavaScript takes longer to queue a run than the device to do it, the device
 * would be waiting in between; then it is given a head start: other work is queued first, long enough for all runs to be queued behind it.
 */
const MIN_MILLISECONDS = 20;
const MAX_RUNS = 1000;
/** With a head start: what the driver queues without blocking holds so many runs of a few kernels each. */
const MAX_QUEUED_RUNS = 200;
const BUDGET_MILLISECONDS = 180;
const MIN_SAMPLES = 5;
const FILLER_BYTES = SMALL ? 2 ** 16 : 2 ** 28;

type Timing = Pick<Result, 'milliseconds' | 'samples' | 'callMilliseconds' | 'note'>;

export async function timeOnDevice(run: () => void): Promise<Timing> {
  const place = device(DEVICE);
  using filler = empty('bench', [FILLER_BYTES], 'uint8', place);
  const fill = (count: number): void => {
    for (let i = 0; i < count; i++) place.backend.fill({ out: filler.arg, value: 0 });
  };
  /** Milliseconds of all runs on the device, and what queueing them took. */
  const measure = async (runs: number, fillers = 0): Promise<{ total: number; calls: number }> => {
    await place.synchronize();
    fill(fillers);
    let calls = 0;
    const total = await place.time(() => {
      const start = performance.now();
      for (let i = 0; i < runs; i++) run();
      calls = performance.now() - start;
    });
    return { total, calls };
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
  const headStart = callMs > perRun / 3;
  const count = Math.min(headStart ? MAX_QUEUED_RUNS : MAX_RUNS, Math.ceil(MIN_MILLISECONDS / perRun));
  const fillMs = (await place.time(() => fill(20))) / 20;
  const fillers = headStart ? Math.max(2, Math.ceil((1.5 * count * callMs) / fillMs)) : 0;
  const samples: number[] = [];
  const begin = performance.now();
  while (samples.length < MIN_SAMPLES || performance.now() - begin < BUDGET_MILLISECONDS)
    samples.push((await measure(count, fillers)).total / count);
  return { ...timesOf(samples), callMilliseconds: callMs, note: headStart ? 'head start' : null };
}
