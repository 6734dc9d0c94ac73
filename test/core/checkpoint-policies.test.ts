// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  add,
  bitLinear,
  CausalLM,
  checkpoint,
  checkpointWith,
  defaultGenerator,
  device as deviceNamed,
  flashAttention,
  linear,
  manualSeed,
  memoryReductionFactor,
  mul,
  noGrad,
  ones,
  OptionError,
  OutOfMemoryError,
  quantizeTernary,
  randn,
  rmsNorm,
  rope,
  scale,
  sum,
  swiglu,
  tensor,
  ternaryMatmul,
  tidy,
  uniform,
  valueAndGrad,
  zeros,
  type CheckpointConfig,
  type CheckpointOptions,
  type DeviceMemory,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { remember } from '../../lib/autograd/remember.js';
import { runLayers } from '../../lib/nn/checkpoint-config.js';
import { record } from '../../lib/autograd/tape.js';
import { empty } from '../../lib/tensor.js';
import { bitsOf, describeBackends, FLOAT_DTYPES } from '../harness.js';
import type { FloatDType } from '../../lib/dtype.js';
import { resultOfChild } from './child.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

type Layer = (x: Tensor) => Tensor;

const CHOICES: CheckpointOptions[] = [
  { policy: 'full', offload: 'none' },
  { policy: 'selective', offload: 'none' },
  { policy: 'full', offload: 'host' },
  { policy: 'selective', offload: 'host' },
];
const nameOf = ({ policy = 'full', offload = 'none' }: CheckpointOptions): string => `${policy}, ${offload}`;

