// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { tmpdir } from 'node:os';
import {
  device,
  getThreads,
  memory,
  pendingTransfers,
  manualSeed,
  setDefaultDevice,
  setMemoryLimit,
  setThreads,
  TernflashError,
  trackTensors,
} from '../../lib/index.js';
import { releasingTape } from '../../lib/autograd/tape.js';
import { Random } from '../random.js';
import { CALLS, hasSelf, invoke, unmatched } from './api/calls.js';
import { CallersError, mutate } from './api/mutations.js';
import { publicCalls } from './api/public-api.js';
import { makeFiles, World, type Files } from './api/world.js';
import { Findings, type Scenario } from './scenario.js';
import { settle } from './settle.js';

/** No valid call takes as much, and an invalid one must not. */
const MEMORY_LIMIT = 2 ** 28;
const MOST_RESIDENT = 2 ** 31;
/** A call takes a few milliseconds, encoding a million letters a few seconds on a busy machine; what takes this long would take any time. */
const MOST_MILLISECONDS = 20_000;

const DEVICES = ['cpu', 'reference'] as const;

/** Tensors and bytes on all devices, as text, to be compared. */
const held = (): string =>
  Object.entries(memory())
    .map(
      ([id, { tensors, bytes, offloadedBytes }]) =>
        `${id} ${tensors} tensors ${bytes} bytes ${offloadedBytes} offloaded`,
    )
    .join(', ');

/** What calling a class as a function throws. */
const isOfClass = (error: unknown): boolean =>
  error instanceof TypeError && /cannot be invoked without 'new'/.test(error.message);

type Outcome =
  | { kind: 'fine' }
  /** `after`: what was held when the error came. */
  | { kind: 'typed' | 'system' | 'caller'; after: string }
  | { kind: 'finding'; what: string };

