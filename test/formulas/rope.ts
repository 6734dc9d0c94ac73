// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { rope, type RopeScaling } from '../../lib/index.js';
import type { Arithmetic } from '../arithmetic.js';
import { ropeCases, type RopeCase } from '../cases.js';
import type { Input, NamedValues, OpSpec, Values } from '../op-spec.js';

function positionOf(c: RopeCase, positions: Values | undefined, token: number): number {
  if (!positions) return ((c.positions ?? 0) as number) + (token % c.sequence);
  return positions[c.positions === 'shared' ? token % c.sequence : token];
}

/** The angle per position, by the lines of Transformers' modeling_rope_utils.py. */
export function frequencyOf(pair: number, rotaryDim: number, theta: number, scaling: RopeScaling | undefined): number {
  const inverse = 1 / theta ** ((2 * pair) / rotaryDim);
  if (!scaling) return inverse;
  if (scaling.type === 'linear') return inverse / scaling.factor;
  if (scaling.type === 'factors') return inverse / scaling.factors[pair];
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
  const wavelength = (2 * Math.PI) / inverse;
  if (wavelength < originalMaxPositions / highFreqFactor) return inverse;
  if (wavelength > originalMaxPositions / lowFreqFactor) return inverse / factor;
  const smooth = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - smooth) * inverse) / factor + smooth * inverse;
}

/** Rotates every pair by its angle times `direction`. The angle is taken exactly: only its sine and cosine are rounded. */
function rotate(a: Arithmetic, x: Values, positions: Values | undefined, c: RopeCase, direction: 1 | -1): Values {
  const { heads, headDim, rotaryDim = headDim, theta = 10000, interleaved } = c;
  const out = x.slice();
  for (let vector = 0; vector < x.length / headDim; vector++) {
    const position = positionOf(c, positions, Math.floor(vector / heads));
    for (let pair = 0; pair < rotaryDim / 2; pair++) {
      const angle = direction * position * frequencyOf(pair, rotaryDim, theta, c.scaling);
      const [sine, cosine] = [a.round(Math.sin(angle)), a.round(Math.cos(angle))];
      const first = vector * headDim + (interleaved ? 2 * pair : pair);
      const second = first + (interleaved ? 1 : rotaryDim / 2);
      out[first] = a.round(a.round(x[first] * cosine) - a.round(x[second] * sine));
      out[second] = a.round(a.round(x[second] * cosine) + a.round(x[first] * sine));
    }
  }
  return out;
}

export const ropeSpec: OpSpec<RopeCase> = {
  op: 'rope',
  cases: ropeCases,
  inputs(c, random): Record<string, Input> {
    const { batch, sequence, heads, headDim } = c;
    const x = { shape: [batch, sequence, heads, headDim], values: random.normals(batch * sequence * heads * headDim) };
    if (c.positions !== 'each' && c.positions !== 'shared') return { x };
    const shape = c.positions === 'each' ? [batch, sequence] : [sequence];
    const values = random.integers(
      shape.reduce((p, size) => p * size, 1),
      0,
      4095,
    );
    return { x, positions: { shape, values, dtype: 'int32' } };
  },
  call({ x, positions }, c) {
    const { theta, rotaryDim, interleaved, scaling } = c;
    const at = positions ?? (c.positions as number | undefined);
    return {
      out: rope(x, {
        ...(at !== undefined && { positions: at }),
        ...(theta && { theta }),
        ...(rotaryDim && { rotaryDim }),
        ...(interleaved && { interleaved }),
        ...(scaling && { scaling }),
      }),
    };
  },
  forward: (a, { x, positions }, c): NamedValues => ({ out: rotate(a, x, positions, c, 1) }),
  backward: (a, { positions }, { out }, c): NamedValues => ({ x: rotate(a, out, positions, c, -1) }),
};
