// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/* global document, window, Plot */

// Runs in the page that page.ts makes: draws the plots, shows one section at a time, filters. The tables are there without it.
(() => {
  'use strict';

  const data = JSON.parse(document.getElementById('data').textContent);
  const COLORS = Array.from({ length: 8 }, (_, i) => `var(--line-${i + 1})`);
  const SYMBOLS = ['circle', 'square', 'diamond', 'triangle', 'star', 'wye', 'cross'];
  const DASHES = ['none', '6 4', '2 3', '10 4 2 4', '1 5', '12 3', '4 2 1 2'];
  const SIZE = { width: 420, height: 260, marginLeft: 58, marginRight: 18, marginTop: 30, marginBottom: 40 };
  const STYLE = { background: 'none', color: 'inherit', fontFamily: 'inherit', fontSize: '12px' };
  const isNarrow = window.matchMedia('(max-width: 640px)');
  const VERDICTS = ['slower', 'alike', 'faster'];
  /** Rates further apart than this are drawn on a logarithmic scale. */
  const FAR_APART = 30;

  const METRICS = [
    { key: 'milliseconds', title: 'Time', unit: () => 'ms', isLog: () => true, range: true },
    {
      key: 'rate',
      title: 'Throughput',
      unit: (group) => group.rateUnit,
      isLog: (values) => Math.max(...values) > FAR_APART * Math.min(...values),
    },
    { key: 'share', title: 'Of the ceiling', unit: () => '%', isLog: () => false },
    {
      key: 'memory',
      title: 'Memory beyond inputs and weights',
      unit: () => 'MiB',
      isLog: (values) => Math.min(...values) > 0,
    },
  ];

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const digits = (value) => Number(value.toPrecision(3)).toLocaleString('en', { maximumSignificantDigits: 3 });
  const unique = (values) => [...new Set(values)];

  /** 1, 2 and 5 times powers of ten between two numbers, or the powers alone where those are many. */
  function logTicks(low, high) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const factor of [1, 2, 5]) ticks.push(Number(`${factor}e${power}`));
    const inside = ticks.filter((tick) => tick >= low && tick <= high);
    return inside.length > 7 ? inside.filter((tick) => /^1/.test(tick.toExponential())) : inside;
  }

  function scaleOf(values, isLog, isShare) {
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const domain = [least / 1.3, most * 1.3];
    const ticks = isLog ? logTicks(...domain) : [];
    // Of numbers close to one another a logarithmic scale has hardly a tick.
    if (ticks.length > 2) return { type: 'log', domain, ticks, tickFormat: digits };
    return { domain: [0, Math.max(isShare ? 100 : 0, most * 1.05) || 1], ticks: 5, tickFormat: digits };
  }

  function drawMetric(group, { key, title, unit, isLog, range }, points) {
    const drawn = points.filter((point) => point[key] !== null);
    if (drawn.length === 0) return null;
    const values = drawn.flatMap((point) => (range ? [point.low, point[key], point.high] : [point[key]]));
    const axis = group.axis === 'sequence' ? 'sequence length, tokens' : 'batch, sequences';
    const xs = unique(drawn.map(({ x }) => x)).sort((a, b) => a - b);
    const common = { x: 'x', y: key, stroke: 'line' };
    const tellingOf = (point) =>
      `${point.line === point.who ? '' : `${point.line}\n`}${point.who}\n${group.axis} ${point.x}: ${digits(point[key])} ${unit(group)}`;
    const whos = group.whos.filter((who) => drawn.some((point) => point.who === who));
    const label = `${group.title}: ${title}, ${unit(group)}, against ${axis}`;
    const svg = Plot.plot({
      ...SIZE,
      style: STYLE,
      ariaLabel: label,
      x: {
        type: 'log',
        base: 2,
        domain: xs.length > 1 ? [xs[0], xs[xs.length - 1]] : [xs[0] / 2, xs[0] * 2],
        inset: 12,
        ticks: xs,
        tickFormat: String,
        label: axis,
        labelArrow: 'none',
        labelAnchor: 'center',
      },
      y: {
        ...scaleOf(values, isLog(values), key === 'share'),
        grid: true,
        label: `${title}, ${unit(group)}`,
        labelArrow: 'none',
      },
      color: { type: 'ordinal', domain: group.lines, range: COLORS },
      symbol: { domain: group.whos, range: SYMBOLS },
      marks: [
        range
          ? Plot.ruleX(drawn, { x: 'x', y1: 'low', y2: 'high', stroke: 'line', strokeOpacity: 0.45, strokeWidth: 5 })
          : null,
        ...whos.map((who) =>
          Plot.line(
            drawn.filter((point) => point.who === who),
            { ...common, z: 'line', strokeWidth: 2, strokeDasharray: DASHES[group.whos.indexOf(who) % DASHES.length] },
          ),
        ),
        Plot.dot(drawn, { ...common, symbol: 'who', fill: 'line', r: 4 }),
        Plot.tip(drawn, Plot.pointer({ x: 'x', y: key, title: tellingOf, fontSize: 12 })),
      ],
    });
    svg.setAttribute('role', 'img');
    return element('figure', { 'data-metric': key }, svg, element('figcaption', {}, `${title}, ${unit(group)}`));
  }

  /** Of colours what the lines are, of dashes and symbols who computes. */
  function legendOf(group, points) {
    const key = (name, index, isWho) => {
      const color = isWho ? 'currentColor' : COLORS[index];
      const swatch = Plot.plot({
        width: 34,
        height: 14,
        margin: 0,
        axis: null,
        style: STYLE,
        x: { domain: [0, 2] },
        y: { domain: [-1, 1] },
        symbol: { domain: SYMBOLS, range: SYMBOLS },
        marks: [
          Plot.ruleY([0], {
            stroke: color,
            strokeWidth: isWho ? 1.5 : 4,
            strokeDasharray: isWho ? DASHES[index % DASHES.length] : 'none',
          }),
          isWho ? Plot.dot([[1, 0]], { fill: color, r: 4, symbol: SYMBOLS[index % SYMBOLS.length] }) : null,
        ],
      });
      swatch.setAttribute('aria-hidden', 'true');
      return element('span', { class: 'key' }, swatch, element('span', {}, name));
    };
    const isOneKind = group.lines.every((line) => group.whos.includes(line));
    const has = (field, name) => points.some((point) => point[field] === name);
    return [
      ...group.lines.flatMap((line, i) => (has('line', line) ? [key(line, i, false)] : [])),
      ...(isOneKind ? [] : group.whos.flatMap((who, i) => (has('who', who) ? [key(who, i, true)] : []))),
    ];
  }

  function drawGroup(group, isShown) {
    const place = document.getElementById(group.id);
    const points = group.points.filter(({ facets }) => facets === null || isShown(facets));
    place.hidden = points.length === 0;
    place.querySelector('.legend').replaceChildren(...(points.length === 0 ? [] : legendOf(group, points)));
    const figures = METRICS.map((metric) => drawMetric(group, metric, points)).filter((figure) => figure !== null);
    place.querySelector('.plots').replaceChildren(...figures);
  }

  /** A dot for every case, by op; the band is the tolerance. */
  function drawRatios(isShown) {
    const place = document.getElementById('ratios');
    if (place === null) return;
    const shown = data.changes.filter(({ facets }) => isShown(facets)).map((each) => ({ ...each, op: each.facets.op }));
    if (shown.length === 0) return place.replaceChildren();
    const most = Math.max(1 + data.tolerance, ...shown.map(({ ratio }) => Math.max(ratio, 1 / ratio))) * 1.1;
    const ops = unique(shown.map(({ op }) => op)).sort();
    const svg = Plot.plot({
      width: isNarrow.matches ? 420 : 860,
      height: 70 + 26 * ops.length,
      marginLeft: isNarrow.matches ? 120 : 150,
      marginRight: 20,
      marginTop: 14,
      marginBottom: 40,
      style: STYLE,
      ariaLabel: 'Time now by that of the saved run, for every case',
      x: {
        type: 'log',
        domain: [1 / most, most],
        ticks: (isNarrow.matches
          ? [0.1, 0.5, 0.8, 1, 1.25, 2, 10]
          : [0.1, 0.2, 0.5, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 5, 10]
        ).filter((tick) => tick > 1 / most && tick < most),
        tickFormat: digits,
        grid: true,
        label: 'time now / saved: faster to the left, slower to the right',
        labelArrow: 'none',
        labelAnchor: 'center',
      },
      y: { domain: ops, label: null, type: 'point', padding: 0.6 },
      color: { domain: VERDICTS, range: VERDICTS.map((verdict) => `var(--${verdict})`) },
      symbol: { domain: VERDICTS, range: ['triangle', 'circle', 'diamond'] },
      marks: [
        Plot.rectX([0], {
          x1: 1 / (1 + data.tolerance),
          x2: 1 + data.tolerance,
          fill: 'currentColor',
          fillOpacity: 0.08,
        }),
        Plot.ruleX([1], { strokeOpacity: 0.6 }),
        Plot.dot(shown, {
          x: 'ratio',
          y: 'op',
          stroke: 'verdict',
          fill: 'verdict',
          fillOpacity: 0.5,
          symbol: 'verdict',
          r: 4.5,
        }),
        Plot.tip(
          shown,
          Plot.pointer({
            x: 'ratio',
            y: 'op',
            title: ({ label, ratio }) => `${label}\n${digits(ratio)} times the time`,
            fontSize: 12,
          }),
        ),
      ],
    });
    svg.setAttribute('role', 'img');
    const caption = `Each mark is a case; the band is the tolerance of ${digits(100 * data.tolerance)} %. ▲ slower, ◆ faster, ● alike.`;
    place.replaceChildren(element('figure', {}, svg, element('figcaption', {}, caption)));
  }

  const form = document.querySelector('.filters');
  isNarrow.addEventListener('change', () => showFiltered());

  function showFiltered() {
    const wanted = [...form.elements]
      .filter(({ name, value }) => name && value)
      .map(({ name, value }) => [name, value]);
    const isShown = (facets) => wanted.every(([name, value]) => facets[name] === value);
    for (const row of document.querySelectorAll('[data-facets]')) row.hidden = !isShown(JSON.parse(row.dataset.facets));
    for (const group of data.groups) drawGroup(group, isShown);
    drawRatios(isShown);
    for (const section of document.querySelectorAll('.filtered')) {
      const rows = [...section.querySelectorAll('[data-facets]')];
      section.querySelector('.nothing').hidden = rows.length === 0 || rows.some((row) => !row.hidden);
    }
    const results = [...document.querySelectorAll('#results [data-facets]')];
    const left = results.filter((row) => !row.hidden).length;
    form.querySelector('output').textContent = `${left} of ${results.length} results`;
  }

  /** The section that the address names, or the first. */
  function showSection() {
    const sections = [...document.querySelectorAll('main > section')];
    const named = sections.find(({ id }) => `#${id}` === window.location.hash) ?? sections[0];
    for (const section of sections) section.hidden = section !== named;
    for (const link of document.querySelectorAll('nav a')) {
      if (link.getAttribute('href') === `#${named.id}`) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    form.hidden = !named.classList.contains('filtered');
    window.scrollTo(0, 0);
  }

  form.addEventListener('change', showFiltered);
  // The values are those of before until the event is over.
  form.addEventListener('reset', () => window.setTimeout(showFiltered));
  form.addEventListener('submit', (event) => event.preventDefault());
  window.addEventListener('hashchange', showSection);
  showFiltered();
  showSection();
})();
