// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import type { CudaGpu, CudaReport } from '../../lib/cuda-problem.js';
import { relevantVariables, type Facts, type LibraryFacts } from '../../lib/doctor/facts.js';
import { COLOURED, render } from '../../lib/doctor/render.js';
import { assemble, type Report } from '../../lib/doctor/report.js';
import { differsFromReference, outOfTolerance, selfCheck } from '../../lib/doctor/self-check.js';
import { devices } from '../../lib/index.js';
import { native, packageRoot } from '../../lib/native.js';
import { problem, PROBLEMS, type Problem, type ProblemKind } from '../../lib/problems.js';

const GPU: CudaGpu = { name: 'NVIDIA H100', capability: 90, bytes: 80 * 2 ** 30, computeMode: 0, failure: null };
const CUDA: CudaReport = {
  runtimeVersion: 13000,
  driverVersion: 13000,
  architectures: '80-real 90-real',
  failure: null,
  devices: [],
};
const CPU = { id: 'cpu', available: true, isDefault: true, reason: 'native kernels for avx2, 4 threads' };
const REFERENCE = { id: 'reference', available: true, isDefault: false, reason: 'plain TypeScript, always present' };
const loaded = (file: string, cuda: boolean): LibraryFacts['attempts'][number] => ({ cuda, file, problem: null });

/** A machine with the plain addon and no GPU, but for what is said. */
function facts(library: Partial<LibraryFacts> | null, others: Partial<Facts> = {}): Facts {
  return {
    machine: {
      version: '1.2.3',
      folder: '/package',
      node: '20.17.0',
      platform: 'linux-x64',
      system: 'Linux 6.1',
      processor: 'Some Processor',
      host: { kernelDriver: null, gpus: 0, wsl: false, visibleDevices: null },
      environment: {},
    },
    library: library && {
      attempts: [loaded('build/Release/ternflash.node', false)],
      isa: 'avx2',
      threads: 4,
      containerLimit: 0,
      cuda: null,
      cudaProblem: problem('no-cuda-build', {}),
      gpus: [],
      devices: [CPU, REFERENCE],
      ...library,
    },
    checks: [{ device: 'cpu', name: 'matmul float32', passed: true, error: null, milliseconds: 1.25 }],
    crash: null,
    ...others,
  };
}

/** The addon with CUDA, and no GPU that can be used for that reason. */
const withoutGpu = (why: Problem, driverVersion = 13000): Partial<LibraryFacts> => ({
  attempts: [loaded('cuda/build/Release/ternflash.node', true)],
  cuda: { ...CUDA, driverVersion },
  cudaProblem: why,
  devices: [{ id: 'cuda', available: false, isDefault: false, reason: why.message }, CPU, REFERENCE],
});

const withGpus = (...problems: (Problem | null)[]): Partial<LibraryFacts> => ({
  ...withoutGpu(problem('no-gpu', {})),
  cudaProblem: null,
  gpus: problems.map((each) => ({ ...GPU, problem: each })),
});

const missing = problem('addon-missing', { platform: 'linux-x64', folders: 'build and prebuilds' });
const foreign = problem('addon-foreign', {
  platform: 'linux-arm64',
  folders: 'build and prebuilds',
  others: 'linux-x64, darwin-arm64',
});
const broken = problem('addon-broken', { file: 'cuda/build/Release/ternflash.node', error: 'invalid ELF header' });
const without = (why: Problem): Partial<LibraryFacts> => ({
  attempts: [{ cuda: false, file: null, problem: why }],
  isa: null,
  threads: 1,
  cudaProblem: problem('no-addon', { errors: why.message }),
  devices: [
    { ...CPU, available: false, isDefault: false, reason: why.message },
    { ...REFERENCE, isDefault: true },
  ],
});

