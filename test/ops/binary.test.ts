// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { add, DTypeError, full, mul, ShapeError, type Tensor } from '../../lib/index.js';
import { binaryCases } from '../cases.js';
import { expectIdentical } from '../compare.js';
import { addSpec, broadcastIndex, broadcastShape, mulSpec } from '../formulas/binary.js';
import { bitsOf, describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { describeOp } from '../op-tests.js';
import { Random } from '../random.js';

describeOp(addSpec);
describeOp(mulSpec);

const WRAP = {
  int8: (value: number) => (value << 24) >> 24,
  uint8: (value: number) => value & 255,
  int32: (value: number) => value | 0,
} as const;
const LIMITS = { int8: [-128, 127], uint8: [0, 255], int32: [-(2 ** 31), 2 ** 31 - 1] } as const;

describe('add and mul', () => {
  describeBackends((device) => {
    describe.each(['int8', 'uint8', 'int32'] as const)('%s wraps around', (dtype) => {
      test.each(binaryCases.cases)('$name', async (c) => {
        const random = new Random(`${dtype} ${c.name}`);
        const [low, high] = LIMITS[dtype];
        const count = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);
        const a = random.integers(count(c.a), low, high);
        const b = random.integers(count(c.b), low, high);
        const shape = broadcastShape(c);
        const [left, right] = [broadcastIndex(c.a, shape), broadcastIndex(c.b, shape)];
        const [ta, tb] = [make(device, dtype, c.a, a), make(device, dtype, c.b, b)];
        const sum = add(ta, tb);
        expect(sum.shape).toEqual(shape);
        const wrap = WRAP[dtype];
        expectIdentical(
          'add',
          await sum.data(),
          left.map((_, i) => wrap(a[left[i]] + b[right[i]])),
          shape,
        );
        // Math.imul gives the low 32 bits that the product of two numbers wraps to.
        expectIdentical(
          'mul',
          await mul(ta, tb).data(),
          left.map((_, i) => wrap(Math.imul(a[left[i]], b[right[i]]))),
          shape,
        );
      });
    });

    test('hand-computed: a column and a row', async () => {
      const a = make(device, 'float32', [2, 1], [1, 10], true);
      const b = make(device, 'float32', [3], [1, 2, 3], true);
      const sum = add(a, b);
      expect(sum.shape).toEqual([2, 3]);
      expect([...(await sum.data())]).toEqual([2, 3, 4, 11, 12, 13]);
      const product = mul(a, b);
      expect([...(await product.data())]).toEqual([1, 2, 3, 10, 20, 30]);
      product.backward(make(device, 'float32', [2, 3], [1, 1, 1, 2, 2, 2]));
      expect([...(await (a.grad as Tensor).data())]).toEqual([6, 12]);
      expect([...(await (b.grad as Tensor).data())]).toEqual([21, 21, 21]);
    });

    describe('shapes broadcast, either way round', () => {
      test.each<[number[], number[], number[]]>([
        [[], [], []],
        [[], [1], [1]],
        [[], [1, 1], [1, 1]],
        [[3], [], [3]],
        [[3], [1], [3]],
        [[3], [1, 1], [1, 3]],
        [
          [2, 3],
          [2, 1],
          [2, 3],
        ],
        [
          [2, 1],
          [1, 3],
          [2, 3],
        ],
        [[2, 1], [3], [2, 3]],
        [
          [4, 1, 3],
          [2, 1],
          [4, 2, 3],
        ],
        [
          [2, 1, 2, 1, 2, 1, 2, 1],
          [1, 2, 1, 2, 1, 2],
          [2, 1, 2, 2, 2, 2, 2, 2],
        ],
      ])('%j and %j give %j', async (aShape, bShape, expected) => {
        for (const [left, right] of [
          [aShape, bShape],
          [bShape, aShape],
        ]) {
          const a = full(left, 2, { device, requiresGrad: true });
          const b = full(right, 3, { device, requiresGrad: true });
          const [total, product] = [add(a, b), mul(a, b)];
          expect([total.shape, product.shape]).toEqual([expected, expected]);
          total.backward(full(expected, 1, { device }));
          product.backward(full(expected, 1, { device }));
          // Each element is met once for every time it was repeated: 1 from the sum, the other operand from the product.
          for (const [operand, other] of [
            [a, 3],
            [b, 2],
          ] as const) {
            const gradient = operand.grad as Tensor;
            expect(gradient.shape).toEqual(operand.shape);
            const repeats = total.size / operand.size;
            expect([...(await gradient.data())]).toEqual(new Array(operand.size).fill(repeats * (1 + other)));
          }
        }
      });
    });

    test('a 16-bit gradient is added up in float32 and rounded once, over one axis or several', async () => {
      const ones = (shape: readonly number[]): Tensor => full(shape, 1, { dtype: 'bfloat16', device });
      for (const [shape, target, expected] of [
        [[3, 1], [3, 302], 302], // bfloat16 alone would stop at 256
        // 777 is 776 in bfloat16; 259 is 260, and three times that 780.
        [[1, 3, 1], [3, 3, 259], 776],
        [[1, 3, 1], [259, 3, 3], 776],
      ] as const) {
        const x = full(shape, 0, { dtype: 'bfloat16', device, requiresGrad: true });
        add(x, ones(target)).backward(ones(target));
        expect([...(await (x.grad as Tensor).data())]).toEqual(new Array(3).fill(expected));
      }
    });

    test('infinities and NaN as IEEE 754 has them', async () => {
      const a = make(device, 'float32', [4], [Infinity, Infinity, NaN, 3e38]);
      const b = make(device, 'float32', [4], [1, -Infinity, 0, 3e38]);
      expect([...(await add(a, b).data())]).toEqual([Infinity, NaN, NaN, Infinity]);
      expect([...(await mul(a, make(device, 'float32', [4], [2, 0, 0, -2])).data())]).toEqual([
        Infinity,
        NaN,
        NaN,
        -Infinity,
      ]);
    });

    test('a tensor with itself, both gradients arriving', async () => {
      const a = make(device, 'float32', [2], [3, -4], true);
      mul(a, a).backward(make(device, 'float32', [2], [1, 1]));
      expect([...(await (a.grad as Tensor).data())]).toEqual([6, -8]);
    });

    test('the sum commutes to the bit', async () => {
      const random = new Random('commutes');
      const [a, b] = [random.normals(129), random.normals(129)].map((values) =>
        make(device, 'bfloat16', [129], values),
      );
      expect(await bitsOf(add(a, b))).toEqual(await bitsOf(add(b, a)));
    });

    describeErrors(device, [
      {
        message: 'add: expected b to broadcast with a of shape [2, 3], got [2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => add(t([2, 3]), t([2])),
      },
      {
        message: 'mul: expected b to broadcast with a of shape [3], got [4]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => mul(t([3]), t([4])),
      },
      {
        message: 'mul: expected b to broadcast with a of shape [2, 3], got [3, 2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => mul(t([2, 3]), t([3, 2])),
      },
      {
        message: 'add: expected b to broadcast with a of shape [2, 1, 3], got [3, 2, 2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => add(t([2, 1, 3]), t([3, 2, 2])),
      },
      {
        message: 'add: expected b of dtype float32 like a, got bfloat16',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => add(t([3]), t([3], 'bfloat16')),
      },
    ]);
  });
});
