#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Says what a machine lacks for building and testing the addon, and how to get it.
'use strict';
const { spawnSync } = require('node:child_process');

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

if (missing.length > 0) {
  console.error('ternflash: the tests need the native addon, and to build it this machine lacks:');
  for (const each of missing) console.error(`  - ${each}`);
  process.exit(1);
}
