#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Builds the addon without CUDA, into build; TERNFLASH_CMAKE_OPTIONS="NAME=value …" are options of CMake beside ours.
'use strict';
const { spawnSync } = require('node:child_process');
const path = require('node:path');

const root = path.join(__dirname, '..');

/** Builds it into a folder. `stdio` as for spawn; gives whether it was built, and what the tools said if that was piped. */
function buildCpu({ out = 'build', options = [], stdio = 'inherit' } = {}) {
  const cmakeJs = require.resolve('cmake-js/bin/cmake-js', { paths: [root] });
  const more = (process.env.TERNFLASH_CMAKE_OPTIONS ?? '').split(' ').filter(Boolean);
  const settings = [...options, ...more].map((each) => `--CD${each}`);
  // MSVC lacks what the kernels are written with.
  if (process.platform === 'win32') settings.push('-T', 'ClangCL');
  let output = '';
  for (const step of [['configure'], ['build', '-p', '2']]) {
    const args = [cmakeJs, ...step, '-O', out, ...settings];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', stdio });
    output += `${stdout ?? ''}${stderr ?? ''}`;
    if (status !== 0) return { built: false, output };
  }
  return { built: true, output };
}

module.exports = { buildCpu };

if (require.main === module) process.exit(buildCpu().built ? 0 : 1);
