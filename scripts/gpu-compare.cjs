#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Times the GPU's bench cases with Ternflash, with PyTorch and with Ternflash again, so that a GPU that slows down shows, and prints them side
// by side. In an unpacked bundle of scripts/gpu-bundle.cjs or in a checkout whose bench is compiled; needs python3 with torch.
//
//   node scripts/gpu-compare.cjs [--seconds 90] [--small --device cpu] [name ...]       names: attention, matmul, memory, loss, ternary, or longer
//
// Writes gpu-compare.json into $OUT, or here, in the bench's own format: `npm run bench -- report gpu-compare.json` makes a page of it. $PYTHON names another Python. Fails if a case could not be timed.
'use strict';
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');

const root = path.join(__dirname, '..');
const { values: options, positionals: names } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    seconds: { type: 'string', default: '90' },
    small: { type: 'boolean', default: false },
    'no-compile': { type: 'boolean', default: false },
  },
  allowPositionals: true,
});
const seconds = Number(options.seconds);
if (!(seconds > 0)) {
  console.error(`gpu-compare: expected a number above 0 for --seconds, got ${options.seconds}`);
  process.exit(2);
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ternflash-compare-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
// Timed with every selection: the faster one is the ceiling.
const COPY = 'memory copy bf16';
// What is left when a part ends early goes to those after it.
const SHARES = [0.45, 0.6, 1];
const GRACE_SECONDS = 15;
const begin = performance.now();
let failed = false;

function time(index, label, command, args) {
  const file = path.join(folder, `${index}.json`);
  const left = Math.max(5, seconds - (performance.now() - begin) / 1000);
  const share = left * SHARES[index];
  const all = [...args, '--device', options.device, '--json', file, '--seconds', share.toFixed(0)];
  if (options.small) all.push('--small');
  const env = { ...process.env, ...(options.device.startsWith('cuda') && { TERNFLASH_CUDA: '1' }) };
  const stdio = ['ignore', 'pipe', 'inherit'];
  const settings = {
    cwd: root,
    env,
    encoding: 'utf8',
    stdio,
    timeout: Math.ceil((share + GRACE_SECONDS) * 1000),
    maxBuffer: 1 << 26,
  };
  const wanted = names.length === 0 ? [] : [...names, COPY];
  const { status, signal, error, stdout } = spawnSync(command, [...all, ...wanted], settings);
  if (!fs.existsSync(file)) {
    console.log(stdout ?? '');
    console.error(`gpu-compare: ${label} left no results: ${error?.message ?? signal ?? `exit code ${status}`}`);
    failed = true;
    return { results: [] };
  }
  if (status !== 0) failed = true;
  return JSON.parse(fs.readFileSync(file, 'utf8'));
}

const bench = path.join(root, '.out', 'bench', 'run.js');
const ours = (index, ...flags) => time(index, 'the bench', process.execPath, [bench, '--suite', 'gpu', ...flags]);
const first = ours(0);
const compile = options['no-compile'] ? ['--no-compile'] : [];
const peer = time(1, 'PyTorch', process.env.PYTHON ?? 'python3', [
  path.join(root, 'bench', 'torch_peer.py'),
  ...compile,
]);
const second = ours(2, '--unchecked');

const byName = ({ results }) => new Map(results.map((each) => [each.name, each]));
const [firstOf, peerOf, secondOf] = [first, peer, second].map(byName);

/** Of both rounds, the mean; from the lowest quartile to the highest. */
function joined(result, again) {
  if (!again) return result;
  const [a, b] = [result.milliseconds, again.milliseconds];
  return {
    ...result,
    milliseconds: {
      median: (a.median + b.median) / 2,
      low: Math.min(a.low, b.low),
      high: Math.max(a.high, b.high),
      fastest: Math.min(a.fastest, b.fastest),
    },
    samples: result.samples + again.samples,
    callMilliseconds: Math.max(result.callMilliseconds, again.callMilliseconds),
  };
}

/** PyTorch's fastest variant of the same case, as a result of the bench; null if it has none. */
function resultOfPeer({ name, op, dtype, pass, batch, sequence, alongSequence, alongBatch, threads, work }) {
  const other = peerOf.get(name);
  if (typeof other?.ms !== 'number') return null;
  const { ms: median, low, high, fastest, samples, callMs: callMilliseconds, headStart } = other;
  return {
    ...{ name, op, dtype, pass, batch, sequence, alongSequence, alongBatch },
    by: `PyTorch ${peer.torch}`,
    variant: other.variant,
    threads,
    milliseconds: { median, low, high, fastest },
    samples,
    callMilliseconds,
    work,
    ceiling: null,
    memory: null,
    note: headStart ? 'head start' : null,
  };
}

const pairs = [...firstOf.values()].map((result) => {
  const mine = joined(result, secondOf.get(result.name));
  return { ours: mine, theirs: resultOfPeer(mine), again: secondOf.get(result.name) ?? result };
});

/** What the faster of both libraries has shown the device to do: of bytes in a copy, of operations in a matrix product of the same dtype. */
function ceilingOf({ dtype, work, ceiling }) {
  const unit = ceiling?.unit ?? 'float operations';
  const shown = pairs
    .flatMap(({ ours: mine, theirs }) => (theirs ? [mine, theirs] : [mine]))
    .filter((each) => (unit === 'bytes' ? each.name === COPY : each.op === 'matmul' && each.dtype === dtype));
  if (shown.length === 0 || work[unit] === undefined) return ceiling;
  const rates = shown.map((each) => each.work[unit] / (each.milliseconds.median / 1000));
  return { name: unit === 'bytes' ? 'copy' : `fastest matrix product, ${dtype}`, unit, perSecond: Math.max(...rates) };
}
for (const { ours: mine, theirs } of pairs) {
  mine.ceiling = ceilingOf(mine);
  if (theirs) theirs.ceiling = mine.ceiling;
}

const copy = pairs.find(({ ours: mine }) => mine.name === COPY)?.ours.ceiling ?? null;
const rows = pairs.map(({ ours: mine, theirs, again }) => {
  const { name, milliseconds, work } = mine;
  const before = firstOf.get(name).milliseconds;
  const ms = milliseconds.median;
  // Between the two rounds, or within one, whichever is more: half of the distance, in percent.
  const between = Math.abs(before.median - again.milliseconds.median) / ms;
  const within = [before, again.milliseconds].map(({ low, high, median }) => (high - low) / median);
  const operations = work['float operations'] ?? work['integer operations'] ?? null;
  const rate = work.bytes / ms / 1e6;
  const other = peerOf.get(name);
  return {
    name,
    ms,
    spread: 50 * Math.max(between, ...within),
    tflops: operations === null ? null : operations / ms / 1e9,
    gigabytesPerSecond: rate,
    ofCopy: copy === null ? null : (1e9 * rate) / copy.perSecond,
    peerMs: theirs?.milliseconds.median ?? null,
    peerSpread: theirs
      ? (50 * (theirs.milliseconds.high - theirs.milliseconds.low)) / theirs.milliseconds.median
      : null,
    peerVariant: theirs?.variant ?? null,
    errors: other?.errors ?? {},
    ratio: theirs ? theirs.milliseconds.median / ms : null,
  };
});

const titles = ['case', 'ours ms', '± %', 'rate', 'of copy', 'PyTorch ms', '± %', 'variant', 'PyTorch / ours'];
const lines = rows.map((row) => [
  row.name,
  row.ms.toFixed(4),
  row.spread.toFixed(1),
  row.tflops === null ? `${row.gigabytesPerSecond.toFixed(0)} GB/s` : `${row.tflops.toFixed(1)} TFLOP/s`,
  row.ofCopy === null ? '-' : `${(100 * row.ofCopy).toFixed(0)} %`,
  row.peerMs === null ? '-' : row.peerMs.toFixed(4),
  row.peerSpread === null ? '-' : row.peerSpread.toFixed(1),
  row.peerVariant ?? (Object.values(row.errors)[0] ?? '-').slice(0, 40),
  row.ratio === null ? '-' : row.ratio.toFixed(2),
]);
const widths = titles.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)));
const show = (cells) =>
  `| ${cells.map((cell, i) => (i === 0 || i === 7 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join(' | ')} |`;
console.log(`${first.device?.name ?? ''}; PyTorch ${peer.torch ?? 'none'} on ${peer.device ?? '-'}`);
console.log(`copy bandwidth: ${copy === null ? '-' : `${(copy.perSecond / 1e9).toFixed(0)} GB/s`}`);
console.log(show(titles));
console.log(
  `|${widths.map((width, i) => (i === 0 || i === 7 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`,
);
for (const line of lines) console.log(show(line));

const file = path.join(process.env.OUT ?? '.', 'gpu-compare.json');
if (rows.length > 0) {
  const results = pairs.flatMap(({ ours: mine, theirs }) => (theirs ? [mine, theirs] : [mine]));
  fs.writeFileSync(file, JSON.stringify({ ...first, arguments: process.argv.slice(2), results }, null, 2));
  console.log(`written: ${file}`);
}
console.log(`${((performance.now() - begin) / 1000).toFixed(0)} s`);
if (failed || rows.length === 0) process.exitCode = 1;
