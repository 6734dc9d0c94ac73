// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { DOCUMENTS, readDocument } from './markdown.js';

const committed = path.join(packageRoot(), 'docs', 'images');
const names = readdirSync(committed).sort();
let drawn: string;
beforeAll(() => {
  drawn = mkdtempSync(path.join(tmpdir(), 'ternflash-figures-'));
  const script = path.join(packageRoot(), 'scripts', 'draw-figures.cjs');
  const { stderr } = spawnSync(process.execPath, [script, '--out', drawn], { encoding: 'utf8' });
  expect(stderr).toBe('');
});
afterAll(() => rmSync(drawn, { recursive: true }));

test('all pictures are drawn by scripts/draw-figures.cjs', () => expect(readdirSync(drawn).sort()).toEqual(names));

test.each(names)('%s is what is drawn now, and is shown in a document', (name) => {
  expect(readFileSync(path.join(drawn, name), 'utf8')).toBe(readFileSync(path.join(committed, name), 'utf8'));
  expect(DOCUMENTS.filter((document) => readDocument(document).includes(`images/${name})`))).not.toEqual([]);
});
