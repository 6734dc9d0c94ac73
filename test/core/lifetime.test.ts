// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  bitLinear,
  checkpoint,
  crossEntropy,
  device as deviceNamed,
  embedding,
  flashAttention,
  isGradEnabled,
  keep,
  linear,
  memory,
  mul,
  noGrad,
  ones,
  OptionError,
  quantizeTernary,
  resetPeakMemory,
  rmsNorm,
  rope,
  scale,
  sum,
  tensor,
  ternaryMatmul,
  tidy,
  valueAndGrad,
  zeros,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { describeBackends, hasCpu } from '../harness.js';
import { resultOfChild } from './child.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

/** Tensors and bytes held since it was made. */
function meter(device: DeviceName): () => [number, number] {
  const start = deviceNamed(device).memory();
  return () => {
    const now = deviceNamed(device).memory();
    return [now.tensors - start.tensors, now.bytes - start.bytes];
  };
}

describe('tidy', () => {
  describeBackends((device) => {
    const make = (size = 1): Tensor => zeros([size], { device });

    test('disposes what was made inside but the result', async () => {
      const held = meter(device);
      const inside: Tensor[] = [];
      const outside = tensor([1, 2], { device });
      const result = tidy(() => {
        inside.push(scale(outside, 2), make());
        return add(inside[0], inside[0]);
      });
      expect(inside.map((each) => each.isDisposed)).toEqual([true, true]);
      expect([outside.isDisposed, result.isDisposed]).toEqual([false, false]);
      expect(held()).toEqual([2, 16]);
      expect(Array.from(await result.data())).toEqual([4, 8]);
    });

    test('survivors in arrays and plain objects, also nested, and ternary tensors', () => {
      const held = meter(device);
      const result = tidy(() => {
        const [a, b, c, lost] = [make(), make(), make(), make()];
        const cyclic: { a: Tensor; list: unknown[]; again?: unknown } = { a, list: [1, null, [b, 'x'], { c }] };
        cyclic.again = cyclic;
        return { cyclic, lost: lost.shape, ternary: quantizeTernary(ones([1, 4], { device })) };
      });
      expect(held()).toEqual([5, 3 * 4 + 1 + 4]);
      expect(result.cyclic.a.isDisposed).toBe(false);
      expect(result.ternary.isDisposed).toBe(false);
    });

    test('numbers and nothing are results too', () => {
      const held = meter(device);
      expect(tidy(() => make().size)).toBe(1);
      expect(tidy(() => void make())).toBeUndefined();
      expect(tidy(() => [make()].map(() => null))).toEqual([null]);
      expect(held()).toEqual([0, 0]);
    });

    test('scopes nest: what survives the inner one belongs to the outer one', () => {
      const held = meter(device);
      let survivor: Tensor | undefined;
      let first: Tensor | undefined;
      tidy(() => {
        first = make();
        survivor = tidy(() => {
          make();
          return make();
        });
        expect([first.isDisposed, survivor.isDisposed]).toEqual([false, false]);
        expect(held()).toEqual([2, 8]);
      });
      expect([first?.isDisposed, survivor?.isDisposed]).toEqual([true, true]);
      expect(held()).toEqual([0, 0]);
    });

    test('leaves what was made before alone, even if it is the result', () => {
      const x = make();
      expect(tidy(() => x)).toBe(x);
      tidy(() => x.shape);
      expect(x.isDisposed).toBe(false);
      // And an outer scope keeps owning it.
      let y: Tensor | undefined;
      tidy(() => {
        y = make();
        tidy(() => y);
        expect(y.isDisposed).toBe(false);
      });
      expect(y?.isDisposed).toBe(true);
    });

    test('keep takes a tensor out of all scopes', () => {
      const held = meter(device);
      let kept: Tensor | undefined;
      tidy(() => {
        tidy(() => {
          kept = keep(make());
        });
        make();
      });
      expect(kept?.isDisposed).toBe(false);
      expect(held()).toEqual([1, 4]);
      kept?.dispose();
      expect(held()).toEqual([0, 0]);
    });

    test('a tensor disposed inside is no trouble', () => {
      const held = meter(device);
      tidy(() => make().dispose());
      const result = tidy(() => {
        const x = make();
        x.dispose();
        return x;
      });
      expect(result.isDisposed).toBe(true);
      expect(held()).toEqual([0, 0]);
    });

    test('an exception disposes everything, and goes on', () => {
      const held = meter(device);
      const error = new Error('stop');
      expect(() =>
        tidy(() => {
          make();
          tidy(() => {
            make();
            throw error;
          });
        }),
      ).toThrow(error);
      expect(held()).toEqual([0, 0]);
      // No scope is left open: what is made now lives.
      const after = make();
      tidy(() => undefined);
      expect(after.isDisposed).toBe(false);
    });

    test('an async function is refused', () => {
      const held = meter(device);
      expect(() => tidy(async () => make())).toThrow(
        new OptionError('tidy: expected a function that returns without a promise, got an async function'),
      );
      expect(() => tidy(() => Promise.reject(new Error('not reported as unhandled')))).toThrow(OptionError);
      expect(held()).toEqual([0, 0]);
    });

    test('does not break the backward pass: the graph holds what it needs', async () => {
      const held = meter(device);
      const x = tensor([1, 2, 3], { device, requiresGrad: true });
      const loss = tidy(() => sum(mul(scale(x, 2), x)));
      expect(held()).toEqual([3, 12 + 12 + 4]); // x, what mul saved of 2x, the loss
      loss.backward();
      expect(Array.from(await (x.grad as Tensor).data())).toEqual([4, 8, 12]);
      expect(held()).toEqual([3, 12 + 12 + 4]); // x, its gradient, the loss
    });

    test('gradients survive a tidy around backward()', async () => {
      const held = meter(device);
      const x = tensor([1, 2], { device, requiresGrad: true });
      for (let step = 0; step < 2; step++) {
        tidy(() => {
          sum(mul(x, x)).backward();
        });
      }
      expect(Array.from(await (x.grad as Tensor).data())).toEqual([4, 8]);
      expect(held()).toEqual([2, 16]);
    });
  });
});

