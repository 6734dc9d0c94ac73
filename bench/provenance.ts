// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../lib/native.js';
import type { Run } from './schema.js';

/** Which scripts/gpu-bundle.cjs writes, for a host that has no repository. */
const COMMIT_FILE = 'COMMIT';

function commit(): string | null {
  const root = packageRoot();
  if (existsSync(path.join(root, COMMIT_FILE))) return readFileSync(path.join(root, COMMIT_FILE), 'utf8').trim();
  const git = (...args: string[]): string =>
    execFileSync('git', ['-C', root, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    // A repository that the package merely lies in, as one that is installed does, says nothing of it.
    if (git('rev-parse', '--show-prefix') !== '') return null;
    return (
      git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '--untracked-files=no') === '' ? '' : '+')
    );
  } catch {
    return null;
  }
}

/** When and with what a run was made. */
export function provenance(): Pick<Run, 'date' | 'node' | 'platform' | 'library' | 'commit'> {
  const { version } = JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')) as { version: string };
  return {
    date: new Date().toISOString(),
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    library: version,
    commit: commit(),
  };
}
