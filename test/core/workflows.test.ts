// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';

interface Step {
  uses?: string;
  run?: string;
}

interface Workflow {
  permissions: Record<string, string>;
  jobs: Record<string, { permissions?: Record<string, string>; steps: Step[]; strategy?: { matrix: Matrix } }>;
}

interface Matrix {
  os: string[];
  node: number[];
}

// typedoc reads its configuration with it.
const { parse } = createRequire(require.resolve('typedoc/package.json'))('yaml') as { parse(text: string): unknown };

const root = packageRoot();
const read = (file: string): string => readFileSync(path.join(root, '.github', file), 'utf8');
const { scripts } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
  scripts: Record<string, string>;
};

const FILES = readdirSync(path.join(root, '.github', 'workflows'));

describe.each(FILES)('%s', (file) => {
  const text = read(`workflows/${file}`);
  const { permissions, jobs } = parse(text) as Workflow;
  const steps = Object.values(jobs).flatMap((job) => job.steps);
  const commands = steps.flatMap(({ run }) => (run === undefined ? [] : [run]));

  test('calls scripts that there are', () => {
    const called = commands.flatMap((run) => [...run.matchAll(/\bnpm run ([\w:-]+)/g)].map(([, name]) => name));
    expect(called.filter((name) => !(name in scripts))).toEqual([]);
    const started = commands.flatMap((run) =>
      [...run.matchAll(/\b(?:node|bash) ([\w.-]+\/[\w./-]+)/g)].map(([, name]) => name),
    );
    expect(started.filter((name) => !existsSync(path.join(root, name)))).toEqual([]);
    expect(called.length + started.length).toBeGreaterThan(0);
  });

  test('pins actions to a commit and names its version', () => {
    const uses = steps.flatMap((step) => (step.uses === undefined ? [] : [step.uses]));
    expect(uses.filter((each) => !/^[\w/-]+@[0-9a-f]{40}$/.test(each))).toEqual([]);
    for (const each of uses) expect(text).toMatch(new RegExp(`uses: ${each} # v\\d+\\.\\d+\\.\\d+\n`));
  });

  test('may read, and a job of it no more than it says', () => {
    expect(permissions).toEqual({ contents: 'read' });
    const allowed = ['contents: read', 'security-events: write', 'id-token: write'];
    for (const job of Object.values(jobs))
      for (const [name, level] of Object.entries(job.permissions ?? {})) expect(allowed).toContain(`${name}: ${level}`);
  });
});

test('the tests run on three systems by three versions of Node.js', () => {
  const { os, node } = (parse(read('workflows/ci.yml')) as Workflow).jobs.test.strategy?.matrix as Matrix;
  expect(os.map((each) => each.split('-')[0])).toEqual(['ubuntu', 'macos', 'windows']);
  expect(node).toEqual([20, 22, 24]);
});

test('dependabot looks at npm each week and at actions each month', () => {
  const { updates } = parse(read('dependabot.yml')) as {
    updates: { 'package-ecosystem': string; schedule: { interval: string } }[];
  };
  expect(updates.map((each) => [each['package-ecosystem'], each.schedule.interval])).toEqual([
    ['npm', 'weekly'],
    ['github-actions', 'monthly'],
  ]);
});
