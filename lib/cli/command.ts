// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { LoadTextModel } from '../text/text-model.js';

/** Where a command writes: a terminal, a pipe or a file. */
export interface Output {
  write(text: string): unknown;
  isTTY?: boolean;
  /** Of a terminal. */
  columns?: number;
}

/** Where a command reads. */
export type Input = NodeJS.ReadableStream & { isTTY?: boolean };

/** What a command is given beside its arguments. */
export interface Context {
  /** What was asked for, and nothing else: it may be another program's input. */
  out: Output;
  /** Everything else. */
  errors: Output;
  input: Input;
  /** Aborted by Ctrl-C. The command then ends soon, by an error or without. */
  signal: AbortSignal;
  loadTextModel: LoadTextModel;
}

/** A command of the command line. */
export interface Command {
  /** Gives the exit code: 0, or 1 for a failure that it has told. Errors are told by `main`. */
  run(args: string[], context: Context): Promise<number>;
}

/** Arguments that make no sense; exit code 2. What `parseArgs` throws is the same. */
export class WrongCall extends Error {}
