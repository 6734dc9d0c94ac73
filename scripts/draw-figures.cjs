#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Draws the pictures of docs/: masks of attention from what flashAttention itself gives, plots from the tables of docs/.
//
//   npm run figures                              writes docs/images
//   node scripts/draw-figures.cjs --out folder   needs dist (npm run build:ts)
//
// test/docs/figures.test.ts draws them again and compares.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { flashAttention, flashAttentionVarlen, flashAttentionWithKvCache, tensor, zeros } = require('../dist/index.js');

const ROOT = path.join(__dirname, '..');
const DEVICE = 'reference';

/** A matrix [size, 1, size] with ones on its diagonal: as values, it turns the result of attention into the probabilities. */
const eye = (size) =>
  tensor(
    Float32Array.from({ length: size * size }, (_, i) => (i % (size + 1) === 0 ? 1 : 0)),
    {
      shape: [size, 1, size],
      device: DEVICE,
    },
  );

async function rowsOf(out, keys) {
  const values = Array.from(await out.data());
  return Array.from({ length: values.length / keys }, (_, i) => values.slice(i * keys, (i + 1) * keys));
}

/** With zeros for queries and keys all scores are equal, so that the probabilities show what the options do, and nothing else. */
function attention(queries, keys, options) {
  const q = zeros([1, queries, 1, keys], { device: DEVICE });
  const k = zeros([1, keys, 1, keys], { device: DEVICE });
  return rowsOf(flashAttention(q, k, eye(keys).reshape(1, keys, 1, keys), options), keys);
}

function packed(cuSeqlensQ, options) {
  const total = cuSeqlensQ.at(-1);
  const q = zeros([total, 1, total], { device: DEVICE });
  const k = zeros([total, 1, total], { device: DEVICE });
  return rowsOf(flashAttentionVarlen(q, k, eye(total), { cuSeqlensQ, ...options }), total);
}

/** One new token of each sequence over a cache that holds `lengths` tokens. */
function decoding(lengths, capacity) {
  const batch = lengths.length;
  const values = tensor(
    Array.from({ length: batch }, () => Array.from({ length: capacity }, (_, i) => [unit(capacity, i)])),
    { device: DEVICE },
  );
  const cache = {
    keys: zeros([batch, capacity, 1, capacity], { device: DEVICE }),
    values,
    length: 0,
    lengths: tensor(lengths, { dtype: 'int32', device: DEVICE }),
  };
  const q = zeros([batch, 1, 1, capacity], { device: DEVICE });
  const newK = zeros([batch, 1, 1, capacity], { device: DEVICE });
  const newV = tensor(
    lengths.map((length) => [[unit(capacity, length)]]),
    { device: DEVICE },
  );
  return rowsOf(flashAttentionWithKvCache(q, cache, { newK, newV, causal: true }), capacity);
}

const unit = (size, at) => Array.from({ length: size }, (_, i) => (i === at ? 1 : 0));

const CELL = 20;
const GAP = 44;
const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
const round = (value) => String(Math.round(value * 100) / 100);
const text = (x, y, content, more = '') => `<text x="${round(x)}" y="${round(y)}"${more}>${escaped(content)}</text>`;

