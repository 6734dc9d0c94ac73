// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import * as path from 'node:path';
import { devices, type Device } from '../lib/device.js';
import { native, packageRoot } from '../lib/native.js';
import { ARGUMENTS, COMPARE_FILES, JSON_FILE, REPORT_FILE, TOLERANCE } from './options.js';
import { provenance } from './provenance.js';
import { compareRuns, summaryLines } from './report/compare.js';
import { missingForPage } from './report/libraries.js';
import { makePage } from './report/page.js';
import { readRun, SCHEMA, VERSION, type Result, type Run } from './schema.js';

/** Read before anything is measured, so that a wrong file is told at once. */
const saved: readonly Run[] = COMPARE_FILES.map(readRun);

/** Throws if a page was asked for by name and cannot be made here. */
export function expectReportPossible(): void {
  const missing = missingForPage();
  if (REPORT_FILE !== undefined && missing !== null) throw new Error(`bench: --report: ${missing}`);
}

/** The model of the processor, or what `devices()` says of a GPU. */
export const hardwareOf = (place: Device): string =>
  place.type === 'cuda' ? (devices().find(({ id }) => id === place.id)?.reason ?? place.id) : cpus()[0].model;

function write(file: string, content: string): void {
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, content);
  console.log(`written: ${path.relative(process.cwd(), file)}`);
}

const inFolder = (date: string, extension: string): string =>
  path.join(packageRoot(), 'bench-results', `${date.replaceAll(':', '-')}.${extension}`);

function writePage(file: string, runs: readonly Run[]): void {
  if (saved.length > 0) for (const line of summaryLines(compareRuns(runs, saved, TOLERANCE))) console.log(line);
  write(file, makePage({ runs, saved, tolerance: TOLERANCE }));
}

/** Writes the results to `--json FILE` or bench-results/<time>.json, and the page to `--report FILE` or, without `--json`, beside them. */
export function writeResults(place: Device, results: Result[]): void {
  const run: Run = {
    schema: SCHEMA,
    version: VERSION,
    ...provenance(),
    device: { id: place.id, name: hardwareOf(place) },
    isa: place.type === 'cpu' ? (native?.isa ?? null) : null,
    arguments: [...ARGUMENTS],
    results,
  };
  console.log('');
  write(path.resolve(JSON_FILE ?? inFolder(run.date, 'json')), `${JSON.stringify(run, null, 2)}\n`);
  if (JSON_FILE !== undefined && REPORT_FILE === undefined && saved.length === 0) return;
  const missing = missingForPage();
  if (missing === null) writePage(path.resolve(REPORT_FILE ?? inFolder(run.date, 'html')), [run]);
  else console.log(`no page: ${missing}; npm run bench -- report FILE.json makes it elsewhere`);
}

/** `report FILE …` */
export function reportSaved(files: readonly string[]): void {
  const missing = missingForPage();
  if (missing !== null) throw new Error(`bench: report: ${missing}`);
  const runs = files.map(readRun);
  writePage(path.resolve(REPORT_FILE ?? inFolder(new Date().toISOString(), 'html')), runs);
}
