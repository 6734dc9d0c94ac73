// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { compareRuns, regressions, summaryLines } from '../../bench/report/compare.js';
import { digits, rateOf, rateScale, shareOf, showRate, timesAsFast } from '../../bench/report/figures.js';
import { plotGroups } from '../../bench/report/plots.js';
import { besidePredecessor, PUBLISHED } from '../../bench/report/predecessor.js';
import { makeResult, makeRun, PEER, cpuRun, gpuRun } from './runs.js';
import type { MemoryUse, Result } from '../../bench/schema.js';

const memory = (peakBytes: number, workspaceBytes: number | null = null): MemoryUse => ({
  heldBytes: 7,
  peakBytes,
  workspaceBytes,
});

/** The verdict on one case that took `now` and before `saved`, each with quartiles so far from the median. */
function verdictOf(now: number, saved: number, spread: number): string {
  const make = (median: number): Result =>
    makeResult({
      name: 'a',
      milliseconds: { median, low: median * (1 - spread), high: median * (1 + spread), fastest: median * (1 - spread) },
    });
  return compareRuns([makeRun([make(now)])], [makeRun([make(saved)])], 0.1).changes[0].verdict;
}

describe('this run and a saved one', () => {
  test.each([
    [10, 10, 0, 'alike'],
    [10.9, 10, 0, 'alike'],
    [11.1, 10, 0, 'slower'],
    [9.2, 10, 0, 'alike'],
    [9, 10, 0, 'faster'],
    // The quartiles meet.
    [12, 10, 0.1, 'alike'],
    [12, 10, 0.05, 'slower'],
    [8, 10, 0.12, 'alike'],
    [8, 10, 0.05, 'faster'],
  ])('%d ms after %d ms, spread %d: %s', (now, saved, spread, verdict) => {
    expect(verdictOf(now, saved, spread)).toBe(verdict);
  });

  const saved = makeRun([
    makeResult({ name: 'slower', median: 10 }),
    makeResult({ name: 'larger', median: 10, memory: memory(100, 10) }),
    makeResult({ name: 'smaller', median: 10, memory: memory(100) }),
    makeResult({ name: 'the peer', median: 10, by: PEER, variant: 'MatMul' }),
    makeResult({ name: 'gone', median: 10 }),
    makeResult({ name: 'slower', median: 10, threads: 1 }),
  ]);
  const now = makeRun(
    [
      makeResult({ name: 'slower', median: 15 }),
      makeResult({ name: 'larger', median: 10, memory: memory(100, 11) }),
      makeResult({ name: 'smaller', median: 5, memory: memory(99) }),
      makeResult({ name: 'the peer', median: 20, by: 'onnxruntime-node 1.31.0', variant: 'MatMul' }),
      makeResult({ name: 'new', median: 10, variant: 'captured' }),
    ],
    { date: '2026-11-24T00:00:00.000Z' },
  );
  const comparison = compareRuns([now], [saved], 0.1);

  test('ratios, the slowest first; a peer in a newer version is the same peer', () => {
    expect(
      comparison.changes.map(({ label, ratio, verdict, moreBytes }) => [label, ratio, verdict, moreBytes]),
    ).toEqual([
      ['the peer, MatMul (onnxruntime-node 1.31.0, cpu, 2 threads)', 2, 'slower', null],
      ['slower (cpu, 2 threads)', 1.5, 'slower', null],
      ['larger (cpu, 2 threads)', 1, 'alike', 1],
      ['smaller (cpu, 2 threads)', 0.5, 'faster', -1],
    ]);
  });

  test('what only one of them has', () => {
    expect(comparison.onlyNow).toEqual(['new, captured (cpu, 2 threads)']);
    expect(comparison.onlySaved).toEqual(['gone (cpu, 2 threads)', 'slower (cpu, 1 thread)']);
  });

  test('what became worse is ours: time beyond the tolerance, memory by any byte', () => {
    expect(regressions(comparison).map(({ now: { name } }) => name)).toEqual(['slower', 'larger']);
    expect(summaryLines(comparison)).toEqual([
      'beside the saved run, tolerance 10 %: 2 slower, 1 faster, 1 alike; 1 only now, 2 only saved',
      'worse: slower (cpu, 2 threads): 1.50 times the time',
      'worse: larger (cpu, 2 threads): 1.00 times the time, 1 bytes more',
    ]);
  });

  test('another device is another case, other hardware is told', () => {
    const gpu = makeRun(saved.results, { device: { id: 'cuda:0', name: 'GPU' } });
    expect(compareRuns([now], [gpu], 0.1).changes).toEqual([]);
    const other = makeRun(saved.results, { device: { id: 'cpu', name: 'another' } });
    expect(compareRuns([now], [other], 0.1).otherHardware).toEqual([
      { device: 'cpu', now: 'AMD EPYC', saved: 'another' },
    ]);
    expect(comparison.otherHardware).toEqual([]);
  });

  test('of several saved runs, the latest counts', () => {
    const older = makeRun([makeResult({ name: 'slower', median: 1 })], { date: '2026-01-01T00:00:00.000Z' });
    for (const all of [
      [older, saved],
      [saved, older],
    ])
      expect(compareRuns([now], all, 0.1).changes.find(({ now: { name } }) => name === 'slower')?.ratio).toBe(1.5);
  });
});

