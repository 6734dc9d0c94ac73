// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import * as path from 'node:path';
import { FILTERS } from './options.js';

/** Runs torch_attention.py or torch_ternary.py, with the words after `flash-attention` or `ternary`. $PYTHON names another Python than python3. */
export function runTorch(): void {
  const root = path.join(__dirname, '..', '..');
  const library = path.join(root, 'cuda', 'build', 'Release', 'libternflash_bench.so');
  if (!existsSync(library))
    throw new Error('bench: expected libternflash_bench.so (npm run build:cuda, on Linux), got none');
  const script = path.join(root, 'bench', FILTERS[0] === 'ternary' ? 'torch_ternary.py' : 'torch_attention.py');
  const { status, error } = spawnSync(process.env.PYTHON ?? 'python3', [script, library, ...FILTERS.slice(1)], {
    stdio: 'inherit',
  });
  if (error) throw error;
  process.exitCode = status ?? 1;
}
