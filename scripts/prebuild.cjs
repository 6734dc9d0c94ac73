#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Makes the addons that the package ships, through prebuildify: prebuilds/<platform>-<arch>/ without CUDA and, on Linux x64, cuda/prebuilds/ with CUDA.
//
//   node scripts/prebuild.cjs [--cpu | --cuda]              one of the two only
//   node scripts/prebuild.cjs --arch arm64                  on Linux x64: by aarch64-linux-gnu-g++, without CUDA
//   node scripts/prebuild.cjs --libc musl                   with CXX a compiler for musl; on Alpine it is found out
//
// Builds in folders of its own: build stays as it is, and cuda/build is only brought up to date. TERNFLASH_CUDA_ARCHITECTURES as for build-cuda.cjs.
//
// prebuildify calls a program in the place of node-gyp, and takes the addon from build/Release of its folder. This file is that program, too.
'use strict';
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs, promisify } = require('node:util');
const { buildCpu } = require('./build-cpu.cjs');

const root = path.join(__dirname, '..');

/** What prebuildify calls in the folder that it takes the addon from. */
function build() {
  const release = path.join(process.cwd(), 'build', 'Release');
  if (process.env.TERNFLASH_PREBUILD_CUDA !== '1') {
    const options = (process.env.TERNFLASH_PREBUILD_OPTIONS ?? '').split(' ').filter(Boolean);
    return buildCpu({ out: path.join(process.cwd(), 'build'), options }).built;
  }
  const script = path.join(__dirname, 'build-cuda.cjs');
  if (spawnSync(process.execPath, [script], { stdio: 'inherit' }).status !== 0) return false;
  fs.mkdirSync(release, { recursive: true });
  fs.copyFileSync(path.join(root, 'cuda/build/Release/ternflash.node'), path.join(release, 'ternflash.node'));
  return true;
}

async function prebuild({ cuda, arch, libc }) {
  const foreign = arch !== process.arch;
  if (foreign && process.platform === 'linux') {
    if (arch !== 'arm64') throw new Error(`expected arm64 for --arch on Linux, got ${arch}`);
    process.env.CXX ??= 'aarch64-linux-gnu-g++';
    process.env.PREBUILD_STRIP_BIN ??= 'aarch64-linux-gnu-strip';
    process.env.TERNFLASH_PREBUILD_OPTIONS = 'CMAKE_SYSTEM_NAME=Linux CMAKE_SYSTEM_PROCESSOR=aarch64';
  } else if (foreign) {
    process.env.TERNFLASH_PREBUILD_OPTIONS = `CMAKE_OSX_ARCHITECTURES=${arch === 'x64' ? 'x86_64' : arch}`;
  }
  process.env.TERNFLASH_PREBUILD_CUDA = cuda ? '1' : '0';
  const folder = [cuda ? 'cuda' : 'cpu', process.platform, arch, libc].filter(Boolean).join('-');
  const cwd = path.join(root, 'build', 'prebuild', folder);
  fs.mkdirSync(cwd, { recursive: true });
  const out = path.join(root, cuda ? 'cuda' : '.');
  await promisify(require('prebuildify'))({
    name: 'ternflash',
    cwd,
    out,
    arch,
    libc,
    napi: true,
    strip: true,
    tagLibc: process.platform === 'linux',
    targets: [process.versions.node],
    nodeGyp: process.platform === 'win32' ? `node "${__filename}"` : __filename,
  });
  const place = path.join(out, 'prebuilds', `${process.platform}-${arch}`);
  for (const each of fs.readdirSync(place)) {
    const bytes = fs.statSync(path.join(place, each)).size;
    console.log(`ternflash: ${path.relative(root, path.join(place, each))} ${(bytes / 1e6).toFixed(2)} MB`);
  }
}

async function main() {
  const { values } = parseArgs({
    options: {
      cpu: { type: 'boolean', default: false },
      cuda: { type: 'boolean', default: false },
      arch: { type: 'string', default: process.arch },
      libc: { type: 'string' },
    },
  });
  const { arch, libc } = values;
  const takesCuda = process.platform === 'linux' && arch === 'x64' && process.arch === 'x64' && libc !== 'musl';
  if (values.cuda && !takesCuda) throw new Error('the addon with CUDA is built on and for Linux x64 with glibc only');
  // At once, and not after the first of them.
  const withCuda = takesCuda && !values.cpu && !fs.existsSync('/etc/alpine-release');
  const args = withCuda ? ['--cuda'] : [];
  const check = spawnSync(process.execPath, [path.join(__dirname, 'check-system.cjs'), ...args], { stdio: 'inherit' });
  if (check.status !== 0) throw new Error('npm run prebuild -- --cpu leaves out the addon with CUDA');
  if (!values.cuda) await prebuild({ cuda: false, arch, libc });
  if (withCuda) await prebuild({ cuda: true, arch, libc });
}

if (process.argv[2] === 'rebuild') process.exit(build() ? 0 : 1);
main().catch((error) => {
  console.error(`ternflash: ${error.message}`);
  process.exitCode = 1;
});
