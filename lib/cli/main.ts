// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { Command, Output } from './command.js';
import { doctor } from './doctor.js';

const COMMANDS: Readonly<Record<string, Command>> = { doctor };

const HELP = `Usage: ternflash <command> [options]

${Object.entries(COMMANDS)
  .map(([name, { summary }]) => `  ${name}   ${summary}`)
  .join('\n')}

  ternflash <command> --help says more.
`;

/** What `parseArgs` throws of options it does not know, and nothing else does. */
function isWrongCall(error: unknown): error is Error {
  return String((error as NodeJS.ErrnoException | null)?.code).startsWith('ERR_PARSE_ARGS_');
}

/** The command line. Gives the exit code: 2 for a wrong call, else that of the command. */
export async function main(args: readonly string[], out: Output, errors: Output): Promise<number> {
  const [name, ...rest] = args;
  if (name === '--help') {
    out.write(HELP);
    return 0;
  }
  if (name === undefined || !Object.hasOwn(COMMANDS, name)) {
    const expected = Object.keys(COMMANDS).join(', ');
    errors.write(`ternflash: expected a command (${expected}), got ${name ?? 'none'}\n\n${HELP}`);
    return 2;
  }
  try {
    return await COMMANDS[name].run(rest, out);
  } catch (error) {
    if (!isWrongCall(error)) throw error;
    errors.write(`ternflash ${name}: ${error.message.split('. ')[0]}; see ternflash ${name} --help\n`);
    return 2;
  }
}
