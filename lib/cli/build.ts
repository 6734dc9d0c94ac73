// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawn } from 'node:child_process';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../package-root.js';
import { WrongCall, type Command, type Context } from './command.js';

const HELP = `Examples
  ternflash build                                  the addon without CUDA, in a minute or two
  ternflash build --cuda                           the one with CUDA for every supported GPU, in many minutes
  ternflash build --cuda --architectures 90-real   for GPUs of compute capability 9.0 only

Usage: ternflash build [--cuda] [--architectures LIST] [--check]

Builds the native addon from source, in the folder of the package, for this machine; it is then used in the place of the one that came with the package. First
it looks for what that takes, and says what is missing: CMake, a C++17 compiler, the packages cmake-js and node-addon-api; for --cuda nvcc.

  --cuda                 the addon with CUDA
  --architectures LIST   of CUDA, in CMake's words, separated by semicolons; default all supported ones
  --check                only looks for what is needed
  -h, --help             this text

Exit code: 0 built, 1 something is missing or the build failed, 2 for a wrong call.
`;

const OPTIONS = {
  cuda: { type: 'boolean', default: false },
  architectures: { type: 'string' },
  check: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

/** Runs a script of the package to its end; all that it says is told. Gives its exit code. */
function run(args: string[], variables: NodeJS.ProcessEnv, { errors, signal }: Context): Promise<number> {
  const root = packageRoot();
  const [script, ...rest] = args;
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [path.join(root, 'scripts', script), ...rest], {
      cwd: root,
      env: { ...process.env, ...variables },
      stdio: ['ignore', 'pipe', 'pipe'],
      signal,
    });
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text) => errors.write(text));
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}

/** `ternflash build`. */
export const build: Command = {
  async run(args, context) {
    const { cuda, architectures, check, help } = parseArgs({ args, options: OPTIONS }).values;
    const { out } = context;
    if (help) {
      out.write(HELP);
      return 0;
    }
    if (architectures !== undefined && !cuda) throw new WrongCall('--architectures is for --cuda');
    const kind = cuda ? ['--cuda'] : [];
    if ((await run(['check-system.cjs', ...kind], {}, context)) !== 0) return 1;
    if (check) {
      out.write('all that is needed is here\n');
      return 0;
    }
    const variables = architectures === undefined ? {} : { TERNFLASH_CUDA_ARCHITECTURES: architectures };
    if ((await run([cuda ? 'build-cuda.cjs' : 'build-cpu.cjs'], variables, context)) !== 0) return 1;
    out.write(`built ${cuda ? 'cuda/' : ''}build/Release/ternflash.node; ternflash doctor checks it\n`);
    return 0;
  },
};
