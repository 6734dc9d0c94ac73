// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  add,
  AdamW,
  applyLora,
  CausalLM,
  dequantizeTernary,
  device as deviceNamed,
  FormatError,
  Linear,
  linear,
  loadLora,
  LoraAdapter,
  loraState,
  manualSeed,
  mergeLora,
  Module,
  mul,
  noGrad,
  OptionError,
  quantizeModel,
  quantizeTernary,
  readSafetensors,
  saveLora,
  scale,
  ShapeError,
  sum,
  tensor,
  TernaryLinear,
  TernaryTensor,
  tidy,
  writeSafetensors,
  type CausalLMOptions,
  type DeviceName,
  type FloatDType,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends, FLOAT_DTYPES, make } from '../harness.js';
import { Random } from '../random.js';
import { holdMemory } from '../core/hold-memory.js';

holdMemory();

const SMALL: CausalLMOptions = { vocabulary: 33, layers: 2, hidden: 32, heads: 4, keyHeads: 2, intermediate: 48 };
const PARTS = [
  'attention.query',
  'attention.key',
  'attention.value',
  'attention.output',
  'mlp.gate',
  'mlp.up',
  'mlp.down',
];

function smallModel(device: DeviceName, options: Partial<CausalLMOptions> = {}): CausalLM {
  manualSeed(7);
  return new CausalLM({ ...SMALL, ...options }, { device });
}

function tokens(device: DeviceName, name = 'tokens'): { ids: Tensor; targets: Tensor } {
  const [batch, sequence] = [2, 9];
  const random = new Random(name);
  const draw = (): Tensor =>
    tensor(random.integers(batch * sequence, 0, 32), { shape: [batch, sequence], dtype: 'int32', device });
  return { ids: draw(), targets: draw() };
}

/** The losses of so many steps on one batch. */
async function train(
  model: CausalLM,
  { ids, targets }: { ids: Tensor; targets: Tensor },
  steps: number,
  learningRate: number,
): Promise<number[]> {
  const optimizer = new AdamW(model.parameters(), { learningRate });
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) {
    const loss = tidy(() => {
      const value = model.loss(ids, targets);
      value.backward();
      return value.detach();
    });
    optimizer.step();
    model.clearGrad();
    losses.push(await loss.item());
    loss.dispose();
  }
  optimizer.dispose();
  return losses;
}

/** Overwrites a tensor in place. */
async function write(target: Tensor, values: ArrayLike<number>): Promise<void> {
  const source = make(target.device.id as DeviceName, target.dtype, target.shape, values);
  target.device.backend.cast({ x: source.arg, out: target.arg });
  await target.device.synchronize();
  source.dispose();
}

/** Fills every adapter with numbers that a training could have left there. */
async function perturb(model: Module, size = 0.05): Promise<void> {
  for (const [name, each] of loraState(model)) await write(each, new Random(name).normals(each.size, size));
}

async function stateBits(model: Module, select: (name: string) => boolean): Promise<Record<string, number[]>> {
  const found: Record<string, number[]> = {};
  for (const [name, each] of model.state()) if (select(name)) found[name] = await bitsOf(each);
  return found;
}

const isLora = (name: string): boolean => /\.lora\.[ab]$/.test(name);

let folder: string;
beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string): string => path.join(folder, `${name}.safetensors`);

