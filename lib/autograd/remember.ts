// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError } from '../errors.js';
import { defaultGenerator, type RandomState } from '../random.js';
import type { Tensor } from '../tensor.js';
import { HeldTensor, type Offload } from './held-tensor.js';

/**
 * What a checkpoint of policy `selective` keeps of its first run: the results of the ops that call {@link remember}, in the order of the calls.
 */
export class Journal {
  private readonly entries: { call: string; results: HeldTensor[]; random: RandomState }[] = [];
  private next = 0;

  constructor(private readonly offload: Offload) {}

  write(call: string, results: readonly Tensor[]): void {
    const held = results.map((tensor) => new HeldTensor(tensor, this.offload));
    this.entries.push({ call, results: held, random: defaultGenerator().state });
  }

  /** The results of the next call, which are now the innermost tidy's. The random sequence goes on as if they had been computed. */
  read(call: string): Tensor[] {
    const entry = this.entries.at(this.next);
    if (entry?.call !== call) {
      const expected = entry ? `to call ${entry.call}` : `to make ${this.entries.length} calls that were remembered`;
      throw new OptionError(`checkpoint: expected fn ${expected} in its second run as in its first, got ${call}`);
    }
    this.next++;
    const results = entry.results.map((held) => held.take(true));
    defaultGenerator().state = entry.random;
    return results;
  }

  /** Called when the second run is over. */
  checkRead(): void {
    if (this.next === this.entries.length) return;
    const { call } = this.entries[this.next];
    throw new OptionError(`checkpoint: expected fn to call ${call} in its second run as in its first, got its end`);
  }

  dispose(): void {
    for (const { results } of this.entries) for (const held of results) held.dispose();
  }
}

/** The journals that ops write to, and the one they read from. */
interface Journals {
  written: readonly Journal[];
  read: Journal | null;
}

const NONE: Journals = { written: [], read: null };

let journals = NONE;

function withJournals<T>(own: Journals, fn: () => T): T {
  const outer = journals;
  journals = own;
  try {
    return fn();
  } finally {
    journals = outer;
  }
}

/** @internal The first run of a checkpoint. Inside the second run of another one, what that one remembers is read and written on. */
export function writingTo<T>(journal: Journal | null, fn: () => T): T {
  return journal ? withJournals({ ...journals, written: [...journals.written, journal] }, fn) : fn();
}

/** @internal The second run. It is part of a backward pass: whatever forward run that happens in takes no notice of it. */
export function readingFrom<T>(journal: Journal | null, fn: () => T): T {
  return withJournals({ ...NONE, read: journal }, () => {
    const result = fn();
    journal?.checkRead();
    return result;
  });
}

/**
 * @internal Runs `compute`, the expensive part of an op, unless a checkpoint that goes back has its results of the first time. The op draws
 * random numbers before it calls this, so that it knows them in both runs.
 *
 * @param inputs null where absent; with `options` they say which call this is.
 * @param options everything else that the results depend on.
 * @param compute gives the results, those included that only the op's gradient needs. Calls no op that is remembered itself.
 */
export function remember(
  op: string,
  inputs: readonly (Tensor | null)[],
  options: object,
  compute: () => Tensor[],
): Tensor[] {
  const { written, read } = journals;
  if (written.length === 0 && !read) return compute();
  const call = `${op}(${[...inputs.map(String), JSON.stringify(options)].join(', ')})`;
  const results = read ? read.read(call) : compute();
  for (const journal of written) journal.write(call, results);
  return results;
}
