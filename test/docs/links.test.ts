// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';
import { anchorsOf, DOCUMENTS, readDocument } from './markdown.js';

/** Targets of links and pictures, without those inside of code. */
function linksOf(document: string): string[] {
  const text = readDocument(document)
    .replace(/^```.*?^```/gms, '')
    .replace(/`[^`\n]*`/g, '');
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target);
}

test.each(DOCUMENTS)('links of %s lead somewhere', (document) => {
  const broken = linksOf(document).filter((link) => {
    if (/^https:\/\//.test(link)) return false;
    const [file, anchor] = link.split('#');
    const target = file === '' ? document : path.posix.join(path.posix.dirname(document), file);
    if (!existsSync(path.join(packageRoot(), target))) return true;
    return anchor !== undefined && !anchorsOf(target).has(anchor);
  });
  expect(broken).toEqual([]);
});

test('every guide can be reached from README.md', () => {
  const reached = new Set<string>();
  const visit = (document: string): void => {
    if (reached.has(document)) return;
    reached.add(document);
    for (const link of linksOf(document)) {
      const file = path.posix.join(path.posix.dirname(document), link.split('#')[0]);
      if (DOCUMENTS.includes(file)) visit(file);
    }
  };
  visit('README.md');
  expect([...reached].sort()).toEqual(DOCUMENTS);
});

test('every document is a page of the site', () => {
  const { readme, projectDocuments } = JSON.parse(readFileSync(path.join(packageRoot(), 'typedoc.json'), 'utf8')) as {
    readme: string;
    projectDocuments: string[];
  };
  const isThere = (document: string): boolean =>
    [readme, ...projectDocuments].some(
      (each) => each === document || (each === 'docs/*.md' && /^docs\//.test(document)),
    );
  expect(DOCUMENTS.filter((document) => !isThere(document))).toEqual([]);
});

test('badges of README.md say what package.json says', () => {
  const { license, engines } = JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')) as {
    license: string;
    engines: { node: string };
  };
  const badges = [...readDocument('README.md').matchAll(/https:\/\/img\.shields\.io\/badge\/([^)\s]+)/g)];
  expect(badges.map(([, badge]) => decodeURIComponent(badge).replace(/-\w+$/, ''))).toEqual([
    `license-${license}`,
    `node-${engines.node}`,
  ]);
});
