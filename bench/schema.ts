// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readFileSync } from 'node:fs';
import { FormatError } from '../lib/errors.js';

/**
 * The file that a run of the bench leaves, docs/bench.md. Only what was measured or counted is in it: rates and shares follow from that. Whoever
 * changes a field raises VERSION.
 */

export const SCHEMA = 'ternflash-bench';
export const VERSION = 1;

/** What can be counted of a run of a case. A result's throughput is told in the first of these that it has. */
export const UNITS = ['tokens', 'float operations', 'integer operations', 'bytes'] as const;
export type Unit = (typeof UNITS)[number];

/** What `by` says of our own results. */
export const OURS = 'ternflash';

/** A rate that was measured on the device, in the same run, and that no case can be expected to pass. */
export interface Ceiling {
  name: string;
  unit: Unit;
  perSecond: number;
}

/** What tensors hold, by `memory()`: the same on every run. Without what the runtime and the driver take. */
export interface MemoryUse {
  /** Bytes of tensors that are there before a run: inputs, weights. */
  heldBytes: number;
  /** The most bytes of tensors beyond those at once: results and what lies between. */
  peakBytes: number;
  /** The most workspace of one op; null on the cpu device, which does not count it. */
  workspaceBytes: number | null;
}

/** What a case is, for the axes and filters of the report. */
export interface Subject {
  /** By its name in the API, where it has one. */
  op: string;
  /** Of the numbers that are multiplied, or moved. */
  dtype: string;
  /** `forward`, `forward+backward`; null where that is no question. */
  pass: string | null;
  batch: number | null;
  /** Tokens of a sequence. */
  sequence: number | null;
  /** Names of the lines on which the case is a point, all else alike: as the sequence grows, and as the batch does. Null if it is on none. */
  alongSequence: string | null;
  alongBatch: string | null;
}

/** A subject of which most is no question. */
export const subject = (op: string, dtype: string, rest: Partial<Subject> = {}): Subject => ({
  op,
  dtype,
  pass: null,
  batch: null,
  sequence: null,
  alongSequence: null,
  alongBatch: null,
  ...rest,
});

export interface Result extends Subject {
  /** The same in every run of the bench. */
  name: string;
  /** `ternflash`, or the peer with its version. */
  by: string;
  /** Which of several ways of `by`; null if there is one. */
  variant: string | null;
  /** Of the cpu device, and of its peer; null on a GPU. */
  threads: number | null;
  /** Of one run: the median, the quartiles, the fastest. */
  milliseconds: { median: number; low: number; high: number; fastest: number };
  /** How many times were measured. */
  samples: number;
  /** What queueing a run takes of the JavaScript thread; null if it was not measured apart. */
  callMilliseconds: number | null;
  /** Of one run. Two operations for a multiply-add; bytes that have to be read and written at least. */
  work: Partial<Record<Unit, number>>;
  ceiling: Ceiling | null;
  memory: MemoryUse | null;
  /** Something to know about this measurement. */
  note: string | null;
}

export interface Run {
  schema: typeof SCHEMA;
  version: typeof VERSION;
  /** When it ended: ISO 8601, UTC. */
  date: string;
  /** `cpu`, `cuda:0`, …, and what it is. */
  device: { id: string; name: string };
  /** The instruction set that the CPU kernels were chosen for; null on a GPU. */
  isa: string | null;
  node: string;
  /** `linux-x64` */
  platform: string;
  /** The library's version, and the commit it was built from: `8c339f1`, with `+` behind it if files were changed since; null if unknown. */
  library: string;
  commit: string | null;
  /** What followed `npm run bench --`. */
  arguments: string[];
  results: Result[];
}

type Check<T> = (value: unknown, at: string) => T;

/** What is wrong, and where in the object; parseRun adds the file. */
class Mismatch extends Error {}

function fail(at: string, expected: string, value: unknown): never {
  const shown = value === undefined ? 'nothing' : (JSON.stringify(value) ?? String(value));
  throw new Mismatch(`${at}: expected ${expected}, got ${shown.length > 80 ? `${shown.slice(0, 80)}…` : shown}`);
}

const text: Check<string> = (value, at) => (typeof value === 'string' ? value : fail(at, 'a string', value));

const numberFrom =
  (least: number, what: string, whole = false): Check<number> =>
  (value, at) =>
    typeof value === 'number' && Number.isFinite(value) && value >= least && (!whole || Number.isInteger(value))
      ? value
      : fail(at, what, value);

const positive: Check<number> = (value, at) =>
  typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : fail(at, 'a number above 0', value);
const amount = numberFrom(0, 'a number of at least 0');
const count = numberFrom(1, 'an integer of at least 1', true);

