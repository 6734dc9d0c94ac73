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
] as const;

test.each([
  [[], [0, 1, 2, 3, 4, 5]],
  [['all'], [0, 1, 2, 3, 4, 5]],
  [['flash-attention'], [4]],
  [['ternary'], [1, 2, 3]],
  [['memory'], [5]],
  [['dropout'], [4, 5]],
  [
    ['memory', 'linear 1024'],
    [0, 5],
  ],
  [['toString'], []],
])('%j picks %j', (words, picked) => {
  const found = CASES.flatMap((c, index) => (isPicked(c, words) ? [index] : []));
  expect(found).toEqual(picked);
});
