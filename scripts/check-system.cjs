#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Says what a machine lacks for building and testing the addon, and how to get it; with --cuda, for building the addon with CUDA.
'use strict';
const { spawnSync } = require('node:child_process');
const path = require('node:path');

const works = (command) =>
  spawnSync(command, ['--version'], { stdio: 'ignore', shell: process.platform === 'win32' }).status === 0;
const windows = process.platform === 'win32';

const missing = [];
const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 17))
  missing.push(`Node.js 20.17 or later (this is ${process.versions.node})`);
if (!works('cmake'))
  missing.push('CMake 3.18 or later (Debian, Ubuntu: apt-get install cmake; macOS: brew install cmake)');
if (!windows && !works(process.env.CXX || 'c++')) {
  missing.push('a C++17 compiler (Debian, Ubuntu: apt-get install g++; macOS: xcode-select --install)');
}
if (!windows && !works('make') && !works('ninja')) missing.push('make (Debian, Ubuntu: apt-get install make)');

const withCuda = process.argv.includes('--cuda');
if (withCuda) {
  // Where CMakeLists.txt looks.
  const { CUDACXX, CUDA_PATH, CUDA_HOME } = process.env;
  const folders = [CUDA_PATH, CUDA_HOME].filter(Boolean).map((each) => path.join(each, 'bin'));
  const places = CUDACXX
    ? [CUDACXX]
    : [...folders, '', '/usr/local/cuda/bin', '/opt/cuda/bin'].map((each) => path.join(each, 'nvcc'));
  const version = places
    .map((each) => /release (\d+)\.(\d+)/.exec(spawnSync(each, ['--version'], { encoding: 'utf8' }).stdout ?? ''))
    .find((each) => each !== null);
  const needed =
    'nvcc of CUDA 12.8 or later, 13.0 for what GPU_SETUP.md says of drivers (CUDACXX or CUDA_PATH names another place)';
  if (!version) missing.push(`${needed}; none in ${places.join(', ')}`);
  else if (Number(version[1]) * 100 + Number(version[2]) < 1208)
    missing.push(`${needed}; this is ${version[1]}.${version[2]}`);
}

if (missing.length > 0) {
  console.error(
    withCuda
      ? 'ternflash: to build the addon with CUDA this machine lacks:'
      : 'ternflash: the tests need the native addon, and to build it this machine lacks:',
  );
  for (const each of missing) console.error(`  - ${each}`);
  process.exit(1);
}
