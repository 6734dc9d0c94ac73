// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync } from 'node:fs';
import * as path from 'node:path';
import { readCudaHost } from '../../lib/cuda-host.js';
import { driverProblem } from '../../lib/cuda-problem.js';
import { packageRoot } from '../../lib/native.js';
import type { Library } from './child.js';
import { LIBRARY, resultOfChild } from './child.js';

const isBuilt = (folder: string): boolean =>
  ['build/Release/ternflash.node', 'prebuilds'].some((each) => existsSync(path.join(packageRoot(), folder, each)));

/** What was loaded, and what it says of GPUs. */
const look = async (library: Library, file: string) => {
  const { loadAttempts, native } = (await import(file)) as typeof import('../../lib/native.js');
  const message = await new Promise<string>((resolve) => {
    try {
      resolve(String(library.device('cuda')));
    } catch (error) {
      resolve(`${(error as Error).name}: ${(error as Error).message}`);
    }
  });
  const x = library.tensor([1, 2], { device: 'cpu' });
  return {
    attempts: loadAttempts,
    report: native?.cudaReport?.() ?? null,
    devices: library.devices(),
    message,
    sum: await library.sum(x).item(),
  };
};

const lookWith = (wanted: string) =>
  resultOfChild(look, [path.join(path.dirname(LIBRARY), 'native.js')], { env: { TERNFLASH_CUDA: wanted } });

const withCuda = isBuilt('cuda');
(withCuda ? describe : describe.skip)(
  `the addon with CUDA${withCuda ? '' : ' — skipped: not built (npm run build:cuda)'}`,
  () => {
    test.each(['1', 'auto'])('is the one that TERNFLASH_CUDA=%s loads, with a driver or without', async (wanted) => {
      const { attempts, report, sum } = await lookWith(wanted);
      expect(attempts).toEqual([{ cuda: true, file: expect.stringMatching(/^cuda[/\\]/), problem: null }]);
      expect(report?.runtimeVersion).toBeGreaterThanOrEqual(12080);
      expect(report?.architectures).toMatch(/^\d+[a-z]?(-real|-virtual)?( |$)/);
      expect(sum).toBe(3); // its cpu device works
    });

    test('says which GPUs there are, or why none can be used', async () => {
      const { report, devices, message } = await lookWith('1');
      if (!report) throw new Error('expected a report of the addon with CUDA, got none');
      const problem = driverProblem(report, readCudaHost());
      const gpus = devices.filter(({ id }) => id.startsWith('cuda'));
      if (report.driverVersion === 0) {
        // The same whatever reason the host has for it: see the messages of test/core/cuda-problem.test.ts.
        expect(problem?.kind).toMatch(/^no-driver/);
      }
      if (problem) {
        expect(gpus).toEqual([{ id: 'cuda', available: false, isDefault: false, reason: problem.message }]);
        expect(message).toBe(`DeviceError: device: expected a usable device, got cuda: ${problem.message}`);
        expect(devices.find(({ isDefault }) => isDefault)?.id).toBe('cpu');
      } else {
        expect(gpus.map(({ id }) => id)).toEqual(report.devices.map((_, ordinal) => `cuda:${ordinal}`));
        const [first] = gpus;
        expect(message).toBe(
          first.available ? 'cuda:0' : `DeviceError: device: expected a usable device, got cuda: ${first.reason}`,
        );
      }
    });

    (isBuilt('.') ? test : test.skip)('is left alone with TERNFLASH_CUDA=0', async () => {
      const { attempts, report, devices, message, sum } = await lookWith('0');
      expect(attempts).toEqual([
        { cuda: false, file: expect.stringMatching(/^(build|prebuilds)[/\\]/), problem: null },
      ]);
      expect(report).toBeNull();
      const why = 'the addon with CUDA is switched off by TERNFLASH_CUDA=0';
      expect(devices[0]).toEqual({ id: 'cuda', available: false, isDefault: false, reason: why });
      expect(message).toBe(`DeviceError: device: expected a usable device, got cuda: ${why}`);
      expect(sum).toBe(3);
    });
  },
);

test('a value of TERNFLASH_CUDA that is none loads no addon, and says so', async () => {
  const { attempts, devices } = await resultOfChild(
    async (library, file) => {
      const { loadAttempts } = (await import(file)) as typeof import('../../lib/native.js');
      return { attempts: loadAttempts, devices: library.devices() };
    },
    [path.join(path.dirname(LIBRARY), 'native.js')] as [string],
    { env: { TERNFLASH_CUDA: 'yes' } },
  );
  const message = 'expected auto, 0 or 1 for TERNFLASH_CUDA, got yes';
  expect(attempts).toEqual([{ cuda: false, file: null, problem: { kind: 'bad-variable', message } }]);
  expect(devices.map(({ id, available, reason }) => [id, available, reason])).toEqual([
    ['cuda', false, `no native addon (${message})`],
    ['cpu', false, `no native addon (${message})`],
    ['reference', true, 'plain TypeScript, always present'],
  ]);
});
