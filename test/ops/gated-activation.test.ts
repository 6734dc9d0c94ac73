// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, geglu, OptionError, relu2Glu, ShapeError, swiglu, type Tensor } from '../../lib/index.js';
import { erfc } from '../../lib/reference/erf.js';
import { gegluSpec, gegluTanhSpec, relu2GluSpec, swigluSpec } from '../formulas/gated-activation.js';
import { describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { describeGolden, describeOp } from '../op-tests.js';

describeGolden(swigluSpec, [{ fixture: 'swiglu', c: { name: 'swiglu', shape: [2, 7, 96] } }]);
describeGolden(relu2GluSpec, [{ fixture: 'relu2_glu', c: { name: 'relu2_glu', shape: [2, 7, 96] } }]);

describeGolden(gegluSpec, [{ fixture: 'geglu_exact', c: { name: 'geglu_exact', shape: [2, 7, 96] } }]);
describeGolden(gegluTanhSpec, [{ fixture: 'geglu_tanh', c: { name: 'geglu_tanh', shape: [2, 7, 96] } }]);

describeOp(swigluSpec);
describeOp(relu2GluSpec);
describeOp(gegluSpec);
describeOp(gegluTanhSpec);

test.each([
  [0, 1],
  [0.5, 0.4795001221869535],
  [1, 0.15729920705028513],
  [2, 0.004677734981047266],
  [3, 2.209049699858544e-5],
  [5, 1.5374597944280349e-12],
  [10, 2.088487583762545e-45],
  [-0.5, 1.5204998778130465],
  [-3, 1.9999779095030015],
  [Infinity, 0],
  [-Infinity, 2],
  [NaN, NaN],
])('erfc(%p) is %p', (x, expected) => {
  if (Number.isNaN(expected)) expect(erfc(x)).toBe(NaN);
  else expect(Math.abs(erfc(x) - expected)).toBeLessThanOrEqual(1e-12 * expected);
});

test('erfc is continuous where the series is left', () => {
  expect(Math.abs(erfc(2 + 1e-14) / erfc(2) - 1)).toBeLessThan(1e-12);
});

describe('gated activations', () => {
  describeBackends((device) => {
    test('hand-computed: max(gate, 0)^2 up, to the bit', async () => {
      const gate = make(device, 'float32', [5], [-3, 0, 2, 0.5, -0.25], true);
      const up = make(device, 'float32', [5], [7, 7, 3, -4, 1], true);
      const out = relu2Glu(gate, up);
      expect(Array.from(await out.data(), (value) => value + 0)).toEqual([0, 0, 12, -1, 0]);
      out.backward(make(device, 'float32', [5], [1, 1, 1, 10, 1]));
      expect(Array.from((await gate.grad?.data()) ?? [], (value) => value + 0)).toEqual([0, 0, 12, -40, 0]);
      expect(Array.from((await up.grad?.data()) ?? [], (value) => value + 0)).toEqual([0, 0, 4, 2.5, 0]);
    });

    test('hand-computed: silu(0) is 0 and its slope a half', async () => {
      const gate = make(device, 'float32', [1], [0], true);
      const up = make(device, 'float32', [1], [6], true);
      const out = swiglu(gate, up);
      expect((await out.data())[0] + 0).toBe(0);
      out.backward(make(device, 'float32', [1], [1]));
      expect([...((await gate.grad?.data()) ?? [])]).toEqual([3]);
      expect(Array.from((await up.grad?.data()) ?? [], (value) => value + 0)).toEqual([0]);
    });

    test.each(FLOAT_DTYPES)('gates far out give the limits in %s, forward and backward, and no NaN', async (dtype) => {
      const far = dtype === 'float16' ? 60000 : 2 ** 100;
      const gate = make(device, dtype, [4], [far, -far, 128, -1024], true);
      const up = make(device, dtype, [4], [0.5, 0.5, 2, 2], true);
      const out = swiglu(gate, up);
      const rounded = (await make(device, dtype, [1], [far]).data())[0];
      expect(Array.from(await out.data(), (value) => value + 0)).toEqual([rounded / 2, 0, 256, 0]);
      out.backward(make(device, dtype, [4], [1, 1, 1, 1]));
      expect(Array.from((await gate.grad?.data()) ?? [], (value) => value + 0)).toEqual([0.5, 0, 2, 0]);
      expect(Array.from((await up.grad?.data()) ?? [], (value) => value + 0)).toEqual([rounded, 0, 128, 0]);
    });

    test('hand-computed: gelu(0) is 0 and its slope a half', async () => {
      for (const approximate of ['none', 'tanh'] as const) {
        const gate = make(device, 'float32', [1], [0], true);
        const up = make(device, 'float32', [1], [6], true);
        const out = geglu(gate, up, { approximate });
        expect((await out.data())[0] + 0).toBe(0);
        out.backward(make(device, 'float32', [1], [1]));
        expect((await (gate.grad as Tensor).data())[0]).toBeCloseTo(3, 6);
        expect((await (up.grad as Tensor).data())[0] + 0).toBe(0);
      }
    });

    test('gelu keeps its digits in both tails', async () => {
      // x Phi(x), which for a negative x is far smaller than the rounding of 1 + erf. The exponent of e^(-x^2/2) is rounded to 2^-24 of itself.
      const gates = Float64Array.from({ length: 23 }, (_, i) => (i - 11) * 1.0625);
      const gate = make(device, 'float32', [23], gates, true);
      const out = geglu(gate, make(device, 'float32', [23], new Float64Array(23).fill(1)));
      (await out.data()).forEach((value, i) => {
        const expected = (gates[i] * erfc(-gates[i] / Math.SQRT2)) / 2;
        const bound = Math.abs(expected) * (2 ** -20 + 2 ** -23 * gates[i] ** 2);
        expect(Math.abs(value - expected)).toBeLessThanOrEqual(bound);
      });
    });

    test.each(FLOAT_DTYPES)('geglu far out gives the limits in %s, forward and backward, and no NaN', async (dtype) => {
      const far = dtype === 'float16' ? 60000 : 2 ** 127;
      for (const approximate of ['none', 'tanh'] as const) {
        const gate = make(device, dtype, [5], [far, -far, 64, -64, -1024], true);
        const up = make(device, dtype, [5], [0.5, 0.5, 2, 2, 2], true);
        const out = geglu(gate, up, { approximate });
        const rounded = (await make(device, dtype, [1], [far]).data())[0];
        expect(Array.from(await out.data(), (value) => value + 0)).toEqual([rounded / 2, 0, 128, 0, 0]);
        out.backward(make(device, dtype, [5], [1, 1, 1, 1, 1]));
        expect(Array.from(await (gate.grad as Tensor).data(), (value) => value + 0)).toEqual([0.5, 0, 2, 0, 0]);
        expect(Array.from(await (up.grad as Tensor).data(), (value) => value + 0)).toEqual([rounded, 0, 64, 0, 0]);
      }
    });

    test('a gradient near the largest float overflows nowhere but in a result', async () => {
      const largest = (2 - 2 ** -23) * 2 ** 127;
      // Slopes above 1, times the largest float, times 1/2.
      for (const call of [swiglu, geglu, (g: Tensor, u: Tensor) => geglu(g, u, { approximate: 'tanh' })]) {
        const gate = make(device, 'float32', [2], [2, -1e-6], true);
        const up = make(device, 'float32', [2], [0.5, 0.5]);
        call(gate, up).backward(make(device, 'float32', [2], [largest, largest]));
        const [steep, half] = await (gate.grad as Tensor).data();
        expect(steep / largest).toBeGreaterThan(0.53);
        expect(steep / largest).toBeLessThan(0.57);
        expect(half / largest).toBeCloseTo(0.25, 5);
      }
    });

    describeErrors(device, [
      {
        message: 'geglu: expected one of none, tanh for approximate, got "exact"',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => geglu(t([3]), t([3]), { approximate: 'exact' as 'none' }),
      },
      {
        message: 'geglu: expected only approximate as options, got tanh',
        type: OptionError,
        code: ERROR_CODES.option,
        call: (t) => geglu(t([3]), t([3]), { tanh: true } as object),
      },
      {
        message: 'geglu: expected up of shape [3] to match gate, got [2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => geglu(t([3]), t([2])),
      },
      {
        message: 'swiglu: expected up of shape [2, 3] to match gate, got [3, 2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => swiglu(t([2, 3]), t([3, 2])),
      },
      {
        message: 'relu2Glu: expected up of dtype float32 like gate, got float16',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => relu2Glu(t([3]), t([3], 'float16')),
      },
      {
        message: 'relu2Glu: expected gate of dtype float32 or float16 or bfloat16, got int32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => relu2Glu(t([3], 'int32'), t([3], 'int32')),
      },
    ]);
  });
});
