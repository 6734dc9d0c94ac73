// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { setInterval, setTimeout } from 'node:timers';
import { runProcess } from '../../lib/cli/process.js';
import { Tokenizer } from '../../lib/index.js';
import { bytesOf, fakeModel, untilAborted } from './fake-model.js';

/**
 * The command line as a process of its own, with a model that does what its name says; the tokenizer's folder comes first.
 */
const [folder, ...args] = process.argv.slice(2);

async function* endless(): AsyncGenerator<number> {
  for (;;) {
    yield* bytesOf('more\n');
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

async function* waits({ signal }: { signal?: AbortSignal }): AsyncGenerator<number> {
  yield* bytesOf('begun');
  const alive = setInterval(() => undefined, 1000);
  await untilAborted(signal).finally(() => clearInterval(alive));
}

/** Says that it was to end, and does not. */
async function* stubborn({ signal }: { signal?: AbortSignal }): AsyncGenerator<number> {
  signal?.addEventListener('abort', () => process.stderr.write('aborted'));
  yield* bytesOf('begun');
  setInterval(() => undefined, 1000);
  await new Promise(() => undefined);
}

const REPLIES = { endless, waits, stubborn, hello: () => bytesOf('hello') };

void runProcess(args, async (name) =>
  fakeModel(await Tokenizer.load(folder), REPLIES[name as keyof typeof REPLIES], Infinity),
);

// Whoever sends the prompt to standard input learns that it is being read.
if (args.join(' ') === 'generate hello') process.stderr.write('reading');