describe('memory()', () => {
  describeBackends((device) => {
    test('counts tensors and bytes of every dtype exactly', () => {
      const held = meter(device);
      const made = [
        zeros([3, 5], { device }),
        zeros([7], { dtype: 'bfloat16', device }),
        zeros([9], { dtype: 'int8', device }),
        tensor([[1, 2]], { dtype: 'int32', device }),
      ];
      expect(held()).toEqual([4, 60 + 14 + 9 + 8]);
      expect(made.reduce((bytes, each) => bytes + each.bytes, 0)).toBe(60 + 14 + 9 + 8);
      expect(memory()[device]).toEqual(deviceNamed(device).memory());
      made[0].dispose();
      expect(held()).toEqual([3, 14 + 9 + 8]);
      for (const each of made) each.dispose();
      expect(held()).toEqual([0, 0]);
    });

    test('views count once, until the last is gone', () => {
      const held = meter(device);
      const x = zeros([2, 6], { device });
      const views = [x.reshape(12), x.detach(), x.reshape(3, 4).reshape(-1)];
      expect(held()).toEqual([1, 48]);
      x.dispose();
      views[0].dispose();
      views[1].dispose();
      expect(held()).toEqual([1, 48]);
      views[2].dispose();
      expect(held()).toEqual([1, 48]); // reshape(3, 4) was not disposed
    });

    test('the peak is the most bytes held at once', () => {
      const start = deviceNamed(device).memory().bytes;
      resetPeakMemory();
      const peak = (): number => deviceNamed(device).memory().peakBytes - start;
      expect(peak()).toBe(0);
      const a = zeros([100], { device });
      const b = zeros([50], { device });
      a.dispose();
      const c = zeros([10], { device });
      expect(peak()).toBe(600);
      b.dispose();
      const d = zeros([200], { device });
      expect(peak()).toBe(840);
      deviceNamed(device).resetPeakMemory();
      expect(peak()).toBe(840);
      d.dispose();
      expect(peak()).toBe(840);
      resetPeakMemory();
      expect(peak()).toBe(40);
      c.dispose();
      expect(peak()).toBe(40);
    });

    test('what an op needs while it runs counts in the peak and then is gone', () => {
      const x = zeros([2, 4], { device });
      const start = deviceNamed(device).memory().bytes;
      resetPeakMemory();
      const y = rmsNorm(x, null);
      const now = deviceNamed(device).memory();
      expect(now.peakBytes - start).toBe(y.bytes + 2 * 4); // a float32 for each row
      expect(now.bytes - start).toBe(y.bytes);
    });

    test('what memory() gave does not change any more', () => {
      const before = deviceNamed(device).memory();
      const copy = { ...before };
      zeros([5], { device });
      expect(before).toEqual(copy);
    });

    test('an op that records nothing keeps nothing', () => {
      const x = ones([4, 4], { device });
      const held = meter(device);
      tidy(() => sum(mul(linear(x, x), x)).shape);
      expect(held()).toEqual([0, 0]);
    });
  });
});

