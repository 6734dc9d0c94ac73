// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { packageRoot } from '../../lib/native.js';

/** What the page is made of besides its numbers: Observable Plot and the D3 it draws with, and our own script and style. */

const PLOT = '@observablehq/plot';
const OWN = path.join(packageRoot(), 'bench', 'report');
const OWN_FILES = ['page.js', 'page.css'];

/** The folder of an installed package, as Node finds it from `from`; null if there is none. */
function packageFolder(name: string, from: string): string | null {
  for (let folder = from; ; folder = path.dirname(folder)) {
    const candidate = path.join(folder, 'node_modules', name);
    if (existsSync(path.join(candidate, 'package.json'))) return candidate;
    if (folder === path.dirname(folder)) return null;
  }
}

/** Why no page can be made here, as on a host that has the compiled bench and nothing else; null if one can. */
export function missingForPage(): string | null {
  const missing = OWN_FILES.map((file) => path.join('bench', 'report', file)).find(
    (file) => !existsSync(path.join(packageRoot(), file)),
  );
  if (missing !== undefined) return `expected ${missing}, got none`;
  return packageFolder(PLOT, packageRoot()) === null ? `expected the package ${PLOT} (npm ci), got none` : null;
}

interface Manifest {
  name: string;
  version: string;
  license?: string;
  dependencies?: Record<string, string>;
}

const manifestOf = (folder: string): Manifest =>
  JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as Manifest;

const found = (name: string, from: string): string => {
  const folder = packageFolder(name, from);
  if (folder === null) throw new Error(`bench: expected the package ${name} (npm ci), got none`);
  return folder;
};

/** Plot and all it depends on: what its and D3's bundles are made of. */
function packages(): string[] {
  const folders = new Set<string>();
  const visit = (name: string, from: string): void => {
    const folder = found(name, from);
    if (folders.has(folder)) return;
    folders.add(folder);
    for (const each of Object.keys(manifestOf(folder).dependencies ?? {})) visit(each, folder);
  };
  visit(PLOT, packageRoot());
  return [...folders];
}

/** The bundles, in the order in which they run. */
export function libraryScripts(): string[] {
  const plot = found(PLOT, packageRoot());
  return [path.join(found('d3', plot), 'dist', 'd3.min.js'), path.join(plot, 'dist', 'plot.umd.min.js')].map((file) =>
    readFileSync(file, 'utf8'),
  );
}

/** The texts of their licences, each with the packages that are under it. */
export function licences(): { packages: string[]; text: string }[] {
  const byText = new Map<string, string[]>();
  for (const folder of packages()) {
    const { name, version, license = 'no license named' } = manifestOf(folder);
    const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
    const text =
      file === undefined ? `${license} (the package has no text of it)` : readFileSync(path.join(folder, file), 'utf8');
    byText.set(text.trim(), [...(byText.get(text.trim()) ?? []), `${name} ${version}`]);
  }
  return [...byText].map(([text, names]) => ({ packages: names, text }));
}

export const ownScript = (): string => readFileSync(path.join(OWN, 'page.js'), 'utf8');
export const ownStyle = (): string => readFileSync(path.join(OWN, 'page.css'), 'utf8');
