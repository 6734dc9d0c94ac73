// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device as deviceNamed, DTypeError, embedding, KernelError, ShapeError, type Tensor } from '../../lib/index.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { embeddingSpec } from '../formulas/embedding.js';
import { describeOp } from '../op-tests.js';

describeOp(embeddingSpec);

describe('embedding', () => {
  describeBackends((device) => {
    test('hand-computed: rows, and gradients that add up over repeated ids', async () => {
      const weight = make(device, 'float32', [3, 2], [1, 2, 3, 4, 5, 6], true);
      const out = embedding(weight, make(device, 'int32', [4], [2, 0, 2, 2]));
      expect([...(await out.data())]).toEqual([5, 6, 1, 2, 5, 6, 5, 6]);
      out.backward(make(device, 'float32', [4, 2], [1, 2, 3, 4, 10, 20, 100, 200]));
      expect([...(await (weight.grad as Tensor).data())]).toEqual([3, 4, 0, 0, 111, 222]);
    });

    test.each([
      [3, 'embedding: expected ids in 0..2, got 3 at position 1'],
      [-1, 'embedding: expected ids in 0..2, got -1 at position 1'],
      [2147483647, 'embedding: expected ids in 0..2, got 2147483647 at position 1'],
    ])('id %i is a KernelError on the next read, and the device goes on', async (id, message) => {
      const weight = make(device, 'float32', [3, 2], [1, 2, 3, 4, 5, 6]);
      const out = embedding(weight, make(device, 'int32', [2], [0, id]));
      const caught: unknown = await out.data().then(
        () => null,
        (error: unknown) => error,
      );
      expect(caught).toBeInstanceOf(KernelError);
      expect(caught).toMatchObject({ message, code: 'ERR_KERNEL', op: 'embedding', name: 'KernelError' });
      await deviceNamed(device).synchronize(); // told once
      expect([...(await weight.data())]).toEqual([1, 2, 3, 4, 5, 6]);
      expect([...(await embedding(weight, make(device, 'int32', [1], [1])).data())]).toEqual([3, 4]);
    });

    describeErrors(device, [
      {
        message: 'embedding: expected ids of dtype int32, got float32',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => embedding(t([3, 2]), t([2])),
      },
      {
        message: 'embedding: expected weight of shape [V, K], got [3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => embedding(t([3]), t([2], 'int32')),
      },
    ]);
  });
});