describe('noGrad', () => {
  describeBackends((device) => {
    test('records nothing and keeps nothing', () => {
      const x = ones([3], { device, requiresGrad: true });
      const held = meter(device);
      const y = noGrad(() => mul(x, x));
      expect([y.requiresGrad, isGradEnabled()]).toEqual([false, true]);
      y.dispose();
      expect(held()).toEqual([0, 0]);
      const z = mul(x, scale(x, 2));
      expect(z.requiresGrad).toBe(true);
      z.dispose();
    });

    test('nests, and ends with an exception', () => {
      const seen: boolean[] = [];
      noGrad(() => {
        seen.push(isGradEnabled());
        noGrad(() => seen.push(isGradEnabled()));
        seen.push(isGradEnabled());
      });
      expect(() =>
        noGrad(() => {
          throw new Error('stop');
        }),
      ).toThrow('stop');
      expect([...seen, isGradEnabled()]).toEqual([false, false, false, true]);
    });

    test('an async function is refused', () => {
      expect(() => noGrad(async () => 1)).toThrow(
        new OptionError('noGrad: expected a function that returns without a promise, got an async function'),
      );
      expect(isGradEnabled()).toBe(true);
    });

    test('a leaf made inside is still a leaf', async () => {
      const x = noGrad(() => ones([2], { device, requiresGrad: true }));
      sum(mul(x, x)).backward();
      expect(Array.from(await (x.grad as Tensor).data())).toEqual([2, 2]);
    });
  });
});

