// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { parseRun, readRun, type Run } from '../../bench/schema.js';
import { timesOf } from '../../bench/statistics.js';
import { FormatError } from '../../lib/index.js';
import { cpuRun, gpuRun, makeResult, makeRun } from './runs.js';

/** The error that the text of a file gives. */
function errorOf(content: string): FormatError {
  try {
    parseRun(content, 'saved.json');
  } catch (error) {
    if (error instanceof FormatError) return error;
    throw error;
  }
  throw new Error('expected a FormatError, got a run');
}

const changed = (change: (run: Record<string, unknown>, result: Record<string, unknown>) => void): string => {
  const run = JSON.parse(JSON.stringify(makeRun([makeResult({ name: 'a' })]))) as Run;
  change(run as unknown as Record<string, unknown>, run.results[0] as unknown as Record<string, unknown>);
  return JSON.stringify(run);
};

test.each([cpuRun(), gpuRun(), makeRun([])])('what is written is read back, %#', (run) => {
  expect(parseRun(JSON.stringify(run), 'saved.json')).toEqual(run);
});

test('a file is named in its error, which is typed', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'ternflash-bench-'));
  try {
    const file = path.join(folder, 'saved.json');
    writeFileSync(file, JSON.stringify(cpuRun()));
    expect(readRun(file)).toEqual(cpuRun());
    writeFileSync(file, '{}');
    expect(() => readRun(file)).toThrow(FormatError);
    expect(() => readRun(path.join(folder, 'none.json'))).toThrow('ENOENT');
  } finally {
    rmSync(folder, { recursive: true });
  }
  const error = errorOf('[]');
  expect([error.code, error.file]).toEqual(['ERR_FORMAT', 'saved.json']);
  expect(error.message).toBe('saved.json: run: expected an object, got []');
});

test.each([
  ['', 'expected JSON, got '],
  ['null', 'run: expected an object, got null'],
  ['{"results": []}', 'run.schema: expected "ternflash-bench", got nothing'],
  ['{"date": "2026-11-22T21:30:55.955Z", "processor": "x", "results": []}', 'run.processor: expected no such field'],
  [changed((run) => (run.schema = 'other')), 'run.schema: expected "ternflash-bench", got "other"'],
  // The version is told before anything else that is another in it.
  [changed((run) => Object.assign(run, { version: 2, surprise: 1 })), 'run.version: expected 1, got 2'],
  [changed((run) => delete run.version), 'run.version: expected 1, got nothing'],
  [changed((run) => (run.date = 'yesterday')), 'run.date: expected a time such as'],
  [changed((run) => (run.date = '2026-13-45T00:00:00Z')), 'run.date: expected a time such as'],
  [changed((run) => (run.device = { id: 'cpu' })), 'run.device.name: expected a string, got nothing'],
  [changed((run) => (run.results = {})), 'run.results: expected an array, got {}'],
  [changed((run) => (run.arguments = [1])), 'run.arguments[0]: expected a string, got 1'],
  [changed((_, result) => delete result.op), 'run.results[0].op: expected a string, got nothing'],
  [changed((_, result) => (result.extra = 1)), 'run.results[0].extra: expected no such field, got 1'],
  [changed((_, result) => (result.samples = 0)), 'run.results[0].samples: expected an integer of at least 1, got 0'],
  [changed((_, result) => (result.batch = 1.5)), 'run.results[0].batch: expected an integer of at least 1, got 1.5'],
  [changed((_, result) => (result.work = {})), 'run.results[0].work: expected at least one amount'],
  [changed((_, result) => (result.work = { apples: 1 })), 'run.results[0].work: a name: expected "tokens" or'],
  [changed((_, result) => (result.work = { bytes: -1 })), 'run.results[0].work["bytes"]: expected a number above 0'],
  [
    changed((_, result) => (result.milliseconds = { median: 1, low: 2, high: 3, fastest: 1 })),
    'run.results[0].milliseconds: expected fastest ≤ low ≤ median ≤ high',
  ],
  [
    changed((_, result) => (result.milliseconds = { median: 0, low: 0, high: 0, fastest: 0 })),
    'run.results[0].milliseconds.median: expected a number above 0, got 0',
  ],
  [
    changed((_, result) => (result.ceiling = { name: 'x', unit: 'apples', perSecond: 1 })),
    'run.results[0].ceiling.unit: expected "tokens" or',
  ],
  [
    changed((_, result) => (result.memory = { heldBytes: 1, peakBytes: -1, workspaceBytes: null })),
    'run.results[0].memory.peakBytes: expected a number of at least 0, got -1',
  ],
  [changed((run, result) => (run.results = [result, result])), 'run.results[1]: expected one result of a name'],
])('%s is refused', (content, message) => {
  expect(errorOf(content).message).toContain(`saved.json: ${message}`);
});

test('a field of the prototype is no field', () => {
  const text = changed(() => undefined).replace('"schema"', '"__proto__": {"node": "x"}, "schema"');
  expect(errorOf(text).message).toContain('run.__proto__: expected no such field');
});

test('median, quartiles and fastest, whatever the order', () => {
  const times = [5, 1, 4, 2, 3];
  expect(timesOf(times)).toEqual({ milliseconds: { median: 3, low: 2, high: 4, fastest: 1 }, samples: 5 });
  expect(times).toEqual([5, 1, 4, 2, 3]);
  expect(timesOf([7])).toEqual({ milliseconds: { median: 7, low: 7, high: 7, fastest: 7 }, samples: 1 });
});
