// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { relu2Glu, swiglu } from '../../lib/index.js';
import type { Arithmetic } from '../arithmetic.js';
import { gatedActivationCases, type RowsCase } from '../cases.js';
import type { OpSpec } from '../op-spec.js';

/** The activation and its derivative. */
type Activation = (a: Arithmetic, gate: number) => { value: number; slope: number };

const silu: Activation = (a, gate) => {
  const sigmoid = a.round(1 / a.round(1 + a.round(Math.exp(-gate))));
  return {
    value: a.round(gate * sigmoid),
    slope: a.round(sigmoid * a.round(1 + a.round(gate * a.round(1 - sigmoid)))),
  };
};

const squaredRelu: Activation = (a, gate) => {
  const positive = gate > 0 || Number.isNaN(gate) ? gate : 0;
  return { value: a.round(positive * positive), slope: 2 * positive };
};

function gatedSpec(op: string, activation: Activation, call: typeof swiglu): OpSpec<RowsCase> {
  return {
    op,
    cases: gatedActivationCases,
    inputs(c, random) {
      const count = c.shape.reduce((p, size) => p * size, 1);
      return {
        gate: { shape: c.shape, values: random.normals(count, c.spread) },
        up: { shape: c.shape, values: random.normals(count) },
      };
    },
    call: ({ gate, up }) => ({ out: call(gate, up) }),
    forward: (a, { gate, up }) => ({ out: gate.map((g, i) => a.round(activation(a, g).value * up[i])) }),
    backward: (a, { gate, up }, { out }) => ({
      gate: gate.map((g, i) => a.round(a.round(out[i] * up[i]) * activation(a, g).slope)),
      up: gate.map((g, i) => a.round(out[i] * activation(a, g).value)),
    }),
  };
}

export const swigluSpec = gatedSpec('swiglu', silu, swiglu);
export const relu2GluSpec = gatedSpec('relu2Glu', squaredRelu, relu2Glu);
