// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { isPicked } from '../../bench/groups.js';

const CASES = [
  { name: 'linear 1024x1024x1024', unit: 'float operations' },
  { name: 'ternary-matmul int8 1x2560x2560', unit: 'integer operations' },
  { name: 'quantize-ternary twn 2048x2048', unit: 'bytes' },
  { name: 'bit-linear forward and backward 2048x512x192', unit: 'float operations' },
  { name: 'flash-attention 512, causal, dropout, forward', unit: 'float operations' },
  { name: 'dropout 2048x2048', unit: 'bytes' },
  // Of the GPU.
  { name: 'memory swiglu forward bf16' },
  { name: 'attention forward bf16 D64 S4096 causal' },
  { name: 'ternary matmul M1 2560x2560' },
] as const;

test.each([
  [[], [0, 1, 2, 3, 4, 5, 6, 7, 8]],
  [['all'], [0, 1, 2, 3, 4, 5, 6, 7, 8]],
  [['flash-attention'], [4, 7]],
  [['ternary'], [1, 2, 3, 8]],
  [['memory'], [5, 6]],
  [['dropout'], [4, 5]],
  [
    ['memory', 'linear 1024'],
    [0, 5, 6],
  ],
  [['toString'], []],
])('%j picks %j', (words, picked) => {
  const found = CASES.flatMap((c, index) => (isPicked(c, words) ? [index] : []));
  expect(found).toEqual(picked);
});
