// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { geglu, relu2Glu, swiglu, type Tensor } from '../../lib/index.js';
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

/** erf by its series of positive terms, e^(-z^2) sum over n of 2^n z^(2n+1) / (2n+1)!!; beyond 6 it is 1 in float64. */
function erf(z: number): number {
  if (Number.isNaN(z)) return NaN;
  if (Math.abs(z) > 6) return Math.sign(z);
  let sum = 0;
  for (let n = 0, term = z; n < 200; n++, term *= (2 * z * z) / (2 * n + 1)) sum += term;
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-z * z) * sum;
}

const gelu: Activation = (a, gate) => {
  const distribution = a.round(0.5 * a.round(1 + a.round(erf(a.round(gate / Math.SQRT2)))));
  const bell = a.round(Math.exp(a.round(-0.5 * a.round(gate * gate))));
  const density = a.round(bell / Math.sqrt(2 * Math.PI));
  return { value: a.round(gate * distribution), slope: a.round(distribution + a.round(gate * density)) };
};

const geluTanh: Activation = (a, gate) => {
  const factor = Math.sqrt(2 / Math.PI);
  const square = a.round(gate * gate);
  const inner = a.round(factor * a.round(gate + a.round(0.044715 * a.round(square * gate))));
  const tanh = a.round(Math.tanh(inner));
  const half = a.round(0.5 * a.round(1 + tanh));
  const slopeOfInner = a.round(factor * a.round(1 + a.round(3 * 0.044715 * square)));
  const slopeOfHalf = a.round(a.round(0.5 * a.round(1 - a.round(tanh * tanh))) * slopeOfInner);
  return { value: a.round(gate * half), slope: a.round(half + a.round(gate * slopeOfHalf)) };
};

function gatedSpec(op: string, activation: Activation, call: (gate: Tensor, up: Tensor) => Tensor): OpSpec<RowsCase> {
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
export const gegluSpec = gatedSpec('geglu', gelu, geglu);
export const gegluTanhSpec = gatedSpec('geglu, tanh', geluTanh, (gate, up) => geglu(gate, up, { approximate: 'tanh' }));
