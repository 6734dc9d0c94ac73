// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { createHash } from 'node:crypto';
import type { Result, Run } from '../schema.js';
import { compareRuns, regressions, type Change, type Comparison } from './compare.js';
import {
  describeRun,
  digits,
  facetsOf,
  mebibytes,
  peakOf,
  place,
  rateOf,
  shareOf,
  showDate,
  showRate,
  showShare,
  showThreads,
  timesAsFast,
  type Facets,
  type Placed,
} from './figures.js';
import { html, Html, jsonForScript } from './html.js';
import { libraryScripts, licences, ownScript, ownStyle } from './libraries.js';
import { plotGroups, type Axis, type PlotGroup } from './plots.js';
import { besidePredecessor, predecessorGroups, PUBLISHED, SOURCE } from './predecessor.js';

/**
 * The report: one file that needs nothing else. All numbers are in its tables, which are there without scripts; page.js draws the plots, shows one
 * section at a time and filters.
 */

export interface PageContent {
  runs: readonly Run[];
  /** To compare with; none leave that section out. */
  saved: readonly Run[];
  /** Of times that count as alike: 0.1 for 10 %. */
  tolerance: number;
}

interface Column {
  title: string;
  unit?: string;
  isNumber?: boolean;
}

type Cell = Html | string | number | null;

interface Row {
  cells: Cell[];
  facets?: Facets;
  className?: string;
}

const DASH = '–';

/** A table whose first column names the row. Rows with facets are what the filters hide and show. */
function table(caption: string, columns: readonly Column[], rows: readonly Row[]): Html {
  const heads = columns.map(
    ({ title, unit, isNumber }) =>
      html`<th scope="col" class="${isNumber ? 'number' : 'text'}">
        ${title}${unit === undefined ? null : html` <span class="unit">${unit}</span>`}
      </th>`,
  );
  const cellOf = (cell: Cell, i: number): Html => {
    const kind = columns[i].isNumber ? 'number' : 'text';
    return i === 0
      ? html`<th scope="row" class="${kind}">${cell ?? DASH}</th>`
      : html`<td class="${kind}">${cell ?? DASH}</td>`;
  };
  const rowOf = ({ cells, facets, className }: Row): Html =>
    html`<tr
      ${className === undefined ? null : html`class="${className}"`}
      ${facets === undefined ? null : html`data-facets="${JSON.stringify(facets)}"`}
    >
      ${cells.map(cellOf)}
    </tr>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="${caption}">
    <table>
      <caption>
        ${caption}
      </caption>
      <thead>
        <tr>
          ${heads}
        </tr>
      </thead>
      <tbody>
        ${rows.map(rowOf)}
      </tbody>
    </table>
  </div>`;
}

const runsCaption = (runs: readonly Run[], indices: readonly number[]): Html =>
  html`${indices.map(
    (i) => html`<span class="source">${runs.length > 1 ? `run ${i + 1}: ` : ''}${describeRun(runs[i])}</span>`,
  )}`;

