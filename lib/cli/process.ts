// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { LoadTextModel } from '../text/text-model.js';
import { loadTextModel } from './commands.js';
import { main } from './main.js';

/** Plain letters, and the cursor shown. */
const RESTORE = '\x1b[0m\x1b[?25h';

function restoreTerminal(more = ''): void {
  const terminal = [process.stderr, process.stdout].find(({ isTTY }) => isTTY);
  terminal?.write(RESTORE + more);
}

/**
 * Runs the command line as this process: its streams, Ctrl-C, its exit code. The first Ctrl-C aborts the command, the second, with nobody left who
 * listens, ends the process. The exit code is set and the process ends by itself, so that all of a long output gets through a pipe.
 *
 * @param load what loads models; default the library's.
 */
export async function runProcess(args: readonly string[], load: LoadTextModel = loadTextModel): Promise<void> {
  const { stdout, stderr, stdin } = process;
  for (const stream of [stdout, stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      // Who read has seen enough, as `head` does. No process but this one would tell anybody.
      if (error.code === 'EPIPE') process.exit(0);
      throw error;
    });
  }
  const controller = new AbortController();
  const interrupt = (): void => {
    restoreTerminal('\n'); // below the ^C that the terminal wrote
    controller.abort();
  };
  process.once('SIGINT', interrupt);
  try {
    const context = { out: stdout, errors: stderr, input: stdin, signal: controller.signal, loadTextModel: load };
    process.exitCode = await main(args, context);
    if (process.exitCode === 1) restoreTerminal();
  } finally {
    process.off('SIGINT', interrupt);
  }
}
