#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
'use strict';
const { existsSync } = require('node:fs');
const path = require('node:path');

const compiled = path.join(__dirname, '..', 'dist', 'cli', 'process.js');
if (existsSync(compiled)) {
  require(compiled).runProcess(process.argv.slice(2));
} else {
  console.error('ternflash: expected dist/cli/process.js (in a clone: npm run build:ts), got none');
  process.exitCode = 1;
}
