// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import * as path from 'node:path';
import { gzipSync } from 'node:zlib';
import { packageRoot } from '../../lib/native.js';

/* What npm would pack. That it can be installed and used is tried by scripts/verify-package.cjs, which takes minutes. */

interface Packed {
  size: number;
  files: { path: string }[];
}

const root = packageRoot();
const { belongs, NEEDED } = createRequire(path.join(root, 'package.json'))('./scripts/package-files.cjs') as {
  belongs(name: string): boolean;
  NEEDED: string[];
};
/** Megabytes, packed. */
const stated = JSON.parse(readFileSync(path.join(root, 'scripts/package-sizes.json'), 'utf8')) as {
  library: number;
  cpuAddon: number;
  cudaAddon: { architectures: string; size: number };
  cudaAddonLimit: number;
};

describe('the package', () => {
  let packed: Packed;
  let names: string[];
  beforeAll(() => {
    if (!existsSync(path.join(root, 'dist', 'index.js'))) throw new Error('expected dist, built by npm test');
    const args = ['pack', '--dry-run', '--json', '--ignore-scripts', '--loglevel=error'];
    const { stdout } = spawnSync('npm', args, { cwd: root, encoding: 'utf8', shell: process.platform === 'win32' });
    const said = JSON.parse(stdout) as Packed[] | Record<string, Packed>;
    [packed] = Object.values(said);
    names = packed.files.map((each) => each.path);
  });

  test('holds no file that has no place in it', () => {
    expect(names.filter((name) => !belongs(name))).toEqual([]);
  });

  test('holds what is used at run time and to build the addon', () => {
    expect(NEEDED.filter((name) => !names.includes(name))).toEqual([]);
    expect(names.length).toBeGreaterThan(300);
  });

  test('is as small as README says, without addons and each of them', () => {
    const megabytes = (file: string): number =>
      gzipSync(readFileSync(path.join(root, file)), { level: 9 }).length / 1e6;
    let rest = packed.size / 1e6;
    for (const name of names.filter((each) => each.endsWith('.node'))) {
      const size = megabytes(name);
      rest -= size;
      expect([name, size <= 1.1 * (name.startsWith('cuda') ? stated.cudaAddonLimit : stated.cpuAddon)]).toEqual([
        name,
        true,
      ]);
    }
    expect(rest).toBeGreaterThan(0.9 * stated.library);
    expect(rest).toBeLessThan(1.1 * stated.library);
  });

  test('README states the sizes that are checked', () => {
    const readme = readFileSync(path.join(root, 'README.md'), 'utf8');
    const sizes = [stated.library, stated.cpuAddon, stated.cudaAddon.size].map((size) => `${size} MB`);
    expect(sizes.filter((size) => !readme.includes(size))).toEqual([]);
  });
});

test.each([
  ['lib/index.ts', false],
  ['dist/no-such-module.js', false],
  ['dist/index.js', true],
  ['cuda/build/CMakeCache.txt', false],
  ['build/Release/ternflash.node', false],
  ['prebuilds/linux-x64/ternflash.glibc.node', true],
  ['prebuilds/linux-x64/ternflash.node', false],
])('%s: in the package %p', (name, expected) => {
  expect(belongs(name)).toBe(expected);
});