function judge(error: unknown, after: string): Outcome {
  if (error instanceof CallersError || isOfClass(error)) return { kind: 'caller', after };
  if (error instanceof TernflashError) {
    if (!error.message.includes('expected '))
      return { kind: 'finding', what: `a message without grammar: ${error.message}` };
    if (error.message.length > 4000) return { kind: 'finding', what: `a message of ${error.message.length} letters` };
    return { kind: 'typed', after };
  }
  const { code, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  if (typeof syscall === 'string' && typeof code === 'string') return { kind: 'system', after };
  const { name, message, stack } = (error ?? {}) as Error;
  const at = stack?.split('\n').find((line) => line.includes('/lib/')) ?? '';
  const place = /([\w-]+\.js:\d+)/.exec(at)?.[1] ?? '';
  return { kind: 'finding', what: `${name}: ${String(message).slice(0, 90)} (${place})` };
}

/** What a call may have changed beside its arguments. */
function restoreGlobals(threads: number): void {
  setDefaultDevice('cpu');
  if (getThreads() !== threads) setThreads(threads);
  for (const each of DEVICES) setMemoryLimit(MEMORY_LIMIT, { device: each });
  trackTensors(false);
  manualSeed(0);
}

/** So often a wrong value that turned out to be right is tried again in its place. */
const MOST_RIGHT = 2;

type Place = (typeof DEVICES)[number];

class Run {
  readonly findings = new Findings();
  readonly counts = { typed: 0, system: 0, caller: 0, fine: 0 };
  /** What was wrong and right after all: where, and what, and how often. */
  readonly right = new Map<string, number>();
  slowest = { milliseconds: 0, call: '' };

  private readonly random: Random;
  private readonly threads = getThreads();

  constructor(
    private readonly files: Files,
    seed: number,
    private readonly say: (doing: string) => void,
  ) {
    this.random = new Random(`invalid calls ${seed}`);
    restoreGlobals(this.threads);
  }

  /** Calls that were refused. */
  get refused(): number {
    return this.counts.typed + this.counts.system + this.counts.caller;
  }

  anyDevice(): Place {
    return DEVICES[this.random.integer(0, DEVICES.length - 1)];
  }

  /** A call in a world of its own, as it should be. */
  async valid(name: string, on: Place): Promise<void> {
    await this.inWorld(on, `${name} on ${on}`, async (w, text) => {
      const outcome = await this.make(w, name, await CALLS[name](w), text);
      if (outcome.kind === 'finding') this.findings.add(`${name}: ${outcome.what}`, text);
      else if (outcome.kind !== 'fine') this.findings.add(`${name}: a valid call is refused`, text);
    });
  }

  /** The same with something in it made wrong. */
  async invalid(name: string, on: Place): Promise<void> {
    await this.inWorld(on, `${name} on ${on}`, async (w, text) => {
      const mutated = mutate(w, this.random, await CALLS[name](w), hasSelf(name));
      if (mutated === null) return;
      const { args, path, kind } = mutated;
      const what = `${name} ${path} = ${kind}`;
      const times = this.right.get(what) ?? 0;
      if (times >= MOST_RIGHT) return;
      const call = `${text}, ${path} = ${kind}`;
      const before = held();
      const outcome = await this.make(w, name, args, call);
      if (outcome.kind === 'finding') {
        this.findings.add(`${name}: ${outcome.what}`, call);
        return;
      }
      this.counts[outcome.kind]++;
      if (outcome.kind === 'fine') this.right.set(what, times + 1);
      else if (outcome.after !== before)
        this.findings.add(`${name}: not as before`, `${call}: ${before} -> ${outcome.after}`);
    });
  }

  private async inWorld(on: Place, text: string, act: (w: World, text: string) => Promise<void>): Promise<void> {
    const w = new World(this.files, this.random, on);
    const before = held();
    try {
      await act(w, text);
    } finally {
      w.end();
      restoreGlobals(this.threads);
    }
    const after = held();
    if (after !== before) this.findings.add(`${text}: memory is held afterwards`, `${before} -> ${after}`);
  }

  private async make(w: World, name: string, args: readonly unknown[], text: string): Promise<Outcome> {
    this.say(text);
    const place = device(w.device);
    const begin = performance.now();
    let outcome: Outcome = { kind: 'fine' };
    try {
      // Graphs that nobody goes back through are the garbage collector's: here they end with the call.
      await settle(
        w,
        releasingTape(() => invoke(name, args)),
      );
      await place.synchronize();
    } catch (error) {
      outcome = judge(error, held());
      await place.synchronize().catch(() => undefined);
    }
    const milliseconds = performance.now() - begin;
    if (milliseconds > this.slowest.milliseconds) this.slowest = { milliseconds, call: text };
    if (milliseconds > MOST_MILLISECONDS) this.findings.add('too slow', `${text}: ${milliseconds.toFixed(0)} ms`);
    return outcome;
  }
}

export const invalidCalls: Scenario = {
  summary: 'random invalid calls over the whole API',
  count: 100_000,
  async run({ seed, count, only }, say) {
    const files = await makeFiles();
    process.chdir(files.folder); // names of files are among what is made wrong
    const run = new Run(files, seed, say);
    for (const each of unmatched(publicCalls())) run.findings.add('API without a valid call', each);
    const names = Object.keys(CALLS).filter((name) => only === null || name.includes(only));
    const start = held();
    for (const name of names) for (const on of DEVICES) await run.valid(name, on);
    let resident = 0;
    for (let i = 0; run.refused < count && i < 4 * count; i++) {
      await run.invalid(names[i % names.length], run.anyDevice());
      if (i % 1000 > 0) continue;
      resident = Math.max(resident, process.memoryUsage.rss());
      if (resident < MOST_RESIDENT) continue;
      run.findings.add('resident memory', `${resident} bytes after ${i} calls`);
      break;
    }
    process.chdir(tmpdir());
    await files.remove();
    if (held() !== start) run.findings.add('memory is not back at its start', `${start} -> ${held()}`);
    if (pendingTransfers().tensors !== 0) run.findings.add('messages are left', String(pendingTransfers().tensors));
    const { counts, slowest } = run;
    return {
      figures: {
        'public functions and methods': names.length,
        'refused calls': run.refused,
        'typed errors': counts.typed,
        'errors of the file system': counts.system,
        "errors of the caller's functions": counts.caller,
        'valid after all': counts.fine,
        'slowest call': `${Math.round(slowest.milliseconds)} ms: ${slowest.call}`,
        'most resident, MiB': Math.round(resident / 2 ** 20),
        'tensors and bytes at the end': held(),
      },
      details: { 'valid after all': [...run.right.keys()].sort() },
      findings: run.findings.lines(),
    };
  },
};
