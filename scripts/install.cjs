#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Runs at `npm install` where scripts are allowed; nothing depends on it. Builds the addon if no ready one loads. The package works without one, on
// the reference backend, so that fails no install; it says in one line what it could not build and why. What was asked for by a variable
// does fail one:
//
//   TERNFLASH_BUILD_FROM_SOURCE=1    builds the addon even if a ready one loads
//   TERNFLASH_CUDA=1                 builds the one with CUDA, too, if no ready one loads or with TERNFLASH_BUILD_FROM_SOURCE=1
'use strict';
const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { buildCpu } = require('./build-cpu.cjs');
const { missing } = require('./check-system.cjs');

const root = path.join(__dirname, '..');
const fromSource = process.env.TERNFLASH_BUILD_FROM_SOURCE === '1';

const say = (line) => console.log(`ternflash: ${line}`);
const tellEnd = (text) => console.error(text.trim().split('\n').slice(-20).join('\n'));

// In a process of its own: a damaged addon can end the process that loads it.
function loads(folder) {
  const probe = `require('node-gyp-build')(${JSON.stringify(path.join(root, folder))})`;
  return spawnSync(process.execPath, ['-e', probe], { cwd: root, stdio: 'ignore' }).status === 0;
}

function buildCuda() {
  const script = path.join(__dirname, 'build-cuda.cjs');
  const { status, stdout, stderr } = spawnSync(process.execPath, [script], { cwd: root, encoding: 'utf8' });
  return { built: status === 0, output: `${stdout}${stderr}` };
}

/** Whether the addon is there in the end. */
function provide({ cuda, without }) {
  const folder = cuda ? 'cuda' : '.';
  const addon = `native addon${cuda ? ' with CUDA' : ''}`;
  if (!fromSource && loads(folder)) {
    say(`${addon} present`);
    return true;
  }
  const lacking = missing(cuda);
  if (lacking.length > 0) {
    say(`${addon} not built, ${without}; building it takes ${lacking.join('; ')}`);
    return false;
  }
  say(
    `building the ${addon} (${cuda ? 'minutes; TERNFLASH_CUDA_ARCHITECTURES=90-real is for one GPU only' : 'minutes'})`,
  );
  const { built, output } = cuda ? buildCuda() : buildCpu({ stdio: 'pipe' });
  if (built && loads(folder)) {
    say(`${addon} built`);
    return true;
  }
  tellEnd(output);
  say(built ? `the ${addon} was built and does not load` : `${addon} not built, ${without}: the compiler failed`);
  return false;
}

const cpu = provide({ cuda: false, without: 'the package works without it, on the slower reference backend' });
const cudaIsAsked = process.env.TERNFLASH_CUDA === '1';
const cuda = !cudaIsAsked || provide({ cuda: true, without: 'and TERNFLASH_CUDA=1 asks for it' });
if ((fromSource && !cpu) || !cuda) process.exitCode = 1;
