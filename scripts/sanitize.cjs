#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Builds the addon without CUDA under AddressSanitizer and UndefinedBehaviorSanitizer, into build/sanitize, and runs tests with it. On Linux, with gcc.
//
//   node scripts/sanitize.cjs [argument of jest ...]          after npm run build:test; default the tests of the ops and the core
//
// A finding ends the process with the sanitizer's report. Leaks are not looked for: Node.js keeps much until it ends.
'use strict';
const { execFileSync, spawnSync } = require('node:child_process');
const path = require('node:path');
const { buildCpu } = require('./build-cpu.cjs');

const root = path.join(__dirname, '..');
// node-gyp-build looks for build/Release in the folder that TERNFLASH_PREBUILD names.
const place = path.join(root, 'build/sanitize');
if (!buildCpu({ out: path.join(place, 'build'), options: ['TERNFLASH_SANITIZE=address,undefined'] }).built)
  process.exit(1);

const compiler = process.env.CXX || 'c++';
const libraries = ['libasan.so', 'libubsan.so'].map((name) =>
  execFileSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
);
const env = {
  ...process.env,
  TERNFLASH_PREBUILD: place,
  TERNFLASH_CUDA: '0',
  LD_PRELOAD: libraries.join(' '),
  ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1:allocator_may_return_null=1',
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
};
const library = JSON.stringify(path.join(root, '.out/lib/native.js'));
// Tests pass without an addon, too.
const probe = `const { loadAttempts } = require(${library}); console.log(loadAttempts[0].file, loadAttempts[0].problem)`;
const { stdout } = spawnSync(process.execPath, ['-e', probe], { env, encoding: 'utf8' });
if (!stdout.startsWith('build/sanitize/build/Release/ternflash.node null')) {
  console.error(`ternflash: expected the addon of build/sanitize, got ${stdout}`);
  process.exit(1);
}
const jest = path.join(path.dirname(require.resolve('jest/package.json')), 'bin/jest.js');
const args = process.argv.length > 2 ? process.argv.slice(2) : ['--testTimeout=600000', 'test/ops/', 'test/core/'];
process.exitCode = spawnSync(process.execPath, [jest, ...args], { cwd: root, env, stdio: 'inherit' }).status ?? 1;
