// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  AdamW,
  add,
  arange,
  bitLinear,
  capture as captureOf,
  CaptureError,
  type CapturedGraph,
  CausalLM,
  checkpoint,
  checkpointWith,
  defaultGenerator,
  device as deviceNamed,
  DeviceError,
  DisposedError,
  dropout,
  embedding,
  emptyCache,
  flashAttention,
  flashAttentionVarlen,
  flashAttentionWithKvCache,
  full,
  gradNorm,
  keep,
  KernelError,
  mul,
  ones,
  OptionError,
  quantizeTernary,
  randn,
  reclaimTransfers,
  rmsNorm,
  rope,
  scale,
  setMemoryLimit,
  sum,
  swiglu,
  tensor,
  tensorFromRaw,
  ternaryMatmul,
  tidy,
  zeros,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends } from '../harness.js';
import { holdMemory } from './hold-memory.js';

holdMemory();

// A graph that the garbage collector gives up gives memory back, between two looks of another test.
const graphs: CapturedGraph<unknown>[] = [];
const capture: typeof captureOf = (step, options) => {
  const graph = captureOf(step, options);
  graphs.push(graph);
  return graph;
};
afterEach(() => graphs.forEach((graph) => graph.dispose()));

const numbers = async (t: Tensor): Promise<number[]> => Array.from(await t.data());

/** Declares tests for the backends that capture, which are all but `reference`. */
function describeCapturing(declare: (device: DeviceName) => void): void {
  describeBackends((device) => {
    if (device === 'reference') test('does not capture', () => expect(() => attempt(device)).toThrow(DeviceError));
    else declare(device);
  });
}

const attempt = (device: DeviceName): CapturedGraph<Tensor> => capture(() => ones([2], { device }), { device });

describe('reference', () => {
  test('does not capture, and says so before it calls anything', () => {
    const step = jest.fn();
    const message = 'capture: expected a device that can capture, got reference: its ops compute when they are called';
    expect(() => capture(step, { device: 'reference' })).toThrow(new DeviceError(message));
    expect(step).not.toHaveBeenCalled();
  });
});

