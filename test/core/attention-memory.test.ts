// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device as deviceNamed, emptyCache, flashAttention, randn, tidy } from '../../lib/index.js';
import { hasCpu } from '../harness.js';

(hasCpu ? describe : describe.skip)('memory of attention on the cpu device', () => {
  test.each([
    ['plain', {}],
    // A window, for the dropped numbers take time; there is none in what is held.
    ['softcap, sinks, dropout', { softcap: 20, dropout: 0.1, window: [2048, 0] as const }],
  ])(
    '%s: 16,384 tokens, forward and backward, take less than 64 MB beyond inputs and outputs',
    async (name, options) => {
      const cpu = deviceNamed('cpu');
      const length = 16384;
      const [q, k, v] = [5, 6, 7].map((seed) => randn([1, length, 1, 64], { device: 'cpu', seed, requiresGrad: true }));
      const sinks = name === 'plain' ? null : randn([1], { device: 'cpu', seed: 9, requiresGrad: true });
      const dOut = randn([1, length, 1, 64], { device: 'cpu', seed: 8 });
      await cpu.synchronize();
      emptyCache();
      await cpu.synchronize();
      const before = process.memoryUsage().rss;
      cpu.resetPeakMemory();
      const counted = cpu.memory().bytes;
      const out = flashAttention(q, k, v, { ...options, ...(sinks && { sinks }) });
      tidy(() => out.backward(dOut));
      const peak = cpu.memory().peakBytes - counted;
      await cpu.synchronize();
      const resident = process.memoryUsage().rss - before;
      const tensorBytes = length * 64 * 4;
      const results = 4 * tensorBytes; // out, dq, dk, dv
      expect(peak - results).toBeLessThan(64 * 2 ** 20);
      expect(resident - results).toBeLessThan(64 * 2 ** 20);
      // An S x S matrix would be a gigabyte. What there is: lse and delta.
      expect(peak - results).toBeLessThanOrEqual(4 * length * 4);
      for (const each of [q, k, v, sinks, dOut, out]) each?.dispose();
    },
  );
});
