// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  AdamW,
  CausalLM,
  clipGradNorm,
  crossEntropy,
  device as deviceNamed,
  FormatError,
  generate,
  manualSeed,
  noGrad,
  OptionError,
  reshape,
  tensor,
  tidy,
  type CausalLMOptions,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends, hasCpu } from '../harness.js';
import { Random } from '../random.js';
import { holdMemory } from '../core/hold-memory.js';

holdMemory();

const SMALL: CausalLMOptions = { vocabulary: 33, layers: 3, hidden: 32, heads: 4, keyHeads: 2, intermediate: 48 };

function smallModel(device: DeviceName, options: Partial<CausalLMOptions> = {}): CausalLM {
  manualSeed(7);
  return new CausalLM({ ...SMALL, ...options }, { device });
}

function tokens(device: DeviceName, batch: number, sequence: number): { ids: Tensor; targets: Tensor } {
  const random = new Random('tokens');
  const draw = (): Tensor =>
    tensor(
      Int32Array.from({ length: batch * sequence }, () => random.integer(0, 32)),
      { shape: [batch, sequence], device },
    );
  return { ids: draw(), targets: draw() };
}

/** Loss and gradients of one step, as bits. */
async function step(model: CausalLM, device: DeviceName): Promise<Record<string, number[]>> {
  const { ids, targets } = tokens(device, 2, 9);
  model.clearGrad();
  const loss = tidy(() => {
    const value = model.loss(ids, targets);
    value.backward();
    return value.detach();
  });
  const result: Record<string, number[]> = { loss: await bitsOf(loss) };
  for (const [name, parameter] of model.namedParameters()) result[name] = await bitsOf(parameter.grad as Tensor);
  for (const each of [loss, ids, targets]) each.dispose();
  return result;
}

let folder: string;
beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => rmSync(folder, { recursive: true }));

