// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { embedding } from '../../lib/index.js';
import { embeddingCases, type EmbeddingCase } from '../cases.js';
import type { OpSpec } from '../op-spec.js';

export const embeddingSpec: OpSpec<EmbeddingCase> = {
  op: 'embedding',
  cases: embeddingCases,
  inputs(c, random) {
    const ids = random.integers(
      c.ids.reduce((p, size) => p * size, 1),
      0,
      c.vocabulary - 1,
    );
    return {
      weight: { shape: [c.vocabulary, c.cols], values: random.normals(c.vocabulary * c.cols) },
      ids: { shape: c.ids, values: ids, dtype: 'int32' },
    };
  },
  call: ({ weight, ids }) => ({ out: embedding(weight, ids) }),
  forward: (_a, { weight, ids }, { cols }) => ({
    out: new Float64Array(ids.length * cols).map((_, i) => weight[ids[Math.floor(i / cols)] * cols + (i % cols)]),
  }),
  backward(a, { weight, ids }, { out }, { cols }) {
    const dWeight = new Float64Array(weight.length);
    out.forEach((dOut, i) => {
      const at = ids[Math.floor(i / cols)] * cols + (i % cols);
      dWeight[at] = a.accumulate(dWeight[at] + dOut);
    });
    return { weight: dWeight.map((sum) => a.round(sum)) };
  },
};
