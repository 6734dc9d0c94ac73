// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import * as path from 'node:path';
import type { Browser } from 'puppeteer-core';

/** A browser to open pages in. */

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'];
const PLACES = [
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
  'C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe',
];

/** Where Chromium or Chrome is: $TERNFLASH_CHROMIUM, or one of the usual names in $PATH and places; null if it is nowhere. */
function findChromium(): string | null {
  const named = process.env.TERNFLASH_CHROMIUM;
  if (named !== undefined) return existsSync(named) ? named : null;
  const folders = (process.env.PATH ?? '').split(path.delimiter).filter((folder) => folder !== '');
  const candidates = [...folders.flatMap((folder) => NAMES.map((name) => path.join(folder, name))), ...PLACES];
  return candidates.find((each) => existsSync(each)) ?? null;
}

const load = createRequire(__filename);
const chromium = findChromium();

/** Why no page can be opened here; null if one can. */
export function browserProblem(): string | null {
  try {
    load.resolve('puppeteer-core');
  } catch {
    return 'no package puppeteer-core (npm ci)';
  }
  return chromium === null ? 'no Chromium: not in $PATH by any of its usual names, nor in $TERNFLASH_CHROMIUM' : null;
}

export function openBrowser(): Promise<Browser> {
  const { launch } = load('puppeteer-core') as typeof import('puppeteer-core');
  // Chromium refuses its sandbox to root, as whom containers run.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return launch({ executablePath: chromium as string, headless: true, args });
}
