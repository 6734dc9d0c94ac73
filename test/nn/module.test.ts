// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  CausalLM,
  Linear,
  manualSeed,
  Module,
  OptionError,
  RMSNorm,
  ShapeError,
  TernaryLinear,
  TernaryTensor,
  tidy,
  type Tensor,
} from '../../lib/index.js';
import { roundTo } from '../../lib/dtype.js';
import { bitsOf, describeBackends, make } from '../harness.js';
import { Random } from '../random.js';

class Pair extends Module {
  first: Linear;
  rest: Linear[];
  shared: Tensor;
  norm: RMSNorm;

  constructor(device: 'reference' | 'cpu' | 'cuda') {
    super();
    this.first = new Linear(3, 2, { device, bias: true });
    this.rest = [new Linear(2, 2, { device }), new Linear(2, 1, { device })];
    this.shared = this.first.weight;
    this.norm = new RMSNorm(2, { device });
  }
}

describeBackends((device) => {
  const backend = device as 'reference' | 'cpu' | 'cuda';

  test('parameters are found by the names of their fields, a shared one once', () => {
    using pair = new Pair(backend);
    expect([...pair.namedParameters().keys()]).toEqual([
      'first.weight',
      'first.bias',
      'rest.0.weight',
      'rest.1.weight',
      'norm.weight',
    ]);
    expect(pair.parameterCount()).toBe(6 + 2 + 4 + 2 + 2);
  });

  test('modules are found by the names of their fields, one used twice once', () => {
    using pair = new Pair(backend);
    pair.rest.push(pair.first);
    expect([...pair.modules()]).toEqual([
      ['', pair],
      ['first', pair.first],
      ['rest.0', pair.rest[0]],
      ['rest.1', pair.rest[1]],
      ['norm', pair.norm],
    ]);
  });

  test('a state is copied into another module, or refused whole', async () => {
    manualSeed(1);
    using source = new Pair(backend);
    using target = new Pair(backend);
    await target.loadState(source.state());
    for (const [name, tensor] of source.state()) {
      expect(await bitsOf(target.state().get(name) as Tensor)).toEqual(await bitsOf(tensor));
    }
    const before = await bitsOf(target.first.weight);
    const wrong = new Map(source.state()).set('rest.1.weight', make(device, 'float32', [2, 2], [0, 0, 0, 0]));
    await expect(target.loadState(wrong)).rejects.toThrow(ShapeError);
    const missing = new Map(source.state());
    missing.delete('norm.weight');
    await expect(target.loadState(missing)).rejects.toThrow('loadState: expected a tensor named norm.weight, got none');
    await expect(target.loadState(new Map([['other', source.first.weight]]))).rejects.toThrow(OptionError);
    expect(await bitsOf(target.first.weight)).toEqual(before);
  });

  test.each(['float16', 'bfloat16'] as const)(
    'turned into %s, tensors are rounded, and shared ones stay shared',
    async (dtype) => {
      manualSeed(3);
      using pair = new Pair(backend);
      const held = [...pair.state().values()];
      const values = await Promise.all(held.map((each) => each.data()));
      pair.norm.weight.requiresGrad = false;
      pair.to({ dtype });
      const tensors = [...pair.state().values()];
      expect(held.every((each) => each.isDisposed)).toBe(true);
      expect(pair.shared).toBe(pair.first.weight);
      expect(pair.norm.weight.requiresGrad).toBe(false);
      expect(pair.parameters()).toHaveLength(held.length - 1);
      for (const [i, tensor] of tensors.entries()) {
        expect(tensor.dtype).toBe(dtype);
        expect(Array.from(await tensor.data())).toEqual(Array.from(values[i], (value) => roundTo(dtype, value)));
      }
      const bits = await bitsOf(pair.first.weight);
      const { weight } = pair.first;
      pair.to({ dtype });
      expect(pair.first.weight).toBe(weight);
      pair.to({ dtype: 'float32' });
      pair.to({ dtype });
      expect(await bitsOf(pair.first.weight)).toEqual(bits);
      expect(() => pair.to({ dtype: 'int8' as 'float32' })).toThrow(
        'to: expected one of float32, float16, bfloat16 for dtype, got "int8"',
      );
    },
  );

  test('packed weights stay as they are when their module changes its dtype', async () => {
    using layer = new TernaryLinear(8, 4, { device, bias: true });
    layer.freeze();
    const packed = layer.weight;
    layer.to({ dtype: 'float16' });
    expect(layer.weight).toBe(packed);
    expect(layer.bias?.dtype).toBe('float16');
    const y = layer.forward(make(device, 'float16', [2, 8], new Random('to').normals(16)));
    expect(y.dtype).toBe('float16');
  });

  test('a language model changes its dtype, and that of its caches', async () => {
    const shape = { vocabulary: 11, hidden: 8, layers: 1, heads: 2, intermediate: 12 };
    using model = new CausalLM(shape, { device });
    model.to({ dtype: 'bfloat16' });
    const ids = make(device, 'int32', [1, 3], [1, 2, 3]);
    const cache = model.createCache(1, 4);
    expect([model.forward(ids).dtype, model.forward(ids, cache).dtype]).toEqual(['bfloat16', 'bfloat16']);
    model.loss(ids, ids).backward();
    expect(model.parameters().every((each) => each.grad?.dtype === 'bfloat16')).toBe(true);
  });

  test('parameters survive the tidy they were made in', async () => {
    const layer = tidy(() => ({ layer: new Linear(2, 2, { device }) })).layer;
    expect(layer.weight.isDisposed).toBe(false);
    layer.dispose();
    expect(layer.weight.isDisposed).toBe(true);
  });

  test('the same seed gives the same weights', async () => {
    manualSeed(5);
    using a = new Linear(4, 4, { device });
    manualSeed(5);
    using b = new Linear(4, 4, { device });
    expect(await bitsOf(a.weight)).toEqual(await bitsOf(b.weight));
  });

  test('a frozen TernaryLinear gives the same bits from a sixteenth of the memory, and trains no more', async () => {
    manualSeed(2);
    using layer = new TernaryLinear(256, 64, { device, bias: true });
    const x = make(device, 'float32', [5, 256], new Random('frozen').normals(5 * 256), true);
    const before = await bitsOf(layer.forward(x));
    const floatBytes = (layer.weight as Tensor).bytes;
    layer.freeze();
    layer.freeze();
    expect(layer.isFrozen).toBe(true);
    const packed = layer.weight as TernaryTensor;
    expect(packed.bytes).toBe(floatBytes / 16 + 4);
    const y = layer.forward(x);
    expect(await bitsOf(y)).toEqual(before);
    expect(layer.parameters()).toEqual([]);
    y.backward(make(device, 'float32', [5, 64], new Array(320).fill(1)));
    expect(x.grad?.shape).toEqual([5, 256]);
    expect([...layer.state().keys()]).toEqual(['weight.packed', 'weight.scale', 'bias']);
  });
});