function overview(runs: readonly Run[]): Html {
  const columns: Column[] = [
    { title: 'Run', isNumber: true },
    { title: 'Device' },
    { title: 'Hardware' },
    { title: 'Date' },
    { title: 'Node' },
    { title: 'ternflash' },
    { title: 'Commit' },
    { title: 'System' },
    { title: 'Results', isNumber: true },
    { title: 'npm run bench --' },
  ];
  const rows = runs.map((run, i): Row => {
    const hardware = `${run.device.name}${run.isa === null ? '' : `, ${run.isa}`}`;
    const { library, commit, platform, results, node } = run;
    const cells = [i + 1, run.device.id, hardware, showDate(run.date), node, library, commit, platform, results.length];
    return { cells: [...cells, html`<code>${run.arguments.join(' ')}</code>`] };
  });
  const ceilings = new Map(
    runs.flatMap((run, i) =>
      run.results.flatMap(({ ceiling }) =>
        ceiling === null ? [] : [[`${i} ${ceiling.name}`, { ceiling, run: i + 1, device: run.device.id }] as const],
      ),
    ),
  );
  const ceilingRows = [...ceilings.values()].map(({ ceiling, run, device }): Row => ({
    cells: [ceiling.name, device, run, showRate(ceiling)],
  }));
  return html`<section id="overview" aria-labelledby="overview-title">
    <h2 id="overview-title">Runs</h2>
    ${table('What was run, where and when', columns, rows)}
    ${
      ceilingRows.length > 0 &&
      table(
        'Ceilings, measured in the same runs; where one is measured for each case, the last',
        [
          { title: 'Ceiling' },
          { title: 'Device' },
          { title: 'Run', isNumber: true },
          { title: 'Rate', isNumber: true },
        ],
        ceilingRows,
      )
    }
    <h3>How to read this</h3>
    <ul>
      <li>
        The bench checks every case before it times it, unless it was told <code>--unchecked</code>. Times are medians
        of one run of the case; ranges are quartiles.
      </li>
      <li>Two operations are counted for a multiply-add; bytes are those that have to be read and written at least.</li>
      <li>
        % of ceiling holds the rate against what the device was measured to do at most. Where no ceiling was measured
        for what limits a case, it has none.
      </li>
      <li>
        Memory is what tensors and workspace take at most beyond inputs and weights, in MiB of 2<sup>20</sup> bytes,
        counted by the library. On cpu without the scratch memory of its threads; of other libraries it is not known.
      </li>
    </ul>
  </section>`;
}

const pointColumns = (axis: Axis, rateUnit: string): Column[] => [
  { title: 'Line' },
  { title: 'By' },
  { title: axis === 'sequence' ? 'Sequence' : 'Batch', isNumber: true },
  { title: 'Time', unit: 'ms', isNumber: true },
  ...(rateUnit === '' ? [] : [{ title: 'Throughput', unit: rateUnit, isNumber: true }]),
  ...(rateUnit === '' ? [] : [{ title: 'Of ceiling', unit: '%', isNumber: true }]),
  { title: 'Memory', unit: 'MiB', isNumber: true },
];

/** Where page.js draws a group, and the same in numbers. */
function plotGroup(group: PlotGroup, runs: readonly Run[]): Html {
  const { id, axis, title, rateUnit, points } = group;
  const shown = (value: number | null): string | null => (value === null ? null : digits(value));
  const rows = points.map(({ line, who, x, milliseconds, rate, share, memory, facets }): Row => {
    const rates = rateUnit === '' ? [] : [shown(rate), share === null ? null : share.toFixed(0)];
    const cells = [line, who, x, digits(milliseconds), ...rates, shown(memory)];
    return { cells, ...(facets && { facets }) };
  });
  const along = axis === 'sequence' ? 'sequence length' : 'batch';
  return html`<article class="group" id="${id}" aria-labelledby="${id}-title">
    <h3 id="${id}-title">${title}</h3>
    <div class="legend"></div>
    <div class="plots"></div>
    <p class="sources">${runsCaption(runs, group.runs)}</p>
    <details>
      <summary>The same in numbers</summary>
      ${table(`${title}, against ${along}`, pointColumns(axis, rateUnit), rows)}
    </details>
  </article>`;
}

function plotSection(axis: Axis, groups: readonly PlotGroup[], runs: readonly Run[]): Html {
  const title = axis === 'sequence' ? 'Against sequence length' : 'Against batch';
  return html`<section id="${axis}" class="filtered" aria-labelledby="${axis}-title">
    <h2 id="${axis}-title">${title}</h2>
    ${
      groups.length === 0
        ? html`<p class="empty">
            Nothing in these runs was measured at more than one ${axis === 'sequence' ? 'sequence length' : 'batch'}.
          </p>`
        : groups.map((group) => plotGroup(group, runs))
    }
    <p class="empty nothing" hidden>Nothing here is left by the filters.</p>
  </section>`;
}

