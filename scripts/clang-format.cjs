#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Formats the C++ sources with the clang-format that npm installed: --write changes them, --check only complains.
'use strict';
const { spawnSync } = require('node:child_process');
const { readdirSync } = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const files = ['binding', 'cpu', 'test/stress/native'].flatMap((folder) =>
  readdirSync(path.join(root, folder))
    .filter((name) => /\.(cc|h|cu|cuh)$/.test(name))
    .map((name) => path.join(root, folder, name)),
);
const tool = require('clang-format').getNativeBinary?.() ?? path.join(root, 'node_modules', '.bin', 'clang-format');
const mode = process.argv[2] === '--write' ? ['-i'] : ['--dry-run', '--Werror'];
const run = spawnSync(tool, [...mode, '--style=file', ...files], { cwd: root, stdio: 'inherit' });
process.exit(run.status ?? 1);
