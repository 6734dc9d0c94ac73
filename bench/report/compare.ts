// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { identity, OURS, type Result, type Run } from '../schema.js';
import { digits, facetsOf, peakOf, showThreads, type Facets } from './figures.js';

/** This run against a saved one. */

export type Verdict = 'slower' | 'faster' | 'alike';

export interface Change {
  /** The case, who and on how many threads. */
  label: string;
  facets: Facets;
  isOurs: boolean;
  now: Result;
  saved: Result;
  /** Time now, by that of the saved run: above 1 is slower. */
  ratio: number;
  /** Outside the tolerance, and the quartiles of the two do not meet. */
  verdict: Verdict;
  /** Peak memory now by that of the saved run, in bytes more or less; null if either was not measured. */
  moreBytes: number | null;
}

export interface Comparison {
  tolerance: number;
  changes: Change[];
  /** Labels of what only one side has. */
  onlyNow: string[];
  onlySaved: string[];
  /** Devices of one name that are not the same hardware: what their ratios tell is mostly that. */
  otherHardware: { device: string; now: string; saved: string }[];
}

interface Entry {
  result: Result;
  run: Run;
}

/** By device and identity; of results with the same, the latest. */
function entries(runs: readonly Run[]): Map<string, Entry> {
  const sorted = [...runs].sort((a, b) => Date.parse(a.date) - Date.parse(b.date));
  return new Map(
    sorted.flatMap((run) =>
      run.results.map((result) => [`${run.device.id} ${identity(result)}`, { result, run }] as const),
    ),
  );
}

function labelOf({ result: { name, by, variant, threads }, run }: Entry): string {
  const who = by === OURS ? '' : `${by}, `;
  return `${name}${variant === null ? '' : `, ${variant}`} (${who}${run.device.id}${showThreads(threads)})`;
}

function verdictOf(now: Result, saved: Result, tolerance: number): Verdict {
  const ratio = now.milliseconds.median / saved.milliseconds.median;
  if (ratio > 1 + tolerance && now.milliseconds.low > saved.milliseconds.high) return 'slower';
  if (ratio < 1 / (1 + tolerance) && now.milliseconds.high < saved.milliseconds.low) return 'faster';
  return 'alike';
}

/** Compares what both sides have measured: the same case by the same contender, on a device of the same name, with as many threads. */
export function compareRuns(runs: readonly Run[], savedRuns: readonly Run[], tolerance: number): Comparison {
  const [now, saved] = [entries(runs), entries(savedRuns)];
  const only = (one: Map<string, Entry>, other: Map<string, Entry>): string[] =>
    [...one].filter(([key]) => !other.has(key)).map(([, entry]) => labelOf(entry));
  const hardware = new Map<string, Comparison['otherHardware'][number]>();
  const changes = [...now].flatMap(([key, entry]): Change[] => {
    const before = saved.get(key);
    if (before === undefined) return [];
    const [device, here, there] = [entry.run.device.id, entry.run.device.name, before.run.device.name];
    if (here !== there) hardware.set(`${device} ${here} ${there}`, { device, now: here, saved: there });
    const [a, b] = [entry.result, before.result];
    return [
      {
        label: labelOf(entry),
        facets: facetsOf(a, device),
        isOurs: a.by === OURS,
        now: a,
        saved: b,
        ratio: a.milliseconds.median / b.milliseconds.median,
        verdict: verdictOf(a, b, tolerance),
        moreBytes: a.memory === null || b.memory === null ? null : peakOf(a.memory) - peakOf(b.memory),
      },
    ];
  });
  changes.sort((a, b) => b.ratio - a.ratio);
  return {
    tolerance,
    changes,
    onlyNow: only(now, saved),
    onlySaved: only(saved, now),
    otherHardware: [...hardware.values()],
  };
}

/** What became worse of ours: slower, or of more memory, which is the same on every run and has no tolerance. */
export const regressions = ({ changes }: Comparison): Change[] =>
  changes.filter(({ isOurs, verdict, moreBytes }) => isOurs && (verdict === 'slower' || (moreBytes ?? 0) > 0));

/** For the terminal. */
export function summaryLines(comparison: Comparison): string[] {
  const { changes, tolerance, onlyNow, onlySaved, otherHardware } = comparison;
  const count = (verdict: Verdict): number => changes.filter((each) => each.verdict === verdict).length;
  const worse = regressions(comparison);
  return [
    `beside the saved run, tolerance ${Number((100 * tolerance).toFixed(1))} %: ${count('slower')} slower, ${count('faster')} faster, ${count('alike')} alike; ` +
      `${onlyNow.length} only now, ${onlySaved.length} only saved`,
    ...otherHardware.map(({ device, now, saved }) => `${device} is other hardware: ${now}, saved ${saved}`),
    ...worse.map(({ label, ratio, moreBytes }) => {
      const memory = (moreBytes ?? 0) > 0 ? `, ${moreBytes} bytes more` : '';
      return `worse: ${label}: ${digits(ratio)} times the time${memory}`;
    }),
  ];
}
