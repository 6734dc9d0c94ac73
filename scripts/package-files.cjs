// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What may be in the package, and what has to be; the test of the package and scripts/verify-package.cjs hold it to this.
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');

const PLACES = [
  /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|GPU_SETUP\.md|CMakeLists\.txt|docs\/install\.md|bin\/ternflash\.cjs)$/,
  /^scripts\/(build-cpu|build-cuda|check-sass|check-system|install)\.cjs$/,
  /^(binding|cpu)\/\w+\.(cc|h|inc)$/,
  /^cuda\/(\w+\/)*\w+\.(cu|cuh|h)$/,
  /^prebuilds\/(linux-(x64|arm64)\/ternflash\.(glibc|musl)\.node|(darwin-(x64|arm64)|win32-x64)\/ternflash\.node)$/,
  /^cuda\/prebuilds\/linux-x64\/ternflash\.glibc\.node$/,
];

/** A compiled file of which there is no source (any more) does not. */
function isCompiled(name) {
  const [, module] = /^dist\/(.+?)\.(js|d\.ts|js\.map)$/.exec(name) ?? [];
  return module !== undefined && fs.existsSync(path.join(root, 'lib', `${module}.ts`));
}

/** Whether a file belongs into the package. */
const belongs = (name) => PLACES.some((each) => each.test(name)) || isCompiled(name);

/** What is used at run time or to build the addon there. */
const NEEDED = [
  'package.json',
  'README.md',
  'LICENSE',
  'CMakeLists.txt',
  'GPU_SETUP.md',
  'bin/ternflash.cjs',
  'binding/addon.cc',
  'cpu/dispatch.cc',
  'cuda/context.h',
  'dist/cli/process.js',
  'dist/index.d.ts',
  'dist/index.js',
  ...['build-cpu', 'build-cuda', 'check-sass', 'check-system', 'install'].map((name) => `scripts/${name}.cjs`),
];

module.exports = { belongs, NEEDED };
