// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { scale } from '../../lib/index.js';
import { scaleCases, type ScaleCase } from '../cases.js';
import type { OpSpec } from '../op-spec.js';

export const scaleSpec: OpSpec<ScaleCase> = {
  op: 'scale',
  cases: scaleCases,
  inputs: (c, random) => ({ x: { shape: c.shape, values: random.normals(c.shape.reduce((p, size) => p * size, 1)) } }),
  call: ({ x }, c) => ({ out: scale(x, c.factor) }),
  forward: (a, { x }, c) => ({ out: x.map((value) => a.round(value * a.round(c.factor))) }),
  backward: (a, _inputs, { out }, c) => ({ x: out.map((value) => a.round(value * a.round(c.factor))) }),
};