describe('the report of', () => {
  const tooOld = problem('old-driver', { driver: '12.8', runtime: '13.0' });
  const oldGpu = problem('gpu-too-old', { capability: '7.5' });
  test.each<[string, Facts, boolean, [ProblemKind, string][], string]>([
    [
      'a machine without a driver',
      facts(withoutGpu(problem('no-driver', {}), 0)),
      true,
      [['no-driver', 'cuda']],
      'cpu',
    ],
    ['one without a GPU', facts(withoutGpu(problem('no-gpu', {}))), true, [['no-gpu', 'cuda']], 'cpu'],
    ['one with an old driver', facts(withoutGpu(tooOld, 12080)), false, [['old-driver', 'cuda']], 'cpu'],
    ['one with an old GPU', facts(withGpus(oldGpu)), false, [['gpu-too-old', 'cuda:0']], 'cpu'],
    ['one with an old GPU and a new one', facts(withGpus(null, oldGpu)), false, [['gpu-too-old', 'cuda:1']], 'cpu'],
    ['one whose GPU works', facts({ ...withGpus(null), devices: [{ ...CPU, id: 'cuda:0' }] }), true, [], 'cuda:0'],
    ['a build without CUDA', facts({}), true, [['no-cuda-build', 'cuda']], 'cpu'],
    [
      'a build without CUDA beside a GPU',
      facts({ cudaProblem: problem('no-cuda-build-for-gpu', {}) }),
      false,
      [['no-cuda-build-for-gpu', 'cuda']],
      'cpu',
    ],
    ['a machine without an addon', facts(without(missing)), true, [['addon-missing', 'addon']], 'reference'],
    ['one with those of others', facts(without(foreign)), true, [['addon-foreign', 'addon']], 'reference'],
    [
      'an addon with CUDA that does not load',
      facts({
        attempts: [
          { cuda: true, file: 'cuda/build/Release/ternflash.node', problem: broken },
          loaded('build/Release/ternflash.node', false),
        ],
        cudaProblem: problem('cuda-build-broken', { errors: broken.message }),
      }),
      false,
      [['addon-broken', 'addon']],
      'cpu',
    ],
  ])('%s', (_, given, ok, problems, defaultDevice) => {
    const report = assemble(given);
    expect(report.ok).toBe(ok);
    expect(report.problems.map(({ kind, subject }) => [kind, subject])).toEqual(problems);
    expect(report.defaultDevice?.id).toBe(defaultDevice);
    const text = render(report);
    for (const { message, kind } of report.problems) {
      const { remedy, heading, broken } = PROBLEMS[kind];
      expect(text).toContain(`${broken ? 'broken' : 'note'}: `);
      expect(text).toContain(`${message}\n    ${remedy}\n    GPU_SETUP.md: ${heading}\n`);
    }
    expect(text).toContain(`${defaultDevice}: `);
    expect(text.endsWith(ok ? 'Everything that is present works.\n' : 'Something that is present is broken.\n')).toBe(
      true,
    );
  });

  test('a check that fails', () => {
    const error = 'expected 1 within 1.0e-6 for element 0 of 2, got NaN';
    const check = { device: 'cuda:0', name: 'attention float16', passed: false, error, milliseconds: 2 };
    const report = assemble(facts(withGpus(null), { checks: [check] }));
    expect(report.ok).toBe(false);
    expect(report.problems).toEqual([
      expect.objectContaining({
        kind: 'check-failed',
        subject: 'cuda:0',
        message: `attention float16 on cuda:0: ${error}`,
      }),
    ]);
    expect(render(report)).toContain(`FAIL 2.0 ms: ${error}`);
  });

  test('a process that ended while it looked', () => {
    const crash = { signal: 'SIGBUS', stage: 'loading the addon' };
    const report = assemble(facts(null, { checks: [], crash }));
    expect([report.ok, report.defaultDevice, report.devices]).toEqual([false, null, []]);
    expect(report.problems).toEqual([
      expect.objectContaining({ subject: 'addon', message: 'the process ended by SIGBUS while loading the addon' }),
    ]);
    expect(render(report)).toContain('GPU_SETUP.md: An addon that ends the process');
  });
});