describeBackends((device) => {
  const leaf = (values: number | number[] | number[][]): Tensor => tensor(values, { device, requiresGrad: true });
  const valuesOf = async (x: Tensor | null): Promise<number[] | null> => x && Array.from(await x.data());
  const now = (): DeviceMemory => deviceNamed(device).memory();

  /** A product of x with random numbers that are drawn before the op is remembered: what dropout inside attention does. */
  function noisy(x: Tensor): Tensor {
    const noise = uniform(x.shape, { device, dtype: x.dtype as FloatDType });
    const [out] = remember('noisy', [x], { offset: defaultGenerator().state.offset }, () => {
      uniform([9], { device }); // and some inside
      const product = empty('noisy', x.shape, x.dtype, x.device);
      const strides = { shape: [x.size], aStrides: [1], bStrides: [1] };
      x.device.backend.binary({ kind: 'mul', a: x.arg, b: noise.arg, out: product.arg, ...strides });
      return [product];
    });
    record('noisy', [x], out, [noise], ([dOut], [saved]) => [dOut && mul(dOut, saved)]);
    return out;
  }

  /** Two layers with every op that is remembered, and some that are not, between random numbers. */
  function model(dtype: FloatDType): { x: Tensor; parameters: Tensor[]; layers: Layer[] } {
    const [batch, sequence, heads, headDim, inner] = [2, 5, 2, 4, 12];
    const hidden = heads * headDim;
    const parameters: Tensor[] = [];
    const parameter = (...shape: number[]): Tensor => {
      const made = randn(shape, { dtype, device, seed: 100 + parameters.length, std: 0.5, requiresGrad: true });
      parameters.push(made);
      return made;
    };
    const layers = [0, 1].map((index): Layer => {
      const frozen = quantizeTernary(randn([hidden, hidden], { device, dtype, seed: 50 + index }));
      const [norm1, norm2] = [parameter(hidden), parameter(hidden)];
      const [q, k, v] = Array.from({ length: 3 }, () => parameter(hidden, hidden));
      const [gate, up, down, bias] = [
        parameter(inner, hidden),
        parameter(inner, hidden),
        parameter(hidden, inner),
        parameter(hidden),
      ];
      return (x) => {
        const dropped = (t: Tensor): Tensor => mul(t, uniform(t.shape, { device, dtype }));
        const normed = noisy(rmsNorm(x, norm1));
        const split = (t: Tensor): Tensor => t.reshape(batch, sequence, heads, headDim);
        const { out, lse } = flashAttention(
          rope(split(linear(normed, q))),
          rope(split(bitLinear(normed, k))),
          split(linear(normed, v)),
          { causal: true, returnLse: true },
        );
        const mixed = add(out, lse.transpose(0, 2, 1).reshape(batch, sequence, heads, 1).cast(dtype));
        const h = add(x, dropped(ternaryMatmul(mixed.reshape(batch, sequence, hidden), frozen)));
        const again = rmsNorm(h, norm2);
        return add(h, dropped(bitLinear(swiglu(linear(again, gate), linear(again, up)), down, bias)));
      };
    });
    return { x: randn([batch, sequence, hidden], { dtype, device, seed: 99, requiresGrad: true }), parameters, layers };
  }

  /** Bits of the output and of all gradients, where the random sequence stands, and what is left in memory. */
  async function trace(dtype: FloatDType, run: (layers: Layer[], x: Tensor) => Tensor): Promise<unknown> {
    const { x, parameters, layers } = model(dtype);
    manualSeed(5);
    const before = now();
    const y = tidy(() => run(layers, x));
    const { state } = defaultGenerator();
    const out = await bitsOf(y);
    y.backward(randn(y.shape, { dtype, device, seed: 1 }));
    expect(defaultGenerator().state).toEqual(state);
    const gradients = [];
    for (const each of [x, ...parameters]) gradients.push(await bitsOf(each.grad as Tensor));
    expect(gradients.every((each) => each.some((bits) => bits !== 0))).toBe(true);
    expect(now().offloadedBytes).toBe(before.offloadedBytes);
    return { out, gradients, state, left: now().bytes - before.bytes };
  }

  describe.each(FLOAT_DTYPES)('two layers in %s: the same bits', (dtype) => {
    let plain: unknown;
    beforeAll(async () => {
      plain = await trace(dtype, ([first, second], x) => second(first(x)));
    });

    test.each(CHOICES.map((each) => [nameOf(each), each] as const))('%s', async (_, options) => {
      const runs: ((layers: Layer[], x: Tensor) => Tensor)[] = [
        ([first, second], x) => checkpointWith(options, second, checkpointWith(options, first, x)),
        ([first, second], x) => checkpointWith(options, (h: Tensor) => second(first(h)), x),
        ([first, second], x) => second(checkpointWith(options, first, x)),
        ([first, second], x) => checkpointWith(options, second, first(x)),
      ];
      for (const run of runs) expect(await trace(dtype, run)).toEqual(plain);
    });
  });

  test.each(CHOICES.flatMap((outer) => CHOICES.map((inner) => [nameOf(outer), nameOf(inner), outer, inner] as const)))(
    'one inside the other, the outer %s, the inner %s: the same bits',
    async (_outer, _inner, outer, inner) => {
      const plain = await trace('float32', ([first, second], x) => second(first(x)));
      expect(
        await trace('float32', ([first, second], x) =>
          checkpointWith(outer, (h: Tensor) => checkpointWith(inner, second, checkpointWith(inner, first, h)), x),
        ),
      ).toEqual(plain);
    },
  );

  test('gradients inside of a checkpointed function', async () => {
    const results = [];
    for (const choice of [null, ...CHOICES]) {
      const [x, w] = [leaf([[1, 2]]), leaf([[3, 4]])];
      const fn = (a: Tensor): Tensor => {
        const inside = valueAndGrad((b: Tensor) =>
          sum(checkpointWith(choice ?? {}, (c: Tensor) => linear(mul(c, c), w), b)),
        );
        const { value, gradients } = inside(a);
        return add(linear(mul(a, a), w), mul(value, sum(gradients[0] as Tensor)));
      };
      sum(choice ? checkpointWith(choice, fn, x) : fn(x)).backward();
      results.push([await valuesOf(x.grad), await valuesOf(w.grad)]);
    }
    expect(results).toEqual(new Array(1 + CHOICES.length).fill(results[0]));
  });

  describe('selective', () => {
    const selective = { policy: 'selective' } as const;

    /** How often the backend is asked for each op of the forward pass. */
    function counted(options: CheckpointOptions): Record<string, number> {
      const { backend } = deviceNamed(device);
      const ops = [
        'flashAttention',
        'matmul',
        'quantizeActivations',
        'ternaryMatmulInt8',
        'quantizeTernary',
        'rmsNorm',
        'rope',
        'gatedActivation',
      ] as const;
      const { x, layers } = model('float32');
      const y = checkpointWith(options, layers[0], x);
      const spies = ops.map((op) => jest.spyOn(backend, op));
      y.backward(ones(y.shape, { device }));
      const counts = Object.fromEntries(spies.map((spy, i) => [ops[i], spy.mock.calls.length]));
      for (const spy of spies) spy.mockRestore();
      return counts;
    }

    test('the second run computes norms, rope and activations, and neither attention nor products', () => {
      const backwardMatmuls = 4 * 2; // dx and dW of the four linears
      const cheap = { rmsNorm: 2, rope: 2 + 2, gatedActivation: 1 };
      expect(counted(selective)).toEqual({
        ...cheap,
        flashAttention: 0,
        matmul: backwardMatmuls,
        quantizeActivations: 0,
        ternaryMatmulInt8: 0,
        quantizeTernary: 0,
      });
      expect(counted({ policy: 'full' })).toEqual({
        ...cheap,
        flashAttention: 1,
        matmul: backwardMatmuls + 4,
        quantizeActivations: 3,
        ternaryMatmulInt8: 3,
        quantizeTernary: 2,
      });
    });

    test('keeps the products, and gives them up one by one', () => {
      const n = 100;
      const w = randn([n, n], { device, requiresGrad: true });
      const x = randn([n, n], { device, requiresGrad: true });
      const before = now().bytes;
      const y = checkpointWith(selective, (a: Tensor) => mul(linear(mul(linear(a, w), a), w), a), x);
      expect(now().bytes - before).toBe(3 * 4 * n * n); // two products and the result
      sum(y).backward();
      y.dispose();
      x.clearGrad();
      w.clearGrad();
      expect(now().bytes - before).toBe(4); // the loss
    });

    test('keeps nothing where no gradient is asked for, or the first run fails', () => {
      const x = ones([4, 4], { device });
      const w = ones([4, 4], { device, requiresGrad: true });
      const before = now();
      tidy(() => checkpointWith(selective, (a: Tensor) => linear(a, a), x).shape);
      noGrad(() => tidy(() => checkpointWith(selective, (a: Tensor) => linear(a, w), x).shape));
      expect(() =>
        checkpointWith(
          selective,
          (a: Tensor) => {
            linear(a, w);
            throw new Error('stop');
          },
          x,
        ),
      ).toThrow('stop');
      expect({ ...now(), peakBytes: 0 }).toEqual({ ...before, peakBytes: 0 });
    });

    describe('a function that does something else the second time is told so', () => {
      const x = (): Tensor => ones([2, 3], { device, requiresGrad: true });
      const said = (shapes: string): string => `linear(${shapes}, null, {})`;
      const on = (shape: string): string => `Tensor(float32 [${shape}] on ${device})`;
      const square = said(`${on('2, 3')}, ${on('2, 3')}`);
      const flat = said(`${on('1, 6')}, ${on('1, 6')}`);
      const rows: [string, (a: Tensor, run: number) => Tensor, string][] = [
        [
          'another shape',
          (a, run) => sum(run === 1 ? linear(a, a) : linear(a.reshape(1, 6), a.reshape(1, 6))),
          `to call ${square} in its second run as in its first, got ${flat}`,
        ],
        [
          'another op',
          (a, run) => sum(run === 1 ? linear(a, a) : bitLinear(a, a)),
          `to call ${square} in its second run as in its first, got ${square.replace('linear', 'bitLinear')}`,
        ],
        [
          'one call more',
          (a, run) => sum(run === 1 ? linear(a, a) : add(linear(a, a), linear(a, a))),
          `to make 1 calls that were remembered in its second run as in its first, got ${square}`,
        ],
        [
          'one call less',
          (a, run) => sum(run === 1 ? add(linear(a, a), linear(a, a)) : linear(a, a)),
          `to call ${square} in its second run as in its first, got its end`,
        ],
      ];
      test.each(rows)('%s', async (_, fn, message) => {
        for (const offload of ['none', 'host'] as const) {
          const input = x();
          const before = now();
          let runs = 0;
          const y = checkpointWith({ policy: 'selective', offload }, (a: Tensor) => fn(a, ++runs), input);
          expect(() => y.backward()).toThrow(new OptionError(`checkpoint: expected fn ${message}`));
          expect(() => y.backward()).toThrow('already released');
          y.dispose();
          expect([input.grad, now().bytes, now().offloadedBytes]).toEqual([null, before.bytes, before.offloadedBytes]);
          sum(checkpointWith({ policy: 'selective', offload }, (a: Tensor) => linear(a, a), input)).backward();
          expect(await valuesOf(input.grad)).toEqual(new Array(6).fill(4));
        }
      });
      test('other options of attention', () => {
        let runs = 0;
        const q = randn([1, 3, 1, 4], { device, requiresGrad: true });
        const y = checkpointWith(selective, (a: Tensor) => sum(flashAttention(a, a, a, { causal: ++runs > 1 })), q);
        expect(() => y.backward()).toThrow(OptionError);
      });
    });
  });

  describe('offload', () => {
    const host = { offload: 'host' } as const;
    const [n, block] = [1000, 4000];
    const square = (a: Tensor): Tensor => mul(a, a);
    /** Bytes on the device and off it, since it was made. */
    const meter = (): (() => [number, number]) => {
      const start = now();
      return () => [now().bytes - start.bytes, now().offloadedBytes - start.offloadedBytes];
    };

    test('moves what nobody else holds, when the last other handle goes, and brings it back', async () => {
      const w = leaf([3]);
      const held = meter();
      const x = mul(ones([n], { device }), w);
      const view = x.reshape(10, n / 10);
      const y = checkpointWith(host, square, x);
      expect(held()).toEqual([3 * block, 0]); // the ones, x, y
      x.dispose();
      expect(held()).toEqual([3 * block, 0]); // a view holds it
      view.dispose();
      expect(held()).toEqual([2 * block, block]);
      expect(now().offloadedBytes).toBeGreaterThanOrEqual(block);
      const loss = sum(y);
      loss.backward();
      expect(held()[1]).toBe(0);
      expect(await valuesOf(w.grad)).toEqual([2 * 3 * n]);
    });

    test('not what is alive elsewhere: parameters, and what another op saved', async () => {
      const { backend } = deviceNamed(device);
      const spy = jest.spyOn(backend, 'offload');
      const w = leaf([3]);
      tidy(() => {
        const x = mul(w, w); // the parameter itself
        const y = checkpointWith(host, (a: Tensor, b: Tensor) => mul(a, b), x, w);
        sum(mul(y, x)).backward(); // x is saved by mul
      });
      expect(await valuesOf(w.grad)).toEqual([5 * 3 ** 4]);
      expect(spy.mock.calls.length).toBe(0);
      spy.mockRestore();
    });

    test('the same tensor kept by two checkpoints, and twice by one, is moved once', async () => {
      const w = leaf([2]);
      const held = meter();
      const [first, second] = tidy(() => {
        const x = mul(ones([n], { device }), w);
        return [
          checkpointWith(host, (a: Tensor, b: Tensor) => mul(a, b), x, x),
          checkpointWith(host, square, x.reshape(n, 1)),
        ];
      });
      // The ones stay: the tape needs them for the gradient of w.
      expect(held()).toEqual([3 * block, block]);
      add(sum(first), sum(second)).backward();
      expect(held()[1]).toBe(0);
      expect(await valuesOf(w.grad)).toEqual([2 * 2 * 2 * n]);
    });

    test('what waits for a second backward pass moves again', async () => {
      const x = ones([n], { device, requiresGrad: true });
      const held = meter();
      const [a, b] = tidy(() => {
        const h = scale(x.detach(), 2);
        h.requiresGrad = true;
        return [checkpointWith(host, square, h), checkpointWith(host, (c: Tensor) => scale(c, 3), h)];
      });
      expect(held()).toEqual([2 * block, block]);
      sum(a).backward();
      expect(held()[1]).toBe(block);
      sum(b).backward();
      expect(held()[1]).toBe(0);
    });

    test('of selective, the kept results too', () => {
      const m = 20;
      const [x, w] = [randn([m, m], { device, requiresGrad: true }), randn([m, m], { device, requiresGrad: true })];
      const held = meter();
      const fn = (a: Tensor): Tensor => mul(linear(mul(linear(a, w), a), w), a);
      const y = checkpointWith({ policy: 'selective', offload: 'host' }, fn, x);
      expect(held()).toEqual([4 * m * m, 2 * 4 * m * m]);
      sum(y).backward();
      expect(held()[1]).toBe(0);
    });

    test('an error in the second run, and a graph used twice', async () => {
      const held = meter();
      let runs = 0;
      const [loss, x] = tidy(() => {
        const x = ones([n], { device, requiresGrad: true });
        const stop = (a: Tensor): Tensor => {
          if (++runs === 2) throw new Error('stop');
          return square(a);
        };
        return [sum(checkpointWith(host, stop, scale(x, 2))), x];
      });
      expect(held()[1]).toBe(block);
      expect(() => loss.backward()).toThrow('stop');
      expect(held()).toEqual([block + 4, 0]);
      expect(() => loss.backward()).toThrow(OptionError);
      expect(x.grad).toBeNull();
    });

    test('too little memory on the device to come back to', () => {
      const held = meter();
      const loss = tidy(() => sum(checkpointWith(host, square, scale(ones([n], { device, requiresGrad: true }), 2))));
      const { backend } = deviceNamed(device);
      const { allocate } = backend;
      const spy = jest
        .spyOn(backend, 'allocate')
        .mockImplementation((bytes) => (bytes === block && held()[0] >= block + 8 ? null : allocate(bytes)));
      try {
        expect(() => loss.backward()).toThrow(OutOfMemoryError);
      } finally {
        spy.mockRestore();
      }
      loss.dispose();
      expect(held()).toEqual([0, 0]);
    });

    test('too little memory on the host: it stays on the device', async () => {
      const spy = jest.spyOn(deviceNamed(device).backend, 'offload').mockReturnValue(null);
      const w = leaf([3]);
      const held = meter();
      const y = tidy(() => checkpointWith(host, square, mul(ones([n], { device }), w)));
      expect(held()).toEqual([3 * block, 0]);
      sum(y).backward();
      expect(spy.mock.calls.length).toBe(1);
      spy.mockRestore();
      expect(await valuesOf(w.grad)).toEqual([2 * 3 * n]);
    });

    test('an input that fn itself disposes', async () => {
      const w = leaf([3]);
      const fn = (a: Tensor): Tensor => {
        const result = square(a);
        a.dispose();
        return result;
      };
      checkpointWith(host, fn, scale(w, 2)).backward();
      expect(await valuesOf(w.grad)).toEqual([24]);
    });
  });

  describe('a model', () => {
    // Many tokens to few parameters, so that what is kept of the layers outweighs the gradients.
    const shape = { vocabulary: 33, layers: 6, hidden: 16, heads: 2, keyHeads: 1, intermediate: 24 };

    test.each([
      [1, true],
      [2, true],
      [1, false],
    ])('measured peaks fall with every choice, %i layers to a segment, ternary %s', async (every, ternary) => {
      manualSeed(7);
      using model = new CausalLM({ ...shape, ternary }, { device });
      using ids = tensor(new Int32Array(8 * 32).fill(3), { shape: [8, 32], device });
      const measure = async (config: Partial<CheckpointConfig>): Promise<{ above: number; bits: number[][] }> => {
        model.checkpointConfig = config;
        const before = now().bytes;
        deviceNamed(device).resetPeakMemory();
        tidy(() => model.loss(ids, ids).backward());
        const above = now().peakBytes - before;
        const bits = [];
        for (const each of model.parameters()) bits.push(await bitsOf(each.grad as Tensor));
        model.clearGrad();
        expect([now().bytes, now().offloadedBytes]).toEqual([before, 0]);
        return { above, bits };
      };
      const none = await measure({ enabled: false });
      const peaks = [none.above];
      for (const config of [
        { policy: 'selective' as const },
        {},
        { policy: 'full' as const, offload: 'host' as const },
        { policy: 'selective' as const, offload: 'host' as const },
      ]) {
        const { above, bits } = await measure({ every, ...config });
        expect(bits).toEqual(none.bits);
        peaks.push(above);
      }
      const [plain, selective, full, fullHost, selectiveHost] = peaks;
      expect(selective).toBeLessThan(plain);
      expect(full).toBeLessThan(selective);
      expect(fullHost).toBeLessThan(full);
      expect(selectiveHost).toBeLessThan(selective);
    });

    test('layers that give back what they get', async () => {
      const config: CheckpointConfig = { enabled: true, every: 1, policy: 'full', offload: 'host' };
      const same = { forward: (h: Tensor): Tensor => h };
      const doubled = { forward: (h: Tensor): Tensor => scale(h, 2) };
      for (const requiresGrad of [false, true]) {
        const x = tensor([3], { device, requiresGrad });
        const y = runLayers([doubled, same, same, doubled, same], x, config);
        expect(await y.item()).toBe(12);
        if (requiresGrad) y.backward();
        expect(await valuesOf(x.grad)).toEqual(requiresGrad ? [4] : null);
      }
    });

    test('the configuration: defaults, and what makes no sense', () => {
      using model = new CausalLM({ ...shape, layers: 1 }, { device });
      expect(model.checkpointConfig).toEqual({ enabled: false, every: 1, policy: 'full', offload: 'none' });
      model.checkpointConfig = {};
      expect(model.checkpointConfig).toEqual({ enabled: true, every: 1, policy: 'full', offload: 'none' });
      const bad: [object, string][] = [
        [{ every: 0 }, 'CheckpointConfig: expected an integer from 1 to 2147483647 for every, got 0'],
        [{ every: 1.5 }, 'CheckpointConfig: expected an integer from 1 to 2147483647 for every, got 1.5'],
        [{ enabled: 1 }, 'CheckpointConfig: expected a boolean for enabled, got 1'],
        [{ policy: 'half' }, 'CheckpointConfig: expected one of full, selective for policy, got "half"'],
        [{ offload: 'disk' }, 'CheckpointConfig: expected one of none, host for offload, got "disk"'],
        [{ evry: 1 }, 'CheckpointConfig: expected only enabled, every, policy, offload as options, got evry'],
      ];
      for (const [config, message] of bad) {
        expect(() => (model.checkpointConfig = config)).toThrow(new OptionError(message));
        expect(model.checkpointConfig.enabled).toBe(true);
      }
      using ids = tensor([[1, 2]], { dtype: 'int32', device });
      model.checkpointConfig.every = 0;
      expect(() => tidy(() => model.forward(ids))).toThrow(OptionError);
      expect([...model.state().keys()].filter((name) => name.includes('heckpoint'))).toEqual([]);
    });
  });

  test('options of checkpointWith that make no sense', () => {
    const x = zeros([1], { device });
    const with_ = (options: object): unknown => checkpointWith(options, (a: Tensor) => a, x);
    expect(() => with_({ policy: 'some' })).toThrow(
      new OptionError('checkpoint: expected one of full, selective for policy, got "some"'),
    );
    expect(() => with_({ offload: true })).toThrow(
      new OptionError('checkpoint: expected one of none, host for offload, got true'),
    );
    expect(() => with_({ police: 'full' })).toThrow(OptionError);
    expect(checkpoint((a: Tensor) => a, x)).toBe(x);
  });
});

