// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readdirSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { problem, PROBLEMS, type ProblemKind } from '../../lib/problems.js';
import { LIBRARY } from './child.js';

const KINDS = Object.keys(PROBLEMS) as ProblemKind[];

describe('GPU_SETUP.md', () => {
  /** Messages that the part on problems quotes, by heading. */
  const quoted = new Map<string, string[]>();
  const text = readFileSync(path.join(packageRoot(), 'GPU_SETUP.md'), 'utf8');
  const [, chapter] = /\n## Problems\n(.*?)\n## /s.exec(text) as RegExpExecArray;
  for (const part of chapter.split(/^### /m).slice(1)) {
    const [heading] = part.split('\n', 1);
    quoted.set(
      heading,
      [...part.matchAll(/^- `(.*)`$/gm)].map(([, message]) => message),
    );
  }

  test.each(KINDS)('%s has its entry, and a remedy', (kind) => {
    const { heading, message, remedy } = PROBLEMS[kind];
    expect(quoted.get(heading)).toContain(message);
    expect(remedy).not.toBe('');
  });

  test('has no entry that the library cannot give', () => {
    const messages = KINDS.map((kind) => PROBLEMS[kind].message).sort();
    expect([...quoted.values()].flat().sort()).toEqual(messages);
  });

  test('says more than the message under every heading', () => {
    for (const part of chapter.split(/^### /m).slice(1)) {
      const words = part.split('\n').filter((line) => line !== '' && !line.startsWith('- `'));
      expect(words.length).toBeGreaterThan(1);
    }
  });
});

test('every kind of problem is one that the library looks for', () => {
  const folder = path.dirname(LIBRARY);
  const sources = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.js') && path.basename(name) !== 'problems.js')
    .map((name) => readFileSync(path.join(folder, name), 'utf8'))
    .join('\n');
  expect(KINDS.filter((kind) => !sources.includes(`'${kind}'`))).toEqual([]);
});

test('a value is put in as it is, whatever it holds', () => {
  expect(problem('addon-broken', { file: '{error}', error: '$& {file}' })).toEqual({
    kind: 'addon-broken',
    message: '{error} does not load: $& {file}',
  });
});