describe('a graph', () => {
  describeCapturing((device) => {
    const on = { device };

    test('computes nothing until it is replayed, and reads its inputs anew each time', async () => {
      const x = tensor([1, 2, 3], on);
      const seen = zeros([3], on);
      const step = jest.fn(() => {
        seen.write(x);
        return scale(x, 2);
      });
      const graph = capture(step, on);
      expect(await numbers(seen)).toEqual([0, 0, 0]);
      await graph.replay();
      expect(await numbers(seen)).toEqual([1, 2, 3]);
      expect(await numbers(graph.result)).toEqual([2, 4, 6]);
      x.write([5, 6, 7]);
      expect(await numbers(graph.result)).toEqual([2, 4, 6]);
      await graph.replay();
      expect(await numbers(graph.result)).toEqual([10, 12, 14]);
      expect(step).toHaveBeenCalledTimes(1);
    });

    test('replays in the order of the other ops, waited for or not', async () => {
      const x = tensor([1], on);
      const total = zeros([1], on);
      const graph = capture(() => total.write(add(total, x)), on);
      void graph.replay();
      void graph.replay();
      const two = scale(total, 1);
      x.write([10]);
      await graph.replay();
      expect(await numbers(two)).toEqual([2]);
      expect(await numbers(total)).toEqual([12]);
    });

    test('of no op at all', async () => {
      const graph = capture(() => 7, on);
      await graph.replay();
      expect(graph.result).toBe(7);
    });

    // Ops that bring constants of their own to the device (positions, lengths, lists of tensors), and big and small ones.
    const steps: [string, (x: Tensor) => Tensor][] = [
      [
        'rope, attention, norm',
        (x) => rmsNorm(flashAttention(rope(x), rope(x, { positions: 3 }), x, { causal: true }), vector(x)),
      ],
      ['attention of packed sequences', (x) => flashAttentionVarlen(...packed(x), { cuSeqlensQ: [0, 5, 9] })],
      ['ternary weights', (x) => ternaryMatmul(rows(x), quantizeTernary(square(x.device.id as DeviceName)))],
      ['bitLinear', (x) => bitLinear(rows(x), square(x.device.id as DeviceName))],
      ['swiglu, sum', (x) => sum(swiglu(rows(x), scale(rows(x), 0.5)), { axis: 0 })],
      ['checkpoint', (x) => checkpoint((y) => mul(y, y), x)],
      ['arange', (x) => add(arange(0, 32, 1, { dtype: 'float32', device: x.device }), rows(x))],
    ];
    const packed = (x: Tensor): [Tensor, Tensor, Tensor] => {
      const y = x.reshape(9, 2, 32);
      return [y, y, y];
    };
    const rows = (x: Tensor): Tensor => x.reshape(18, 32);
    const vector = (x: Tensor): Tensor => full([32], 2, { device: x.device });
    const squares = new Map<string, Tensor>();
    const square = (name: DeviceName): Tensor => {
      const found = squares.get(name) ?? keep(randn([32, 32], { seed: 2, device: name }));
      squares.set(name, found);
      return found;
    };

    test.each(steps)('gives the bits of the step itself: %s', async (_, step) => {
      square(device);
      const x = randn([1, 9, 2, 32], { seed: 1, ...on });
      const graph = capture(() => tidy(() => step(x)), on);
      for (const seed of [1, 3]) {
        tidy(() => x.write(randn([1, 9, 2, 32], { seed, ...on })));
        const expected = await bitsOf(tidy(() => step(x)));
        await graph.replay();
        expect(await bitsOf(graph.result)).toEqual(expected);
        await graph.replay();
        expect(await bitsOf(graph.result)).toEqual(expected);
      }
      graph.dispose();
    });

    test('tells of what a kernel finds, at each replay that finds it', async () => {
      const table = ones([3, 2], on);
      const ids = tensor(Int32Array.of(0, 1), on);
      const graph = capture(() => embedding(table, ids), on);
      await graph.replay();
      ids.write(Int32Array.of(0, 7));
      for (let i = 0; i < 2; i++) {
        const error: unknown = await graph.replay().catch((caught: unknown) => caught);
        expect(error).toBeInstanceOf(KernelError);
        expect(error).toMatchObject({
          op: 'embedding',
          message: expect.stringMatching(/^embedding: expected ids in 0\.\.2, got /) as string,
        });
      }
      ids.write(Int32Array.of(2, 2));
      await graph.replay();
      expect(await numbers(graph.result)).toEqual([1, 1, 1, 1]);
    });

    test('is given up by dispose() or using, also with replays queued', async () => {
      const x = tensor([1, 2], on);
      const graph = capture(() => scale(x, 3), on);
      const replayed = graph.replay();
      graph.dispose();
      graph.dispose();
      await replayed;
      expect(await numbers(graph.result)).toEqual([3, 6]);
      expect(graph.isDisposed).toBe(true);
      await expect(graph.replay()).rejects.toThrow(
        new DisposedError('replay: expected a live graph, got a disposed one'),
      );
      let used: CapturedGraph<Tensor>;
      {
        using block = capture(() => scale(x, 3), on);
        used = block;
      }
      expect(used.isDisposed).toBe(true);
    });

    test('can be disposed inside the capture of another', async () => {
      const x = tensor([1, 2], on);
      const first = capture(() => scale(x, 3), on);
      void first.replay();
      const second = capture(() => {
        first.dispose();
        return scale(x, 5);
      }, on);
      await second.replay();
      expect(await numbers(first.result)).toEqual([3, 6]);
      expect(await numbers(second.result)).toEqual([5, 10]);
    });
  });
});

