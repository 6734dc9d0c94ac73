// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { call } from './capture-context.js';

/* That it builds is tried by `npm run verify-package -- --build`. */

describe('ternflash build', () => {
  const { CUDACXX, CXX, PATH } = process.env;
  const empty = mkdtempSync(path.join(tmpdir(), 'ternflash-build-'));
  beforeAll(() => Object.assign(process.env, { PATH: empty, CXX: 'no-such-compiler', CUDACXX: 'no-such-nvcc' }));
  afterAll(() => {
    for (const [name, value] of Object.entries({ CUDACXX, CXX, PATH }))
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    rmSync(empty, { recursive: true });
  });

  test.each([
    [[], ' '],
    [['--check'], ' '],
    [['--cuda', '--architectures', '90-real'], ' with CUDA '],
  ])('%j without tools says what is missing, and builds nothing', async (args, kind) => {
    const { code, out, errors } = await call(['build', ...args]);
    expect([code, out]).toEqual([1, '']);
    const [first, ...lines] = errors.trim().split('\n');
    expect(first).toBe(`ternflash: to build the addon${kind}this machine lacks:`);
    expect(lines[0]).toMatch(/^ {2}- CMake 3\.18 or later/);
    expect(lines.some((line) => line.includes('none in no-such-nvcc'))).toBe(args.includes('--cuda'));
  });

  test('takes architectures for CUDA only', async () => {
    const { code, errors } = await call(['build', '--architectures', '90-real']);
    expect(code).toBe(2);
    expect(errors).toBe('ternflash build: --architectures is for --cuda; see ternflash build --help\n');
  });
});
