// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { native } from '../lib/native.js';
import { createReferenceBackend } from '../lib/reference/index.js';

describe('the backend contract', () => {
  (native ? test : test.skip)('the addon exports exactly the methods of the interface', () => {
    // The compiler holds the reference backend to the interface; this holds the addon to the reference backend.
    const names = Object.keys(createReferenceBackend()).sort();
    expect(names).toContain('flashAttention');
    expect(Object.keys(native?.cpu ?? {}).sort()).toEqual(names);
    for (const name of names) expect(typeof native?.cpu[name as keyof typeof native.cpu]).toBe('function');
  });

  (native ? test : test.skip)('and the rest of what lib/native.ts declares', () => {
    const plain = [
      'allocationsLeft',
      'containerLimit',
      'cpu',
      'failAllocation',
      'fmaPeak',
      'isa',
      'onOutOfMemory',
      'setThreads',
      'threads',
    ];
    // The one with CUDA was loaded if it has either of its two functions; it then has both.
    const withCuda = native?.cudaReport !== undefined || native?.openCuda !== undefined;
    expect(Object.keys(native ?? {}).sort()).toEqual(
      [...plain, ...(withCuda ? ['cudaReport', 'openCuda'] : [])].sort(),
    );
    expect(['base', 'avx2', 'avx512', 'avx512vnni', 'avx512bf16', 'dotprod']).toContain(native?.isa);
  });
});
