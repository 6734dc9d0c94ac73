// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { checkpointFolder, removeCheckpointFolders } from '../text/checkpoint-folder.js';
import { CHAT_FILES } from './chat-files.js';

afterAll(removeCheckpointFolders);

interface End {
  code: number | null;
  signal: NodeJS.Signals | null;
  out: string;
  errors: string;
}

/** A process, what it says, and its end. */
class Child {
  readonly end: Promise<End>;
  private readonly process: ChildProcessWithoutNullStreams;
  private out = '';
  private errors = '';
  private changed = (): void => undefined;

  constructor(file: string, args: readonly string[]) {
    this.process = spawn(process.execPath, [file, ...args], { timeout: 50_000, killSignal: 'SIGKILL' });
    const { stdout, stderr } = this.process;
    stdout.on('data', (chunk: Buffer) => this.add('out', chunk));
    stderr.on('data', (chunk: Buffer) => this.add('errors', chunk));
    this.end = new Promise((resolve, reject) => {
      this.process.on('error', reject);
      this.process.on('close', (code, signal) => resolve({ code, signal, out: this.out, errors: this.errors }));
    });
  }

  private add(stream: 'out' | 'errors', chunk: Buffer): void {
    this[stream] += chunk.toString();
    this.changed();
  }

  async says(stream: 'out' | 'errors', text: string): Promise<void> {
    while (!this[stream].includes(text)) await new Promise<void>((resolve) => (this.changed = resolve));
  }

  interrupt(): void {
    this.process.kill('SIGINT');
  }

  /** Takes away who reads its output. */
  breakPipe(): void {
    this.process.stdout.destroy();
  }

  write(text: string): void {
    this.process.stdin.write(text);
  }
}

const fake = (...args: string[]): Child =>
  new Child(path.join(__dirname, 'fake-program.js'), [checkpointFolder(CHAT_FILES), ...args]);

test('the exit code and all output get through a pipe', async () => {
  expect(await fake('generate', 'hello', 'x').end).toEqual({ code: 0, signal: null, out: 'hello\n', errors: '' });
  const none =
    'ternflash: expected a command (chat, generate, train, convert, quantize, bench, build, doctor), got none\nternflash --help says more.\n';
  expect(await fake().end).toEqual({ code: 2, signal: null, out: '', errors: none });
});

test('a pipe that nobody reads any more is a quiet end', async () => {
  const child = fake('generate', 'endless', 'x', '--max-tokens', '16777216');
  await child.says('out', 'more\n');
  child.breakPipe();
  expect(await child.end).toMatchObject({ code: 0, signal: null, errors: '' });
});

test('chat ends with /quit though its input goes on', async () => {
  const child = fake('chat', 'hello');
  child.write('one\n/quit\n');
  expect(await child.end).toEqual({ code: 0, signal: null, out: 'hello\n', errors: '' });
});

// Windows has no signal that one process could send another for this.
(process.platform === 'win32' ? describe.skip : describe)('Ctrl-C', () => {
  test('ends an answer, with 130', async () => {
    const child = fake('generate', 'waits', 'x');
    await child.says('out', 'begun');
    child.interrupt();
    expect(await child.end).toEqual({ code: 130, signal: null, out: 'begun\n', errors: '' });
  });

  test('ends the reading of a prompt', async () => {
    const child = fake('generate', 'hello');
    child.write('begun'); // and no end
    await child.says('errors', 'reading');
    child.interrupt();
    expect(await child.end).toEqual({ code: 130, signal: null, out: '', errors: 'reading' });
  });

  test('ends a chat of lines that go on', async () => {
    const child = fake('chat', 'waits');
    child.write('one\n');
    await child.says('out', 'begun');
    child.interrupt();
    expect(await child.end).toEqual({ code: 130, signal: null, out: 'begun\n', errors: '' });
  });

  test('twice ends the process whatever it does', async () => {
    const child = fake('generate', 'stubborn', 'x');
    await child.says('out', 'begun');
    child.interrupt();
    await child.says('errors', 'aborted');
    child.interrupt();
    expect(await child.end).toEqual({ code: null, signal: 'SIGINT', out: 'begun', errors: 'aborted' });
  });
});

test('bin/ternflash.cjs is this', async () => {
  if (!existsSync(path.join(packageRoot(), 'dist', 'cli', 'process.js')))
    throw new Error('expected dist, built by npm test');
  const file = path.join(packageRoot(), 'package.json');
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  const bin = path.join(packageRoot(), 'bin', 'ternflash.cjs');
  expect(await new Child(bin, ['--version']).end).toMatchObject({ code: 0, out: `${version}\n`, errors: '' });
});
