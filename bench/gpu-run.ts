// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device, devices } from '../lib/device.js';
import { attentionCases } from './gpu-attention.js';
import type { GpuCase } from './gpu-case.js';
import { lossCases } from './gpu-loss.js';
import { matmulCases, ternaryCases } from './gpu-matmul.js';
import { COPY_CASE, memoryCases } from './gpu-memory.js';
import { timeOnDevice, type Timing } from './gpu-timing.js';
import { DEVICE, FILTERS, isWanted, ONCE, SECONDS, UNCHECKED } from './options.js';
import { writeResults } from './results.js';

/** The cases of a GPU: each is checked against float64 samples, then timed. */

export interface GpuResult extends Timing {
  name: string;
  flops: number;
  bytes: number;
}

const gpuCases = (): GpuCase[] => [
  ...memoryCases(),
  ...matmulCases(),
  ...attentionCases(),
  ...lossCases(),
  ...ternaryCases(),
];

function lineOf(result: GpuResult, copyRate: number | null): string {
  const { name, ms, low, high, flops, bytes, callMs, headStart } = result;
  const rate = bytes / ms / 1e6;
  const share =
    copyRate === null || copyRate === 0 ? '' : ` ${((100 * rate) / copyRate).toFixed(0).padStart(3)} % of copy`;
  return [
    name.padEnd(52),
    `${ms.toFixed(4).padStart(9)} ms`,
    `±${((50 * (high - low)) / ms).toFixed(1).padStart(4)} %`,
    flops === 0 ? ' '.repeat(13) : `${(flops / ms / 1e9).toFixed(1).padStart(6)} TFLOP/s`,
    `${rate.toFixed(0).padStart(5)} GB/s${share}`,
    `call ${(1000 * callMs).toFixed(0)} µs${headStart ? ', head start' : ''}`,
  ].join(' | ');
}

export async function runGpuSuite(): Promise<void> {
  const place = device(DEVICE);
  const report = devices().find(({ id }) => id === place.id);
  console.log(`${place.id} ${report?.reason ?? ''}`);
  if (!gpuCases().some(isWanted))
    throw new Error(`bench: expected the name or group of a case, got ${FILTERS.join(' ')}`);
  const results: GpuResult[] = [];
  let failures = 0;
  const begin = performance.now();
  // The copy is the ceiling of what only moves bytes, whatever else was asked for.
  for (const { name, prepare } of gpuCases().filter((each) => isWanted(each) || (each.name === COPY_CASE && !ONCE))) {
    if (performance.now() - begin > SECONDS * 1000) {
      console.error(`${name}: no time left`);
      failures++;
      continue;
    }
    const prepared = prepare();
    try {
      if (ONCE) {
        prepared.run();
        await place.synchronize();
        console.log(name);
        continue;
      }
      if (!UNCHECKED) await prepared.check();
      const timing = await timeOnDevice(prepared.run);
      results.push({ name, flops: prepared.flops, bytes: prepared.bytes, ...timing });
      const copy = results.find((each) => each.name === COPY_CASE);
      console.log(lineOf(results[results.length - 1], copy ? copy.bytes / copy.ms / 1e6 : null));
    } catch (error) {
      failures++;
      console.error(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      prepared.dispose();
    }
  }
  if (!ONCE) writeResults({ device: place.id, processor: report?.reason ?? '', suite: 'gpu', results });
  if (failures > 0) process.exitCode = 1;
}
