// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DTypeError, relu2Glu, ShapeError, swiglu } from '../../lib/index.js';
import { relu2GluSpec, swigluSpec } from '../formulas/gated-activation.js';
import { describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { describeGolden, describeOp } from '../op-tests.js';

describeGolden(swigluSpec, [{ fixture: 'swiglu', c: { name: 'swiglu', shape: [2, 7, 96] } }]);
describeGolden(relu2GluSpec, [{ fixture: 'relu2_glu', c: { name: 'relu2_glu', shape: [2, 7, 96] } }]);

describeOp(swigluSpec);
describeOp(relu2GluSpec);

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

    describeErrors(device, [
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
