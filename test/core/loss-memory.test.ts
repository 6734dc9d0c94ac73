// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { FloatDType } from '../../lib/dtype.js';
import { hasCpu } from '../harness.js';
import { resultOfChild } from './child.js';

const [ROWS, FEATURES, VOCABULARY] = [1024, 32, 32768];
const MEGABYTE = 2 ** 20;

interface Measured {
  /** Beyond the inputs: what the device counts. */
  forward: number;
  backward: number;
  /** Growth of the process's largest size so far. */
  resident: number;
}

/** Loss and gradients in a process of their own, whose largest size nothing else has touched. */
function measure(dtype: FloatDType, fused: boolean): Promise<Measured> {
  return resultOfChild(
    async (library, rows, features, vocabulary, type, whole) => {
      const { readFileSync } = await import('node:fs');
      // Of this program alone where the system says so: maxRSS begins with the size of the process that started this one.
      const largest = (): number => {
        if (process.platform !== 'linux') return process.resourceUsage().maxRSS * 1024;
        return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024;
      };
      const { crossEntropy, device, linear, linearCrossEntropy, noGrad, randn, tensor, tidy } = library;
      const cpu = device('cpu');
      const make = (shape: number[]): ReturnType<typeof randn> =>
        randn(shape, { device: 'cpu', seed: 1, std: 0.1, dtype: type, requiresGrad: true });
      const [x, weight] = [make([rows, features]), make([vocabulary, features])];
      const targets = tensor(new Int32Array(rows), { device: 'cpu' });
      const loss = (): ReturnType<typeof randn> =>
        whole ? linearCrossEntropy(x, weight, targets) : crossEntropy(linear(x, weight), targets);
      const peakOf = async (fn: () => void): Promise<number> => {
        cpu.resetPeakMemory();
        const before = cpu.memory().bytes;
        fn();
        await cpu.synchronize();
        return cpu.memory().peakBytes - before;
      };
      await cpu.synchronize();
      const resident = largest();
      const forward = await peakOf(() => tidy(() => noGrad(() => loss()).dispose()));
      const backward = await peakOf(() => tidy(() => loss().backward()));
      return { forward, backward, resident: largest() - resident };
    },
    [ROWS, FEATURES, VOCABULARY, dtype, fused] as const,
  );
}

(hasCpu ? describe : describe.skip)('memory of linearCrossEntropy on the cpu device', () => {
  const logits = ROWS * VOCABULARY * 4;

  test.each(['float32', 'bfloat16'] as const)('%s: a few megabytes where the logits are 128', async (dtype) => {
    const gradients = (ROWS + VOCABULARY) * FEATURES * (dtype === 'float32' ? 4 : 2);
    const { forward, backward, resident } = await measure(dtype, true);
    expect(forward).toBeLessThan(5 * MEGABYTE);
    expect(backward - gradients).toBeLessThan(5 * MEGABYTE);
    expect(resident - gradients).toBeLessThan(logits / 4);
  });

  test('measured so, the pair of ops holds the logits, and their gradient too', async () => {
    const { forward, backward, resident } = await measure('float32', false);
    expect(forward).toBeGreaterThan(logits);
    expect(backward).toBeGreaterThan(2 * logits);
    // Growth begins at the largest size so far, of which some is free again: less than what is held, but beyond the limit above.
    expect(resident).toBeGreaterThan(logits / 2);
  });
});
