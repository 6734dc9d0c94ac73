// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { fork } from 'node:child_process';
import * as path from 'node:path';
import { readMachine, type Facts } from './facts.js';
import type { Message } from './probe.js';

/** Longer than any check takes, the first use of a GPU included; a device that hangs is then reported as such. */
const LIMIT_MILLISECONDS = 120_000;

/** Collects the facts of this machine, those of the library in a process that may end. */
export function examine(): Promise<Facts> {
  const facts: Facts = { machine: readMachine(), library: null, checks: [], crash: null };
  let stage = 'starting';
  let done = false;
  return new Promise((resolve, reject) => {
    const child = fork(path.join(__dirname, 'probe.js'), [], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      timeout: LIMIT_MILLISECONDS,
      killSignal: 'SIGKILL',
    });
    let said = '';
    child.stderr?.on('data', (chunk: Buffer) => (said += chunk.toString()));
    child.on('message', (message: Message) => {
      if ('stage' in message) stage = message.stage;
      else if ('library' in message) facts.library = message.library;
      else if ('checks' in message) facts.checks.push(...message.checks);
      else done = true;
    });
    child.on('error', reject);
    // 'close' and not 'exit': what it told before its end has then come.
    child.on('close', (code, signal) => {
      const last = said.trim().split('\n').at(-1) ?? '';
      const how = signal ?? `code ${String(code)}${last && `, ${last}`}`;
      if (!done) facts.crash = { signal: how, stage };
      resolve(facts);
    });
  });
}
