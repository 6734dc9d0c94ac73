// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { AttentionCase } from '../cases.js';
import { describeGolden, describeOp, type GoldenCase } from '../op-tests.js';
import { flashAttentionSpec } from '../formulas/flash-attention.js';

type Sizes = [number, number, number, number, number, number];

/** Options as in test/fixtures/manifest.json; the sizes are B, Sq, Sk, H, G, D. */
function golden(
  fixture: string,
  [batch, queries, keys, heads, keyHeads, headDim]: Sizes,
  options: Pick<AttentionCase, 'causal' | 'window' | 'scale'> = {},
): GoldenCase<AttentionCase> {
  return { fixture, c: { name: fixture, batch, queries, keys, heads, keyHeads, headDim, ...options } };
}

const CAUSAL = { causal: true };

describeGolden(flashAttentionSpec, [
  golden('attention_mha', [1, 37, 37, 2, 2, 64]),
  golden('attention_causal', [2, 65, 65, 2, 2, 64], CAUSAL),
  golden('attention_gqa_causal', [1, 49, 49, 4, 2, 64], CAUSAL),
  golden('attention_mqa', [1, 33, 70, 4, 1, 64]),
  golden('attention_cross_causal_longer_k', [1, 20, 75, 2, 1, 64], CAUSAL),
  golden('attention_causal_longer_q', [1, 40, 25, 2, 2, 64], CAUSAL),
  golden('attention_window', [1, 80, 80, 2, 1, 64], { causal: true, window: [16, 0] }),
  golden('attention_window_two_sided', [1, 60, 60, 2, 2, 64], { window: [7, 11] }),
  golden('attention_scale', [1, 40, 40, 2, 2, 64], { scale: 0.5 }),
  golden('attention_decode', [3, 1, 129, 8, 2, 64], CAUSAL),
  golden('attention_head_dim_32', [1, 40, 40, 2, 2, 32], CAUSAL),
  golden('attention_head_dim_80', [1, 40, 40, 1, 1, 80]),
  golden('attention_head_dim_128', [1, 40, 40, 1, 1, 128], CAUSAL),
  golden('attention_head_dim_256', [1, 33, 33, 1, 1, 256], CAUSAL),
]);

describeOp(flashAttentionSpec);