const RESULT_COLUMNS: Column[] = [
  { title: 'Case' },
  { title: 'By' },
  { title: 'On' },
  { title: 'Op, dtype' },
  { title: 'Time', unit: 'ms', isNumber: true },
  { title: 'Quartiles', unit: 'ms', isNumber: true },
  { title: 'Throughput', isNumber: true },
  { title: 'Of ceiling', isNumber: true },
  { title: 'Peak memory', unit: 'MiB', isNumber: true },
  { title: 'Held', unit: 'MiB', isNumber: true },
  { title: 'Fastest peer / ours', isNumber: true },
  { title: 'Note' },
];

const byOf = ({ by, variant, threads }: Result): string =>
  `${by}${variant === null ? '' : `, ${variant}`}${showThreads(threads)}`;

function resultRow(placed: Placed, isOne: boolean): Row {
  const { result, run, number } = placed;
  const { name, op, dtype, milliseconds, memory, note, ceiling } = result;
  const [share, beside] = [shareOf(result), timesAsFast(placed)];
  return {
    facets: facetsOf(result, run.device.id),
    cells: [
      name,
      byOf(result),
      isOne ? run.device.id : `${run.device.id}, run ${number}`,
      `${op}, ${dtype}`,
      digits(milliseconds.median),
      `${digits(milliseconds.low)} to ${digits(milliseconds.high)}`,
      showRate(rateOf(result)),
      share === null ? null : html`<span title="${ceiling?.name ?? ''}">${showShare(share)}</span>`,
      memory === null ? null : digits(mebibytes(peakOf(memory))),
      memory === null ? null : digits(mebibytes(memory.heldBytes)),
      beside === null ? null : html`<span title="${byOf(beside.peer)}">${digits(beside.ratio)}</span>`,
      note,
    ],
  };
}

function resultsSection(runs: readonly Run[]): Html {
  const rows = place(runs).map((each) => resultRow(each, runs.length === 1));
  return html`<section id="results" class="filtered" aria-labelledby="results-title">
    <h2 id="results-title">All results</h2>
    ${
      rows.length === 0
        ? html`<p class="empty">These runs have no results.</p>`
        : table('All results', RESULT_COLUMNS, rows)
    }
    <p class="empty nothing" hidden>Nothing here is left by the filters.</p>
    <p class="sources">
      ${runsCaption(
        runs,
        runs.map((_, i) => i),
      )}
    </p>
  </section>`;
}

const CHANGE_COLUMNS: Column[] = [
  { title: 'Case' },
  { title: 'Saved', unit: 'ms', isNumber: true },
  { title: 'Now', unit: 'ms', isNumber: true },
  { title: 'Now / saved', isNumber: true },
  { title: 'Time' },
  { title: 'Memory', unit: 'bytes', isNumber: true },
];

const VERDICTS = { slower: '▲ slower', faster: '◆ faster', alike: '● alike' } as const;

const moreOf = (moreBytes: number | null): string | null =>
  moreBytes === null ? null : moreBytes === 0 ? 'same' : `${moreBytes > 0 ? '+' : '−'}${Math.abs(moreBytes)}`;

const changeRow = (change: Change): Row => {
  const { label, facets, now, saved, ratio, verdict, moreBytes } = change;
  const times = [saved, now].map(({ milliseconds }) => digits(milliseconds.median));
  return {
    facets,
    className: verdict,
    cells: [label, ...times, digits(ratio), VERDICTS[verdict], moreOf(moreBytes)],
  };
};

const listOf = (title: string, labels: readonly string[]): Html | false =>
  labels.length > 0 &&
  html`<details>
    <summary>${title}: ${labels.length}</summary>
    <ul>
      ${labels.map((label) => html`<li>${label}</li>`)}
    </ul>
  </details>`;

