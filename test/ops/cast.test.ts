// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cast, OptionError, type Tensor } from '../../lib/index.js';
import { decode, DTYPES, roundTo, type DType } from '../../lib/dtype.js';
import { roundedTo } from '../arithmetic.js';
import { expectIdentical } from '../compare.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { Random } from '../random.js';

/** Numbers at which rounding goes wrong: ties, subnormals, the ends of every range, what is not finite. */
const EDGES = [
  0,
  -0,
  0.5,
  -0.5,
  1.5,
  2.5,
  127,
  127.5,
  128,
  -128,
  -128.5,
  -129,
  255,
  255.5,
  256,
  -1,
  2147483520,
  2147483648,
  -2147483648,
  -2147483904,
  1e20,
  -1e20,
  65504,
  65519,
  65520,
  -65520,
  70000,
  6e-8,
  2 ** -25,
  3 * 2 ** -26,
  2 ** -24,
  2 ** -14,
  1e-40,
  3.4e38,
  1 + 2 ** -8,
  1 + 3 * 2 ** -8,
  1 + 2 ** -11,
  1 + 3 * 2 ** -11,
  1 + 2 ** -8 + 2 ** -20,
  Infinity,
  -Infinity,
  NaN,
];

describe('the rounding that tensors are filled with', () => {
  test.each(['float16', 'bfloat16'] as const)('%s: every number, every midpoint, and both sides of it', (dtype) => {
    const bits = new Uint16Array(65536).map((_, i) => i);
    const numbers = decode(dtype, new Uint8Array(bits.buffer));
    let wrong = 0;
    for (let i = 0; i < 65536; i++) {
      const value = numbers[i];
      const step = dtype === 'float16' ? 2 ** -11 : 2 ** -8;
      // Midpoints lie half a step off; float32 holds them and their neighbours.
      for (const near of [value, value * (1 + step), value * (1 + step * 1.001), value * (1 + step * 0.999)].map(
        Math.fround,
      )) {
        if (!Object.is(roundTo(dtype, near), roundedTo(dtype, near))) wrong++;
      }
    }
    expect(wrong).toBe(0);
  });
});

describe('cast', () => {
  describeBackends((device) => {
    const pairs = DTYPES.flatMap((from) => DTYPES.map((to): [DType, DType] => [from, to]));
    test.each(pairs)('%s to %s', async (from, to) => {
      // Enough numbers that whole vectors and their remainders are covered.
      const values = [...EDGES, ...new Random(`${from} ${to}`).normals(129, 100)].map((value) =>
        roundedTo(from, value),
      );
      const result = cast(make(device, from, [values.length], values), to);
      expect([result.shape, result.dtype]).toEqual([[values.length], to]);
      expectIdentical(
        'cast',
        await result.data(),
        values.map((value) => roundedTo(to, value)),
        result.shape,
      );
    });

    test('hand-computed: ties to even, saturation, NaN to 0', async () => {
      const x = make(device, 'float32', [6], [1 + 2 ** -8, 1 + 3 * 2 ** -8, 300.7, -300.7, NaN, -0.9]);
      expect([...(await cast(x, 'bfloat16').data())].slice(0, 2)).toEqual([1, 1 + 2 ** -6]);
      expect([...(await cast(x, 'int8').data())]).toEqual([1, 1, 127, -128, 0, 0]);
      expect([...(await cast(x, 'uint8').data())]).toEqual([1, 1, 255, 0, 0, 0]);
    });

    test('the gradient is rounded back to the dtype of x; integers carry none', async () => {
      const x = make(device, 'bfloat16', [2], [1, 2], true);
      cast(x, 'float32').backward(make(device, 'float32', [2], [1 + 2 ** -8, -3]));
      const grad = x.grad as Tensor;
      expect(grad.dtype).toBe('bfloat16');
      expect([...(await grad.data())]).toEqual([1, -3]);
      expect(cast(x, 'int32').requiresGrad).toBe(false);
    });

    test('a copy even without a change of dtype', async () => {
      const x = make(device, 'float32', [2], [1, 2]);
      const copy = cast(x, 'float32');
      x.dispose();
      expect([...(await copy.data())]).toEqual([1, 2]);
    });

    describeErrors(device, [
      {
        message: 'cast: expected one of float32, float16, bfloat16, int8, uint8, int32 for dtype, got "float64"',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => cast(t([2]), 'float64' as DType),
      },
    ]);
  });
});
