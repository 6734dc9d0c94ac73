// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/** What the norms' residual means: the same as an addition before them. */

import {
  add,
  checkpoint,
  device as deviceNamed,
  layerNorm,
  mul,
  rmsNorm,
  sum,
  tidy,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import type { FloatDType } from '../../lib/dtype.js';
import { bitsOf, describeBackends, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';

interface Inputs {
  x: Tensor;
  residual: Tensor;
  weight: Tensor;
  bias: Tensor;
}

const NORMS = [
  {
    norm: 'rmsNorm',
    fused: ({ x, residual, weight }: Inputs) => rmsNorm(x, weight, { residual }),
    plain: (x: Tensor, { weight }: Inputs) => rmsNorm(x, weight),
  },
  {
    norm: 'layerNorm',
    fused: ({ x, residual, weight, bias }: Inputs) => layerNorm(x, weight, bias, { residual }),
    plain: (x: Tensor, { weight, bias }: Inputs) => layerNorm(x, weight, bias),
  },
] as const;

function inputsOn(device: DeviceName, dtype: FloatDType, shape: readonly [number, number], spread = 1): Inputs {
  const random = new Random(`residual ${shape.join()} ${dtype}`);
  const draw = (size: readonly number[], scale = 1): Tensor =>
    make(
      device,
      dtype,
      size,
      random.normals(
        size.reduce((a, b) => a * b, 1),
        scale,
      ),
      true,
    );
  return { x: draw(shape, spread), residual: draw(shape), weight: draw([shape[1]]), bias: draw([shape[1]]) };
}

const gradients = async (inputs: Inputs): Promise<(number[] | null)[]> =>
  Promise.all(Object.values(inputs).map(async (each: Tensor) => each.grad && Array.from(await each.grad.data())));

describe.each(NORMS)('$norm with a residual', ({ norm, fused, plain }) => {
  describeBackends((device) => {
    describe.each(FLOAT_DTYPES)('%s', (dtype) => {
      test.each([
        [1, 1],
        [3, 9],
        [9, 63],
        [2, 64],
        [5, 65],
        [3, 127],
        [129, 129],
        [2, 2050],
      ] as const)('is the addition and then the norm, to the bit: %p x %p', async (rows, cols) => {
        // A spread of 100 makes additions that 16 bits cannot hold.
        const inputs = inputsOn(device, dtype, [rows, cols], 100);
        const { out, sum: total } = fused(inputs);
        const added = add(inputs.x, inputs.residual);
        expect(await bitsOf(total)).toEqual(await bitsOf(added));
        expect(await bitsOf(out)).toEqual(await bitsOf(plain(added, inputs)));
      });
    });

    // Every way in which the two results can be used. With one of them, gradients are those of the ops in a row, to the bit.
    const USES = [
      { use: 'out', loss: (out: Tensor, _total: Tensor, g: Tensor) => sum(mul(out, g)) },
      { use: 'sum', loss: (_out: Tensor, total: Tensor, g: Tensor) => sum(mul(total, g)) },
      { use: 'both', loss: (out: Tensor, total: Tensor, g: Tensor) => sum(mul(mul(out, total), g)) },
      {
        use: 'both, sum twice',
        loss: (out: Tensor, total: Tensor, g: Tensor) => sum(mul(mul(out, total), mul(total, g))),
      },
    ];
    test.each(USES)('gradients where $use is used', async ({ use, loss }) => {
      const run = async (ofSum: (inputs: Inputs) => { out: Tensor; sum: Tensor }): Promise<(number[] | null)[]> => {
        const inputs = inputsOn(device, 'float32', [9, 65]);
        const g = make(device, 'float32', [9, 65], new Random('g').normals(9 * 65));
        tidy(() => {
          const { out, sum: total } = ofSum(inputs);
          return loss(out, total, g);
        }).backward();
        return gradients(inputs);
      };
      const got = await run(fused);
      const expected = await run((inputs) => {
        const total = add(inputs.x, inputs.residual);
        return { out: plain(total, inputs), sum: total };
      });
      expect(got.map((each) => each?.length)).toEqual(expected.map((each) => each?.length));
      expect(got[0]).toEqual(got[1]);
      if (use === 'sum') expect(got.slice(2)).toEqual([null, null]);
      else expect(got[2]).not.toBe(null);
      if (norm === 'rmsNorm') expect(got[3]).toBe(null);
      for (const [i, each] of got.entries()) {
        if (use === 'out' || use === 'sum') expect(each).toEqual(expected[i]);
        // The sum's gradient is added before the rounding, not after.
        else each?.forEach((value, j) => expect(value).toBeCloseTo(expected[i]?.[j] as number, 4));
      }
    });

    test('only one of the summands needs a gradient', async () => {
      for (const wanted of ['x', 'residual'] as const) {
        const inputs = inputsOn(device, 'float32', [3, 9]);
        const all = await (async () => {
          const { out, sum: total } = fused(inputs);
          tidy(() => sum(mul(out, total))).backward();
          return gradients(inputs);
        })();
        const some = inputsOn(device, 'float32', [3, 9]);
        for (const [name, each] of Object.entries(some)) if (name !== wanted) (each as Tensor).requiresGrad = false;
        const { out, sum: total } = fused(some);
        tidy(() => sum(mul(out, total))).backward();
        expect(some[wanted].grad && Array.from(await some[wanted].grad.data())).toEqual(all[0]);
        for (const [name, each] of Object.entries(some)) if (name !== wanted) expect((each as Tensor).grad).toBe(null);
      }
    });

    test('x as its own residual', async () => {
      const inputs = inputsOn(device, 'float32', [3, 65]);
      const { out, sum: total } = fused({ ...inputs, residual: inputs.x });
      expect(await bitsOf(total)).toEqual(await bitsOf(add(inputs.x, inputs.x)));
      total.backward(make(device, 'float32', [3, 65], new Float64Array(195).fill(1)));
      expect(new Set(await (inputs.x.grad as Tensor).data())).toEqual(new Set([2]));
      expect(out.shape).toEqual([3, 65]);
    });

    test('gradients of the summands have memory of their own', async () => {
      const inputs = inputsOn(device, 'float32', [3, 65]);
      const { out } = fused(inputs);
      out.backward(make(device, 'float32', [3, 65], new Float64Array(195).fill(1)));
      const kept = await bitsOf(inputs.residual.grad as Tensor);
      const { grad } = inputs.x as { grad: Tensor };
      grad.device.backend.fill({ out: grad.arg, value: 7 });
      expect(await bitsOf(inputs.residual.grad as Tensor)).toEqual(kept);
    });

    test('a chain of layers inside checkpoint gives the same gradients, and leaves nothing behind', async () => {
      const run = async (segment: (fn: (...t: Tensor[]) => Tensor[], ...t: Tensor[]) => Tensor[]) => {
        const inputs = inputsOn(device, 'float32', [5, 33]);
        const before = deviceNamed(device).memory().tensors;
        tidy(() => {
          let [x, stream] = [inputs.x, inputs.residual];
          for (let layer = 0; layer < 2; layer++) {
            [x, stream] = segment(
              (...[a, b]) => {
                const { out, sum: total } = fused({ ...inputs, x: a, residual: b });
                return [mul(out, out), total];
              },
              x,
              stream,
            );
          }
          return sum(mul(x, stream)).backward();
        });
        expect(deviceNamed(device).memory().tensors - before).toBe(norm === 'rmsNorm' ? 3 : 4);
        return gradients(inputs);
      };
      const direct = await run((fn, ...inputs) => fn(...inputs));
      expect(await run((fn, ...inputs) => checkpoint(fn, ...inputs))).toEqual(direct);
      expect(direct[2]).not.toBe(null);
    });
  });
});
