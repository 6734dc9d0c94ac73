#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Runs many random configurations of attention (test/ops/flash-attention-random.test.ts), in processes side by side, in an unpacked bundle of
// scripts/gpu-bundle.cjs or in a checkout whose tests are compiled:
//
//   node scripts/gpu-random.cjs [--cases 2000] [--processes 16] [--device cuda] [--seconds 400] [--hopper]
//
// --hopper: only what the kernels for compute capability 9.0 take, and only these kernels. Prints one line a failure, which reproduces it, how many passed, and the slowest. Fails unless all passed, within that time.
'use strict';
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');

const root = path.join(__dirname, '..');
const { values: options } = parseArgs({
  options: {
    cases: { type: 'string', default: '2000' },
    processes: { type: 'string', default: String(os.availableParallelism()) },
    device: { type: 'string', default: 'cuda' },
    seconds: { type: 'string', default: '400' },
    hopper: { type: 'boolean', default: false },
  },
});
const integer = (name) => {
  const value = Number(options[name]);
  if (!Number.isSafeInteger(value) || value < 1) {
    console.error(`gpu-random: expected an integer above 0 for --${name}, got ${options[name]}`);
    process.exit(2);
  }
  return value;
};
const [cases, processes, seconds] = ['cases', 'processes', 'seconds'].map(integer);
const SHOWN = 20;

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ternflash-random-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

function runShard(shard) {
  const file = path.join(folder, `${shard}.json`);
  const env = {
    ...process.env,
    TERNFLASH_RANDOM_CASES: String(cases),
    TERNFLASH_RANDOM_SHARD: `${shard}/${processes}`,
    TERNFLASH_THREADS: '1',
    ...(options.device === 'cuda' && { TERNFLASH_CUDA: '1' }),
    ...(options.hopper && { TERNFLASH_ATTENTION_KERNEL: 'hopper' }),
  };
  const jest = path.join(root, 'node_modules', 'jest', 'bin', 'jest.js');
  const args = [jest, 'flash-attention-random', '--watchman=false', '--ci', '--runInBand', '--json'];
  // The reference in float64 takes most of the time, and shares the processor with the other processes: only the limit of all counts.
  args.push(`--outputFile=${file}`, `--testTimeout=${seconds * 1000}`, '-t', `(^| )${options.device} `);
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: root, env, stdio: ['ignore', 'ignore', 'pipe'] });
    let errors = '';
    child.stderr.on('data', (text) => (errors = (errors + text).slice(-2000)));
    const timer = setTimeout(() => child.kill('SIGKILL'), seconds * 1000);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (fs.existsSync(file)) resolve({ results: JSON.parse(fs.readFileSync(file, 'utf8')) });
      else resolve({ problem: `process ${shard} ended with ${signal ?? code} and left no results: ${errors.trim()}` });
    });
  });
}

const brief = (message) =>
  message
    .replace(/\x1b\[[\d;]*m/g, '')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('at '))
    .slice(0, 3)
    .join(' | ');

async function main() {
  const begin = performance.now();
  const shards = await Promise.all(Array.from({ length: processes }, (_, i) => runShard(i + 1)));
  const tests = shards.flatMap(({ results }) =>
    results ? results.testResults.flatMap((each) => each.assertionResults) : [],
  );
  const problems = shards.flatMap(({ problem, results }) => {
    if (problem) return [problem];
    return results.testResults.filter((each) => each.status === 'failed' && each.assertionResults.length === 0);
  });
  const failed = tests.filter(({ status }) => status === 'failed');
  const passed = tests.filter(({ status }) => status === 'passed').length;
  for (const each of problems.slice(0, SHOWN)) console.log(typeof each === 'string' ? each : brief(each.message));
  for (const { fullName, failureMessages } of failed.slice(0, SHOWN)) {
    const message = brief(failureMessages[0] ?? '');
    console.log(`${message.includes('TERNFLASH_RANDOM_CASE') ? '' : `${fullName}: `}${message}\n`);
  }
  if (failed.length > SHOWN) console.log(`… and ${failed.length - SHOWN} more`);
  const took = ((performance.now() - begin) / 1000).toFixed(0);
  console.log(
    `random configurations of attention on ${options.device}: ${passed} of ${cases} passed, ${failed.length} failed, ${took} s in ${processes} processes`,
  );
  const slowest = tests.reduce((a, b) => ((b.duration ?? 0) > (a?.duration ?? 0) ? b : a), undefined);
  if (slowest) console.log(`the slowest took ${(slowest.duration / 1000).toFixed(1)} s: ${slowest.title}`);
  if (passed !== cases) process.exitCode = 1;
}

main();
