// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** Where a command writes: a terminal, a pipe or a file. */
export interface Output {
  write(text: string): unknown;
  isTTY?: boolean;
}

/** A command of the command line. */
export interface Command {
  /** One line, for the list of commands. */
  summary: string;
  /** Gives the exit code. A TypeError of `parseArgs` is a wrong call. */
  run(args: string[], out: Output): Promise<number>;
}
