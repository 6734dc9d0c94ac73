// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  CausalLM,
  device as deviceNamed,
  DisposedError,
  Linear,
  manualSeed,
  Module,
  OptionError,
  quantizeModel,
  quantizeTernary,
  quantizeWeights,
  RMSNorm,
  tensor,
  TernaryLinear,
  TernaryTensor,
  ternaryMatmul,
  tidy,
  type DeviceName,
  type QuantizeModelOptions,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends, make } from '../harness.js';
import { Random } from '../random.js';
import { holdMemory } from '../core/hold-memory.js';

holdMemory();

class Block extends Module {
  up: Linear;
  down: Linear;
  norm: RMSNorm;
  constructor(device: DeviceName) {
    super();
    this.up = new Linear(32, 40, { device, bias: true });
    this.down = new Linear(40, 32, { device });
    this.norm = new RMSNorm(32, { device });
  }
}

class Net extends Module {
  embedding: Tensor;
  lm_head: Linear;
  small: Linear;
  blocks: Block[];
  again: Linear;
  tied: Linear;
  also: Tensor;
  constructor(device: DeviceName) {
    super();
    const other = new Linear(32, 64, { device });
    this.embedding = other.weight;
    this.lm_head = new Linear(32, 64, { device });
    this.small = new Linear(31, 33, { device });
    this.blocks = [new Block(device), new Block(device)];
    this.again = this.blocks[0].up;
    this.tied = new Linear(32, 32, { device });
    this.also = this.tied.weight;
  }
}

