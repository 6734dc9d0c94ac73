// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device, getThreads } from '../lib/device.js';
import { layerCases } from './attention-layer.js';
import { attentionCases } from './gpu-attention.js';
import type { GpuCase } from './gpu-case.js';
import { lossCases } from './gpu-loss.js';
import { matmulCases, ternaryCases } from './gpu-matmul.js';
import { COPY_CASE, memoryCases } from './gpu-memory.js';
import { timeOnDevice } from './gpu-timing.js';
import { memoryOf } from './memory-use.js';
import { DEVICE, FILTERS, isWanted, ONCE, SECONDS, UNCHECKED } from './options.js';
import { hardwareOf, writeResults } from './results.js';
import { OURS, type Ceiling, type Result } from './schema.js';

/** The cases of a GPU: each is checked against float64 samples, then timed. */

const [FLOAT, INTEGER] = ['float operations', 'integer operations'] as const;
/** Fewer operations a byte, and it is the memory that a GPU waits for. */
const FEW_OPERATIONS = 100;

const gpuCases = (): GpuCase[] => [
  ...memoryCases(),
  ...matmulCases(),
  ...attentionCases(),
  ...layerCases(['float32', 'bfloat16']),
  ...lossCases(),
  ...ternaryCases(),
];

function lineOf({ name, milliseconds, work, ceiling, callMilliseconds, note }: Result): string {
  const { median: ms, low, high } = milliseconds;
  const flops = work['float operations'] ?? work['integer operations'];
  const rate = (work.bytes ?? 0) / ms / 1e6;
  const share = ceiling ? ` ${((1e11 * rate) / ceiling.perSecond).toFixed(0).padStart(3)} % of copy` : '';
  return [
    name.padEnd(52),
    `${ms.toFixed(4).padStart(9)} ms`,
    `±${((50 * (high - low)) / ms).toFixed(1).padStart(4)} %`,
    flops === undefined ? ' '.repeat(13) : `${(flops / ms / 1e9).toFixed(1).padStart(6)} TFLOP/s`,
    `${rate.toFixed(0).padStart(5)} GB/s${share}`,
    `call ${(1000 * (callMilliseconds ?? 0)).toFixed(0)} µs${note === null ? '' : `, ${note}`}`,
  ].join(' | ');
}

export async function runGpuSuite(): Promise<void> {
  const place = device(DEVICE);
  console.log(`${place.id} ${hardwareOf(place)}`);
  if (!gpuCases().some(isWanted))
    throw new Error(`bench: expected the name or group of a case, got ${FILTERS.join(' ')}`);
  const results: Result[] = [];
  let copy: Ceiling | null = null;
  let failures = 0;
  const begin = performance.now();
  // The copy is the ceiling of what only moves bytes, whatever else was asked for.
  for (const { name, subject, prepare } of gpuCases().filter(
    (each) => isWanted(each) || (each.name === COPY_CASE && !ONCE),
  )) {
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
      const memory = await memoryOf(prepared.run);
      const timing = await timeOnDevice(prepared.run);
      const { flops, bytes } = prepared;
      if (name === COPY_CASE)
        copy = { name: 'copy', unit: 'bytes', perSecond: bytes / (timing.milliseconds.median / 1000) };
      const result: Result = {
        name,
        ...subject,
        by: OURS,
        variant: null,
        threads: place.type === 'cpu' ? getThreads() : null,
        ...timing,
        work: flops === 0 ? { bytes } : { [subject.dtype === 'int8' ? INTEGER : FLOAT]: flops, bytes },
        ceiling: flops / bytes < FEW_OPERATIONS ? copy : null,
        memory,
      };
      results.push(result);
      console.log(lineOf(result));
    } catch (error) {
      failures++;
      console.error(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      prepared.dispose();
    }
  }
  if (!ONCE) writeResults(place, results);
  if (failures > 0) process.exitCode = 1;
}
