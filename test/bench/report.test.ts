// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Browser, Page } from 'puppeteer-core';
import { missingForPage } from '../../bench/report/libraries.js';
import { makePage, type PageContent } from '../../bench/report/page.js';
import { plotGroups, type PlotGroup } from '../../bench/report/plots.js';
import { predecessorGroups } from '../../bench/report/predecessor.js';
import { subject, type Run } from '../../bench/schema.js';
import { browserProblem, openBrowser } from './browser.js';
import { cpuRun, gpuRun, makeResult, makeRun, PEER } from './runs.js';

/** The bench's page, opened in a browser: that it draws what it was given, and nothing else happens. */

const reason = missingForPage() ?? browserProblem();
const title = 'the page in a browser';

const SAVED = cpuRun(1, { date: '2026-11-20T10:00:00.000Z', commit: '1234567' });
const CONTENT: PageContent = { runs: [cpuRun(1.3), gpuRun()], saved: [SAVED], tolerance: 0.1 };
const METRICS = ['milliseconds', 'rate', 'share', 'memory'] as const;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ternflash-report-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

(reason === null ? describe : describe.skip)(reason === null ? title : `${title} — skipped: ${reason}`, () => {
  let browser: Browser;
  let files = 0;
  /** What the open page has complained of and asked for. */
  let complaints: string[] = [];
  let requests: string[] = [];
  let opened: string[] = [];

  beforeAll(async () => {
    browser = await openBrowser();
  });
  afterAll(() => browser.close());
  beforeEach(() => {
    [complaints, requests, opened] = [[], [], []];
  });
  afterEach(async () => {
    for (const page of await browser.pages()) if (page.url().startsWith('file:')) await page.close();
    expect(complaints).toEqual([]);
    expect(requests.filter((url) => !url.startsWith('file:') && !url.startsWith('data:'))).toEqual([]);
    expect(requests.filter((url) => url.startsWith('file:'))).toEqual(opened);
  });

  async function open(
    content: PageContent,
    { hash = '', width = 1280, scheme = 'light', scripts = true } = {},
  ): Promise<Page> {
    const file = path.join(folder, `${files++}.html`);
    writeFileSync(file, makePage(content));
    const page = await browser.newPage();
    page.on('console', (message) => complaints.push(`${message.type()}: ${message.text()}`));
    page.on('pageerror', (error) => complaints.push(String(error)));
    page.on('request', (request) => requests.push(request.url().replace(/#.*/, '')));
    await page.setJavaScriptEnabled(scripts);
    await page.setViewport({ width, height: 900 });
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
    opened.push(pathToFileURL(file).href);
    await page.goto(opened[opened.length - 1] + hash);
    return page;
  }

  /** The value of an expression in the page; `all(selector)` is an array of elements. */
  async function ask<T>(page: Page, expression: string): Promise<T> {
    return (await page.evaluate(
      `(() => { const all = (selector, root = document) => [...root.querySelectorAll(selector)]; return ${expression}; })()`,
    )) as T;
  }

  const visible = 'checkVisibility()';
  const words = (selector: string): string =>
    `all(${JSON.stringify(selector)}).map((e) => e.textContent.replace(/\\s+/g, ' ').trim())`;

  const cells = (selector: string): string =>
    `all(${JSON.stringify(selector)}).map((row) => [...row.cells].map((cell) => cell.textContent.trim()))`;

  interface Drawn {
    metric: string;
    dots: number;
    lines: number;
    ranges: number;
    label: string;
    /** Of every dot, from the left and from the top of the picture, as shares of its size. */
    places: [number, number][];
  }

  const drawnIn = (page: Page, id: string): Promise<Drawn[]> =>
    ask(
      page,
      `all('#${id} figure').map((figure) => {
        const svg = figure.querySelector('svg');
        const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
        const marks = all('[aria-label=dot] path', svg);
        return {
          metric: figure.dataset.metric,
          dots: marks.length,
          lines: all('[aria-label=line] path', svg).length,
          ranges: all('[aria-label=rule] line', svg).length,
          label: svg.getAttribute('aria-label'),
          places: marks.map((mark) => {
            const [x, y] = mark.getAttribute('transform').match(/-?[\\d.]+/g).map(Number);
            return [x / width, y / height];
          }),
        };
      })`,
    );

  /** What a group has to be drawn as: a mark for each number there is. */
  function expected(group: PlotGroup, keep: (point: PlotGroup['points'][number]) => boolean = () => true) {
    const kept = group.points.filter(keep);
    return METRICS.flatMap((metric) => {
      const points = kept.filter((point) => point[metric] !== null);
      const lines = new Set(points.map(({ line, who }) => JSON.stringify([line, who]))).size;
      const ranges = metric === 'milliseconds' ? points.length : 0;
      return points.length === 0 ? [] : [{ metric, dots: points.length, lines, ranges }];
    });
  }

  const counts = (drawn: readonly Drawn[]) =>
    drawn.map(({ metric, dots, lines, ranges }) => ({ metric, dots, lines, ranges }));

  test.each(['sequence', 'batch'] as const)('draws a mark for every number, against %s', async (axis) => {
    const page = await open(CONTENT, { hash: `#${axis}` });
    const groups = plotGroups(CONTENT.runs, axis);
    expect(groups.length).toBeGreaterThan(1);
    for (const group of groups) {
      const drawn = await drawnIn(page, group.id);
      expect(counts(drawn)).toEqual(expected(group));
      for (const { label, places } of drawn) {
        expect(label).toContain(`${group.title}: `);
        for (const place of places.flat()) expect(place > 0 && place < 1).toBe(true);
      }
    }
    // Twice the length is as far to the right every time, and longer sequences take longer.
    const [first] = await drawnIn(page, groups[0].id);
    const [a, b, c] = first.places;
    if (axis === 'sequence') expect(b[0] - a[0]).toBeCloseTo(c[0] - b[0], 3);
    expect(b[0]).toBeGreaterThan(a[0]);
    expect(b[1]).toBeLessThan(a[1]);
    // A legend of lines and contenders.
    const { id, lines, whos } = groups[0];
    expect(await ask(page, words(`#${id} .key span`))).toEqual([...lines, ...whos]);
  });

  test('its tables hold the numbers, with units, devices, dates, versions and commits', async () => {
    const page = await open(CONTENT, { hash: '#results' });
    expect(await ask(page, words('#results thead th'))).toContain('Time ms');
    const rows = await ask<string[][]>(page, cells('#results tbody tr'));
    expect(rows).toHaveLength(CONTENT.runs.flatMap(({ results }) => results).length);
    expect(rows.find(([name]) => name === 'rmsNorm 2048x2048')).toEqual([
      'rmsNorm 2048x2048',
      'ternflash, 2 threads',
      'cpu, run 1',
      'rmsNorm, float32',
      '1.60',
      '1.57 to 1.65',
      '30.0 GB/s',
      '–',
      '15.3',
      '30.5',
      '–',
      '–',
    ]);
    const layer = rows.find(
      ([name, by]) => name === 'attention-layer float32 B1 S512' && by === 'ternflash, 2 threads',
    );
    // 160 Gop/s, 1.3 times as slow; of 230. The peer's fastest variant takes 1.1 times as long as without that.
    expect(layer?.slice(6, 8)).toEqual(['123 GFLOP/s', '54 %']);
    expect(layer?.[10]).toBe('0.846');
    const sources = await ask<string[]>(page, words('#results .source'));
    expect(sources).toEqual([
      'run 1: cpu: AMD EPYC, avx512bf16 · 2026-11-23 18:10 UTC · Node v20.20.2 · ternflash 0.1.0, commit 8c339f1',
      `run 2: cuda:0: ${CONTENT.runs[1].device.name} · 2026-11-23 18:10 UTC · Node v20.20.2 · ternflash 0.1.0, commit 8c339f1`,
    ]);
    // Every plot has the same in numbers.
    for (const group of plotGroups(CONTENT.runs, 'sequence')) {
      const numbers = await ask<string[][]>(page, cells(`#${group.id} tbody tr`));
      expect(numbers.map(([line, who, x]) => [line, who, x])).toEqual(
        group.points.map(({ line, who, x }) => [line, who, String(x)]),
      );
    }
  });

  test('shows one section at a time, the one that the address names', async () => {
    const page = await open(CONTENT, { hash: '#batch' });
    const shown = `all('main > section').filter((e) => e.${visible}).map(({ id }) => id)`;
    expect(await ask(page, shown)).toEqual(['batch']);
    for (const id of ['overview', 'sequence', 'batch', 'results', 'comparison', 'predecessor']) {
      await page.click(`nav a[href="#${id}"]`);
      await page.waitForSelector(`nav a[href="#${id}"][aria-current]`);
      expect(await ask(page, shown)).toEqual([id]);
      expect(await ask(page, `document.querySelector('.filters').${visible}`)).toBe(
        !['overview', 'predecessor'].includes(id),
      );
    }
    const alone = await open({ ...CONTENT, saved: [] });
    expect(await ask(alone, words('nav a'))).not.toContain('Comparison');
    expect(await ask(alone, shown)).toEqual(['overview']);
  });

  test('filters tables and plots alike, and says when nothing is left', async () => {
    const page = await open(CONTENT, { hash: '#sequence' });
    const rows = `all('#results tbody tr').filter((row) => !row.hidden).length`;
    const [layers, attention] = plotGroups(CONTENT.runs, 'sequence');
    expect(await ask(page, words('select[name=device] option'))).toEqual(['all', 'cpu', 'cuda:0']);
    await page.select('select[name=device]', 'cuda:0');
    expect(await ask(page, rows)).toBe(CONTENT.runs[1].results.length);
    expect(await ask(page, `document.getElementById('${layers.id}').hidden`)).toBe(true);
    expect(counts(await drawnIn(page, attention.id))).toEqual(expected(attention));
    await page.select('select[name=device]', '');
    await page.select('select[name=by]', PEER);
    expect(await ask(page, rows)).toBe(12);
    expect(await ask(page, words('.filters output'))).toEqual(['12 of 48 results']);
    const isPeers = ({ who }: { who: string }): boolean => who.startsWith(PEER);
    // Its memory is not known, so that there is no such plot.
    expect(counts(await drawnIn(page, layers.id))).toEqual(expected(layers, isPeers));
    expect(expected(layers, isPeers).map(({ metric }) => metric)).toEqual(['milliseconds', 'rate', 'share']);
    expect(await ask(page, `document.querySelector('#sequence .nothing').hidden`)).toBe(true);
    await page.select('select[name=dtype]', 'int8');
    expect(await ask(page, rows)).toBe(0);
    expect(await ask(page, `document.querySelector('#sequence .nothing').${visible}`)).toBe(true);
    await page.click('button[type=reset]');
    await page.waitForFunction(`document.querySelector('.filters output').textContent === '48 of 48 results'`);
    expect(counts(await drawnIn(page, layers.id))).toEqual(expected(layers));
  });

  test('compares with the saved run', async () => {
    const page = await open(CONTENT, { hash: '#comparison' });
    expect(await ask(page, words('.tile'))).toEqual(['12 slower', '0 faster', '15 alike']);
    const worse = await ask<string[][]>(page, cells('.worse tbody tr'));
    expect(worse).toHaveLength(12);
    expect(worse[0]).toEqual([
      'attention-layer float32 B1 S512 (cpu, 1 thread)',
      '40.3',
      '52.3',
      '1.30',
      '▲ slower',
      'same',
    ]);
    const marks = await ask<number>(page, `all('#ratios [aria-label=dot] path').length`);
    expect(marks).toBe(27);
    const band = await ask<number>(page, `all('#ratios [aria-label=rect] rect')[0].getBoundingClientRect().width`);
    expect(band).toBeGreaterThan(0);
    const colors = `new Set(all('#ratios [aria-label=dot] path').map((mark) => getComputedStyle(mark).fill)).size`;
    expect(await ask(page, colors)).toBe(2);
    expect(await ask(page, words('#comparison .warning'))).toEqual([]);
    await page.select('select[name=op]', 'attention layer');
    expect(await ask(page, `all('#ratios [aria-label=dot] path').length`)).toBe(24);

    const other = makeRun(SAVED.results, { device: { id: 'cpu', name: 'another processor' } });
    const warned = await open({ ...CONTENT, saved: [other] }, { hash: '#comparison' });
    expect((await ask<string[]>(warned, words('#comparison .warning')))[0]).toContain(
      'cpu is other hardware: AMD EPYC',
    );
    const apart = await open({ ...CONTENT, saved: [makeRun([])] }, { hash: '#comparison' });
    expect(await ask(apart, words('#comparison .empty'))).toContain('Nothing of ours.');
    expect(await ask(apart, `document.querySelector('#ratios')`)).toBeNull();
  });

  test("has the predecessor's table, with ours beside it, or without", async () => {
    const page = await open(CONTENT, { hash: '#predecessor' });
    const rows = await ask<string[][]>(page, cells('#predecessor-title ~ .scroll tbody tr'));
    expect(rows).toHaveLength(12);
    expect(rows[1]).toEqual(['1', '512', '38.5', '26.2', '1.47', '18', '7.50', 'ternflash on cpu, 2 threads']);
    for (const group of predecessorGroups(CONTENT.runs)) {
      const drawn = await drawnIn(page, group.id);
      expect(counts(drawn)).toEqual(expected(group));
      expect(drawn.map(({ dots, lines }) => [dots, lines])).toEqual([
        [9, 3],
        [9, 3],
      ]);
    }
    const without = await open({ runs: [gpuRun()], saved: [], tolerance: 0.1 }, { hash: '#predecessor' });
    const told = await ask<string[][]>(without, cells('#predecessor-title ~ .scroll tbody tr'));
    expect(told[0]).toEqual(['1', '512', '38.5', '–', '–', '18', '–', 'not measured in this run']);
    expect(await ask(without, words('#predecessor .warning'))).toEqual([
      'These runs have none of these cases: npm run bench -- attention-layer measures them.',
    ]);
    expect((await drawnIn(without, 'predecessor-1')).map(({ dots }) => dots)).toEqual([3, 3]);
  });

  test('text of a file stays text', async () => {
    const hostile = `</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">"'><b>&amp;`;
    const point = (sequence: number) =>
      makeResult({
        ...subject(hostile, hostile, { pass: hostile, sequence, alongSequence: hostile }),
        name: `${hostile} ${sequence}`,
        by: hostile,
        variant: hostile,
        note: hostile,
        ceiling: { name: hostile, unit: 'float operations', perSecond: 1e12 },
      });
    const run: Run = makeRun([point(512), point(1024)], {
      device: { id: hostile, name: hostile },
      isa: hostile,
      node: hostile,
      platform: hostile,
      library: hostile,
      commit: hostile,
      arguments: [hostile],
    });
    const page = await open({ runs: [run], saved: [run], tolerance: 0.1 }, { hash: '#sequence' });
    expect(await ask(page, `typeof window.hacked`)).toBe('undefined');
    expect(await ask(page, `all('img, b, main script').filter((e) => e.closest('.tile') === null).length`)).toBe(0);
    // The title, both libraries and the page's own script.
    expect(await ask(page, `all('script').length`)).toBe(4);
    const plain = hostile.replace(/\s+/g, ' ');
    expect((await ask<string[]>(page, words('#results tbody th')))[0]).toBe(`${plain} 512`);
    expect((await ask<string[]>(page, words('select[name=op] option')))[1]).toBe(plain);
    expect((await ask<string[]>(page, words('.key span')))[0]).toBe(plain);
    expect((await drawnIn(page, plotGroups([run], 'sequence')[0].id)).map(({ dots }) => dots)).toEqual([2, 2, 2]);
    await page.select('select[name=op]', hostile);
    expect(await ask(page, words('.filters output'))).toEqual(['2 of 2 results']);
  });

  test('is a page without scripts too', async () => {
    const page = await open(CONTENT, { scripts: false });
    // DOM queries of the test still run.
    expect(await ask(page, `all('main > section').every((e) => e.${visible})`)).toBe(true);
    expect(await ask(page, `all('#results tbody tr').every((e) => e.${visible})`)).toBe(true);
    expect(await ask(page, `all('svg').length`)).toBe(0);
  });

  test('of nothing, or of a run that stands alone on every axis, says so', async () => {
    const lone = makeRun([makeResult({ name: 'a' })]);
    for (const runs of [[makeRun([])], [lone]]) {
      const page = await open({ runs, saved: [], tolerance: 0.1 }, { hash: '#sequence' });
      expect((await ask<string[]>(page, words('#sequence .empty')))[0]).toContain('at more than one sequence length');
      expect(await ask(page, `document.querySelector('#sequence .nothing').hidden`)).toBe(true);
    }
  });

  test.each(['light', 'dark'])('is readable in a %s scheme', async (scheme) => {
    const page = await open(CONTENT, { hash: '#sequence', scheme });
    const luminance = `(color) => {
      const [r, g, b] = color.match(/[\\d.]+/g).map((each) => {
        const part = Number(each) / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    }`;
    /** Contrast with the card that most text and all plots are on, by WCAG 2. */
    const contrast = (selector: string, property: string): Promise<number[]> =>
      ask(
        page,
        `(() => {
          const luminance = ${luminance};
          const ground = luminance(getComputedStyle(document.querySelector('.group')).backgroundColor);
          return all(${JSON.stringify(selector)}).map((e) => {
            const own = luminance(getComputedStyle(e)[${JSON.stringify(property)}]);
            return (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05);
          });
        })()`,
      );
    const ground = await ask<string>(page, `getComputedStyle(document.body).backgroundColor`);
    expect(ground === 'rgb(246, 246, 244)').toBe(scheme === 'light');
    for (const selector of ['.group h3', '.source', 'summary', 'caption', 'nav a'])
      for (const each of await contrast(selector, 'color')) expect(each).toBeGreaterThan(4.5);
    // Of graphics 3 is asked.
    const lines = await contrast('[aria-label=line] path', 'stroke');
    expect(lines.length).toBeGreaterThan(20);
    for (const each of lines) expect(each).toBeGreaterThan(3);
  });

  test.each(['', '#sequence', '#results', '#comparison', '#predecessor'])(
    'fits a narrow window at %j',
    async (hash) => {
      const page = await open(CONTENT, { hash, width: 390 });
      expect(await ask(page, `document.documentElement.scrollWidth`)).toBeLessThanOrEqual(390);
    },
  );

  test('says what its parts are to who does not see them', async () => {
    const page = await open(CONTENT, { hash: '#sequence' });
    expect(await ask(page, `document.documentElement.lang`)).toBe('en');
    expect(await ask(page, `document.title`)).toBe(`Ternflash bench: AMD EPYC; ${CONTENT.runs[1].device.name}`);
    expect(await ask(page, `all('svg').filter((e) => !e.ariaLabel && !e.ariaHidden).length`)).toBe(0);
    expect(await ask(page, `all('figure svg').every((e) => e.getAttribute('role') === 'img')`)).toBe(true);
    expect(await ask(page, `all('table').every((e) => e.caption.textContent.trim() !== '')`)).toBe(true);
    expect(await ask(page, `all('select').every((e) => e.labels.length === 1)`)).toBe(true);
    expect(await ask(page, `all('thead th').every((e) => e.scope === 'col')`)).toBe(true);
    expect(
      await ask(page, `all('section').every((e) => document.getElementById(e.getAttribute('aria-labelledby')))`),
    ).toBe(true);
    const ids = await ask<string[]>(page, `all('[id]').map(({ id }) => id)`);
    expect(new Set(ids).size).toBe(ids.length);
  });
});

const missing = missingForPage();
(missing === null ? describe : describe.skip)(missing === null ? 'the page' : `the page — skipped: ${missing}`, () => {
  const run = path.join(__dirname, '..', '..', 'bench', 'run.js');
  const bench = (...args: string[]) =>
    spawnSync(process.execPath, [run, ...args], { cwd: folder, encoding: 'utf8', timeout: 50_000 });
  const save = (name: string, content: string): string => {
    writeFileSync(path.join(folder, name), content);
    return path.join(folder, name);
  };

  test('names what it is made of, with its licences', () => {
    const page = makePage(CONTENT);
    for (const name of ['@observablehq/plot', 'd3', 'd3-ease', 'interval-tree-1d', 'isoformat'])
      expect(page).toMatch(new RegExp(`\\b${name.replace('@', '').replace('/', '\\/')} \\d+\\.\\d+\\.\\d+`));
    expect(page).toContain('Permission to use, copy, modify, and/or distribute this software');
    expect(page).not.toMatch(/<(script|link|img)[^>]*(src|href)="(?!data:)/);
  });

  test('is made of saved runs, without measuring', () => {
    const now = save('now.json', JSON.stringify(cpuRun(1.3)));
    const saved = save('saved.json', JSON.stringify(SAVED));
    const out = path.join(folder, 'some', 'page.html');
    const { status, stdout, stderr } = bench('report', now, '--compare', saved, '--tolerance', '20', '--report', out);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toContain('beside the saved run, tolerance 20 %: 12 slower, 0 faster, 15 alike');
    expect(stdout).toContain('worse: attention-layer float32 B1 S512 (cpu, 1 thread): 1.30 times the time');
    expect(readFileSync(out, 'utf8')).toContain('Beside the saved run');
  });

  test.each([
    [['report'], 'expected files of saved runs behind report, got none'],
    [['report', 'none.json'], 'ENOENT'],
    [['report', 'wrong.json'], 'wrong.json: run.version: expected 1, got 7'],
    [['--compare', 'wrong.json', 'linear'], 'wrong.json: run.version: expected 1, got 7'],
    [['report', 'now.json', '--tolerance', 'x'], 'expected a percentage from 0 to below 100 for --tolerance, got x'],
  ])('bench %j is told', (args, message) => {
    save('wrong.json', JSON.stringify({ ...cpuRun(), version: 7 }));
    save('now.json', JSON.stringify(cpuRun()));
    const { status, stderr } = bench(...args, '--report', path.join(folder, 'wrong.html'));
    expect(status).toBe(1);
    expect(stderr).toContain(message);
    expect(existsSync(path.join(folder, 'wrong.html'))).toBe(false);
  });
});