describeBackends((device) => {
  describe('applied', () => {
    test.each([
      ['dense', { ternary: false }, false],
      ['ternary, float weights', {}, false],
      ['ternary, frozen', {}, true],
      ['bfloat16, frozen', { dtype: 'bfloat16' }, true],
    ] as [string, Partial<CausalLMOptions>, boolean][])(
      'at first the model computes what it did before, to the bit: %s',
      async (_, options, freeze) => {
        using model = smallModel(device, options);
        if (freeze) model.freeze();
        const { ids } = tokens(device);
        const before = await bitsOf(noGrad(() => model.forward(ids)));
        applyLora(model);
        expect(await bitsOf(noGrad(() => model.forward(ids)))).toEqual(before);
        await perturb(model);
        expect(await bitsOf(noGrad(() => model.forward(ids)))).not.toEqual(before);
      },
    );

    test('only A and B are trained, under the names of their layers', () => {
      using model = smallModel(device, { ternary: false });
      const { ids, targets } = tokens(device);
      tidy(() => model.loss(ids, targets).backward());
      const before = [...model.state().keys()];
      applyLora(model, { rank: 3 });
      const names = [0, 1].flatMap((i) =>
        PARTS.flatMap((part) => ['a', 'b'].map((x) => `layers.${i}.${part}.lora.${x}`)),
      );
      expect([...model.namedParameters().keys()]).toEqual(names);
      expect([...loraState(model).keys()]).toEqual(names);
      expect([...model.state().keys()].filter((name) => !isLora(name))).toEqual(before);
      expect([...model.state().values()].some((each) => each.grad !== null)).toBe(false);
      expect(model.layers[0].mlp.down.lora?.a.shape).toEqual([3, 48]);
      expect(model.layers[0].mlp.down.lora?.b.shape).toEqual([32, 3]);
      expect(model.layers[0].mlp.down.lora?.rank).toBe(3);
      tidy(() => model.loss(ids, targets).backward());
      for (const [name, each] of model.state()) expect([name, each.grad !== null]).toEqual([name, isLora(name)]);
    });

    test('A is uniform within ±1/√inputs, drawn from the library’s generator; B is zero', async () => {
      const draw = async (): Promise<{ a: number[]; b: number[] }> => {
        using layer = new Linear(64, 48, { device });
        manualSeed(11);
        applyLora(layer, { rank: 32 });
        const { a, b } = layer.lora as LoraAdapter;
        return { a: Array.from(await a.data()), b: Array.from(await b.data()) };
      };
      const { a, b } = await draw();
      expect(b.every((value) => value === 0)).toBe(true);
      expect(Math.max(...a)).toBeLessThan(0.125);
      expect(Math.max(...a)).toBeGreaterThan(0.12);
      expect(Math.min(...a)).toBeGreaterThanOrEqual(-0.125);
      expect(Math.min(...a)).toBeLessThan(-0.12);
      // The variance of a uniform distribution is a third of its bound squared; five standard errors of 2,048 draws.
      const variance = a.reduce((total, value) => total + value * value, 0) / a.length;
      expect(Math.abs(variance * 64 * 3 - 1)).toBeLessThan((5 * Math.sqrt(0.8)) / Math.sqrt(a.length));
      expect((await draw()).a).toEqual(a);
    });

    test.each([
      ['a last part', ['query'], ['layers.0.attention.query', 'layers.1.attention.query']],
      ['a whole name', ['layers.1.mlp.up'], ['layers.1.mlp.up']],
      [
        'several',
        ['attention.value', 'layers.0.mlp.down'],
        ['layers.0.attention.value', 'layers.0.mlp.down', 'layers.1.attention.value'],
      ],
      ['an expression', /^layers\.0\.mlp\.(gate|up)$/, ['layers.0.mlp.gate', 'layers.0.mlp.up']],
      ['an expression that remembers', /gate/g, ['layers.0.mlp.gate', 'layers.1.mlp.gate']],
    ] as [string, string[] | RegExp, string[]][])('to targets: %s', (_, targets, expected) => {
      using model = smallModel(device);
      applyLora(model, { targets });
      expect([...model.namedParameters().keys()]).toEqual(
        expected.flatMap((name) => [`${name}.lora.a`, `${name}.lora.b`]),
      );
    });

    test('in two goes, with ranks of their own', () => {
      using model = smallModel(device);
      applyLora(model, { targets: ['query'], rank: 2 });
      applyLora(model, { targets: ['key'], rank: 3 });
      const ranks = [...model.namedParameters()]
        .filter(([name]) => name.endsWith('.a'))
        .map(([, each]) => each.shape[0]);
      expect(ranks).toEqual([2, 3, 2, 3]);
    });

    test('adapters survive the tidy they were made in, and go with the model', () => {
      const before = deviceNamed(device).memory();
      const model = smallModel(device);
      tidy(() => applyLora(model));
      expect(model.parameters().every((each) => !each.isDisposed)).toBe(true);
      model.dispose();
      expect(deviceNamed(device).memory().bytes).toBeLessThanOrEqual(before.bytes);
    });
  });

  describe('computed', () => {
    test.each(FLOAT_DTYPES)('by hand, with an adapter in %s', async (dtype) => {
      using layer = new Linear(3, 2, { device, bias: true });
      await write(layer.weight, [1, 2, 3, 4, 5, 6]);
      await write(layer.bias as Tensor, [10, -10]);
      applyLora(layer, { rank: 1, alpha: 0.5, dtype });
      const lora = layer.lora as LoraAdapter;
      expect([lora.a.dtype, lora.b.dtype]).toEqual([dtype, dtype]);
      await write(lora.a, [1, 0, -2]);
      await write(lora.b, [4, 8]);
      // x Aᵀ = -5 and 1; times 1/2, times B.
      const y = layer.forward(make(device, 'float32', [2, 3], [1, 2, 3, 3, 0, 1]));
      expect(y.dtype).toBe('float32');
      expect([...(await y.data())]).toEqual([14 + 10 - 10, 32 - 10 - 20, 6 + 10 + 2, 18 - 10 + 4]);
    });

    test('the adapter’s dtype is the layer’s, also when that is frozen', () => {
      for (const dtype of FLOAT_DTYPES) {
        using dense = new Linear(4, 4, { device, dtype });
        using frozen = new TernaryLinear(4, 4, { device, dtype, bias: true });
        frozen.freeze();
        for (const layer of [dense, frozen]) {
          applyLora(layer);
          expect(layer.parameters().map((each) => each.dtype)).toEqual([dtype, dtype]);
          expect(layer.forward(make(device, dtype, [1, 4], [1, 2, 3, 4])).dtype).toBe(dtype);
        }
        using model = smallModel(device, { dtype: dtype === 'float32' ? 'bfloat16' : 'float32' });
        model.freeze();
        model.to({ dtype });
        applyLora(model);
        expect(new Set(model.parameters().map((each) => each.dtype))).toEqual(new Set([dtype]));
      }
    });
  });

  describe('gradients are the slopes', () => {
    // Everything is a small whole number or a half, so that float32 computes exactly; the loss, a weighted sum of y, is of first degree in
    // each number, so that central differences are exact too. The first x of each row is 127, whose int8 scale is 1.
    const [rows, inputs, outputs, rank] = [3, 5, 4, 2];
    const small = (name: string, count: number): Float64Array => new Random(name).integers(count, -2, 2);

    test.each(['dense', 'ternary, frozen', 'ternary, float weight'])('%s', async (kind) => {
      const layer =
        kind === 'dense'
          ? new Linear(inputs, outputs, { device, bias: true })
          : new TernaryLinear(inputs, outputs, { device, bias: true });
      await write(layer.bias as Tensor, small('bias', outputs));
      if (kind === 'ternary, frozen' && layer instanceof TernaryLinear) {
        layer.freeze();
        layer.weight = TernaryTensor.fromTrits(
          new Random('trits').integers(outputs * inputs, -1, 1),
          [outputs, inputs],
          0.5,
          { device },
        );
      } else {
        // Half of them ±1 and the others 0: mean |W| is 1/2, and their trits are themselves.
        const weight = Array.from({ length: outputs * inputs }, (_, i) => [1, 0, 0, -1][(i + Math.floor(i / 8)) % 4]);
        await write(layer.weight as Tensor, weight);
      }
      applyLora(layer, { rank, alpha: 4 });
      const { a, b } = layer.lora as LoraAdapter;
      await write(a, small('a', a.size));
      await write(b, small('b', b.size));
      const x = small('x', rows * inputs);
      for (let row = 0; row < rows; row++) x[row * inputs] = 127;

      const evaluate = (values: Float64Array, requiresGrad: boolean): { input: Tensor; loss: Tensor } => {
        const input = make(device, 'float32', [rows, inputs], values, requiresGrad);
        const y = layer.forward(input);
        return { input, loss: sum(mul(y, make(device, 'float32', [rows, outputs], small('loss', rows * outputs)))) };
      };
      const { input, loss } = evaluate(x, true);
      loss.backward();
      const lossAt = async (values: Float64Array): Promise<number> => noGrad(() => evaluate(values, false).loss).item();
      const moved = (values: Float64Array, i: number, by: number): Float64Array =>
        values.map((value, j) => (i === j ? value + by : value));

      const slopes = async (
        values: Float64Array,
        at: (changed: Float64Array) => Promise<number>,
      ): Promise<number[]> => {
        const found = [];
        for (let i = 0; i < values.length; i++)
          found.push(((await at(moved(values, i, 1))) - (await at(moved(values, i, -1)))) / 2);
        return found;
      };
      for (const parameter of [a, b]) {
        const values = Float64Array.from(await parameter.data());
        const found = await slopes(values, async (changed) => {
          await write(parameter, changed);
          return lossAt(x);
        });
        await write(parameter, values);
        expect(found.some((value) => value !== 0)).toBe(true);
        expect([...(await (parameter.grad as Tensor).data())]).toEqual(found);
      }
      const found = await slopes(x, lossAt);
      const gradient = await (input.grad as Tensor).data();
      // A change of the row's largest x changes the scale of its rounding, to which the gradient is blind on purpose.
      const smooth = (_: number, i: number): boolean => kind === 'dense' || i % inputs !== 0;
      expect([...gradient].filter(smooth)).toEqual(found.filter(smooth));
      expect([layer.weight, layer.bias].map((each) => (each as Tensor).grad ?? null)).toEqual([null, null]);
    });
  });

  describe('trained', () => {
    test.each([
      ['dense', { ternary: false }, false, {}],
      ['ternary, frozen', {}, true, {}],
      ['ternary, float weights', {}, false, {}],
      ['bfloat16 with float32 adapters', { dtype: 'bfloat16' }, true, { dtype: 'float32' }],
    ] as [string, Partial<CausalLMOptions>, boolean, { dtype?: FloatDType }][])(
      'a trained model learns another batch: its loss falls by more than half, and the base stays: %s',
      async (_, options, freeze, lora) => {
        using model = smallModel(device, options);
        await train(model, tokens(device, 'before'), 20, 1e-2);
        if (freeze) model.freeze();
        applyLora(model, { rank: 8, alpha: 32, ...lora });
        const base = await stateBits(model, (name) => !isLora(name));
        const losses = await train(model, tokens(device, 'after'), 30, 1e-2);
        expect(losses[0]).toBeGreaterThan(Math.log(33) - 0.5);
        expect(losses[29]).toBeLessThan(losses[0] / 2);
        expect(await stateBits(model, (name) => !isLora(name))).toEqual(base);
      },
    );

    test.each([0, 0.5])('through checkpoints, with the same bits, dropout %d', async (dropout) => {
      const gradients = [];
      for (const enabled of [false, true]) {
        using model = smallModel(device);
        model.freeze();
        applyLora(model, { dropout });
        await perturb(model);
        model.checkpointConfig = { ...model.checkpointConfig, enabled };
        const { ids, targets } = tokens(device);
        tidy(() => model.loss(ids, targets).backward());
        gradients.push(await Promise.all(model.parameters().map((each) => bitsOf(each.grad as Tensor))));
      }
      expect(gradients[1]).toEqual(gradients[0]);
      expect(gradients[0].every((each) => each.some((bits) => bits !== 0))).toBe(true);
    });
  });

  describe('dropout', () => {
    test('drops features of the adapter’s input, not of the base’s, and scales the others', async () => {
      using layer = new Linear(64, 64, { device });
      await write(layer.weight, new Float64Array(64 * 64).fill(1));
      applyLora(layer, { rank: 64, alpha: 64, dropout: 0.25 });
      const identity = Float64Array.from({ length: 64 * 64 }, (_, i) => (i % 65 === 0 ? 1 : 0));
      const { a, b } = layer.lora as LoraAdapter;
      await write(a, identity);
      await write(b, identity);
      const x = make(device, 'float32', [128, 64], new Float64Array(128 * 64).fill(1));
      const y = await layer.forward(x).data();
      const kept = Math.fround(1 / 0.75);
      expect([...new Set(y)].sort()).toEqual([64, Math.fround(64 + kept)].sort());
      const dropped = y.filter((value: number) => value === 64).length / y.length;
      expect(Math.abs(dropped - 0.25)).toBeLessThan(5 * Math.sqrt((0.25 * 0.75) / y.length));
    });

    test('happens in training where gradients are recorded; not under noGrad, and not in evaluation', async () => {
      using model = smallModel(device);
      applyLora(model, { dropout: 0.5 });
      await perturb(model, 0.5);
      const { ids } = tokens(device);
      const evaluate = (): Promise<number[]> => bitsOf(noGrad(() => model.forward(ids)));
      const record = (): Promise<number[]> => bitsOf(model.forward(ids));
      expect(await evaluate()).toEqual(await evaluate());
      expect(await record()).not.toEqual(await record());
      model.eval();
      expect(await record()).toEqual(await evaluate());
      model.train();
      expect(await record()).not.toEqual(await record());
      model.checkpointConfig = { every: 1 };
      expect(await record()).not.toEqual(await evaluate());
      expect(await evaluate()).toEqual(await evaluate());
    });
  });

  describe('merged', () => {
    test('W + (alpha / rank) B A, by hand', async () => {
      using layer = new Linear(3, 2, { device });
      await write(layer.weight, [1, 2, 3, 4, 5, 6]);
      const { weight } = layer;
      applyLora(layer, { rank: 2, alpha: 1 });
      const { a, b } = layer.lora as LoraAdapter;
      await write(a, [1, 0, -2, 0, 1, 0]);
      await write(b, [2, 4, 6, 8]);
      mergeLora(layer);
      // B A = [[2, 4, -4], [6, 8, -12]], of which a half.
      expect([...(await weight.data())]).toEqual([2, 4, 1, 7, 9, 0]);
      expect(layer.weight).toBe(weight);
      expect([layer.lora, a.isDisposed, b.isDisposed]).toEqual([null, true, true]);
      expect(layer.parameters()).toEqual([]);
    });

    test.each([
      // Sums of up to 48 products in float32, through two layers, in another order.
      ['float32', 64 * 2 ** -24],
      // One rounding of each weight to 2^-9 of itself instead of one of each result.
      ['bfloat16', 16 * 2 ** -9],
    ] as [FloatDType, number][])('the model computes the same but for rounding, in %s', async (dtype, bound) => {
      using model = smallModel(device, { ternary: false, dtype });
      applyLora(model, { rank: 4 });
      const { ids } = tokens(device);
      const bare = await noGrad(() => model.forward(ids)).data();
      await perturb(model);
      const before = Float64Array.from(await noGrad(() => model.forward(ids)).data());
      mergeLora(model);
      expect([...model.state().keys()].filter(isLora)).toEqual([]);
      const after = await noGrad(() => model.forward(ids)).data();
      const largest = before.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const difference = (other: ArrayLike<number>): number =>
        before.reduce((most, value, i) => Math.max(most, Math.abs(value - other[i])), 0) / largest;
      expect(difference(after)).toBeLessThan(bound);
      expect(difference(bare)).toBeGreaterThan(4 * bound); // the adapters matter
    });

    test.each([true, false])('a ternary layer (frozen: %s) is requantised on request only', async (freeze) => {
      using layer = new TernaryLinear(16, 8, { device });
      await write(layer.weight as Tensor, new Random('weight').normals(128));
      const kept = layer.weight as Tensor;
      const dense = Float64Array.from(await kept.data());
      const [gamma] = await quantizeTernary(kept).scale.data();
      const trits = await quantizeTernary(kept).trits();
      if (freeze) layer.freeze();
      applyLora(layer, { rank: 1, alpha: 1 });
      const { a, b } = layer.lora as LoraAdapter;
      await write(a, new Random('a').normals(16));
      await write(b, new Random('b').normals(8));
      const [rowA, columnB] = [await a.data(), await b.data()];
      const before = await stateBits(layer, () => true);
      expect(() => mergeLora(layer)).toThrow(
        new OptionError(
          'mergeLora: expected requantize: true, as the sum is rounded to trits, for a ternary layer, got one without it',
        ),
      );
      expect(await stateBits(layer, () => true)).toEqual(before);
      mergeLora(layer, { requantize: true });
      expect([layer.lora, layer.isFrozen]).toEqual([null, freeze]);
      const merged = Array.from({ length: 128 }, (_, i) => {
        const base = freeze ? Math.fround(trits[i] * gamma) : dense[i];
        return Math.fround(base + Math.fround(rowA[i % 16] * columnB[Math.floor(i / 16)]));
      });
      const expected = quantizeTernary(make(device, 'float32', [8, 16], merged));
      const got = layer.weight instanceof TernaryTensor ? layer.weight : quantizeTernary(layer.weight);
      expect(await got.trits()).toEqual(await expected.trits());
      expect(await bitsOf(got.scale)).toEqual(await bitsOf(expected.scale));
      expect(await got.trits()).not.toEqual(trits);
      if (!freeze) expect([...(await (layer.weight as Tensor).data())]).toEqual(merged);
    });

    test('a frozen layer is requantised as one asks', async () => {
      const weight = make(device, 'float32', [8, 16], new Random('weight').normals(128));
      using layer = TernaryLinear.frozen(quantizeTernary(weight, { method: 'twn' }));
      applyLora(layer, { rank: 2 });
      await perturb(layer, 0.3);
      const { a, b } = layer.lora as LoraAdapter;
      const dense = dequantizeTernary(layer.weight as TernaryTensor);
      const update = scale(linear(b, a.transpose()), 8);
      const expected = quantizeTernary(add(dense, update), { method: 'twn' });
      mergeLora(layer, { requantize: { method: 'twn' } });
      const got = layer.weight as TernaryTensor;
      expect(got.scale.shape).toEqual([8]);
      expect(await got.trits()).toEqual(await expected.trits());
      expect(await bitsOf(got.scale)).toEqual(await bitsOf(expected.scale));
    });

    test('refused whole: one ternary layer among dense ones', async () => {
      class Mixed extends Module {
        dense: Linear;
        ternary: TernaryLinear;
        constructor() {
          super();
          this.dense = new Linear(4, 4, { device });
          this.ternary = new TernaryLinear(4, 4, { device });
        }
      }
      using model = new Mixed();
      applyLora(model);
      await perturb(model);
      const before = await stateBits(model, () => true);
      expect(() => mergeLora(model)).toThrow('for a ternary layer, got ternary without it');
      expect(await stateBits(model, () => true)).toEqual(before);
    });
  });

  describe('saved and loaded alone', () => {
    test.each(['float32', 'bfloat16'] as const)(
      'a model gets the adapters of another, to the bit, in %s',
      async (dtype) => {
        const { ids } = tokens(device);
        using model = smallModel(device);
        model.freeze();
        applyLora(model, { targets: ['query', 'value'], rank: 2, alpha: 3, dtype });
        applyLora(model, { targets: ['down'], rank: 5, alpha: 7, dropout: 0.25, dtype });
        await perturb(model);
        const expected = await bitsOf(noGrad(() => model.forward(ids)));
        await saveLora(model, file(dtype));
        const stored = await readSafetensors(file(dtype), { device });
        expect([...stored.tensors.keys()]).toEqual([...loraState(model).keys()]);

        using other = smallModel(device);
        other.freeze();
        await loadLora(other, file(dtype));
        expect(await stateBits(other, isLora)).toEqual(await stateBits(model, isLora));
        const { alpha, dropout } = other.layers[1].mlp.down.lora as LoraAdapter;
        expect([alpha, dropout]).toEqual([7, 0.25]);
        expect([model.training, other.layers[1].mlp.down.lora?.training]).toEqual([false, false]); // frozen
        expect(await bitsOf(noGrad(() => other.forward(ids)))).toEqual(expected);
        expect([...other.namedParameters().keys()]).toEqual([...model.namedParameters().keys()]);
      },
    );

    test('the base’s file knows nothing of them', async () => {
      using model = smallModel(device);
      applyLora(model);
      await expect(model.save(file('whole'))).rejects.toThrow(
        new OptionError('CausalLM.save: expected a model without LoRA adapters, got one with some'),
      );
      mergeLora(model, { requantize: true });
      await model.save(file('whole'));
    });

    test('what replaces layers asks for them to be merged first', async () => {
      using model = smallModel(device, { ternary: false });
      applyLora(model);
      await expect(quantizeModel(model)).rejects.toThrow(
        new OptionError('quantizeModel: expected a model without LoRA adapters, got one with some'),
      );
      mergeLora(model);
      await quantizeModel(model, { minLayerSize: 1 });
      applyLora(model);
      expect(model.parameters()).toHaveLength(2 * 2 * PARTS.length);
    });

    test('a layer by itself', async () => {
      using layer = new Linear(4, 3, { device });
      applyLora(layer);
      expect([...loraState(layer).keys()]).toEqual(['lora.a', 'lora.b']);
      await perturb(layer);
      await saveLora(layer, file('layer'));
      using other = new Linear(4, 3, { device });
      await loadLora(other, file('layer'));
      expect(await stateBits(other, (name) => name.startsWith('lora'))).toEqual(
        await stateBits(layer, (name) => name.startsWith('lora')),
      );
    });

    test('what does not fit is refused, and nothing is changed', async () => {
      using source = smallModel(device);
      applyLora(source, { targets: ['query'] });
      await saveLora(source, file('query'));
      const { tensors, metadata } = await readSafetensors(file('query'), { device });
      const write = async (name: string, changed: Map<string, Tensor>, meta = metadata): Promise<string> => {
        await writeSafetensors(file(name), changed, meta);
        return file(name);
      };
      const without = new Map(tensors);
      without.delete('layers.1.attention.query.lora.b');
      const key = 'layers.0.attention.query.lora.a';
      const [query] = [tensors.get(key) as Tensor];

      using model = smallModel(device);
      using wide = smallModel(device, { hidden: 64, heads: 8 });
      using shallow = smallModel(device, { layers: 1 });
      using taken = smallModel(device);
      applyLora(taken, { targets: ['query'] });
      const rows: [Module, string, new (...args: never[]) => Error, string][] = [
        [
          wide,
          file('query'),
          ShapeError,
          `loadLora: expected ${key} of shape [rank, 64] to match the layer, got [8, 32]`,
        ],
        [
          shallow,
          file('query'),
          OptionError,
          'loadLora: expected names of linear layers of this model, got layers.1.attention.query',
        ],
        [
          taken,
          file('query'),
          OptionError,
          'loadLora: expected layers without an adapter, got layers.0.attention.query with one',
        ],
        [
          model,
          await write('short', without),
          FormatError,
          'loadLora: expected a tensor layers.1.attention.query.lora.b, got none',
        ],
        [
          model,
          await write('long', new Map([...tensors, ['more', query]])),
          FormatError,
          'loadLora: expected only the adapters listed, got more',
        ],
        [
          model,
          await write('mixed', new Map([...tensors, [key, query.cast('float16')]])),
          FormatError,
          'loadLora: expected one float dtype, got float16 and float32',
        ],
        [
          model,
          await write('other', tensors, { format: 'x' }),
          FormatError,
          'loadLora: expected adapters saved by saveLora, got format x',
        ],
        ...(await Promise.all(
          [
            '{"layers.0.attention.query":{"alpha":0,"dropout":0}}',
            '{"layers.0.attention.query":{"alpha":1,"dropout":1}}',
            '{"layers.0.attention.query":{"alpha":1}}',
            '{"layers.0.attention.query":null}',
            'null',
            '{',
          ].map(async (layers, i): Promise<(typeof rows)[0]> => {
            const message = `loadLora: expected alpha and dropout by layer, got ${layers}`;
            return [model, await write(`layers-${i}`, tensors, { ...metadata, layers }), FormatError, message];
          }),
        )),
        [
          model,
          await write('none', tensors, { format: metadata.format }),
          FormatError,
          'loadLora: expected alpha and dropout by layer, got undefined',
        ],
      ];
      for (const [target, from, type, message] of rows) {
        const names = [...target.namedParameters().keys()];
        const { bytes } = deviceNamed(device).memory();
        const caught: unknown = await loadLora(target, from).catch((error: unknown) => error);
        expect(caught).toBeInstanceOf(type);
        expect((caught as Error).message).toBe(message);
        expect([...target.namedParameters().keys()]).toEqual(names);
        expect(deviceNamed(device).memory().bytes).toBe(bytes);
      }
    });
  });

  test('nonsense is refused before anything is changed', () => {
    using model = smallModel(device);
    using norm = smallModel(device).norm;
    const names = [...model.namedParameters().keys()];
    const rows: [() => void, string][] = [
      [() => applyLora(model, { rank: 0 }), 'applyLora: expected an integer from 1 to 2147483647 for rank, got 0'],
      [() => applyLora(model, { alpha: -1 }), 'applyLora: expected a finite number above 0 for alpha, got -1'],
      [
        () => applyLora(model, { dropout: 1 }),
        'applyLora: expected a probability from 0 to below 1 for dropout, got 1',
      ],
      [
        () => applyLora(model, { dtype: 'int8' as 'float32' }),
        'applyLora: expected one of float32, float16, bfloat16 for dtype, got "int8"',
      ],
      [
        () => applyLora(model, { ranks: 3 } as object),
        'applyLora: expected only rank, alpha, dropout, targets, dtype as options, got ranks',
      ],
      [
        () => applyLora(model, { targets: ['query', 'norm'] }),
        'applyLora: expected names of linear layers for targets, got "norm"',
      ],
      [
        () => applyLora(model, { targets: ['uery'] }),
        'applyLora: expected names of linear layers for targets, got "uery"',
      ],
      [
        () => applyLora(model, { targets: [] }),
        'applyLora: expected a RegExp or an array of names for targets, got []',
      ],
      [
        () => applyLora(model, { targets: 'query' as unknown as string[] }),
        'applyLora: expected a RegExp or an array of names for targets, got "query"',
      ],
      [
        () => applyLora(model, { targets: /norm/ }),
        'applyLora: expected an expression that names linear layers for targets, got /norm/',
      ],
      [() => applyLora(norm), 'applyLora: expected a model with linear layers, got none'],
      [() => applyLora(3 as unknown as Module), 'applyLora: expected a Module for model, got 3'],
      [() => mergeLora(model), 'mergeLora: expected a model with adapters, got none'],
      [
        () => mergeLora(model, { requantize: 1 as unknown as boolean }),
        'mergeLora: expected a boolean for requantize, got 1',
      ],
      [
        () => mergeLora(model, { requantize: { method: 'max' as 'twn' } }),
        'mergeLora: expected one of absmean, twn, percentile, meanStd, threshold for method, got "max"',
      ],
      [() => mergeLora(model, { force: true } as object), 'mergeLora: expected only requantize as options, got force'],
    ];
    const before = deviceNamed(device).memory().bytes;
    for (const [call, message] of rows) expect(call).toThrow(new OptionError(message));
    expect(deviceNamed(device).memory().bytes).toBe(before);
    expect([...model.namedParameters().keys()]).toEqual(names);
    applyLora(model, { targets: ['query'] });
    expect(() => applyLora(model)).toThrow(
      new OptionError('applyLora: expected layers without an adapter, got layers.0.attention.query with one'),
    );
    expect(model.parameters()).toHaveLength(4);
  });

  test('a model without adapters has none to save', async () => {
    using model = smallModel(device);
    expect(loraState(model).size).toBe(0);
    await expect(saveLora(model, file('none'))).rejects.toThrow('saveLora: expected a model with adapters, got none');
  });
});
