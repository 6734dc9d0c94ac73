#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Builds the addon with CUDA inside, into cuda/build. TERNFLASH_CUDA_ARCHITECTURES names other architectures than all supported ones,
// for example 90-real. A kernel that spills registers fails the build, and so does one whose
// wgmma instructions the compiler made wait for each other.
'use strict';
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const cmakeJs = require.resolve('cmake-js/bin/cmake-js', { paths: [root] });
// Said in any case: CMake would keep those of the build before.
const architectures = process.env.TERNFLASH_CUDA_ARCHITECTURES || 'all';

function run(...step) {
  const options = { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 28 };
  const { status, stdout } = spawnSync(process.execPath, [cmakeJs, ...step, '-O', 'cuda/build'], options);
  if (status !== 0) {
    console.error(stdout.trim().split('\n').slice(-40).join('\n'));
    process.exit(status ?? 1);
  }
  return stdout;
}

run('configure', '--CDTERNFLASH_CUDA=ON', `--CDTERNFLASH_CUDA_ARCHITECTURES=${architectures}`);
const log = run('build', '-p', '2');
// What the assembler says of each kernel: its name and architecture, then its frame and spills.
const spilling = new Set();
// C7508: setmaxnreg ignored; C7510 to C7520: products of warpgroups serialised.
const warnings = log.split('\n').filter((line) => /\(C75(08|1\d|20)\)/.test(line));
let kernel = '';
for (const line of log.split('\n')) {
  const [, name, architecture] = /Compiling entry function '(\w+)' for '(\w+)'/.exec(line) ?? [];
  if (name) kernel = `${architecture}: ${name}`;
  if (/[1-9]\d* bytes spill/.test(line)) spilling.add(`${kernel}: ${line.trim()}`);
}
if (spilling.size > 0) console.error(`ternflash: kernels that spill registers:\n${[...spilling].join('\n')}`);
if (warnings.length > 0) console.error(`ternflash: what the assembler could not do:\n${warnings.join('\n')}`);
if (spilling.size > 0 || warnings.length > 0) {
  // The next build has to compile them again, or it would not hear of it.
  for (const each of ['kernels_cuda', 'kernels_hopper'])
    fs.rmSync(path.join(root, `cuda/build/CMakeFiles/${each}.dir`), { recursive: true, force: true });
  process.exit(1);
}
// The order of instructions; 2: there is no tool to look at it with.
if (fs.existsSync(path.join(root, 'cuda/build/CMakeFiles/kernels_hopper.dir'))) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(__dirname, 'check-sass.cjs')], {
    encoding: 'utf8',
  });
  if (status === 1) {
    console.error(`${stdout}${stderr}`.trim());
    process.exit(1);
  }
  console.log(
    status === 0
      ? `ternflash: machine code: ${stdout.trim().split('\n').at(-1)}`
      : 'ternflash: machine code not checked: no cuobjdump',
  );
}
console.log('ternflash: addon with CUDA built');
