// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OURS, UNITS, type MemoryUse, type Result, type Run, type Unit } from '../schema.js';

/** What follows from what was measured, and how it is written. */

/** Units by their size: the first that gives at least 1. */
const RATES: Readonly<Record<Unit, readonly { name: string; size: number }[]>> = {
  tokens: [{ name: 'tokens/s', size: 1 }],
  'float operations': [
    { name: 'TFLOP/s', size: 1e12 },
    { name: 'GFLOP/s', size: 1e9 },
  ],
  'integer operations': [
    { name: 'Top/s', size: 1e12 },
    { name: 'Gop/s', size: 1e9 },
  ],
  bytes: [{ name: 'GB/s', size: 1e9 }],
};

export interface Rate {
  unit: Unit;
  perSecond: number;
}

/** In the first unit of UNITS that was counted. */
export function rateOf({ work, milliseconds: { median } }: Result): Rate {
  const unit = UNITS.find((each) => work[each] !== undefined) as Unit;
  return { unit, perSecond: (work[unit] ?? 0) / (median / 1000) };
}

/** The unit in which all of these rates are written: that of the largest. */
export function rateScale(rates: readonly Rate[]): { name: string; size: number } {
  const largest = rates.reduce((a, b) => (b.perSecond > a.perSecond ? b : a));
  const scales = RATES[largest.unit];
  return scales.find(({ size }) => largest.perSecond >= size) ?? scales[scales.length - 1];
}

/** Of the ceiling, as a number from 0; null where there is none, or it is one of what was not counted. */
export function shareOf({ work, ceiling, milliseconds: { median } }: Result): number | null {
  const amount = ceiling === null ? undefined : work[ceiling.unit];
  return ceiling === null || amount === undefined ? null : amount / (median / 1000) / ceiling.perSecond;
}

const MEBIBYTE = 2 ** 20;

/** Beyond inputs and weights. */
export const peakOf = ({ peakBytes, workspaceBytes }: MemoryUse): number => peakBytes + (workspaceBytes ?? 0);
export const mebibytes = (bytes: number): number => bytes / MEBIBYTE;

/** Three digits that count, and no power of ten. */
export function digits(value: number): string {
  if (value === 0) return '0';
  const places = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return Number.isFinite(places) ? value.toFixed(Math.min(places, 6)) : String(value);
}

export const showRate = (rate: Rate): string => {
  const { name, size } = rateScale([rate]);
  return `${digits(rate.perSecond / size)} ${name}`;
};
export const showShare = (share: number): string => `${(100 * share).toFixed(0)} %`;

/** `2026-11-23 18:10 UTC` */
export const showDate = (date: string): string => `${date.slice(0, 16).replace('T', ' ')} UTC`;

/** Where a run was made, when and from what: what stands below each figure of it. */
export function describeRun({ device, isa, date, node, library, commit }: Run): string {
  const place = `${device.id}: ${device.name}${isa === null ? '' : `, ${isa}`}`;
  return `${place} · ${showDate(date)} · Node ${node} · ternflash ${library}, commit ${commit ?? 'unknown'}`;
}

/** A result and the run it is of. */
export interface Placed {
  result: Result;
  run: Run;
  /** Among the runs of the page, from 1. */
  number: number;
}

export const place = (runs: readonly Run[]): Placed[] =>
  runs.flatMap((run, i) => run.results.map((result) => ({ result, run, number: i + 1 })));

export const showThreads = (threads: number | null): string =>
  threads === null ? '' : `, ${threads} thread${threads === 1 ? '' : 's'}`;

/** Who computes, and where; and in which run, where several are of one device. */
export function contender({ result: { by, threads }, run, number }: Placed, runs: readonly Run[]): string {
  const isOne = runs.filter(({ device }) => device.id === run.device.id).length === 1;
  return `${by} on ${run.device.id}${showThreads(threads)}${isOne ? '' : `, run ${number}`}`;
}

/** Of a case's results by one contender, the fastest variant. */
export function fastestVariants(placed: readonly Placed[]): Placed[] {
  const best = new Map<string, Placed>();
  for (const each of placed) {
    const { name, by, threads, milliseconds } = each.result;
    const key = JSON.stringify([each.number, name, by, threads]);
    const other = best.get(key);
    if (!other || milliseconds.median < other.result.milliseconds.median) best.set(key, each);
  }
  return [...best.values()];
}

/** How many times as fast as the fastest peer at the same case of the same run; null if there is none. */
export function timesAsFast({ result, run }: Placed): { ratio: number; peer: Result } | null {
  if (result.by !== OURS) return null;
  const peers = run.results.filter(
    (each) => each.name === result.name && each.by !== OURS && each.threads === result.threads,
  );
  if (peers.length === 0) return null;
  const peer = peers.reduce((a, b) => (b.milliseconds.median < a.milliseconds.median ? b : a));
  return { ratio: peer.milliseconds.median / result.milliseconds.median, peer };
}

/** By what the page filters. */
export interface Facets {
  op: string;
  dtype: string;
  by: string;
  device: string;
  threads: string;
}

export const facetsOf = ({ op, dtype, by, threads }: Result, device: string): Facets => ({
  op,
  dtype,
  by,
  device,
  threads: threads === null ? '–' : String(threads),
});
