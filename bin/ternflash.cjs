#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
'use strict';
const { existsSync } = require('node:fs');
const path = require('node:path');

const compiled = path.join(__dirname, '..', 'dist', 'cli', 'main.js');
if (existsSync(compiled)) {
  // The exit code is set and the process ends by itself, so that all of a long output gets through a pipe.
  require(compiled)
    .main(process.argv.slice(2), process.stdout, process.stderr)
    .then((code) => {
      process.exitCode = code;
    });
} else {
  console.error('ternflash: expected dist/cli/main.js (in a clone: npm run build:ts), got none');
  process.exitCode = 1;
}