describe('a call that throws leaves nothing behind', () => {
  describeBackends((device) => {
    const options = { device, requiresGrad: true };
    const calls: Record<string, (x: Tensor) => unknown> = {
      add: (x) => add(x, zeros([3], { device })),
      linear: (x) => linear(x, x, zeros([3], { device })),
      bitLinear: (x) => bitLinear(x, x, zeros([3], { device })),
      ternaryMatmul: (x) => ternaryMatmul(x, quantizeTernary(zeros([2, 9], { device }))),
      embedding: (x) => embedding(x, x),
      crossEntropy: (x) => crossEntropy(x, zeros([2], { dtype: 'int32', device }), { ignoreIndex: 0.5 }),
      rmsNorm: (x) => rmsNorm(x, null, { eps: -1 }),
      rope: (x) => rope(x.reshape(1, 2, 1, 2), { theta: -1 }),
      flashAttention: (x) => flashAttention(x.reshape(1, 2, 1, 2), x.reshape(1, 2, 2, 1), x.reshape(1, 2, 1, 2)),
      reshape: (x) => x.reshape(3),
      'tensor of a wrong shape': () => tensor([1, 2], { shape: [3], device }),
      'backward without a gradient': (x) => mul(x, x).backward(),
      'backward with a wrong gradient': (x) => mul(x, x).backward(zeros([2], { device })),
      'backward of a constant': () => sum(zeros([2], { device })).backward(),
      'backward on a released graph': (x) => {
        const loss = sum(mul(x, x));
        loss.backward();
        x.clearGrad();
        loss.backward();
      },
      'checkpoint, in its first run': (x) =>
        checkpoint((input: Tensor) => {
          mul(input, input);
          throw new Error('stop');
        }, x),
      'checkpoint of no tensor': (x) => checkpoint((input: Tensor) => mul(input, input).shape as unknown as Tensor, x),
      'valueAndGrad, in its function': (x) =>
        valueAndGrad((input: Tensor) => {
          mul(input, input);
          throw new Error('stop');
        })(x),
      'valueAndGrad of no scalar': (x) => valueAndGrad((input: Tensor) => mul(input, input))(x),
      'valueAndGrad of a constant': (x) => valueAndGrad<[Tensor]>(() => ones([], { device }))(x),
    };

    test.each(Object.entries(calls))('%s', async (_, call) => {
      const x = tensor(
        [
          [1, 2],
          [3, 4],
        ],
        options,
      );
      const held = meter(device);
      expect(() => tidy(() => void call(x))).toThrow();
      expect(held()).toEqual([0, 0]);
      expect([x.isDisposed, x.grad, isGradEnabled()]).toEqual([false, null, true]);
      // And everything goes on.
      sum(mul(x, x)).backward();
      expect(Array.from(await (x.grad as unknown as Tensor).data())).toEqual([2, 4, 6, 8]);
    });
  });
});

describe('the garbage collector', () => {
  const devices: DeviceName[] = hasCpu ? ['cpu', 'reference'] : ['reference'];

  test.each(devices)('%s: frees what nobody can reach any more, graphs too', async (device) => {
    const result = await resultOfChild(
      async (library, device) => {
        const collect = (globalThis as unknown as { gc: () => void }).gc;
        const kept = library.ones([16], { device, requiresGrad: true });
        // In a function of its own, so that no variable holds on.
        const litter = (): void => {
          for (let i = 0; i < 50; i++) library.zeros([1000], { device });
          for (let i = 0; i < 50; i++) {
            library.zeros([1000], { device }).dispose();
            // A forward pass that is never gone back through.
            library.sum(library.mul(kept, library.scale(kept, 2))).reshape(1);
          }
        };
        litter();
        const before = library.memory()[device];
        for (let i = 0; i < 50 && library.memory()[device].tensors > 1; i++) {
          collect();
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
        const after = library.memory()[device];
        library.sum(library.mul(kept, kept)).backward();
        return { before, after, gradient: Array.from(await (kept.grad as Tensor).data()) };
      },
      [device] as [DeviceName],
      { flags: ['--expose-gc'] },
    );
    expect(result.before).toMatchObject({ tensors: 1 + 50 + 50 * 3, bytes: 64 + 50 * 4000 + 50 * (64 + 64 + 4) });
    expect(result.after).toMatchObject({ tensors: 1, bytes: 64 });
    expect(result.gradient).toEqual(new Array(16).fill(2));
  });

  (hasCpu ? test : test.skip)('hears of native memory, and so collects in time', async () => {
    // 200 times 16 MiB that nobody disposes: to a collector that saw the little JavaScript objects alone there would be nothing to do.
    const most = await resultOfChild(async (library) => {
      let most = 0;
      for (let i = 0; i < 200; i++) {
        library.zeros([1 << 22], { device: 'cpu' });
        await new Promise((resolve) => setImmediate(resolve));
        most = Math.max(most, library.memory().cpu.tensors);
      }
      return most;
    }, []);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThan(100);
  });
});
