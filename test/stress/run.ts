// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { exitInFlight } from './exit-in-flight.js';
import { failingAllocations } from './failing-allocations.js';
import { invalidCalls } from './invalid-calls.js';
import { killedWorkers } from './killed-workers.js';
import { parsers } from './parsers.js';
import type { Scenario, StressOptions, StressResult } from './scenario.js';
import { steadyMemory } from './steady-memory.js';
import { twoVersions } from './two-versions.js';

/**
 * `npm run test:stress`: abuses the library, each scenario in a process of its own, so that one that dies is told by name. Exits with 1 if anything was
 * found.
 */

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  'invalid-calls': invalidCalls,
  parsers,
  'killed-workers': killedWorkers,
  'exit-in-flight': exitInFlight,
  'failing-allocations': failingAllocations,
  'steady-memory': steadyMemory,
  'two-versions': twoVersions,
};

const HELP = `Usage: npm run test:stress -- [scenario …] [options]

${Object.entries(SCENARIOS)
  .map(([name, { summary, count }]) => `  ${name.padEnd(20)} ${summary} (${count.toLocaleString('en')})`)
  .join('\n')}

  --seed N       default 1
  --count N      instead of the number in brackets
  --only TEXT    only the functions, ops or files with this in their name
  --timeout S    seconds without a sign of life after which a scenario is taken to hang; default 120
  --json FILE    writes all that was found, with lists that are not printed
  --list         names of the scenarios
`;

/** What a process says of its end. */
interface Report extends StressResult {
  seconds: number;
}

const OPTIONS = {
  seed: { type: 'string', default: '1' },
  count: { type: 'string' },
  only: { type: 'string' },
  timeout: { type: 'string', default: '120' },
  json: { type: 'string' },
  list: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
  child: { type: 'string' },
} as const;

const DOING = 'doing';
const REPORT = 'report.json';

/** In the process of a scenario. */
async function runHere(name: string, folder: string, options: StressOptions): Promise<void> {
  const doing = openSync(path.join(folder, DOING), 'r+');
  const say = (text: string): void => {
    const line = text.slice(0, 200).padEnd(200);
    writeSync(doing, line, 0);
  };
  process.on('unhandledRejection', (error) => {
    throw error;
  });
  const scenario = SCENARIOS[name];
  const begin = performance.now();
  const result = await scenario.run({ ...options, count: options.count ?? scenario.count }, say);
  const report: Report = { ...result, seconds: (performance.now() - begin) / 1000 };
  writeFileSync(path.join(folder, REPORT), JSON.stringify(report));
  closeSync(doing);
}

/** Starts a scenario's process and waits for its end, however that comes. */
function runInChild(name: string, args: readonly string[], timeout: number): Promise<Report> {
  const folder = mkdtempSync(path.join(tmpdir(), 'ternflash-stress-'));
  writeFileSync(path.join(folder, DOING), 'its start');
  const begin = performance.now();
  const flags = ['--expose-gc', '--max-old-space-size=2048', '--stack-trace-limit=30'];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...flags, __filename, ...args, '--child', `${name}:${folder}`], {
      stdio: ['ignore', 'inherit', 'pipe'],
    });
    let errors = '';
    child.stderr.on('data', (chunk: Buffer) => {
      errors = (errors + chunk.toString()).slice(-4000);
    });
    const doing = (): string => readFileSync(path.join(folder, DOING), 'utf8').trim();
    let [last, since] = ['', Date.now()];
    let hangs = false;
    const watch = setInterval(() => {
      const now = doing();
      if (now !== last) [last, since] = [now, Date.now()];
      if (Date.now() - since < timeout * 1000) return;
      hangs = true;
      child.kill('SIGKILL');
    }, 1000);
    child.on('error', reject);
    child.on('close', (status, signal) => {
      clearInterval(watch);
      const seconds = (performance.now() - begin) / 1000;
      try {
        if (status === 0) {
          resolve(JSON.parse(readFileSync(path.join(folder, REPORT), 'utf8')) as Report);
          return;
        }
        const end = hangs
          ? `it hung for ${timeout} s`
          : signal
            ? `it was ended by ${signal}`
            : `it exited with ${status}`;
        const said = errors.trim().split('\n').slice(-12).join('\n    ');
        resolve({ seconds, figures: {}, findings: [`${end} at: ${doing()}\n    ${said}`] });
      } catch (error) {
        reject(error as Error);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  });
}

function show(name: string, { seconds, figures, findings }: Report): void {
  const lines = Object.entries(figures).map(([what, value]) => {
    return `    ${what.padEnd(36)} ${typeof value === 'number' ? value.toLocaleString('en') : value}`;
  });
  const verdict = findings.length === 0 ? 'ok' : `${findings.length} FINDINGS`;
  console.log([`${name.padEnd(20)} ${verdict}, ${seconds.toFixed(0)} s`, ...lines].join('\n'));
  for (const each of findings) console.log(`  ! ${each}`);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
  if (values.help) return console.log(HELP);
  if (values.list) return console.log(Object.keys(SCENARIOS).join('\n'));
  const unknown = positionals.find((name) => !Object.hasOwn(SCENARIOS, name));
  const numbers = [values.seed, values.count ?? '1', values.timeout].map(Number);
  if (unknown !== undefined || !numbers.every((each) => Number.isSafeInteger(each) && each >= 0)) {
    console.error(HELP);
    process.exitCode = 2;
    return;
  }
  const [seed, , timeout] = numbers;
  const count = values.count === undefined ? null : Number(values.count);
  if (values.child !== undefined) {
    const [name, folder] = values.child.split(/:(.*)/s);
    return runHere(name, folder, { seed, count, only: values.only ?? null });
  }
  const reports: Record<string, Report> = {};
  const passed = ['seed', 'count', 'only'] as const;
  const args = passed.flatMap((name) => (values[name] === undefined ? [] : [`--${name}`, values[name]]));
  for (const name of positionals.length > 0 ? positionals : Object.keys(SCENARIOS)) {
    reports[name] = await runInChild(name, args, timeout);
    show(name, reports[name]);
  }
  const failed = Object.values(reports).filter(({ findings }) => findings.length > 0).length;
  const where = `Node.js ${process.versions.node}, ${process.platform} ${process.arch}, ${availableParallelism()} processors`;
  console.log(`\n${Object.keys(reports).length} scenarios, ${failed} with findings; seed ${seed}; ${where}`);
  if (values.json !== undefined) {
    const content = { date: new Date().toISOString(), seed, where, scenarios: reports };
    writeFileSync(values.json, `${JSON.stringify(content, null, 2)}\n`);
  }
  process.exitCode = failed > 0 ? 1 : 0;
}

void main();
