// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  DTypeError,
  flashAttention,
  mergeAttentionStates,
  mul,
  ShapeError,
  sum,
  tidy,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { arithmeticIn, EXACT } from '../arithmetic.js';
import { expectWithinTolerance, FORWARD_FACTOR, GRADIENT_FACTOR, largestError } from '../compare.js';
import { flashAttentionSpec } from '../formulas/flash-attention.js';
import { mergeAttentionStatesSpec } from '../formulas/merge-attention-states.js';
import { describeBackends, describeErrors, ERROR_CODES, make } from '../harness.js';
import { describeOp } from '../op-tests.js';
import { Random } from '../random.js';

describeOp(mergeAttentionStatesSpec);

/** Through the scalar that has these gradients. */
function backward(
  device: DeviceName,
  results: { out: Tensor; lse: Tensor },
  dOut: Record<string, ArrayLike<number>>,
): void {
  tidy(() => {
    const [left, right] = Object.entries(results).map(([name, each]) =>
      sum(mul(each, make(device, 'float32', each.shape, dOut[name]))),
    );
    add(left, right).backward();
  });
}

describe('mergeAttentionStates', () => {
  describeBackends((device) => {
    test('attention over two parts of the keys becomes attention over all, gradients too', async () => {
      const [batch, queries, heads, keyHeads, headDim] = [2, 33, 4, 2, 24];
      const random = new Random('split keys');
      const values = (keys: number, count: number): Float64Array =>
        random.normals(batch * keys * count * headDim).map(Math.fround);
      const q = values(queries, heads);
      // A part is all of one batch entry's keys in rows of their own; together they alternate entry by entry.
      const parts = [65, 17].map((keys) => ({ keys, k: values(keys, keyHeads), v: values(keys, keyHeads) }));
      const joined = (of: 'k' | 'v'): Float64Array => {
        const rows = parts.map(({ keys }) => keys * keyHeads * headDim);
        const result = new Float64Array(batch * (rows[0] + rows[1]));
        for (let b = 0; b < batch; b++) {
          parts.forEach((part, i) => {
            const at = b * (rows[0] + rows[1]) + (i === 0 ? 0 : rows[0]);
            result.set(part[of].subarray(b * rows[i], (b + 1) * rows[i]), at);
          });
        }
        return result;
      };
      const c = { name: 'split keys', batch, queries, keys: 82, heads, keyHeads, headDim };
      const inputs = { q, k: joined('k'), v: joined('v') };
      const exact = flashAttentionSpec.forward(EXACT, inputs, c);
      const plain = flashAttentionSpec.forward(arithmeticIn('float32'), inputs, c);
      const dOut = Object.fromEntries(
        Object.entries(exact).map(([name, each]) => [name, random.normals(each.length).map(Math.fround)]),
      );
      const exactGradients = flashAttentionSpec.backward(EXACT, inputs, dOut, c);
      const plainGradients = flashAttentionSpec.backward(arithmeticIn('float32'), inputs, dOut, c);

      const qTensor = make(device, 'float32', [batch, queries, heads, headDim], q, true);
      const tensors = parts.map(({ keys, k, v }) =>
        [k, v].map((each) => make(device, 'float32', [batch, keys, keyHeads, headDim], each, true)),
      );
      const { out, lse } = tidy(() => {
        const [a, b] = tensors.map(([k, v]) => flashAttention(qTensor, k, v, { returnLse: true }));
        return mergeAttentionStates(a.out, a.lse, b.out, b.lse);
      });
      const compare = async (
        name: string,
        got: Tensor,
        truth: Float64Array,
        formula: Float64Array,
        factor: number,
      ): Promise<void> =>
        expectWithinTolerance({
          name,
          got: await got.data(),
          exact: truth,
          plainError: largestError(formula, truth),
          factor,
          dtype: 'float32',
          shape: got.shape,
        });
      await compare('out', out, exact.out, plain.out, FORWARD_FACTOR);
      await compare('lse', lse, exact.lse, plain.lse, FORWARD_FACTOR);

      backward(device, { out, lse }, dOut);
      await compare('dq', qTensor.grad as Tensor, exactGradients.q, plainGradients.q, GRADIENT_FACTOR);
      const part = (of: Float64Array, i: number): Float64Array => {
        const rows = parts.map(({ keys }) => keys * keyHeads * headDim);
        const result = new Float64Array(batch * rows[i]);
        for (let b = 0; b < batch; b++) {
          const at = b * (rows[0] + rows[1]) + (i === 0 ? 0 : rows[0]);
          result.set(of.subarray(at, at + rows[i]), b * rows[i]);
        }
        return result;
      };
      for (const [i, [k, v]] of tensors.entries()) {
        for (const [name, each] of [
          ['k', k],
          ['v', v],
        ] as const) {
          const [truth, formula] = [part(exactGradients[name], i), part(plainGradients[name], i)];
          await compare(`d${name} ${i}`, each.grad as Tensor, truth, formula, GRADIENT_FACTOR);
        }
      }
    });

    test('hand-computed: equal lse give the mean; a difference of log 3 gives a quarter and three', async () => {
      const merged = mergeAttentionStates(
        make(device, 'float32', [2, 1, 1], [1, 4]),
        make(device, 'float32', [1, 2], [5, 0]),
        make(device, 'float32', [2, 1, 1], [3, 8]),
        make(device, 'float32', [1, 2], [5, Math.log(3)]),
      );
      const [out, lse] = [await merged.out.data(), await merged.lse.data()];
      expect(out[0]).toBe(2);
      expect(Math.abs(out[1] - 7)).toBeLessThan(2 ** -20);
      expect(Math.abs(lse[0] - (5 + Math.LN2))).toBeLessThan(2 ** -21);
      expect(Math.abs(lse[1] - Math.log(4))).toBeLessThan(2 ** -22);
    });

    test('a side that saw no key is not looked at; without keys out is 0 and lse -Infinity, and no gradient is NaN', async () => {
      const t = (shape: number[], values: number[]): Tensor => make(device, 'float32', shape, values, true);
      const outA = t([3, 1, 2], [NaN, NaN, 1.5, -2.5, NaN, Infinity]);
      const lseA = t([1, 3], [-Infinity, 7, -Infinity]);
      const outB = t([3, 1, 2], [0.1, 0.2, NaN, NaN, NaN, NaN]);
      const lseB = t([1, 3], [-3, -Infinity, -Infinity]);
      const { out, lse } = mergeAttentionStates(outA, lseA, outB, lseB);
      expect([...(await out.data())]).toEqual([0.1, 0.2, 1.5, -2.5, 0, 0].map(Math.fround));
      expect([...(await lse.data())]).toEqual([-3, 7, -Infinity]);
      backward(device, { out, lse }, { out: [1, 2, 3, 4, 5, 6], lse: [10, 20, 30] });
      const grads = await Promise.all(
        [outA, lseA, outB, lseB].map(async (each) => Array.from(await (each.grad as Tensor).data(), (x) => x + 0)),
      );
      expect(grads).toEqual([
        [0, 0, 3, 4, 0, 0],
        [0, 20, 0],
        [1, 2, 0, 0, 0, 0],
        [10, 0, 0],
      ]);
    });

    test('lse far apart and large: nothing overflows', async () => {
      const { out, lse } = mergeAttentionStates(
        make(device, 'float32', [2, 1, 1], [1, 1]),
        make(device, 'float32', [1, 2], [3e38, -3e38]),
        make(device, 'float32', [2, 1, 1], [2, 2]),
        make(device, 'float32', [1, 2], [-3e38, 1e4]),
      );
      expect([...(await out.data())]).toEqual([1, 2]);
      expect([...(await lse.data())]).toEqual([3e38, 1e4].map(Math.fround));
    });

    describeErrors(device, [
      {
        message: 'mergeAttentionStates: expected outA of shape [B, S, H, D] or [total, H, D], got [2, 3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => mergeAttentionStates(t([2, 3]), t([2]), t([2, 3]), t([2])),
      },
      {
        message: 'mergeAttentionStates: expected lseA of shape [1, 3, 2] to match outA, got [1, 2, 3]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => mergeAttentionStates(t([1, 2, 3, 4]), t([1, 2, 3]), t([1, 2, 3, 4]), t([1, 3, 2])),
      },
      {
        message: 'mergeAttentionStates: expected lseB of shape [3, 2] to match outA, got [1, 3, 2]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => mergeAttentionStates(t([2, 3, 4]), t([3, 2]), t([2, 3, 4]), t([1, 3, 2])),
      },
      {
        message: 'mergeAttentionStates: expected outB of shape [2, 3, 4] to match outA, got [2, 3, 5]',
        type: ShapeError,
        code: ERROR_CODES.shape,
        call: (t) => mergeAttentionStates(t([2, 3, 4]), t([3, 2]), t([2, 3, 5]), t([3, 2])),
      },
      {
        message: 'mergeAttentionStates: expected outB of dtype float32 like outA, got bfloat16',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => mergeAttentionStates(t([2, 3, 4]), t([3, 2]), t([2, 3, 4], 'bfloat16'), t([3, 2])),
      },
      {
        message: 'mergeAttentionStates: expected lseB of dtype float32, got float16',
        type: DTypeError,
        code: ERROR_CODES.dtype,
        call: (t) => mergeAttentionStates(t([2, 3, 4]), t([3, 2]), t([2, 3, 4]), t([3, 2], 'float16')),
      },
    ]);
  });
});
