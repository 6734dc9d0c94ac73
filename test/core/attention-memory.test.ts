// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device as deviceNamed, emptyCache, flashAttention, randn, tidy } from '../../lib/index.js';
import { hasCpu } from '../harness.js';

(hasCpu ? describe : describe.skip)('memory of attention on the cpu device', () => {
  test('attention over 16,384 tokens, forward and backward, takes less than 64 MB beyond its inputs and outputs', async () => {
    const cpu = deviceNamed('cpu');
    const length = 16384;
    const [q, k, v] = [5, 6, 7].map((seed) => randn([1, length, 1, 64], { device: 'cpu', seed, requiresGrad: true }));
    const dOut = randn([1, length, 1, 64], { device: 'cpu', seed: 8 });
    await cpu.synchronize();
    emptyCache();
    await cpu.synchronize();
    const before = process.memoryUsage().rss;
    cpu.resetPeakMemory();
    const counted = cpu.memory().bytes;
    const out = flashAttention(q, k, v);
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
    for (const each of [q, k, v, dOut, out]) each.dispose();
  });
});