describeBackends((device) => {
  test.each([1, 2, 3, 5])('checkpointing every %i layers gives the same bits', async (every) => {
    using model = smallModel(device);
    const plain = await step(model, device);
    model.checkpointConfig = { enabled: true, every };
    expect(await step(model, device)).toEqual(plain);
    expect(Object.keys(plain)).toHaveLength(1 + model.parameters().length);
  });

  test('checkpointing lowers the measured peak', async () => {
    using model = smallModel(device, { layers: 6 });
    const { ids, targets } = tokens(device, 4, 32);
    const peak = async (enabled: boolean): Promise<number> => {
      model.checkpointConfig = { enabled, every: 1 };
      const { memory, resetPeakMemory } = {
        memory: () => deviceNamed(device).memory(),
        resetPeakMemory: () => deviceNamed(device).resetPeakMemory(),
      };
      resetPeakMemory();
      const before = memory().bytes;
      tidy(() => model.loss(ids, targets).backward());
      const above = memory().peakBytes - before;
      model.clearGrad();
      expect(memory().bytes).toBe(before);
      await deviceNamed(device).synchronize();
      return above;
    };
    const [plain, checkpointed] = [await peak(false), await peak(true)];
    // What six layers keep falls to what one keeps; the logits and gradients stay.
    expect(checkpointed).toBeLessThan(plain * 0.6);
  });

  (device === 'reference' ? test.skip : test)('the loss over a large vocabulary never holds all logits', async () => {
    const vocabulary = 2 ** 17;
    using model = smallModel(device, { vocabulary, layers: 1, hidden: 8, heads: 1, keyHeads: 1, intermediate: 8 });
    const { ids, targets } = tokens(device, 3, 43); // 129 rows, 2^24 logits and 64 MB are 128
    const on = deviceNamed(device);
    on.resetPeakMemory();
    const before = on.memory().bytes;
    const loss = tidy(() => {
      const value = model.loss(ids, targets);
      value.backward();
      return value.detach();
    });
    const gradients = model.parameters().reduce((total, each) => total + each.bytes, 0);
    expect(on.memory().peakBytes - before).toBeLessThan(3 * gradients + 8 * 2 ** 20);
    expect(3 * gradients + 8 * 2 ** 20).toBeLessThan(129 * vocabulary * 4);
    const expected = noGrad(() =>
      crossEntropy(reshape(model.forward(ids), [129, vocabulary]), reshape(targets, [129])),
    );
    expect(Math.abs((await loss.item()) - (await expected.item()))).toBeLessThan(1e-5);
    for (const each of [ids, targets, loss, expected]) each.dispose();
  });

  test('trains: the loss of one batch falls by more than half', async () => {
    using model = smallModel(device);
    const { ids, targets } = tokens(device, 2, 9);
    const optimizer = new AdamW(model.parameters(), { learningRate: 1e-2 });
    const losses: number[] = [];
    for (let i = 0; i < 20; i++) {
      const loss = tidy(() => {
        const value = model.loss(ids, targets);
        value.backward();
        return value.detach();
      });
      clipGradNorm(model.parameters(), 1).dispose();
      optimizer.step();
      model.clearGrad();
      losses.push(await loss.item());
      loss.dispose();
    }
    expect(losses[0]).toBeGreaterThan(Math.log(33) - 0.5);
    expect(losses[19]).toBeLessThan(losses[0] / 2);
    optimizer.dispose();
  });

  test('token by token through the cache, the logits are those of the whole sequence', async () => {
    using model = smallModel(device, { ternary: false });
    const { ids } = tokens(device, 2, 9);
    const whole = await noGrad(() => model.forward(ids)).data();
    const list = await ids.data();
    const cache = model.createCache(2, 9);
    for (const [start, count] of [
      [0, 4],
      [4, 1],
      [5, 1],
      [6, 3],
    ]) {
      const part = [0, 1].map((row) => Array.from(list.slice(row * 9 + start, row * 9 + start + count)));
      const logits = await noGrad(() => model.forward(tensor(part, { dtype: 'int32', device }), cache)).data();
      expect(cache[0].length).toBe(start + count);
      for (let row = 0; row < 2; row++) {
        for (let i = 0; i < count * 33; i++) {
          // Tiles of other sizes add up in another order; logits are of order one.
          expect(Math.abs(logits[row * count * 33 + i] - whole[(row * 9 + start) * 33 + i])).toBeLessThan(1e-5);
        }
      }
    }
  });

  test('nextLogits are the last ones of forward, without a cache and with one', async () => {
    using model = smallModel(device, { ternary: false, tieEmbeddings: false });
    const { ids } = tokens(device, 2, 9);
    const whole = await noGrad(() => model.forward(ids)).data();
    const last = [8, 17].flatMap((row) => Array.from(whole.subarray(row * 33, (row + 1) * 33)));
    const list = await ids.data();
    const part = (start: number, end: number): Tensor =>
      tensor(
        [0, 9].map((row) => Array.from(list.slice(row + start, row + end))),
        { dtype: 'int32', device },
      );
    const cache = model.createCache(2, 9);
    noGrad(() => model.nextLogits(part(0, 8), cache));
    for (const logits of [model.nextLogits(ids), noGrad(() => model.nextLogits(part(8, 9), cache))]) {
      expect(logits.shape).toEqual([2, 33]);
      const values = await logits.data();
      last.forEach((logit, i) => expect(Math.abs(values[i] - logit)).toBeLessThan(1e-5));
    }
  });

  test.each([
    ['dense', { ternary: false, tieEmbeddings: false }],
    ['ternary, training', {}],
    ['bfloat16', { dtype: 'bfloat16' }],
  ] as [string, Partial<CausalLMOptions>][])('a saved model is read back to the bit: %s', async (_, options) => {
    const file = path.join(folder, 'model.safetensors');
    const { ids } = tokens(device, 1, 5);
    using model = smallModel(device, options);
    const before = await bitsOf(noGrad(() => model.forward(ids)));
    await model.save(file);
    using read = await CausalLM.load(file, { device });
    expect(read.config).toEqual(model.config);
    expect(read.parameters()).toHaveLength(model.parameters().length);
    expect(await bitsOf(noGrad(() => read.forward(ids)))).toEqual(before);
  });

  test('frozen, it gives the same bits, is smaller, and is saved packed', async () => {
    const file = path.join(folder, 'frozen.safetensors');
    const { ids } = tokens(device, 1, 5);
    using model = smallModel(device);
    const bytes = (of: CausalLM): number => [...of.state().values()].reduce((sum, each) => sum + each.bytes, 0);
    const before = await bitsOf(noGrad(() => model.forward(ids)));
    const floatBytes = bytes(model);
    model.freeze();
    expect(bytes(model)).toBeLessThan(floatBytes / 4);
    expect(await bitsOf(model.forward(ids))).toEqual(before);
    await model.save(file);
    using read = await CausalLM.load(file, { device });
    expect(bytes(read)).toBe(bytes(model));
    expect(read.parameters()).toEqual([]);
    expect(await bitsOf(read.forward(ids))).toEqual(before);
  });

  test('a file that is no model is refused', async () => {
    const file = path.join(folder, 'none.safetensors');
    const header = Buffer.from('{}      ');
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(header.length));
    writeFileSync(file, Buffer.concat([prefix, header]));
    await expect(CausalLM.load(file, { device })).rejects.toThrow(FormatError);
  });

  test('generate follows the likeliest tokens, repeats itself for a seed, and frees its cache', async () => {
    using model = smallModel(device);
    const collect = async (options: object): Promise<number[]> => {
      const out: number[] = [];
      for await (const token of generate(model, [1, 2, 3], { maxTokens: 6, ...options })) out.push(token);
      return out;
    };
    const before = deviceNamed(device).memory();
    const greedy = await collect({ temperature: 0 });
    // The same by whole forward passes.
    const sequence = [1, 2, 3];
    for (let i = 0; i < 6; i++) {
      const logits = noGrad(() => model.forward(tensor([sequence], { dtype: 'int32', device })));
      const values = (await logits.data()).slice(-33);
      logits.dispose();
      sequence.push(values.indexOf(Math.max(...values)));
    }
    expect(greedy).toEqual(sequence.slice(3));
    const drawn = await collect({ seed: 3, temperature: 5 });
    expect(await collect({ seed: 3, temperature: 5 })).toEqual(drawn);
    expect(await collect({ seed: 4, temperature: 5 })).not.toEqual(drawn);
    expect(await collect({ temperature: 5, topK: 1 })).toEqual(greedy);
    expect(await collect({ temperature: 0, stopTokens: [greedy[2]] })).toEqual(
      greedy.slice(0, greedy.indexOf(greedy[2]) + 1),
    );
    await expect(collect({ topK: 34 })).rejects.toThrow(OptionError);
    const aborted = new AbortController();
    aborted.abort();
    expect(await collect({ signal: aborted.signal })).toEqual([]);
    expect(deviceNamed(device).memory().bytes).toBeLessThanOrEqual(before.bytes + 6 * 12 * 4); // the id tensors above
  });

  test('nonsense is refused', () => {
    expect(() => smallModel(device, { keyHeads: 3 })).toThrow('CausalLM: expected keyHeads that divide 4 heads, got 3');
    expect(() => smallModel(device, { headDim: 7 })).toThrow(
      'CausalLM: expected an even headDim of at most 256, got 7',
    );
    expect(() => smallModel(device, { activation: 'gelu' as 'swiglu' })).toThrow(OptionError);
    expect(() => smallModel(device, { hiden: 3 } as object)).toThrow(OptionError);
  });
});

(hasCpu ? test : test.skip)('cpu and reference agree on the loss and gradients of a two-layer model', async () => {
  const results = await Promise.all(
    (['cpu', 'reference'] as const).map(async (device) => {
      using model = smallModel(device, { layers: 2, ternary: false });
      const { ids, targets } = tokens(device, 2, 9);
      tidy(() => model.loss(ids, targets).backward());
      const gradients = await Promise.all(
        [...model.namedParameters().values()].map((each) => (each.grad as Tensor).data()),
      );
      return gradients.map((each) => Array.from(each));
    }),
  );
  results[1].forEach((expected, index) => {
    const largest = Math.max(...expected.map(Math.abs));
    // float32 through two layers against float64: a few hundred roundings of the largest entry.
    expected.forEach((value, i) => expect(Math.abs(results[0][index][i] - value)).toBeLessThan(largest * 2e-5));
  });
});