describe('gradients', () => {
  describeCapturing((device) => {
    const on = { device };

    /** A small model, and the bits of loss and gradients of a step of its own. */
    const make = (): { model: CausalLM; ids: Tensor; targets: Tensor } => ({
      model: new CausalLM({ vocabulary: 32, layers: 2, hidden: 32, heads: 2, intermediate: 64 }, { device }),
      ids: tensor(
        Int32Array.from({ length: 16 }, (_, i) => (i * 7) % 32),
        { shape: [2, 8], ...on },
      ),
      targets: tensor(
        Int32Array.from({ length: 16 }, (_, i) => (i * 5) % 32),
        { shape: [2, 8], ...on },
      ),
    });

    test('a step of forward pass, backward pass and norm', async () => {
      const { model, ids, targets } = make();
      const parameters = model.parameters();
      const step = (): Tensor[] => {
        const loss = model.loss(ids, targets);
        loss.backward();
        return [loss, gradNorm(parameters).norm];
      };
      const own = tidy(step);
      const expected = await Promise.all([...own, ...parameters.map(({ grad }) => grad as Tensor)].map(bitsOf));
      for (const each of parameters) each.clearGrad();
      const graph = capture(step, on);
      for (let i = 0; i < 2; i++) {
        await graph.replay();
        const found = [...graph.result, ...parameters.map(({ grad }) => grad as Tensor)];
        expect(await Promise.all(found.map(bitsOf))).toEqual(expected);
      }
      // What follows may be an optimizer's step outside.
      new AdamW(parameters, { learningRate: 0.1 }).step();
      await graph.replay();
      expect(await bitsOf(graph.result[0])).not.toEqual(expected[0]);
      graph.dispose();
      model.dispose();
    });

    test('one that is there is added to, one that the capture makes is written anew', async () => {
      const w = tensor([1, 2], { requiresGrad: true, ...on });
      const step = (): void => sum(mul(w, w)).backward();
      const anew = capture(step, on);
      for (let i = 0; i < 2; i++) {
        await anew.replay();
        expect(await numbers(w.grad as Tensor)).toEqual([2, 4]);
      }
      anew.dispose();
      const onTop = capture(step, on);
      for (let i = 1; i < 3; i++) {
        await onTop.replay();
        expect(await numbers(w.grad as Tensor)).toEqual([2 + 2 * i, 4 + 4 * i]);
      }
    });

    test('results are outside the graph of gradients, and inputs can be written', async () => {
      const w = tensor([1, 2], { requiresGrad: true, ...on });
      const x = tensor([3, 4], on);
      const graph = capture(() => {
        const kept = keep(mul(x, w));
        return [sum(kept), kept];
      }, on);
      const [loss] = graph.result;
      expect(loss.requiresGrad).toBe(false);
      expect(() => loss.backward()).toThrow(OptionError);
      x.write([1, 1]);
      w.write([5, 6]);
      await graph.replay();
      expect(await numbers(loss)).toEqual([11]);
    });
  });
});

describe('memory', () => {
  describeCapturing((device) => {
    const on = { device };
    const N = 3001; // a size class of its own
    const reserved = (): number => {
      emptyCache();
      return deviceNamed(device).memory().reservedBytes;
    };
    /** Tensors of that size; none of them may be touched by a replay. */
    const strangers = (): Tensor[] => Array.from({ length: 8 }, () => full([N], 9, on));
    const expectUntouched = async (tensors: readonly Tensor[]): Promise<void> => {
      for (const each of tensors) {
        expect(new Set(await each.data())).toEqual(new Set([9]));
        each.dispose();
      }
    };

    test('of intermediate tensors and of a disposed result is the graph’s until it is gone', async () => {
      const x = ones([N], on);
      const start = reserved();
      const graph = capture(() => scale(scale(scale(x, 2), 3), 4), on);
      graph.result.dispose();
      const others = strangers();
      await graph.replay();
      await expectUntouched(others);
      expect(reserved()).toBeGreaterThanOrEqual(start + 3 * 4 * N);
      graph.dispose();
      await deviceNamed(device).synchronize();
      expect(reserved()).toBe(start);
      x.dispose();
    });

    test('a result outlives the graph', async () => {
      const x = ones([N], on);
      const start = reserved();
      const graph = capture(() => scale(scale(x, 2), 3), on);
      await graph.replay();
      graph.dispose();
      const others = strangers();
      expect(new Set(await graph.result.data())).toEqual(new Set([6]));
      graph.result.dispose();
      await expectUntouched(others);
      expect(reserved()).toBe(start);
      x.dispose();
    });

    test('freed inside is used again inside', async () => {
      const x = ones([N], on);
      const start = reserved();
      const step = (): Tensor => {
        let y = scale(x, 2);
        for (let i = 0; i < 10; i++) {
          const next = scale(y, i % 2 === 0 ? 0.5 : 2);
          y.dispose();
          y = next;
        }
        return y;
      };
      const graph = capture(step, on);
      expect(reserved() - start).toBeLessThan(4 * 4 * N);
      for (let i = 0; i < 2; i++) {
        await graph.replay();
        expect(new Set(await graph.result.data())).toEqual(new Set([2]));
      }
      graph.dispose();
      graph.result.dispose();
      x.dispose();
    });

    test('of inputs that were disposed is neither handed out nor lost', async () => {
      const start = reserved();
      const w = full([N], 3, { requiresGrad: true, ...on });
      tidy(() => sum(w).backward()); // the replays add to this gradient, in its memory
      const graph = capture(() => sum(mul(w, w)).backward(), on);
      w.dispose();
      const others = strangers();
      await graph.replay();
      await graph.replay();
      await expectUntouched(others);
      graph.dispose();
      await deviceNamed(device).synchronize();
      expect(reserved()).toBe(start);
    });

    test('of an input that the step disposes holds it for every replay', async () => {
      const x = full([N], 5, on);
      const graph = capture(() => {
        const y = scale(x, 2);
        x.dispose();
        const z = scale(y, 2);
        y.dispose();
        return scale(z, 2);
      }, on);
      for (let i = 0; i < 3; i++) {
        await graph.replay();
        expect(new Set(await graph.result.data())).toEqual(new Set([40]));
      }
      graph.dispose();
      graph.result.dispose();
    });

    test('that two graphs use stays until both are gone', async () => {
      const start = reserved();
      const x = full([N], 5, on);
      const [first, second] = [2, 3].map((factor) => capture(() => sum(scale(x, factor)), on));
      x.dispose();
      first.dispose();
      const others = strangers();
      await second.replay();
      expect(await second.result.item()).toBe(15 * N);
      await expectUntouched(others);
      second.dispose();
      for (const { result } of [first, second]) result.dispose();
      await deviceNamed(device).synchronize();
      expect(reserved()).toBe(start);
    });

    test('of a failed capture is free again', async () => {
      const x = ones([N], on);
      const start = reserved();
      const { tensors, bytes } = deviceNamed(device).memory();
      expect(() => capture(() => void scale(scale(x, 2), 2).item(), on)).toThrow(CaptureError);
      expect(deviceNamed(device).memory()).toMatchObject({ tensors, bytes });
      expect(reserved()).toBe(start);
      x.dispose();
      await deviceNamed(device).synchronize();
    });

    test('that a graph uses is not given to another thread', async () => {
      const x = ones([N], on);
      const graph = capture(() => sum(x), on);
      const message = 'transfer: expected a tensor that no captured graph uses, got one that a graph does';
      await expect(x.transfer()).rejects.toThrow(new OptionError(message));
      expect(x.isDisposed).toBe(false);
      graph.dispose();
      await x.transfer();
      expect(x.isDisposed).toBe(true);
    });
  });
});

