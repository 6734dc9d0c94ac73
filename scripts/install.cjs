#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Runs at `npm install` where scripts are allowed: builds the native addon if no ready one loads. The package works without it, on
// the reference backend, so this never fails an install; it says in one line what it could not build and why.
'use strict';
const { spawnSync } = require('node:child_process');
const path = require('node:path');

const root = path.join(__dirname, '..');
const fromSource = process.env.TERNFLASH_BUILD_FROM_SOURCE === '1';

function say(line) {
  console.log(`ternflash: ${line}`);
}

// In a process of its own: a damaged addon can end the process that loads it.
function loads() {
  const probe = `require('node-gyp-build')(${JSON.stringify(root)})`;
  return spawnSync(process.execPath, ['-e', probe], { cwd: root, stdio: 'ignore' }).status === 0;
}

function has(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore', shell: process.platform === 'win32' }).status === 0;
}

function missingTools() {
  const missing = [];
  if (!has('cmake')) missing.push('CMake');
  if (process.platform !== 'win32' && !has(process.env.CXX || 'c++')) missing.push('a C++ compiler');
  if (process.platform !== 'win32' && !has('make') && !has('ninja')) missing.push('make or ninja');
  try {
    require.resolve('cmake-js/bin/cmake-js', { paths: [root] });
    require.resolve('node-addon-api', { paths: [root] });
  } catch {
    missing.push('the optional dependencies cmake-js and node-addon-api');
  }
  return missing;
}

function build() {
  const cmakeJs = require.resolve('cmake-js/bin/cmake-js', { paths: [root] });
  for (const step of [['configure'], ['build', '-p', '2']]) {
    const run = spawnSync(process.execPath, [cmakeJs, ...step], { cwd: root, encoding: 'utf8' });
    if (run.status !== 0) return `${run.stdout}\n${run.stderr}`;
  }
  return null;
}

if (!fromSource && loads()) {
  say('native addon present');
} else {
  const missing = missingTools();
  const without = 'the package works without it, on the slower reference backend';
  if (missing.length > 0) {
    say(`native addon not built: ${missing.join(', ')} not found; ${without}`);
  } else {
    say('building the native addon (about a minute)');
    const failure = build();
    if (failure === null && loads()) {
      say('native addon built');
    } else {
      if (failure) console.error(failure.trim().split('\n').slice(-20).join('\n'));
      say(`native addon not built: the compiler failed; ${without}`);
    }
  }
}
