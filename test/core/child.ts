// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawn } from 'node:child_process';
import * as path from 'node:path';
import { Worker } from 'node:worker_threads';

/** Functions run in a process or thread of their own, with the library under test. */

export type Library = typeof import('../../lib/index.js');

/**
 * What such a function gets and gives. It is sent as source, so it may use its parameters, `process` and what `require` gives, and nothing
 * else of this file.
 */
export type Program<A extends unknown[], R> = (library: Library, ...args: A) => R | Promise<R>;

export const LIBRARY = path.join(__dirname, '..', '..', 'lib', 'index.js');
// What a function says is found among what else a process prints by the line it is on.
const MARK = 'TERNFLASH-RESULT ';

export interface ChildOptions {
  env?: Record<string, string>;
  /** Flags of node itself. */
  flags?: string[];
  /** Whether the program gets the library; otherwise null. Default true. */
  load?: boolean;
  /** A process that runs longer is killed, and `signal` says so. Default 50 seconds, which is not a statement about speed. */
  timeout?: number;
}

export interface ChildResult<R> {
  /** Exit code; null if the process was killed. */
  status: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
  /** What the function returned; undefined if it did not get that far. */
  result: R | undefined;
}

/** Runs `program` in a new process, which then ends by itself or not. */
export function inChild<A extends unknown[], R>(
  program: Program<A, R>,
  args: A,
  { env = {}, flags = [], load = true, timeout = 50_000 }: ChildOptions = {},
): Promise<ChildResult<R>> {
  const library = load ? `require(${JSON.stringify(LIBRARY)})` : 'null';
  const source = `
    Promise.resolve((${program.toString()})(${library}, ...${JSON.stringify(args)}))
      .then((result) => console.log('\\n' + ${JSON.stringify(MARK)} + JSON.stringify(result ?? null)));`;
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...flags, '-e', source], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout,
      killSignal: 'SIGKILL',
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    child.on('error', reject);
    child.on('close', (status, signal) => {
      const line = stdout.split('\n').find((each) => each.startsWith(MARK));
      const text = line?.slice(MARK.length);
      resolve({ status, signal, stderr, result: text ? (JSON.parse(text) as R) : undefined });
    });
  });
}

/** Like {@link inChild}, for a process that has to end well: gives what the function returned. */
export async function resultOfChild<A extends unknown[], R>(
  program: Program<A, R>,
  args: A,
  options: ChildOptions = {},
): Promise<R> {
  const { result, ...end } = await inChild(program, args, options);
  expect(end).toEqual({ status: 0, signal: null, stderr: '' });
  return result as R;
}

/** A thread that runs `program` and posts what it returns. */
export function startWorker<A extends unknown[], R>(program: Program<A, R>, args: A): Worker {
  const source = `
    Promise.resolve((${program.toString()})(require(${JSON.stringify(LIBRARY)}), ...${JSON.stringify(args)}))
      .then((result) => require('node:worker_threads').parentPort.postMessage(result));`;
  return new Worker(source, { eval: true });
}

/** What a worker posts first. Rejects if it fails or ends before. */
export function messageOf<R>(worker: Worker): Promise<R> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', (code) => reject(new Error(`the worker ended with code ${code} and said nothing`)));
  });
}
