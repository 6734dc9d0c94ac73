// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  device,
  emptyCache,
  KernelError,
  memory,
  OutOfMemoryError,
  pendingTransfers,
  setDefaultDevice,
} from '../../lib/index.js';
import { releasingTape } from '../../lib/autograd/tape.js';
import { native, type Native } from '../../lib/native.js';
import { Random } from '../random.js';
import { CALLS, invoke } from './api/calls.js';
import { publicCalls } from './api/public-api.js';
import { makeFiles, World } from './api/world.js';
import { settle } from './settle.js';
import { Findings, type Scenario } from './scenario.js';

/** More than any call takes; a call that allocates more often is cut off here, and that is told. */
const MOST_ALLOCATIONS = 3000;

const held = (): number => memory().cpu.tensors;

/** Memory that nobody can reach is freed when the collector says so. */
async function collect(): Promise<void> {
  for (let i = 0; i < 4; i++) {
    global.gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/**
 * Every valid call of the API on the cpu device, with its first allocation failing, then its second, and so on until none is left to fail: blocks of memory,
 * copies of what is written, what is moved to the host, the scratch memory of kernels, and the queue itself.
 */
export const failingAllocations: Scenario = {
  summary: 'each native allocation of each call fails in turn',
  count: MOST_ALLOCATIONS,
  async run({ seed, count, only }, say) {
    const findings = new Findings();
    const addon = native as Native;
    setDefaultDevice('cpu');
    const files = await makeFiles();
    process.chdir(files.folder);
    const random = new Random(`failing allocations ${seed}`);
    const counts = { calls: 0, failed: 0, atOnce: 0, later: 0, survived: 0, collected: 0 };
    const names = publicCalls().filter((name) => name in CALLS && (only === null || name.includes(only)));
    await collect();
    const start = held();
    for (const name of names) {
      counts.calls++;
      for (let nth = 1; nth <= count; nth++) {
        const w = new World(files, random, 'cpu');
        const args = await CALLS[name](w);
        await device('cpu').synchronize();
        const text = `${name}, allocation ${nth}`;
        say(text);
        addon.failAllocation(nth);
        let error: unknown = null;
        try {
          await settle(
            w,
            releasingTape(() => invoke(name, args)),
          );
          await device('cpu').synchronize();
        } catch (caught) {
          error = caught;
        }
        const reached = addon.allocationsLeft() === 0;
        addon.failAllocation(0);
        await device('cpu')
          .synchronize()
          .catch((caught: unknown) => (error ??= caught));
        w.end();
        if (!reached) {
          if (error !== null) findings.add(`${name}: fails by itself`, `${text}: ${String(error)}`);
          break;
        }
        counts.failed++;
        if (held() !== start) counts.collected++;
        if (error === null) counts.survived++;
        else if (error instanceof OutOfMemoryError) counts.atOnce++;
        else if (error instanceof KernelError) counts.later++;
        else findings.add(`${name}: no typed error`, `${text}: ${String((error as Error).stack).slice(0, 300)}`);
        if (nth === count) findings.add(`${name}: allocates more than ${count} times`, text);
      }
      await collect();
      if (held() !== start) findings.add(`${name}: memory is held afterwards`, `${held() - start} tensors`);
      // And it works again.
      const w = new World(files, random, 'cpu');
      try {
        await settle(w, releasingTape(invoke.bind(null, name, await CALLS[name](w))));
        await device('cpu').synchronize();
      } catch (error) {
        findings.add(`${name}: does not work afterwards`, String(error));
      }
      w.end();
    }
    await collect();
    if (pendingTransfers().tensors !== 0) findings.add('messages are left', String(pendingTransfers().tensors));
    emptyCache();
    await device('cpu').synchronize();
    process.chdir('/');
    await files.remove();
    return {
      figures: {
        'functions and methods': counts.calls,
        'allocations that failed': counts.failed,
        OutOfMemoryError: counts.atOnce,
        'KernelError of a later read': counts.later,
        'survived: memory was not needed': counts.survived,
        'failures that left tensors to the garbage collector': counts.collected,
        'tensors at the end': held() - start,
        'bytes reserved at the end': memory().cpu.reservedBytes,
      },
      findings: findings.lines(),
    };
  },
};
