// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OURS, type Run } from '../schema.js';
import { contender, mebibytes, peakOf, place } from './figures.js';
import type { PlotGroup, Point } from './plots.js';

/** The figures that the Rust predecessor has published, and ours beside them. */

/** Where they stand. */
export const SOURCE = {
  name: 'unsloth-rs',
  file: 'PR_DESCRIPTION_FULL.md, "Performance Baseline (CPU)"',
  commit: '6d012d1',
  date: '2026-01-10',
};

export interface PredecessorRow {
  batch: number;
  sequence: number;
  milliseconds: number;
  /** Published as MB; of 2^20 bytes. */
  mebibytes: number;
}

/** Attention layer, hidden size 768, 12 heads of 64, float32, no mask, forward. */
export const PUBLISHED: readonly PredecessorRow[] = [
  { batch: 1, sequence: 512, milliseconds: 38.5, mebibytes: 18 },
  { batch: 1, sequence: 1024, milliseconds: 129.4, mebibytes: 60 },
  { batch: 1, sequence: 2048, milliseconds: 418.3, mebibytes: 216 },
  { batch: 4, sequence: 512, milliseconds: 147.2, mebibytes: 72 },
  { batch: 4, sequence: 1024, milliseconds: 495.2, mebibytes: 240 },
  { batch: 4, sequence: 2048, milliseconds: 1596.1, mebibytes: 864 },
];

export interface OursBeside {
  who: string;
  /** Index of the run. */
  run: number;
  batch: number;
  sequence: number;
  milliseconds: number;
  mebibytes: number | null;
}

/** Our results in the shapes of the table, of every run, device and number of threads; in the table's order. */
export function besidePredecessor(runs: readonly Run[]): OursBeside[] {
  return PUBLISHED.flatMap(({ batch, sequence }) =>
    place(runs)
      .filter(({ result: { name, by } }) => by === OURS && name === `attention-layer float32 B${batch} S${sequence}`)
      .map((each) => ({
        who: contender(each, runs),
        run: each.number - 1,
        batch,
        sequence,
        milliseconds: each.result.milliseconds.median,
        mebibytes: each.result.memory === null ? null : mebibytes(peakOf(each.result.memory)),
      })),
  );
}

/** Time and memory against the sequence, a group for each batch. */
export function predecessorGroups(runs: readonly Run[]): PlotGroup[] {
  const ours = besidePredecessor(runs);
  const batches = [...new Set(PUBLISHED.map(({ batch }) => batch))];
  return batches.map((batch): PlotGroup => {
    const pointOf = (who: string, row: PredecessorRow | OursBeside): Point => ({
      x: row.sequence,
      line: who,
      who,
      facets: null,
      milliseconds: row.milliseconds,
      low: row.milliseconds,
      high: row.milliseconds,
      rate: null,
      share: null,
      memory: row.mebibytes,
    });
    const points = [
      ...PUBLISHED.map((row) => ({ row, who: `${SOURCE.name}, published` })),
      ...ours.map((row) => ({ row, who: row.who })),
    ].flatMap(({ row, who }) => (row.batch === batch ? [pointOf(who, row)] : []));
    const whos = [...new Set(points.map(({ who }) => who))];
    return {
      id: `predecessor-${batch}`,
      axis: 'sequence',
      title: `batch ${batch}`,
      rateUnit: '',
      lines: whos,
      whos,
      runs: [...new Set(ours.map(({ run }) => run))],
      points,
    };
  });
}
