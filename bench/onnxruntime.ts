// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { setTimeout as pause } from 'node:timers/promises';
import { device, getThreads } from '../lib/device.js';
import { native } from '../lib/native.js';
import { attentionCases } from './onnxruntime-attention.js';
import { onnxruntimeVersion, type Contender, type Prepared } from './onnxruntime-contenders.js';
import { matmulCases } from './onnxruntime-matmul.js';
import { multiplyAddCeiling } from './cpu-run.js';
import { CASE_SECONDS, DEVICE, FILTERS, isWanted } from './options.js';
import { hardwareOf, writeResults } from './results.js';
import { OURS, type Result } from './schema.js';
import { timesOf } from './statistics.js';

/**
 * `--peer onnxruntime`: CPU kernels in one process with those of ONNX Runtime, on the same numbers and with as many threads. The results are
 * checked, then the contenders take turns. Theirs is the fastest of their ops that compute the same.
 */

/** The threads of either pool keep looking for work after a run; by then they sleep. */
const PAUSE_MILLISECONDS = 20;
/** Before a turn is timed: once, and until a run of microseconds finds its code and data in the caches. */
const WARM_MILLISECONDS = 2;
const TURN_MILLISECONDS = 50;
const MIN_TURNS = 3;
const CEILING_SECONDS = 0.3;
/** Before and after each case, for a host moves its guests between cores at any time. */
const CASE_CEILING_SECONDS = 0.05;
/** Of the ceiling at the start: a case that saw less is marked. */
const STEADY = 0.9;

/** Of one op. */
type Timing = { name: string } & ReturnType<typeof timesOf>;

async function runFor(contender: Contender, milliseconds: number): Promise<number[]> {
  const times: number[] = [];
  const begin = performance.now();
  let last = begin;
  while (times.length === 0 || last - begin < milliseconds) {
    const start = performance.now();
    await contender.run();
    last = performance.now();
    times.push((last - start) / contender.ops);
  }
  return times;
}

async function takeTurns(contenders: readonly Contender[]): Promise<Timing[]> {
  const times = contenders.map((): number[] => []);
  const begin = performance.now();
  for (let turn = 0; turn < MIN_TURNS || performance.now() - begin < CASE_SECONDS * 1000; turn++) {
    for (const [i, contender] of contenders.entries()) {
      await pause(PAUSE_MILLISECONDS);
      await runFor(contender, WARM_MILLISECONDS);
      times[i].push(...(await runFor(contender, TURN_MILLISECONDS)));
    }
  }
  return contenders.map(({ name }, i) => ({ name, ...timesOf(times[i]) }));
}

type Ceiling = ReturnType<NonNullable<typeof native>['fmaPeak']>;

function showCeiling({ oneThread, allThreads }: Ceiling): string {
  const [one, all] = [oneThread, allThreads].map((rate) => (rate / 1e9).toFixed(0));
  return `float32 multiply-add ceiling ${one} GFLOP/s on one, ${all} on all`;
}

const showMilliseconds = (value: number): string => value.toPrecision(value < 1 ? 3 : 4);
const showTiming = ({ milliseconds: { median, fastest } }: Timing): string =>
  `${showMilliseconds(median).padStart(8)} ms (${showMilliseconds(fastest).padStart(8)})`;

async function disposeOf({ peers, dispose }: Prepared): Promise<void> {
  dispose();
  for (const peer of peers) await peer.release();
}

export async function runOnnxruntime(): Promise<void> {
  if (DEVICE !== 'cpu') throw new Error(`bench: expected cpu for --device with --peer onnxruntime, got ${DEVICE}`);
  if (!native) throw new Error('bench: expected the native addon (npm run build:native), got none');
  const picked = [...attentionCases(), ...matmulCases()].filter(isWanted);
  if (picked.length === 0) throw new Error(`bench: expected the name or group of a case, got ${FILTERS.join(' ')}`);
  const peer = `onnxruntime-node ${onnxruntimeVersion()}`;
  const [processor, threads] = [hardwareOf(device(DEVICE)), getThreads()];
  const before = native.fmaPeak(CEILING_SECONDS);
  console.log(
    `${processor}, ${native.isa}, ${threads} thread${threads > 1 ? 's' : ''}, ${peer}; ${showCeiling(before)}`,
  );
  console.log(
    'case | ours: median (fastest) | theirs: op, median (fastest) | how many times as fast | % of the ceiling just then',
  );
  const results: Result[] = [];
  for (const { name, subject, unit, amount, prepare } of picked) {
    const prepared = await prepare();
    await prepared.check();
    const contenders = [...prepared.ours, ...prepared.peers];
    const memories = [];
    for (const each of contenders) memories.push((await each.memory?.()) ?? null);
    const ceilings = [native.fmaPeak(CASE_CEILING_SECONDS).allThreads];
    const timings = await takeTurns(contenders);
    ceilings.push(native.fmaPeak(CASE_CEILING_SECONDS).allThreads);
    const isSteady = ceilings.every((ceiling) => ceiling > STEADY * before.allThreads);
    const note = isSteady
      ? null
      : `ceiling ${ceilings.map((ceiling) => (ceiling / 1e9).toFixed(0)).join(', then ')} GFLOP/s`;
    await disposeOf(prepared);
    const ours = timings.slice(0, prepared.ours.length);
    const theirs = timings.slice(prepared.ours.length);
    const best = theirs.reduce((a, b) => (b.milliseconds.median < a.milliseconds.median ? b : a));
    for (const each of ours) {
      const ofCeiling = amount / (each.milliseconds.median / 1000) / Math.max(...ceilings);
      const columns = [
        `${name}${each.name && `, ${each.name}`}`.padEnd(56),
        showTiming(each),
        `${best.name.padEnd(30)} ${showTiming(best)}`,
        `${(best.milliseconds.median / each.milliseconds.median).toFixed(2).padStart(5)} x`,
        unit === 'float operations' ? `${(100 * ofCeiling).toFixed(0).padStart(3)} %` : '',
        ...(note === null ? [] : [note]),
      ];
      console.log(columns.join(' | '));
    }
    for (const [i, { name: variant, ...times }] of timings.entries())
      results.push({
        name,
        ...subject,
        by: i < ours.length ? OURS : peer,
        variant: variant === '' ? null : variant,
        threads,
        ...times,
        callMilliseconds: null,
        work: { [unit]: amount },
        ceiling: unit === 'float operations' ? multiplyAddCeiling(threads, Math.max(...ceilings)) : null,
        memory: memories[i],
        note,
      });
  }
  const after = native.fmaPeak(CEILING_SECONDS);
  console.log(`at the end: ${showCeiling(after)}`);
  writeResults(device(DEVICE), results);
}
