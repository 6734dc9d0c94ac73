// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { native } from '../../lib/native.js';
import type { Native } from '../../lib/native.js';

/** What the addon reads out of a folder that stands for `/` and has these files. */
function limitWith(files: Record<string, string>): number {
  const root = mkdtempSync(path.join(tmpdir(), 'ternflash-cgroup-'));
  try {
    for (const [name, text] of Object.entries(files)) {
      const file = path.join(root, name);
      mkdirSync(path.dirname(file), { recursive: true });
      writeFileSync(file, text);
    }
    return (native as Native).containerLimit(root);
  } finally {
    rmSync(root, { recursive: true });
  }
}

const V2 = '0::/docker/abc\n';
const V1 = '12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n';

(native ? describe : describe.skip)('the CPU limit of a container', () => {
  test.each<[string, Record<string, string>, number]>([
    ['no control groups', {}, 0],
    ['version 2, no limit', { 'proc/self/cgroup': V2, 'sys/fs/cgroup/docker/abc/cpu.max': 'max 100000\n' }, 0],
    ['version 2', { 'proc/self/cgroup': V2, 'sys/fs/cgroup/docker/abc/cpu.max': '150000 100000\n' }, 1.5],
    ['version 2, seen from inside', { 'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': '400000 100000\n' }, 4],
    ['version 2, a path of the host', { 'proc/self/cgroup': V2, 'sys/fs/cgroup/cpu.max': '50000 100000\n' }, 0.5],
    [
      'version 2, the group above has less',
      {
        'proc/self/cgroup': V2,
        'sys/fs/cgroup/docker/abc/cpu.max': '800000 100000\n',
        'sys/fs/cgroup/docker/cpu.max': '200000 100000\n',
        'sys/fs/cgroup/cpu.max': 'max 100000\n',
      },
      2,
    ],
    [
      'version 1',
      {
        'proc/self/cgroup': V1,
        'sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us': '250000\n',
        'sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us': '100000\n',
      },
      2.5,
    ],
    [
      'version 1, no limit',
      {
        'proc/self/cgroup': V1,
        'sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us': '-1\n',
        'sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us': '100000\n',
      },
      0,
    ],
    [
      'files that make no sense',
      { 'proc/self/cgroup': 'nonsense\n0:\n::\n0::/a\n', 'sys/fs/cgroup/a/cpu.max': '100000 0\n' },
      0,
    ],
  ])('%s', (_name, files, expected) => {
    expect(limitWith(files)).toBe(expected);
  });

  test('of this process is a number', () => {
    expect((native as Native).containerLimit()).toBeGreaterThanOrEqual(0);
  });
});
