// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { bitLinear, DTypeError, quantizeTernary, ShapeError, ternaryMatmul, type Tensor } from '../../lib/index.js';
import { ternaryMatmulCases } from '../cases.js';
import { bitLinearSpec } from '../formulas/bit-linear.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, FLOAT_DTYPES, make } from '../harness.js';
import { describeGolden, describeOp } from '../op-tests.js';
import { Random } from '../random.js';

// PyTorch's epilogue rounds elsewhere than ours, so here the result is judged like any float op.
const asFloats = { ...bitLinearSpec, cases: { ...bitLinearSpec.cases, tolerance: 'rounded' as const } };
describeGolden(asFloats, [
  { fixture: 'bit_linear', computedIn: 'float32', c: { name: 'bit_linear', lead: [5], n: 48, k: 80 } },
]);

describeOp(bitLinearSpec);

describe('bitLinear', () => {
  describeBackends((device) => {
    test.each(FLOAT_DTYPES.flatMap((dtype) => ternaryMatmulCases.cases.map((c) => ({ dtype, ...c }))))(
      'is ternaryMatmul of the quantised weight, to the bit: $dtype, $name',
      async ({ dtype, name, lead, n, k, bias }) => {
        const random = new Random(`bitLinear ${name}`);
        const rows = lead.reduce((product, size) => product * size, 1);
        const x = make(device, dtype, [...lead, k], random.normals(rows * k));
        const weight = make(device, dtype, [n, k], random.normals(n * k));
        const b = bias ? make(device, dtype, [n], random.normals(n)) : null;
        using ternary = quantizeTernary(weight);
        expect(await bitsOf(bitLinear(x, weight, b))).toEqual(await bitsOf(ternaryMatmul(x, ternary, { bias: b })));
      },
    );

    test('hand-computed: forward and straight-through gradients', async () => {
      // Scale of the weight: mean magnitude 1. Scale of the token: 127 / 127.
      const x = make(device, 'float32', [1, 2], [127, -63.5], true);
      const weight = make(device, 'float32', [2, 2], [1.75, -0.25, -0.25, -1.75], true);
      const y = bitLinear(x, weight);
      expect([...(await y.data())]).toEqual([127, 64]); // trits 1 0 / 0 -1, and -63.5 rounds to the even -64
      y.backward(make(device, 'float32', [1, 2], [1, 10]));
      expect([...(await (x.grad as Tensor).data())]).toEqual([1, -10]);
      expect([...(await (weight.grad as Tensor).data())]).toEqual([127, -64, 1270, -640]);
    });

    describeErrors(device, [
      {
        message: 'bitLinear: expected weight of shape [N, 3] to match the last axis of x, got [2, 4]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => bitLinear(t([2, 3]), t([2, 4])),
      },
      {
        message: 'bitLinear: expected weight of dtype float16 like x, got float32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => bitLinear(t([3], 'float16'), t([2, 3])),
      },
      {
        message: 'bitLinear: expected bias of shape [2] to match weight, got [1]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => bitLinear(t([3]), t([2, 3]), t([1])),
      },
    ]);
  });
});