function comparisonSection(comparison: Comparison, { runs, saved }: PageContent): Html {
  const { changes, tolerance, onlyNow, onlySaved, otherHardware } = comparison;
  const worse = regressions(comparison);
  const percent = `${Number((100 * tolerance).toFixed(1))} %`;
  const count = (verdict: Change['verdict']): number => changes.filter((each) => each.verdict === verdict).length;
  return html`<section id="comparison" class="filtered" aria-labelledby="comparison-title">
    <h2 id="comparison-title">Beside the saved run</h2>
    <p class="tiles">
      <span class="tile slower"><b>${count('slower')}</b> slower</span>
      <span class="tile faster"><b>${count('faster')}</b> faster</span>
      <span class="tile alike"><b>${count('alike')}</b> alike</span>
    </p>
    <p>
      Slower and faster: medians that differ by more than ${percent}, and quartiles that do not meet. Memory is the same
      on every run of the same code, so that any byte more counts.
    </p>
    ${otherHardware.map(
      ({ device, now, saved: there }) =>
        html`<p class="warning">
          ${device} is other hardware: ${now} now, ${there} in the saved run. The ratios tell mostly that.
        </p>`,
    )}
    <h3>What became worse</h3>
    ${
      worse.length === 0
        ? html`<p class="empty">Nothing of ours.</p>`
        : html`<div class="worse">${table('Slower, or of more memory', CHANGE_COLUMNS, worse.map(changeRow))}</div>`
    }
    <h3>All that both have</h3>
    ${
      changes.length === 0
        ? html`<p class="empty">
            The runs have no case in common: the same case, contender, device and number of threads.
          </p>`
        : html`<div id="ratios"></div>
            ${table('Every case that both runs have, the slowest first', CHANGE_COLUMNS, changes.map(changeRow))}`
    }
    <p class="empty nothing" hidden>Nothing here is left by the filters.</p>
    ${listOf('Only in this run', onlyNow)} ${listOf('Only in the saved run', onlySaved)}
    <p class="sources">
      ${runs.map((run) => html`<span class="source">now: ${describeRun(run)}</span>`)}
      ${saved.map((run) => html`<span class="source">saved: ${describeRun(run)}</span>`)}
    </p>
  </section>`;
}

function predecessorSection(groups: readonly PlotGroup[], runs: readonly Run[]): Html {
  const ours = besidePredecessor(runs);
  const columns: Column[] = [
    { title: 'Batch', isNumber: true },
    { title: 'Sequence', isNumber: true },
    { title: 'Published time', unit: 'ms', isNumber: true },
    { title: 'Our time', unit: 'ms', isNumber: true },
    { title: 'Published / ours', isNumber: true },
    { title: 'Published memory', unit: 'MiB', isNumber: true },
    { title: 'Our memory', unit: 'MiB', isNumber: true },
    { title: 'Ours' },
  ];
  const rows = PUBLISHED.flatMap((theirs): Row[] => {
    const { batch, sequence, milliseconds: ms, mebibytes: memory } = theirs;
    const beside = ours.filter((each) => each.batch === batch && each.sequence === sequence);
    if (beside.length === 0)
      return [{ cells: [batch, sequence, ms, null, null, memory, null, 'not measured in this run'] }];
    return beside.map((each) => {
      const ratio = digits(ms / each.milliseconds);
      const mine = each.mebibytes === null ? null : digits(each.mebibytes);
      return { cells: [batch, sequence, ms, digits(each.milliseconds), ratio, memory, mine, each.who] };
    });
  });
  return html`<section id="predecessor" aria-labelledby="predecessor-title">
    <h2 id="predecessor-title">The predecessor's table</h2>
    <p>
      A layer of attention, forward: hidden size 768, 12 heads of 64, float32, no mask. ${SOURCE.name}, a Rust library
      on Candle, has published times and memory of it on a CPU that it does not name (${SOURCE.file}, commit
      ${SOURCE.commit}, ${SOURCE.date}); its times are of that machine, ours of those below, so that the ratio is no
      comparison of code alone. Its memory is no measurement but its formula for q, k, v, the result and the scores of
      every head, 4 · (4 · B · S · 768 + B · 12 · S²) bytes; ours is the peak that the library counted beyond x and the
      weights.
    </p>
    ${
      ours.length === 0 &&
      html`<p class="warning">
        These runs have none of these cases: <code>npm run bench -- attention-layer</code> measures them.
      </p>`
    }
    ${table('Attention layer, published and ours', columns, rows)} ${groups.map((group) => plotGroup(group, runs))}
  </section>`;
}

