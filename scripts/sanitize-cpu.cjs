#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Builds the addon of the CPU with sanitizers of the compiler into .sanitize/, beside the usual one, and runs tests with it; and native code without Node,
// test/stress/native/driver.cc, under the same and under valgrind. Linux, with gcc or clang.
//
//   node scripts/sanitize-cpu.cjs                     all of the following
//   node scripts/sanitize-cpu.cjs address [args]      AddressSanitizer and UndefinedBehaviorSanitizer: tests by Jest, and the driver. [args] are Jest's,
//                                                     TERNFLASH_ISA=avx2 and the like choose the kernels of the tests; npm run build:test comes first
//   node scripts/sanitize-cpu.cjs thread              ThreadSanitizer: the driver. Node itself is not compiled for it and would be full of reports
//   node scripts/sanitize-cpu.cjs valgrind            valgrind's memcheck: the driver
//
// Exits with 1 if a test fails or anything is reported. What is known and not ours is in scripts/sanitize-*.supp, each with its reason.
'use strict';
const { spawnSync } = require('node:child_process');
const { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const folder = path.join(root, '.sanitize');

/** The tests with the most native code behind them. The others would only exercise TypeScript. */
const TESTS = [
  'test/ops/',
  'test/core/(stream|worker|transfer|lifetime|memory-limit|capture|checkpoint|write|loss-memory|tensor)\\.test',
  'test/backend-contract',
];

/** Of the sanitizers: memory that was freed stays reserved for a while, so that these could only fail. */
const NOT_UNDER_SANITIZERS = 'the process grows by|freed memory is kept for reuse';

/** At most these; a processor without one of them takes the next. */
const ISAS = process.arch === 'arm64' ? ['base', 'dotprod'] : ['base', 'avx2', 'avx512', 'avx512vnni', 'avx512bf16'];

const FLAGS = {
  address: '-fsanitize=address,undefined -fno-omit-frame-pointer -g1',
  thread: '-fsanitize=thread -g1',
  valgrind: '-g1',
};

function run(command, args, options = {}) {
  const { env, ...others } = options;
  const child = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    ...others,
    env: { ...process.env, TERNFLASH_CUDA: '0', ...env },
  });
  if (child.error) throw child.error;
  return child.status ?? 1;
}

/** Builds the addon and the driver; gives their folder. */
function build(kind) {
  const out = path.join(folder, kind);
  // Where node-gyp-build looks: see TERNFLASH_PREBUILD below.
  const args = ['-O', path.join(out, 'build'), `--CDCMAKE_CXX_FLAGS=${FLAGS[kind]}`, '--CDTERNFLASH_DRIVER=ON'];
  const cmakeJs = require.resolve('cmake-js/bin/cmake-js');
  for (const step of ['configure', 'build']) {
    const jobs = step === 'build' ? ['-p', process.env.TERNFLASH_JOBS ?? '2'] : [];
    const status = run(process.execPath, [cmakeJs, step, ...args, ...jobs]);
    if (status !== 0) process.exit(status);
  }
  return out;
}

/** A library of the compiler's runtime. */
function runtime(name) {
  const found = spawnSync(process.env.CXX ?? 'c++', [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim();
  if (!existsSync(found)) throw new Error(`sanitize-cpu: expected ${name} of the compiler, got none`);
  return found;
}

/** Whether what leaked was allocated by our code: by one of the first callers, for all of V8 is called by somebody. */
const isOurs = (leak) =>
  leak
    .split('\n')
    .filter((line) => /^ +#[0-5] /.test(line))
    .some((line) => line.includes('ternflash'));

/** The reports that a run left, and how many there are. Leaks count where the addon has allocated. */
function reports(logs) {
  let count = 0;
  for (const name of readdirSync(logs)) {
    const text = readFileSync(path.join(logs, name), 'utf8');
    const parts = text.split(/\n(?=(?:Direct|Indirect) leak of )/);
    const [head, ...leaks] = parts;
    const shown = leaks.filter(isOurs);
    const isReport = /ERROR: AddressSanitizer|runtime error:|WARNING: ThreadSanitizer/.test(head);
    if (isReport) console.error(head);
    for (const leak of shown) console.error(leak);
    count += (isReport ? 1 : 0) + shown.length;
  }
  return count;
}

function emptyFolder(name) {
  const logs = path.join(folder, name);
  rmSync(logs, { recursive: true, force: true });
  mkdirSync(logs, { recursive: true });
  return logs;
}

/** What the runtimes are told. They go on after a report, so that one run tells all. */
function options(logs) {
  const suppressions = (name) => `suppressions=${path.join(root, 'scripts', `sanitize-${name}.supp`)}`;
  const log = `log_path=${path.join(logs, 'log')}`;
  return {
    ASAN_OPTIONS: `${log}:detect_leaks=1:detect_stack_use_after_return=1:handle_segv=1:allocator_may_return_null=1`,
    LSAN_OPTIONS: `${log}:report_objects=0:exitcode=0`,
    UBSAN_OPTIONS: `${log}:print_stacktrace=1`,
    TSAN_OPTIONS: `${log}:second_deadlock_stack=1:${suppressions('thread')}`,
  };
}

function driver(kind, out, command = []) {
  const logs = emptyFolder(`${kind}-driver-logs`);
  const program = path.join(out, 'build', 'Release', 'ternflash_driver');
  const [first, ...rest] = [...command, program];
  let status = 0;
  for (const isa of command.length > 0 ? [undefined] : ISAS) {
    status ||= run(first, rest, { env: { ...options(logs), ...(isa && { TERNFLASH_ISA: isa }) } });
  }
  return { status, found: reports(logs) };
}

function address(args) {
  const out = build('address');
  const logs = emptyFolder('address-logs');
  console.log('sanitize-cpu: tests');
  const tests = args.length > 0 ? args : TESTS;
  const jest = require.resolve('jest/bin/jest');
  const status = run(
    process.execPath,
    [jest, '--runInBand', '--silent', '-t', `^(?!.*(reference |${NOT_UNDER_SANITIZERS})).*$`, ...tests],
    {
      env: {
        ...options(logs),
        LD_PRELOAD: [runtime('libasan.so'), runtime('libubsan.so')].join(':'),
        TERNFLASH_PREBUILD: out,
      },
    },
  );
  const found = reports(logs);
  console.log('sanitize-cpu: driver');
  const own = driver('address', out);
  return { status: status || own.status, found: found + own.found };
}

const kinds = {
  address,
  thread: () => driver('thread', build('thread')),
  valgrind: () =>
    driver('valgrind', build('valgrind'), [
      'valgrind',
      '--error-exitcode=1',
      '--leak-check=full',
      '--show-leak-kinds=definite,indirect,possible',
      '--errors-for-leak-kinds=definite,indirect,possible',
      `--suppressions=${path.join(root, 'scripts', 'sanitize-valgrind.supp')}`,
    ]),
};

const [chosen, ...args] = process.argv.slice(2);
if (chosen !== undefined && !(chosen in kinds)) {
  console.error(`sanitize-cpu: expected ${Object.keys(kinds).join(', ')} or nothing, got ${chosen}`);
  process.exit(2);
}
if (process.platform !== 'linux') {
  console.error('sanitize-cpu: expected Linux');
  process.exit(2);
}
let failed = false;
for (const kind of chosen === undefined ? Object.keys(kinds) : [chosen]) {
  const { status, found } = kinds[kind](args);
  console.log(`sanitize-cpu: ${kind}: ${found} reports, exit code ${status}`);
  failed ||= found > 0 || status !== 0;
}
process.exit(failed ? 1 : 0);
