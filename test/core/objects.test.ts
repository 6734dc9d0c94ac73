// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';

/** Objects of the kernels, built once per instruction set. */
function kernelObjects(): string[] {
  const folder = path.join(packageRoot(), 'build', 'CMakeFiles');
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => /^kernels_/.test(name))
    .flatMap((name) => readdirSync(path.join(folder, name, 'cpu')).map((file) => path.join(folder, name, 'cpu', file)))
    .filter((file) => file.endsWith('.o'));
}

const objects = kernelObjects();
const possible = process.platform === 'linux' && objects.length > 0 && spawnSync('nm', ['--version']).status === 0;

// A weak symbol of an object compiled for AVX-512 may be the one the linker keeps for every processor.
(possible ? test : test.skip)('the kernels define no weak symbol', () => {
  expect(objects.length % (process.arch === 'arm64' ? 2 : 5)).toBe(0);
  for (const object of objects) {
    const weak = execFileSync('nm', ['-C', object], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => / [WVu] /.test(line));
    expect([path.basename(object), weak]).toEqual([path.basename(object), []]);
  }
});