function picture(width, height, title, parts) {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${round(width)}" height="${round(height)}" viewBox="0 0 ${round(width)} ${round(height)}" font-family="ui-monospace, monospace" font-size="12" fill="#1f2933" role="img">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

/** From white to dark blue. */
const shade = (share) => {
  const mix = (from, to) => Math.round(from + (to - from) * share);
  return share === 0 ? '#eef0f3' : `rgb(${mix(214, 8)},${mix(230, 69)},${mix(245, 148)})`;
};

/** Panels side by side. A cell is a query (row) and a key (column): grey where it is not seen, darker the more it weighs in its row. */
function panels(title, all) {
  let x = 16;
  const parts = [];
  let bottom = 0;
  for (const { caption, rows, sink = false } of all) {
    const columns = rows[0].length;
    const shown = columns + (sink ? 1.5 : 0);
    parts.push(text(x, 18, caption), text(x, 36, 'keys →', ' fill="#7b8794" font-size="10"'));
    rows.forEach((row, i) => {
      const most = Math.max(...row, sink ? 1 - row.reduce((sum, p) => sum + p, 0) : 0);
      const cell = (column, p) =>
        `<rect x="${round(x + column * CELL)}" y="${round(42 + i * CELL)}" width="${CELL - 2}" height="${CELL - 2}" rx="2" fill="${shade(most > 0 ? p / most : 0)}"/>`;
      parts.push(...row.map((p, j) => cell(j, p)));
      if (sink) parts.push(cell(columns + 0.5, 1 - row.reduce((sum, p) => sum + p, 0)));
    });
    if (sink) parts.push(text(x + (columns + 0.5) * CELL - 3, 36, 'sink', ' fill="#7b8794" font-size="10"'));
    bottom = Math.max(bottom, 42 + rows.length * CELL);
    x += Math.max(shown * CELL, caption.length * 7.3) + GAP;
  }
  return picture(x - GAP + 16, bottom + 14, title, parts);
}

const named = (queries, keys, options) =>
  `{ ${Object.entries(options)
    .map(
      ([name, value]) =>
        `${name}: ${typeof value === 'string' ? `'${value}'` : JSON.stringify(value).replace(',', ', ')}`,
    )
    .join(', ')} }${queries === keys ? '' : `  Sq ${queries}, Sk ${keys}`}`;

async function mask(queries, keys, options) {
  return { caption: named(queries, keys, options), rows: await attention(queries, keys, options) };
}

async function drawMasks() {
  const slopes = tensor([0.5], { device: DEVICE });
  const sinks = tensor([1], { device: DEVICE });
  return {
    'mask-causal.svg': panels('Which keys a query sees: no mask, causal', [
      { caption: 'no options', rows: await attention(8, 8, {}) },
      await mask(8, 8, { causal: true }),
    ]),
    'mask-window.svg': panels('Sliding windows', [
      await mask(8, 8, { window: [2, 1] }),
      await mask(8, 8, { window: [3, 0] }),
      await mask(8, 8, { causal: true, window: [2, -1] }),
    ]),
    'mask-unequal.svg': panels('Fewer queries than keys, and more', [
      await mask(4, 8, { causal: true }),
      await mask(4, 8, { causal: 'top-left' }),
      await mask(8, 5, { causal: true }),
    ]),
    'mask-packed.svg': panels('Sequences packed end to end', [
      { caption: '{ cuSeqlensQ: [0, 5, 5, 8] }', rows: await packed([0, 5, 5, 8], {}) },
      { caption: '{ cuSeqlensQ: [0, 5, 5, 8], causal: true }', rows: await packed([0, 5, 5, 8], { causal: true }) },
    ]),
    'mask-weights.svg': panels('ALiBi, and a sink', [
      { caption: '{ causal: true, alibiSlopes }', rows: await attention(8, 8, { causal: true, alibiSlopes: slopes }) },
      { caption: '{ causal: true, sinks }', rows: await attention(8, 8, { causal: true, sinks }), sink: true },
    ]),
    'mask-cache.svg': panels('One new token of each sequence over a cache', [
      { caption: 'lengths [7, 3, 5], capacity 10', rows: await decoding([7, 3, 5], 10) },
    ]),
  };
}

/** The rows of the table of a document whose first line begins so, cell by cell. */
function tableOf(document, head) {
  const lines = fs.readFileSync(path.join(ROOT, document), 'utf8').split('\n');
  const begin = lines.findIndex((line) => line.startsWith(head));
  if (begin < 0) throw new Error(`${document}: expected a table that begins with ${head}, got none`);
  const end = lines.findIndex((line, i) => i > begin && !line.startsWith('|'));
  return lines.slice(begin + 2, end).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

const COLOURS = { D64: '#b4530a', D128: '#0b6e4f', D256: '#084594' };

/** Attention forward beside cuDNN's, by the length of the sequence. */
function drawAttention() {
  const cases = tableOf('docs/gpu-validation.md', '| case | interleaved: cuDNN | ours |').map((cells) => {
    const [headDim, kind, length] = cells[0].split(' ');
    return { headDim, kind, length: Number(length.slice(1)), interleaved: Number(cells[3]), alone: Number(cells[6]) };
  });
  const lengths = [...new Set(cases.map(({ length }) => length))].sort((a, b) => a - b);
  const [width, height, left, top, low, high] = [330, 240, 52, 40, 0.8, 1.4];
  const parts = [];
  ['interleaved', 'alone'].forEach((protocol, panel) => {
    const from = left + panel * (width + 60);
    const atX = (length) => from + (lengths.indexOf(length) / (lengths.length - 1)) * width;
    const atY = (ratio) => top + (1 - (ratio - low) / (high - low)) * height;
    parts.push(text(from, 22, `${protocol}: times as fast as cuDNN`));
    for (let tick = low; tick <= high + 1e-9; tick += 0.1) {
      const colour = Math.abs(tick - 1) < 1e-9 ? '#52606d' : '#e4e7eb';
      parts.push(
        `<line x1="${from}" x2="${from + width}" y1="${round(atY(tick))}" y2="${round(atY(tick))}" stroke="${colour}"/>`,
      );
      parts.push(text(from - 8, atY(tick) + 4, tick.toFixed(1), ' text-anchor="end" font-size="10"'));
    }
    for (const length of lengths)
      parts.push(text(atX(length), top + height + 18, String(length), ' text-anchor="middle" font-size="10"'));
    for (const headDim of Object.keys(COLOURS)) {
      for (const kind of ['full', 'causal']) {
        const points = cases.filter((each) => each.headDim === headDim && each.kind === kind);
        const line = points.map((each) => `${round(atX(each.length))},${round(atY(each[protocol]))}`).join(' ');
        const dashes = kind === 'causal' ? ' stroke-dasharray="5 3"' : '';
        parts.push(`<polyline points="${line}" fill="none" stroke="${COLOURS[headDim]}" stroke-width="2"${dashes}/>`);
      }
    }
  });
  Object.entries(COLOURS).forEach(([headDim, colour], i) => {
    const x = left + i * 210;
    for (const [j, kind] of ['full', 'causal'].entries()) {
      const dashes = kind === 'causal' ? ' stroke-dasharray="5 3"' : '';
      parts.push(
        `<line x1="${x + j * 105}" x2="${x + j * 105 + 24}" y1="${top + height + 40}" y2="${top + height + 40}" stroke="${colour}" stroke-width="2"${dashes}/>`,
      );
      parts.push(text(x + j * 105 + 30, top + height + 44, `${headDim} ${kind}`, ' font-size="10"'));
    }
  });
  return picture(
    left + 2 * width + 60 + 24,
    top + height + 60,
    'Attention forward beside cuDNN, by sequence length',
    parts,
  );
}

/** The CPU's cases beside ONNX Runtime's, a bar for each figure. */
function drawCpu() {
  const cases = tableOf('docs/performance.md', '| case | ours | theirs | times as fast |').flatMap((cells) => {
    const ratios = cells[3].split(/[/;]/).map((each) => each.trim());
    return ratios.map((ratio, i) => ({ name: i === 0 ? cells[0].replaceAll('`', '') : '', ratio: Number(ratio) }));
  });
  const [left, row, unit, top] = [560, 18, 60, 40];
  const most = Math.ceil(Math.max(...cases.map(({ ratio }) => ratio)));
  const bottom = top + cases.length * row;
  const parts = [text(left, 22, 'times as fast as ONNX Runtime')];
  cases.forEach(({ name, ratio }, i) => {
    const y = top + i * row;
    parts.push(text(left - 10, y + 12, name, ' text-anchor="end" font-size="10"'));
    parts.push(
      `<rect x="${left}" y="${y}" width="${round(ratio * unit)}" height="${row - 4}" fill="${ratio >= 1 ? '#084594' : '#b4530a'}"/>`,
    );
    parts.push(text(left + ratio * unit + 6, y + 12, ratio.toFixed(2), ' font-size="10"'));
  });
  parts.push(`<line x1="${left + unit}" x2="${left + unit}" y1="${top - 6}" y2="${bottom}" stroke="#52606d"/>`);
  return picture(left + most * unit + 50, bottom + 12, 'CPU kernels beside ONNX Runtime', parts);
}

/** Every picture, by its name in docs/images. */
async function draw() {
  return { ...(await drawMasks()), 'attention-cudnn.svg': drawAttention(), 'cpu-onnxruntime.svg': drawCpu() };
}

const { values } = parseArgs({ options: { out: { type: 'string', default: path.join(ROOT, 'docs', 'images') } } });
draw().then((pictures) => {
  fs.mkdirSync(values.out, { recursive: true });
  for (const [name, content] of Object.entries(pictures)) fs.writeFileSync(path.join(values.out, name), content);
});