describe('what cannot be captured', () => {
  const refusal = (op: string, why: string): CaptureError =>
    new CaptureError(`${op}: expected a call outside capture, got one inside, where ${why}`);
  const READ = 'nothing is computed yet';
  const UPLOAD = 'every replay would bring the same values';
  const RANDOM = 'every replay would draw the same numbers';
  const COUNT = 'every replay would be the same step';
  const MOVE = 'a replay finds memory where it was captured';
  const MEMORY = 'memory that is captured stays where it is';

  describeCapturing((device) => {
    const on = { device };

    const rows: [string, CaptureError, (x: Tensor) => unknown][] = [
      ['data', refusal('data', READ), (x) => x.data()],
      ['raw', refusal('raw', READ), (x) => x.raw()],
      ['item', refusal('item', READ), (x) => x.item()],
      ['to', refusal('to', READ), (x) => x.to({ dtype: 'float16' })],
      ['synchronize', refusal('synchronize', READ), () => deviceNamed(device).synchronize()],
      ['tensor', refusal('tensor', UPLOAD), () => tensor([1], on)],
      [
        'tensorFromRaw',
        refusal('tensorFromRaw', UPLOAD),
        () => tensorFromRaw(new Float32Array(1), [1], { dtype: 'float32', ...on }),
      ],
      ['write', refusal('write', UPLOAD), (x) => x.write([4, 5])],
      ['randn', refusal('Generator.normal', RANDOM), () => randn([2], on)],
      ['randn with a seed', refusal('Generator.normal', RANDOM), () => randn([2], { seed: 1, ...on })],
      ['dropout', refusal('Generator.reserve', RANDOM), (x) => dropout(x, 0.5)],
      ['a number', refusal('Generator.integer', RANDOM), () => defaultGenerator().integer(3)],
      ['transfer', refusal('transfer', MOVE), (x) => x.transfer()],
      ['reclaimTransfers', refusal('reclaimTransfers', MOVE), () => reclaimTransfers()],
      [
        'a checkpoint that offloads',
        refusal('checkpoint', MOVE),
        (x) => checkpointWith({ offload: 'host' }, (y: Tensor) => scale(y, 2), x),
      ],
      ['emptyCache', refusal('emptyCache', MEMORY), () => emptyCache()],
      ['setMemoryLimit', refusal('setMemoryLimit', MEMORY), () => setMemoryLimit(2 ** 30, on)],
      ['capture', refusal('capture', 'a graph has none inside'), () => attempt(device)],
      ['capture elsewhere', refusal('capture', 'a graph has none inside'), () => attempt('reference')],
    ];

    test.each(rows)('%s', async (_, error, call) => {
      const x = tensor([1, 2], on);
      const w = tensor([3, 4], { requiresGrad: true, ...on });
      const random = defaultGenerator().state;
      const before = deviceNamed(device).memory();
      let reached = 0;
      const step = (): void => {
        sum(mul(w, x)).backward();
        reached++;
        call(x);
        reached++;
      };
      expect(() => capture(step, on)).toThrow(error);
      expect(reached).toBe(1);
      // Also if the step catches the error.
      const caught = (): void => {
        try {
          call(x);
        } catch {
          // as if nothing had happened
        }
      };
      expect(() => capture(caught, on)).toThrow(error);

      const { tensors, bytes, limitBytes } = deviceNamed(device).memory();
      expect({ tensors, bytes, limitBytes }).toEqual({
        tensors: before.tensors,
        bytes: before.bytes,
        limitBytes: null,
      });
      expect(w.grad).toBeNull();
      expect(defaultGenerator().state).toEqual(random);
      expect(await numbers(x)).toEqual([1, 2]);
      expect(await numbers(add(x, w))).toEqual([4, 6]);
      const graph = capture(() => scale(x, 2), on);
      await graph.replay();
      expect(await numbers(graph.result)).toEqual([2, 4]);
      graph.dispose();
    });

    test('a replay', async () => {
      const graph = attempt(device);
      const nested = refusal('replay', 'a graph has none inside');
      expect(() => capture(() => graph.replay(), on)).toThrow(nested);
      await graph.replay();
      expect(await numbers(graph.result)).toEqual([1, 1]);
    });

    test('steps of AdamW, which counts them', async () => {
      const w = tensor([3, 4], { requiresGrad: true, ...on });
      sum(w).backward();
      const optimizer = new AdamW([w]);
      expect(() => capture(() => optimizer.step(), on)).toThrow(refusal('AdamW.step', COUNT));
      expect(optimizer.stepCount).toBe(0);
      expect(await numbers(w)).toEqual([3, 4]);
    });

    test('new tokens in a cache, which counts them; old ones can be looked at', async () => {
      const q = randn([1, 1, 1, 32], { seed: 1, ...on });
      const cache = { keys: zeros([1, 4, 1, 32], on), values: zeros([1, 4, 1, 32], on), length: 0 };
      const step = (): Tensor => flashAttentionWithKvCache(q, cache, { newK: q, newV: q });
      expect(() => capture(step, on)).toThrow(refusal('flashAttentionWithKvCache', COUNT));
      expect(cache.length).toBe(0);
      const expected = await bitsOf(step());
      const graph = capture(() => flashAttentionWithKvCache(q, cache), on);
      await graph.replay();
      expect(await bitsOf(graph.result)).toEqual(expected);
    });

    test('the backward pass of what was offloaded before', async () => {
      const w = tensor([3, 4], { requiresGrad: true, ...on });
      const loss = tidy(() => {
        const x = scale(w, 1);
        return sum(checkpointWith({ offload: 'host' }, (y: Tensor) => mul(y, y), x));
      });
      expect(() => capture(() => loss.backward(), on)).toThrow(refusal('checkpoint', MOVE));
      expect(w.grad).toBeNull();
      await deviceNamed(device).synchronize();
    });

    test('an error of the step is thrown on, gradients are as before', async () => {
      const w = tensor([3, 4], { requiresGrad: true, ...on });
      sum(w).backward();
      const { grad } = w;
      const error = new Error('mine');
      const step = (): void => {
        sum(mul(w, w)).backward();
        throw error;
      };
      expect(() => capture(step, on)).toThrow(error);
      expect(w.grad).toBe(grad);
      expect(await numbers(w.grad as Tensor)).toEqual([1, 1]);
    });

    test('an async step', async () => {
      const x = tensor([1, 2], on);
      const message = 'capture: expected a function that returns without a promise, got an async function';
      const step = async (): Promise<number[]> => numbers(scale(x, 2));
      expect(() => capture(step, on)).toThrow(new OptionError(message));
      expect(() => capture(async () => scale(x, 2), on)).toThrow(new OptionError(message));
      expect(await numbers(x)).toEqual([1, 2]);
    });

    test('too little memory inside is told, and passes', async () => {
      const x = tensor([1, 2], on);
      expect(() => capture(() => zeros([2 ** 45], on), on)).toThrow(
        expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }),
      );
      expect(await numbers(scale(x, 2))).toEqual([2, 4]);
    });

    test('options that are none', () => {
      expect(() => capture(3 as never, on)).toThrow(new OptionError('capture: expected a function for step, got 3'));
      expect(() => capture(() => 1, { devise: 'cpu' } as never)).toThrow(OptionError);
    });
  });
});