const oneOf =
  <T extends string | number>(...values: T[]): Check<T> =>
  (value, at) =>
    values.includes(value as T)
      ? (value as T)
      : fail(at, values.map((each) => JSON.stringify(each)).join(' or '), value);

const nullable =
  <T>(check: Check<T>): Check<T | null> =>
  (value, at) =>
    value === null ? null : check(value, at);

const listOf =
  <T>(check: Check<T>): Check<T[]> =>
  (value, at) =>
    Array.isArray(value) ? value.map((each, i) => check(each, `${at}[${i}]`)) : fail(at, 'an array', value);

/** All fields of `checks`, and no others: what is not known here may change what the rest means. */
const objectOf =
  <T extends object>(checks: { [K in keyof T]-?: Check<T[K]> }): Check<T> =>
  (value, at) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return fail(at, 'an object', value);
    const given = value as Record<string, unknown>;
    for (const name of Object.keys(given))
      if (!Object.hasOwn(checks, name)) fail(`${at}.${name}`, 'no such field', given[name]);
    const names = Object.keys(checks) as (keyof T & string)[];
    const get = (name: string): unknown => (Object.hasOwn(given, name) ? given[name] : undefined);
    return Object.fromEntries(names.map((name) => [name, checks[name](get(name), `${at}.${name}`)])) as T;
  };

const date: Check<string> = (value, at) => {
  const shown = text(value, at);
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(shown) && !Number.isNaN(Date.parse(shown))
    ? shown
    : fail(at, 'a time such as "2026-11-23T18:10:00.000Z"', value);
};

const work: Check<Result['work']> = (value, at) => {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fail(at, 'an object', value);
  const entries = Object.entries(value).map(([unit, each]) => [
    oneOf(...UNITS)(unit, `${at}: a name`),
    positive(each, `${at}[${JSON.stringify(unit)}]`),
  ]);
  return entries.length > 0 ? (Object.fromEntries(entries) as Result['work']) : fail(at, 'at least one amount', value);
};

const milliseconds: Check<Result['milliseconds']> = (value, at) => {
  const each = objectOf({ median: positive, low: positive, high: positive, fastest: positive })(value, at);
  const { fastest, low, median, high } = each;
  return fastest <= low && low <= median && median <= high
    ? each
    : fail(at, 'fastest ≤ low ≤ median ≤ high', { fastest, low, median, high });
};

const result = objectOf<Result>({
  name: text,
  op: text,
  dtype: text,
  pass: nullable(text),
  batch: nullable(count),
  sequence: nullable(count),
  alongSequence: nullable(text),
  alongBatch: nullable(text),
  by: text,
  variant: nullable(text),
  threads: nullable(count),
  milliseconds,
  samples: count,
  callMilliseconds: nullable(amount),
  work,
  ceiling: nullable(objectOf<Ceiling>({ name: text, unit: oneOf(...UNITS), perSecond: positive })),
  memory: nullable(objectOf<MemoryUse>({ heldBytes: amount, peakBytes: amount, workspaceBytes: nullable(amount) })),
  note: nullable(text),
});

const run = objectOf<Run>({
  schema: oneOf(SCHEMA),
  version: oneOf(VERSION),
  date,
  device: objectOf({ id: text, name: text }),
  isa: nullable(text),
  node: text,
  platform: text,
  library: text,
  commit: nullable(text),
  arguments: listOf(text),
  results: listOf(result),
});

/** What tells results of a run apart: no two have the same. */
export const identity = ({ name, by, variant, threads }: Result): string =>
  JSON.stringify([name, by === OURS ? by : by.split(' ')[0], variant, threads]);

/**
 * A run from the text of a file.
 *
 * @throws FormatError, with the place in the object, if it is not what `Run` says, of another version, or has two results of one identity.
 */
export function parseRun(content: string, file: string): Run {
  const refuse = (problem: string): never => {
    throw new FormatError(`${file}: ${problem}`, file, 0);
  };
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch (error) {
    return refuse(`expected JSON, got ${(error as Error).message}`);
  }
  try {
    // A file of another version is told so, before what else has changed.
    if (typeof value === 'object' && value !== null && 'schema' in value && value.schema === SCHEMA)
      oneOf(VERSION)('version' in value ? value.version : undefined, 'run.version');
    const read = run(value, 'run');
    const seen = new Set<string>();
    for (const [i, each] of read.results.entries()) {
      const key = identity(each);
      if (seen.has(key)) fail(`run.results[${i}]`, 'one result of a name, contender and number of threads', each.name);
      seen.add(key);
    }
    return read;
  } catch (error) {
    if (error instanceof Mismatch) return refuse(error.message);
    throw error;
  }
}

/** The same of a file; the error of the file system if it cannot be read. */
export const readRun = (file: string): Run => parseRun(readFileSync(file, 'utf8'), file);
