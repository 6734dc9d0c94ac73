// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  contender,
  facetsOf,
  fastestVariants,
  mebibytes,
  peakOf,
  place,
  rateOf,
  rateScale,
  shareOf,
  type Facets,
  type Placed,
} from './figures.js';
import { OURS, type Run } from '../schema.js';

/** The plots against sequence length and batch. What is here is drawn by page.js. */

export type Axis = 'sequence' | 'batch';

export interface Point {
  x: number;
  /** Which colour, and which dash and symbol. */
  line: string;
  who: string;
  /** Null where the page's filters do not reach. */
  facets: Facets | null;
  milliseconds: number;
  low: number;
  high: number;
  /** In `rateUnit` of the group; null where it was not published. */
  rate: number | null;
  /** Percent. */
  share: number | null;
  /** MiB beyond inputs and weights. */
  memory: number | null;
}

export interface PlotGroup {
  id: string;
  axis: Axis;
  title: string;
  rateUnit: string;
  lines: string[];
  whos: string[];
  /** Indices of the runs that the points are of. */
  runs: number[];
  points: Point[];
}

/** More colours are not told apart. */
const MOST_LINES = 8;

const alongOf = (axis: Axis) => (axis === 'sequence' ? 'alongSequence' : 'alongBatch');

function pointOf(placed: Placed, axis: Axis, scale: number, runs: readonly Run[]): Point {
  const { result, run } = placed;
  const share = shareOf(result);
  return {
    x: result[axis] as number,
    line: result[alongOf(axis)] as string,
    who: contender(placed, runs),
    facets: facetsOf(result, run.device.id),
    milliseconds: result.milliseconds.median,
    low: result.milliseconds.low,
    high: result.milliseconds.high,
    rate: rateOf(result).perSecond / scale,
    share: share === null ? null : 100 * share,
    memory: result.memory === null ? null : mebibytes(peakOf(result.memory)),
  };
}

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

/** A group for each op and pass that was measured at two lengths or batches at least. */
export function plotGroups(runs: readonly Run[], axis: Axis): PlotGroup[] {
  const along = alongOf(axis);
  const placed = fastestVariants(place(runs)).filter(({ result }) => result[axis] !== null && result[along] !== null);
  const byGroup = new Map<string, Placed[]>();
  for (const each of placed) {
    const { op, pass } = each.result;
    const title = pass === null ? op : `${op}, ${pass}`;
    byGroup.set(title, [...(byGroup.get(title) ?? []), each]);
  }
  return [...byGroup].flatMap(([title, members]) => {
    const lineOf = (each: Placed): string => JSON.stringify([each.result[along], contender(each, runs)]);
    const lengths = new Map<string, Set<number>>();
    for (const each of members)
      lengths.set(lineOf(each), (lengths.get(lineOf(each)) ?? new Set()).add(each.result[axis] as number));
    // One point is no line; the table of all results has it.
    const kept = members.filter((each) => (lengths.get(lineOf(each))?.size ?? 0) > 1);
    const names = unique(kept.map(({ result }) => result[along] as string));
    const parts = Math.ceil(names.length / MOST_LINES);
    return Array.from({ length: parts }, (_, part): PlotGroup => {
      const lines = names.slice(part * MOST_LINES, (part + 1) * MOST_LINES);
      const shown = kept.filter(({ result }) => lines.includes(result[along] as string));
      const { name: rateUnit, size } = rateScale(shown.map(({ result }) => rateOf(result)));
      // Ours first, and the most threads first: the first is drawn solid.
      const inOrder = [...shown].sort(
        ({ result: a }, { result: b }) =>
          Number(b.by === OURS) - Number(a.by === OURS) || (b.threads ?? 0) - (a.threads ?? 0),
      );
      const whos = unique(inOrder.map((each) => contender(each, runs)));
      const points = shown
        .map((each) => pointOf(each, axis, size, runs))
        .sort(
          (a, b) =>
            lines.indexOf(a.line) - lines.indexOf(b.line) || whos.indexOf(a.who) - whos.indexOf(b.who) || a.x - b.x,
        );
      return {
        id: `${axis}-${[...byGroup.keys()].indexOf(title)}-${part}`,
        axis,
        title: parts > 1 ? `${title} (${part + 1} of ${parts})` : title,
        rateUnit,
        lines,
        whos,
        runs: unique(shown.map(({ number }) => number - 1)),
        points,
      };
    });
  });
}