/** A choice for every facet that differs. */
function filters(runs: readonly Run[], saved: readonly Run[]): Html {
  const facets = place([...runs, ...saved]).map(({ result, run }) => facetsOf(result, run.device.id));
  const titles: Record<keyof Facets, string> = {
    op: 'Op',
    dtype: 'Dtype',
    by: 'By',
    device: 'Device',
    threads: 'Threads',
  };
  const choices = (Object.keys(titles) as (keyof Facets)[]).map((key) => {
    const values = [...new Set(facets.map((each) => each[key]))].sort((a, b) => a.localeCompare(b));
    return html`<label
      >${titles[key]}
      <select name="${key}" autocomplete="off">
        <option value="">all</option>
        ${values.map((value) => html`<option value="${value}">${value}</option>`)}
      </select></label
    >`;
  });
  return html`<form class="filters" aria-label="Filters" hidden>
    ${choices}
    <button type="reset">Clear</button>
    <output aria-live="polite"></output>
  </form>`;
}

const sha256 = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** The whole page. Throws if what it is made of is not installed, see missingForPage. */
export function makePage(content: PageContent): string {
  const { runs, saved, tolerance } = content;
  const comparison = saved.length === 0 ? null : compareRuns(runs, saved, tolerance);
  const axes = (['sequence', 'batch'] as const).map((axis) => ({ axis, groups: plotGroups(runs, axis) }));
  const predecessor = predecessorGroups(runs);
  const data = {
    groups: [...axes.flatMap(({ groups }) => groups), ...predecessor],
    tolerance,
    changes: (comparison?.changes ?? []).map(({ label, facets, ratio, verdict }) => ({
      label,
      facets,
      ratio,
      verdict,
    })),
  };
  const sections = [
    ['overview', 'Runs'],
    ['sequence', 'Sequence length'],
    ['batch', 'Batch'],
    ['results', 'All results'],
    ...(comparison === null ? [] : [['comparison', 'Comparison']]),
    ['predecessor', 'Predecessor'],
  ];
  const scripts = [...libraryScripts(), ownScript()];
  const policy = `default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src ${scripts.map(sha256).join(' ')}`;
  const devices = [...new Set(runs.map(({ device }) => device.name))].join('; ');
  const page = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta http-equiv="Content-Security-Policy" content="${policy}" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>Ternflash bench: ${devices}</title>
        <link rel="icon" href="data:," />
        <style>
          ${new Html(ownStyle())}
        </style>
      </head>
      <body>
        <header>
          <h1>Ternflash bench</h1>
          <p class="sources">
            ${runsCaption(
              runs,
              runs.map((_, i) => i),
            )}
          </p>
          <nav aria-label="Sections">${sections.map(([id, title]) => html`<a href="#${id}">${title}</a>`)}</nav>
          ${filters(runs, saved)}
        </header>
        <main>
          ${overview(runs)} ${axes.map(({ axis, groups }) => plotSection(axis, groups, runs))} ${resultsSection(runs)}
          ${comparison !== null && comparisonSection(comparison, content)} ${predecessorSection(predecessor, runs)}
        </main>
        <footer>
          <p>
            Made by <code>npm run bench</code>; drawn by Observable Plot and D3, which are in this file. It loads
            nothing.
          </p>
          <details>
            <summary>Their licences</summary>
            ${licences().map(
              ({ packages, text }) =>
                html`<p>${packages.join(', ')}</p>
                  <pre>${text}</pre>`,
            )}
          </details>
        </footer>
        <script type="application/json" id="data">
          ${jsonForScript(data)}
        </script>
        ${scripts.map((script) => new Html(`<script>${script}</script>`))}
      </body>
    </html> `;
  return page.source;
}