test('the text has all that is known of the machine and its GPUs', () => {
  const given = facts({ ...withGpus(null, problem('gpu-prohibited', {})), containerLimit: 1.5 });
  given.machine.host = { kernelDriver: '580.65.06', gpus: 2, wsl: true, visibleDevices: null };
  given.machine.environment = { TERNFLASH_CUDA: '1' };
  const text = render(assemble(given));
  for (const part of [
    '1.2.3 in /package',
    '20.17.0',
    'linux-x64, Linux 6.1, WSL2',
    'Some Processor',
    '580.65.06, 2 GPUs',
    'TERNFLASH_CUDA  "1"',
    'cuda/build/Release/ternflash.node',
    'avx2, 4 threads; the container grants 1.5 processors\n',
    'runtime 13.0, code for 80-real, 90-real',
    'CUDA 13.0',
    'cuda:0           NVIDIA H100, compute capability 9.0, 80 GiB: usable\n',
    'cuda:1           NVIDIA H100, compute capability 9.0, 80 GiB: not usable: the GPU is in compute mode Prohibited\n',
    'cpu matmul float32  pass 1.3 ms\n',
  ])
    expect(text).toContain(part);
  expect(text).not.toContain('\x1b');
  expect(render(assemble(given), COLOURED).replace(/\x1b\[\d+m/g, '')).toBe(text);
});

test('variables that have a say are listed, and no others', () => {
  const all = {
    TERNFLASH_ISA: 'base',
    PATH: '/bin',
    CUDA_VISIBLE_DEVICES: '',
    NVIDIA_VISIBLE_DEVICES: 'all',
    CUDA_X: '1',
  };
  expect(Object.entries(relevantVariables(all))).toEqual([
    ['CUDA_VISIBLE_DEVICES', ''],
    ['NVIDIA_VISIBLE_DEVICES', 'all'],
    ['TERNFLASH_ISA', 'base'],
  ]);
});

describe('the self-check', () => {
  const usable = devices().filter(({ available }) => available);
  test.each(usable)('passes on $id', async ({ id }) => {
    const names: string[] = [];
    const checks = await selfCheck(id, (name) => names.push(name));
    expect(checks.map(({ name }) => name)).toEqual(names);
    expect(checks).toHaveLength(id === 'reference' ? 6 : 7);
    for (const check of checks) {
      expect(check).toEqual({ ...check, device: id, passed: true, error: null });
      expect(check.milliseconds).toBeGreaterThan(0);
    }
  });

  test('fails where a device throws', async () => {
    const checks = await selfCheck('cuda:99', () => undefined);
    expect(checks).toHaveLength(7);
    for (const { passed, error } of checks) {
      expect(passed).toBe(false);
      expect(error).toMatch(/^DeviceError: device: expected a usable device, got cuda:99: /);
    }
  });

  test('has the tolerance of the tests', () => {
    const exact = Float64Array.of(1, -3);
    const plain = Float64Array.of(1 + 2 ** -20, -3);
    const bound = 2 * 2 ** -20 + 2 ** -23; // twice the error of the plain formula, and the rounding step at 1
    expect(outOfTolerance([1 + bound, -3], exact, plain, 'float32')).toBeNull();
    expect(outOfTolerance([1 + bound + 2 ** -30, -3], exact, plain, 'float32')).toMatch(
      /^expected 1 within .* element 0 of 2/,
    );
    expect(outOfTolerance([1, NaN], exact, plain, 'float32')).toMatch(
      /^expected -3 within .* element 1 of 2, got NaN$/,
    );
    expect(outOfTolerance([1], exact, plain, 'float32')).toBe('expected 2 elements, got 1');
    expect(differsFromReference([1, 2], [1, 2])).toBeNull();
    expect(differsFromReference([1, 2 + 2 ** -22], [1, 2])).toMatch(/^expected 2 for element 1 of 2, as on reference/);
    expect(differsFromReference([1], [1, 2])).toBe('expected 2 elements, got 1');
  });
});

describe('npx ternflash doctor', () => {
  const program = path.join(packageRoot(), 'bin', 'ternflash.cjs');
  interface Run {
    status: number | null;
    out: string;
    errors: string;
  }

  const run = (args: readonly string[], env: Record<string, string> = {}): Promise<Run> =>
    new Promise((resolve, reject) => {
      const child = spawn(process.execPath, [program, 'doctor', ...args], {
        env: { ...process.env, ...env },
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: 50_000,
      });
      let [out, errors] = ['', ''];
      child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
      child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
      child.on('error', reject);
      child.on('close', (status) => resolve({ status, out, errors }));
    });

  beforeAll(() => {
    if (!existsSync(path.join(packageRoot(), 'dist', 'cli', 'process.js')))
      throw new Error('expected dist, built by npm test');
  });

  test('says what the library says, as JSON', async () => {
    const { status, out, errors } = await run(['--json']);
    expect(errors).toBe('');
    const report = JSON.parse(out) as Report;
    expect(status).toBe(report.ok ? 0 : 1);
    expect(report.devices).toEqual(devices());
    expect(report.addon.isa).toBe(native?.isa ?? null);
    const { version } = JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')) as {
      version: string;
    };
    expect(report.machine.version).toBe(version);
    const usable = report.devices.filter(({ available }) => available).map(({ id }) => id);
    expect([...new Set(report.checks.map(({ device }) => device))]).toEqual(usable);
    expect(report.checks.filter(({ passed }) => !passed)).toEqual([]);
    expect(report.ok).toBe(!report.problems.some(({ broken }) => broken));
  });

  test('and as text without colour, as it is not for a terminal', async () => {
    const { status, out, errors } = await run([], { TERNFLASH_NATIVE: '0' });
    expect([status, errors]).toEqual([0, '']);
    expect(out).not.toContain('\x1b');
    expect(out).toContain('TERNFLASH_NATIVE  "0"');
    expect(out).toContain('reference: neither a GPU nor the native addon can be used');
    expect(out.endsWith('Everything that is present works.\n')).toBe(true);
  });

  describe('with a file that is no addon', () => {
    let folder: string;
    // node-gyp-build looks for the addon where this variable says.
    const lookThere = (): Promise<Run> => run(['--json'], { TERNFLASH_CUDA: '0', TERNFLASH_PREBUILD: folder });
    const write = (bytes: Uint8Array | string): string => {
      const file = path.join(folder, 'build', 'Release', 'ternflash.node');
      writeFileSync(file, bytes);
      return file;
    };
    beforeAll(() => {
      folder = mkdtempSync(path.join(tmpdir(), 'ternflash-doctor-'));
      mkdirSync(path.join(folder, 'build', 'Release'), { recursive: true });
    });
    afterAll(() => rmSync(folder, { recursive: true }));

    test('names it, and ends with 1', async () => {
      const file = write('this is text, and of some length, so that no header of any kind fits it: '.repeat(10));
      const { status, out } = await lookThere();
      const report = JSON.parse(out) as Report;
      expect([status, report.ok, report.addon.file]).toEqual([1, false, null]);
      expect(report.problems).toEqual([
        expect.objectContaining({ kind: 'addon-broken', subject: 'addon', broken: true }),
      ]);
      expect(report.problems[0].message.startsWith(`${file} does not load: `)).toBe(true);
      expect(report.defaultDevice?.id).toBe('reference');
    });

    // A file that was not copied whole is mapped whole, and what is missing ends the process.
    const whole = ['build', 'cuda/build']
      .map((each) => path.join(packageRoot(), each, 'Release', 'ternflash.node'))
      .find(existsSync);
    (process.platform === 'linux' && whole ? test : test.skip)('lives where the addon ends the process', async () => {
      write(readFileSync(whole as string).subarray(0, 100_000));
      const { status, out, errors } = await lookThere();
      const report = JSON.parse(out) as Report;
      expect([status, errors, report.ok]).toEqual([1, '', false]);
      expect(report.problems).toEqual([
        expect.objectContaining({
          kind: 'addon-crash',
          message: expect.stringMatching(/^the process ended by SIG(BUS|SEGV) while loading the addon$/),
        }),
      ]);
    });
  });
});