test('memoryReductionFactor', () => {
  expect([
    memoryReductionFactor({}, 12),
    memoryReductionFactor({ every: 5 }, 12),
    memoryReductionFactor({ every: 50 }, 12),
    memoryReductionFactor({ enabled: false }, 12),
    memoryReductionFactor({ every: 3 }, 0),
  ]).toEqual([1, 3 / 12, 1 / 12, 1, 1]);
  expect(() => memoryReductionFactor({ every: 0 }, 12)).toThrow(OptionError);
  expect(() => memoryReductionFactor({}, -1)).toThrow(OptionError);
});

describeBackends((device) => {
  test('the garbage collector frees what waits on the host, too', async () => {
    const result = await resultOfChild(
      async (library, device) => {
        const collect = (globalThis as unknown as { gc: () => void }).gc;
        const w = library.ones([16], { device, requiresGrad: true });
        const litter = (): void => {
          for (let i = 0; i < 50; i++) {
            library.tidy(() =>
              library.checkpointWith({ offload: 'host' }, (a) => library.mul(a, a), library.scale(w, 2)),
            );
          }
        };
        litter();
        const before = library.memory()[device].offloadedBytes;
        for (let i = 0; i < 50 && library.memory()[device].offloadedBytes > 0; i++) {
          collect();
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
        return [before, library.memory()[device].offloadedBytes];
      },
      [device] as [DeviceName],
      { flags: ['--expose-gc'] },
    );
    expect(result).toEqual([50 * 64, 0]);
  });
});
