// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device, type Device } from '../lib/device.js';
import type { FloatDType } from '../lib/dtype.js';
import { quantizeTernary } from '../lib/ops/quantize-ternary.js';
import { ternaryMatmul } from '../lib/ops/ternary-matmul.js';
import { Generator } from '../lib/random.js';
import { tidy } from '../lib/scope.js';
import { empty, type Tensor } from '../lib/tensor.js';
import { roundedTo } from '../test/arithmetic.js';
import { disposeAll, SHORT_NAMES, size, type GpuCase } from './gpu-case.js';
import { expectNear, operand, readerOf } from './operands.js';
import { DEVICE } from './options.js';
import { subject } from './schema.js';

const SAMPLES = 100;
const SQUARE = size(4096, 96);

/** N and T say how the operands lie in memory: a is [m, k] or, T, [k, m]; b is [k, n] or, T, [n, k]. NT is the product of `linear`. */
type Layout = 'NN' | 'NT' | 'TN';

function matmulCase(layout: Layout, dtype: FloatDType): GpuCase {
  const name = `matmul ${layout} ${SHORT_NAMES[dtype]} ${SQUARE}`;
  const n = SQUARE;
  return {
    name,
    subject: subject('matmul', dtype),
    prepare() {
      const place: Device = device(DEVICE);
      const [a, b] = [1, 2].map((seed) => operand([n, n], dtype, { seed }));
      const [transposeA, transposeB] = [layout[0] === 'T', layout[1] === 'T'];
      const product = (): Tensor => {
        const out = empty('bench', [n, n], dtype, place);
        const sizes = { m: n, n, k: n, transposeA, transposeB };
        place.backend.matmul({ a: a.tensor.arg, b: b.tensor.arg, bias: null, out: out.arg, ...sizes });
        return out;
      };
      return {
        flops: 2 * n ** 3,
        bytes: 3 * a.tensor.bytes,
        async check() {
          using out = product();
          const result = await readerOf(out);
          const random = new Generator(3);
          for (let sample = 0; sample < SAMPLES; sample++) {
            const [row, col] = [random.integer(n), random.integer(n)];
            let [sum, magnitude] = [0, 0];
            for (let i = 0; i < n; i++) {
              const term = a.at(transposeA ? i * n + row : row * n + i) * b.at(transposeB ? col * n + i : i * n + col);
              sum += term;
              magnitude += Math.abs(term);
            }
            expectNear(name, dtype, result(row * n + col), sum, magnitude * 2 ** -24 * Math.sqrt(n) * 4);
          }
        },
        run: () => product().dispose(),
        dispose: () => disposeAll([a.tensor, b.tensor]),
      };
    },
  };
}

export function matmulCases(): GpuCase[] {
  return (['bfloat16', 'float16'] as const).flatMap((dtype) =>
    (['NN', 'NT', 'TN'] as const).map((layout) => matmulCase(layout, dtype)),
  );
}

/** The weights of as many layers take turns, so that they come from memory as in a model, and not from the cache of one. */
const TURN_BYTES = size(128 * 2 ** 20, 2 ** 14);
const TERNARY_DTYPE = 'bfloat16';

/** int8 activations, their rounding included. The result has to be exact. */
function ternaryCase(m: number, n: number, k: number): GpuCase {
  const name = `ternary matmul M${m} ${n}x${k}`;
  return {
    name,
    subject: subject('ternaryMatmul', 'int8'),
    prepare() {
      const x = operand([m, k], TERNARY_DTYPE, { seed: 1 });
      const weight = operand([n, k], TERNARY_DTYPE, { seed: 2 });
      const packedBytes = n * Math.ceil(k / 4);
      const layers = Array.from({ length: Math.ceil(TURN_BYTES / packedBytes) }, () => quantizeTernary(weight.tensor));
      weight.tensor.dispose();
      let turn = 0;
      return {
        flops: 2 * m * n * k,
        bytes: packedBytes + 2 * m * (n + k),
        async check() {
          const [trits, scale] = [await layers[0].trits(), await layers[0].scale.item()];
          using out = ternaryMatmul(x.tensor, layers[0]);
          const result = await readerOf(out);
          const random = new Generator(3);
          for (let sample = 0; sample < SAMPLES; sample++) {
            const [row, col] = [random.integer(m), random.integer(n)];
            const values = x.part(row * k, k);
            const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), Math.fround(1e-5));
            const s = Math.fround(127 / largest);
            let sum = 0;
            for (let i = 0; i < k; i++) {
              const code = Math.fround(values[i] * s);
              const floor = Math.floor(code);
              const rest = code - floor;
              sum += (rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor) * trits[col * k + i];
            }
            const expected = roundedTo(TERNARY_DTYPE, Math.fround(Math.fround(sum) * Math.fround(scale / s)));
            const got = result(row * n + col);
            if (got !== expected) throw new Error(`bench ${name}: expected exactly ${expected}, got ${got}`);
          }
        },
        run: () => tidy(() => void ternaryMatmul(x.tensor, layers[turn++ % layers.length])),
        dispose() {
          disposeAll([x.tensor]);
          for (const layer of layers) layer.dispose();
        },
      };
    },
  };
}

const SMALL_TOKENS: Record<number, number> = { 1: 1, 16: 2, 512: 8, 4096: 64 };

export function ternaryCases(): GpuCase[] {
  const shapes: [number, number][] = [
    [size(4096, 96), size(4096, 96)],
    [size(2560, 80), size(6912, 216)],
  ];
  return shapes.flatMap(([n, k]) => [1, 16, 512, 4096].map((m) => ternaryCase(size(m, SMALL_TOKENS[m]), n, k)));
}
