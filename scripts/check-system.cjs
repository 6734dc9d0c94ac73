#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Says what a machine lacks for building the addon, and how to get it; with --cuda, for building the addon with CUDA.
'use strict';
const { spawnSync } = require('node:child_process');
const path = require('node:path');

const root = path.join(__dirname, '..');
const windows = process.platform === 'win32';

/** What a program says of its version; null if it does not run. */
function versionOf(command) {
  const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8', shell: windows });
  return status === 0 ? stdout : null;
}

/** Of Visual Studio, which MSVC's own compiler is not enough of. */
function hasClangCl() {
  const installer = path.join(process.env['ProgramFiles(x86)'] ?? '', 'Microsoft Visual Studio', 'Installer');
  const component = 'Microsoft.VisualStudio.Component.VC.Llvm.ClangToolset';
  const args = ['-products', '*', '-requires', component, '-property', 'installationPath'];
  return (spawnSync(path.join(installer, 'vswhere.exe'), args, { encoding: 'utf8' }).stdout ?? '').trim() !== '';
}

/** What building takes and is not here: each with the way to get it. */
function missingTools() {
  const missing = [];
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 17))
    missing.push(`Node.js 20.17 or later (this is ${process.versions.node})`);
  const [, cmakeMajor, cmakeMinor] = /version (\d+)\.(\d+)/.exec(versionOf('cmake') ?? '') ?? [0, 0, 0];
  if (Number(cmakeMajor) * 100 + Number(cmakeMinor) < 318)
    missing.push('CMake 3.18 or later (Debian, Ubuntu: apt-get install cmake; macOS: brew install cmake)');
  if (windows && !hasClangCl())
    missing.push(
      'Visual Studio 2022 or its Build Tools, with the component "MSBuild support for LLVM (clang-cl) toolset"',
    );
  if (!windows && versionOf(process.env.CXX || 'c++') === null)
    missing.push('a C++17 compiler (Debian, Ubuntu: apt-get install g++; macOS: xcode-select --install)');
  if (!windows && versionOf('make') === null && versionOf('ninja') === null)
    missing.push('make (Debian, Ubuntu: apt-get install make)');
  try {
    for (const each of ['cmake-js/bin/cmake-js', 'node-addon-api']) require.resolve(each, { paths: [root] });
  } catch {
    missing.push('the packages cmake-js and node-addon-api (npm install cmake-js node-addon-api; in a clone: npm ci)');
  }
  return missing;
}

/** The same for the addon with CUDA, beside those. */
function missingCuda() {
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
  if (!version) return [`${needed}; none in ${places.join(', ')}`];
  return Number(version[1]) * 100 + Number(version[2]) < 1208 ? [`${needed}; this is ${version[1]}.${version[2]}`] : [];
}

/** With CUDA or without: what is missing. */
const missing = (cuda) => [...missingTools(), ...(cuda ? missingCuda() : [])];

module.exports = { missing };

if (require.main === module) {
  const cuda = process.argv.includes('--cuda');
  const lacking = missing(cuda);
  if (lacking.length > 0) {
    console.error(`ternflash: to build the addon${cuda ? ' with CUDA' : ''} this machine lacks:`);
    for (const each of lacking) console.error(`  - ${each}`);
    process.exit(1);
  }
}