describe('figures', () => {
  test.each([
    [{ 'float operations': 2e9 }, '200 GFLOP/s'],
    [{ 'float operations': 2e13 }, '2000 TFLOP/s'],
    [{ 'integer operations': 3e7 }, '3.00 Gop/s'],
    [{ bytes: 5e7, 'float operations': 1e7 }, '1.00 GFLOP/s'],
    [{ bytes: 5e7 }, '5.00 GB/s'],
    [{ bytes: 5e7, tokens: 8 }, '800 tokens/s'],
  ])('%j in 10 ms: %s', (work, shown) => {
    expect(showRate(rateOf(makeResult({ name: 'a', work })))).toBe(shown);
  });

  test('rates of one plot have one unit, that of the largest', () => {
    const rates = [1e9, 3e12].map((perSecond) => ({ unit: 'float operations' as const, perSecond }));
    expect(rateScale(rates)).toEqual({ name: 'TFLOP/s', size: 1e12 });
  });

  test('the share is that of what the ceiling limits', () => {
    const ceiling = { name: 'memory', unit: 'bytes', perSecond: 1e10 } as const;
    expect(shareOf(makeResult({ name: 'a', work: { tokens: 1, bytes: 5e7 }, ceiling }))).toBeCloseTo(0.5, 12);
    expect(shareOf(makeResult({ name: 'a', work: { tokens: 1 }, ceiling }))).toBeNull();
    expect(shareOf(makeResult({ name: 'a' }))).toBeNull();
  });

  test('a peer counts by the fastest of its variants on as many threads', () => {
    const run = makeRun([
      makeResult({ name: 'a', median: 10 }),
      makeResult({ name: 'a', median: 30, by: PEER, variant: 'slow' }),
      makeResult({ name: 'a', median: 20, by: PEER, variant: 'fast' }),
      makeResult({ name: 'a', median: 5, by: PEER, threads: 1 }),
      makeResult({ name: 'b', median: 10 }),
    ]);
    const beside = run.results.map((result) => timesAsFast({ result, run, number: 1 }));
    expect(beside[0]?.ratio).toBe(2);
    expect(beside[0]?.peer.variant).toBe('fast');
    expect(beside.slice(1)).toEqual([null, null, null, null]);
  });

  test.each([
    [0, '0'],
    [0.0964, '0.0964'],
    [1, '1.00'],
    [52.345, '52.3'],
    [1596.1, '1596'],
    [1e-9, '0.000000'],
  ])('%d is written %s', (value, shown) => {
    expect(digits(value)).toBe(shown);
  });
});

describe('plots', () => {
  test('a group for each op and pass with a line of two points at least', () => {
    const groups = plotGroups([cpuRun(), gpuRun()], 'sequence');
    expect(
      groups.map(({ title, lines, whos, points, rateUnit }) => [title, lines.length, whos, points.length, rateUnit]),
    ).toEqual([
      [
        'attention layer, forward',
        2,
        ['ternflash on cpu, 2 threads', 'ternflash on cpu, 1 thread', `${PEER} on cpu, 2 threads`],
        18,
        'GFLOP/s',
      ],
      ['flashAttention, forward', 4, ['ternflash on cuda:0'], 16, 'TFLOP/s'],
      ['model: step', 1, ['ternflash on cuda:0'], 3, 'tokens/s'],
    ]);
    expect(plotGroups([cpuRun(), gpuRun()], 'batch').map(({ title, points }) => [title, points.length])).toEqual([
      ['attention layer, forward', 18],
      ['model: step', 3],
    ]);
  });

  test('of a peer, its fastest variant', () => {
    const [group] = plotGroups([cpuRun()], 'sequence');
    const theirs = group.points.filter(({ who }) => who.startsWith(PEER));
    const [ours] = group.points;
    expect(theirs).toHaveLength(6);
    expect(theirs[0].milliseconds / ours.milliseconds).toBeCloseTo(1.1, 12);
    expect(theirs[0].memory).toBeNull();
    expect(ours.memory).toBe(5 * 512 * 768 * 4 * 2 ** -20);
  });

  test('more lines than colours are parts', () => {
    const results = Array.from({ length: 10 }, (_, line) =>
      [512, 1024].map((sequence) =>
        makeResult({ name: `${line} ${sequence}`, sequence, alongSequence: `line ${line}`, op: 'x' }),
      ),
    ).flat();
    const groups = plotGroups([makeRun(results)], 'sequence');
    expect(groups.map(({ title, lines, points }) => [title, lines.length, points.length])).toEqual([
      ['x (1 of 2)', 8, 16],
      ['x (2 of 2)', 2, 4],
    ]);
    expect(plotGroups([makeRun([])], 'sequence')).toEqual([]);
  });
});

describe("the predecessor's table", () => {
  test('its memory is its own formula', () => {
    for (const { batch, sequence, mebibytes } of PUBLISHED) {
      const bytes = 4 * (3 * batch * sequence * 768 + batch * 12 * sequence ** 2 + batch * sequence * 768);
      expect(mebibytes).toBe(Math.floor(bytes / 2 ** 20));
    }
  });

  test('ours are found by shape, and no causal ones', () => {
    const causal = makeResult({ name: 'attention-layer float32 B1 S512 causal', median: 1 });
    const run = cpuRun();
    const ours = besidePredecessor([{ ...run, results: [causal, ...run.results] }]);
    expect(ours).toHaveLength(12);
    expect(ours.map(({ milliseconds }) => milliseconds)).not.toContain(1);
    expect(ours[0]).toMatchObject({ who: 'ternflash on cpu, 1 thread', batch: 1, sequence: 512, mebibytes: 7.5 });
    expect(besidePredecessor([gpuRun()])).toEqual([]);
  });
});