describeBackends((device) => {
  const weight = (name: string, shape: number[], dtype: 'float32' | 'bfloat16' | 'int8' = 'float32'): Tensor =>
    make(device, dtype, shape, new Random(name).normals(shape.reduce((a, b) => a * b, 1)));

  const weights = (): Map<string, Tensor> =>
    new Map([
      ['layers.0.q', weight('q', [32, 40])],
      ['layers.0.up', weight('up', [64, 16], 'bfloat16')],
      ['layers.0.small', weight('small', [31, 33])],
      ['layers.0.subNorm', weight('norm', [64, 64])],
      ['embed_tokens', weight('embed', [64, 64])],
      ['lm_head', weight('head', [64, 64])],
      ['layers.0.bias', weight('bias', [2048])],
      ['layers.0.cube', weight('cube', [2, 32, 32])],
      ['layers.0.codes', weight('codes', [64, 64], 'int8')],
    ]);

  describe('quantizeWeights', () => {
    test('rounds what is large enough, a float matrix and not named; says why of the rest', async () => {
      const map = weights();
      const { quantized, preserved, summary } = await quantizeWeights(map);
      expect([...quantized.keys()]).toEqual(['layers.0.q', 'layers.0.up']);
      for (const [name, ternary] of quantized) {
        using expected = quantizeTernary(map.get(name) as Tensor);
        expect(await bitsOf(ternary.packed)).toEqual(await bitsOf(expected.packed));
        expect(await bitsOf(ternary.scale)).toEqual(await bitsOf(expected.scale));
      }
      expect([...preserved].every(([name, each]) => map.get(name) === each && !each.isDisposed)).toBe(true);
      expect(summary.preserved.map(({ name, reason }) => `${name}: ${reason}`)).toEqual([
        'layers.0.small: it has fewer than 1024 numbers',
        'layers.0.subNorm: its name contains norm',
        'embed_tokens: its name contains embed',
        'lm_head: its name contains lm_head',
        'layers.0.bias: its rank is 1',
        'layers.0.cube: its rank is 3',
        'layers.0.codes: its dtype is int8',
      ]);
      expect([...preserved.keys()]).toEqual(summary.preserved.map(({ name }) => name));
    });

    test('hand-computed summary', async () => {
      // Rows: threshold 1.4, trits 1 -1 1 0 0, scale 8.5/3; all zeros.
      const map = new Map([
        ['w', make(device, 'float32', [2, 5], [3, -4, 1.5, 1, -0.5, 0, 0, 0, 0, 0])],
        ['b', make(device, 'float32', [6], [1, 2, 3, 4, 5, 6])],
      ]);
      const { quantized, summary } = await quantizeWeights(map, { method: 'twn', minLayerSize: 10 });
      const scale = Math.fround(8.5 / 3);
      const errors = [3 - scale, 4 - scale, scale - 1.5, 1, 0.5];
      const total = errors.reduce((a, b) => a + b, 0);
      const [layer] = summary.layers;
      expect(layer).toEqual({
        name: 'w',
        shape: [2, 5],
        method: 'twn',
        granularity: 'row',
        sparsity: 0.7,
        positiveRatio: 0.2,
        negativeRatio: 0.1,
        zeroRows: 1,
        meanError: expect.closeTo(total / 10, 12) as number,
        maxError: scale - 1.5,
        relativeError: expect.closeTo(total / 10, 12) as number,
        bytesBefore: 40,
        bytesAfter: 4 + 8,
      });
      expect(quantized.get('w')?.bytes).toBe(12);
      expect([summary.bytesBefore, summary.bytesAfter, summary.sparsity]).toEqual([64, 36, 0.7]);
      expect(summary.compressionRatio).toBe(64 / 36);
      expect(String(summary).split('\n')).toEqual([
        'layer  shape  method     zeros  relative error  bytes before  after',
        `w      2 x 5  twn, row  70.0 %          ${(total * 10).toFixed(1)} %            40     12`,
        'b [6] stays as it is: its rank is 1',
        '1 quantised, 1 as they are; 64 bytes to 36, 1.78 times smaller; 70.0 % of the trits are 0',
      ]);
    });

    test('nothing to do is no error', async () => {
      const { quantized, summary } = await quantizeWeights(new Map());
      expect([quantized.size, summary.compressionRatio, summary.sparsity]).toEqual([0, 1, 0]);
    });

    test.each([
      [{ minLayerSize: -1 }, 'expected an integer from 0 to 9007199254740991 for minLayerSize, got -1'],
      [{ skipPatterns: [''] }, 'expected an array of strings that are not empty for skipPatterns'],
      [{ skipPatterns: 'norm' }, 'expected an array of strings that are not empty for skipPatterns'],
      [{ method: 'percentile' }, 'expected a number from 0 to 100 for percentile, got undefined'],
      [
        { verbose: true },
        'expected only method, granularity, percentile, k, threshold, minLayerSize, skipPatterns as options',
      ],
    ] as unknown as [QuantizeModelOptions, string][])('refuses %j', async (options, message) => {
      await expect(quantizeWeights(weights(), options)).rejects.toThrow(`quantizeWeights: ${message}`);
      await expect(quantizeModel(new Block(device), options)).rejects.toThrow(`quantizeModel: ${message}`);
    });

    test('an error in the middle leaves nothing behind', async () => {
      const bad = weight('bad', [64, 64]);
      const values = await bad.data();
      values[77] = NaN;
      const map = weights().set('bad', make(device, 'float32', [64, 64], values));
      const before = deviceNamed(device).memory();
      await expect(quantizeWeights(map)).rejects.toThrow(
        'quantizeWeights: expected finite numbers for bad, got NaN or Infinity',
      );
      const after = deviceNamed(device).memory();
      expect([after.tensors, after.bytes]).toEqual([before.tensors, before.bytes]);
      const gone = weight('gone', [64, 64]);
      gone.dispose();
      await expect(quantizeWeights(weights().set('gone', gone))).rejects.toThrow(DisposedError);
    });
  });

  describe('quantizeModel', () => {
    test('replaces Linear layers in place, also in arrays and where one stands twice', async () => {
      manualSeed(3);
      using net = new Net(device);
      const up = net.blocks[0].up;
      const [weight, bias] = [up.weight, up.bias as Tensor];
      using expected = quantizeTernary(weight, { method: 'twn' });
      const summary = await quantizeModel(net, { method: 'twn' });
      expect(summary.layers.map(({ name }) => name)).toEqual([
        'blocks.0.up.weight',
        'blocks.0.down.weight',
        'blocks.1.up.weight',
        'blocks.1.down.weight',
      ]);
      expect(Object.fromEntries(summary.preserved.map(({ name, reason }) => [name, reason]))).toEqual({
        embedding: 'it is not the weight of a Linear layer',
        'lm_head.weight': 'its name contains lm_head',
        'small.weight': 'it has fewer than 1024 numbers',
        'blocks.0.up.bias': 'it is not the weight of a Linear layer',
        'blocks.0.norm.weight': 'it is not the weight of a Linear layer',
        'blocks.1.up.bias': 'it is not the weight of a Linear layer',
        'blocks.1.norm.weight': 'it is not the weight of a Linear layer',
        'tied.weight': 'another part of the model holds it too',
      });
      const layer = net.blocks[0].up as unknown as TernaryLinear;
      expect(layer).toBeInstanceOf(TernaryLinear);
      expect(layer.isFrozen).toBe(true);
      expect(net.again).toBe(layer);
      expect(weight.isDisposed).toBe(true);
      expect([layer.bias === bias, bias.isDisposed, bias.requiresGrad]).toEqual([true, false, false]);
      expect(net.tied.weight.isDisposed || net.lm_head.weight.isDisposed || net.small.weight.isDisposed).toBe(false);
      const x = make(device, 'float32', [3, 32], new Random('x').normals(96));
      expect(await bitsOf(layer.forward(x))).toEqual(await bitsOf(ternaryMatmul(x, expected, { bias })));
      // Frozen once, it has nothing left to do.
      const again = await quantizeModel(net, { method: 'twn' });
      expect(again.layers).toEqual([]);
    });

    test('survives the tidy of whoever built the model, and frees what it replaced', async () => {
      const model = tidy(() => ({ model: new Block(device) })).model;
      const before = deviceNamed(device).memory();
      const summary = await quantizeModel(model, { minLayerSize: 1 });
      const after = deviceNamed(device).memory();
      expect(before.bytes - after.bytes).toBe(summary.bytesBefore - summary.bytesAfter);
      model.dispose();
      expect(deviceNamed(device).memory().bytes).toBe(before.bytes - summary.bytesBefore);
    });

    test('an error changes nothing', async () => {
      using model = new Block(device);
      const values = new Float32Array(40 * 32);
      values[5] = Infinity;
      const bad = make(device, 'float32', [32, 40], values, true);
      model.down.weight.dispose();
      model.down.weight = bad;
      const [up, down] = [model.up, model.down];
      const before = deviceNamed(device).memory();
      await expect(quantizeModel(model)).rejects.toThrow(
        'quantizeModel: expected finite numbers for down.weight, got NaN or Infinity',
      );
      const after = deviceNamed(device).memory();
      expect([after.tensors, after.bytes]).toEqual([before.tensors, before.bytes]);
      expect([model.up === up, model.down === down, up.weight.isDisposed]).toEqual([true, true, false]);
      expect(up.bias?.requiresGrad).toBe(true);
      await expect(quantizeModel(up)).rejects.toThrow(OptionError);
      await expect(quantizeModel({} as Module)).rejects.toThrow('quantizeModel: expected a Module for model');
    });

    test('a quantised language model is saved and loaded, whatever its granularity', async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'));
      try {
        for (const method of ['absmean', 'twn'] as const) {
          manualSeed(4);
          const shape = { vocabulary: 40, layers: 2, hidden: 32, heads: 4, intermediate: 48, ternary: false };
          using model = new CausalLM(shape, { device });
          await quantizeModel(model, { method });
          expect(model.layers[0].attention.query).toBeInstanceOf(TernaryLinear);
          expect((model.layers[0].attention.query.weight as TernaryTensor).scale.size).toBe(method === 'twn' ? 32 : 1);
          const ids = tensor([[1, 2, 3, 4]], { dtype: 'int32', device });
          const expected = await bitsOf(model.forward(ids));
          const file = path.join(folder, `${method}.safetensors`);
          await model.save(file);
          using loaded = await CausalLM.load(file, { device });
          expect(await bitsOf(loaded.forward(ids))).toEqual(expected);
        }
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
  });
});
