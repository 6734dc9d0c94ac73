// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdirSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../lib/native.js';
import { JSON_FILE } from './options.js';

/** Writes results, and when they were taken, to `--json FILE` or bench-results/<time>.json. */
export function writeResults(content: object): void {
  const date = new Date().toISOString();
  const file = path.resolve(
    JSON_FILE ?? path.join(packageRoot(), 'bench-results', `${date.replaceAll(':', '-')}.json`),
  );
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify({ date, ...content }, null, 2));
  console.log(`\nwritten: ${path.relative(process.cwd(), file)}`);
}
