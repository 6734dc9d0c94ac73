// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import { shorten } from '../describe.js';
import { packageRoot } from '../package-root.js';
import { WrongCall, type Context } from './command.js';
import { COMMANDS } from './commands.js';
import { isExpected } from './expected-error.js';
import { nearest } from './nearest.js';

const NAMES = Object.keys(COMMANDS);
const WIDTH = Math.max(...NAMES.map((name) => name.length));

const HELP = `Examples
  ternflash doctor                                    what works on this machine
  ternflash chat ./model                              talk with a model
  ternflash generate ./model "Why is the sky blue?"   one answer
  ternflash convert ./model model.gguf --verify       the same model for llama.cpp
  ternflash generate --help                           all about a command

Usage: ternflash <command> [options]

${NAMES.map((name) => `  ${name.padEnd(WIDTH)}   ${COMMANDS[name].summary}`).join('\n')}

  --version    the version of ternflash
  -h, --help   this text; after a command, that of the command

Exit codes: 0 done, 1 failed, 2 a wrong call, 130 ended by Ctrl-C.
`;

/** Ended by Ctrl-C, as shells say it: 128 + 2, the number of SIGINT. */
const INTERRUPTED = 130;

function version(): string {
  const file = path.join(packageRoot(), 'package.json');
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

/** What is wrong with the call; null if something else is wrong. */
function wrongCall(error: unknown): string | null {
  if (error instanceof WrongCall) return error.message;
  const { code, message } = (error ?? {}) as NodeJS.ErrnoException;
  // Only `parseArgs` throws these. Their second sentence explains how to write a value that looks like an option.
  return String(code).startsWith('ERR_PARSE_ARGS_') ? message.split('. ')[0] : null;
}

/** What ends because its signal was aborted; Node's own functions call it so, and others follow. */
const isAbort = (error: unknown): boolean => (error as Error | null)?.name === 'AbortError';

/** The most of a message: arguments may have a hundred thousand letters. */
const MOST_LETTERS = 2000;

const inOneLine = (text: string): string => {
  const line = text
    .slice(0, MOST_LETTERS)
    .trim()
    .replace(/\s*\n\s*/g, ' ');
  return text.length > MOST_LETTERS ? `${line}…` : line;
};

/** Tells an error and gives the exit code. */
function tell(error: unknown, name: string, { errors, signal }: Context): number {
  if (signal.aborted && isAbort(error)) return INTERRUPTED;
  const wrong = wrongCall(error);
  if (wrong !== null) {
    errors.write(`ternflash ${name}: ${inOneLine(wrong)}; see ternflash ${name} --help\n`);
    return 2;
  }
  if (isExpected(error)) {
    // Errors name the op they are of, which may be the command itself.
    const message = inOneLine(error.message);
    errors.write(`ternflash ${message.startsWith(`${name}: `) ? '' : `${name}: `}${message}\n`);
    return 1;
  }
  const what = (error as Error | null)?.stack ?? String(error);
  errors.write(
    `${what}\n\nternflash ${name} ended by a fault of its own. Please report it with the text above and what ternflash doctor says.\n`,
  );
  return 1;
}

/** The command line. Gives the exit code: 2 for a wrong call, 130 after Ctrl-C, else that of the command. Never throws. */
export async function main(args: readonly string[], context: Context): Promise<number> {
  const { out, errors, signal } = context;
  const [name, ...rest] = args;
  if (name === '--help' || name === '-h') {
    out.write(HELP);
    return 0;
  }
  if (name === '--version') {
    out.write(`${version()}\n`);
    return 0;
  }
  if (name === undefined || !Object.hasOwn(COMMANDS, name)) {
    const meant = name === undefined ? null : nearest(name, NAMES);
    const hint = meant === null ? '' : `; did you mean ${meant}?`;
    errors.write(
      `ternflash: expected a command (${NAMES.join(', ')}), got ${name === undefined ? 'none' : shorten(name)}${hint}\n`,
    );
    errors.write('ternflash --help says more.\n');
    return 2;
  }
  try {
    const code = await COMMANDS[name].load().run(rest, context);
    return signal.aborted ? INTERRUPTED : code;
  } catch (error) {
    return tell(error, name, context);
  }
}
