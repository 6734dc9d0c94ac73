// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  AdamW,
  capture,
  CapturedGraph,
  CausalLM,
  clipGradNorm,
  crossEntropy,
  device as deviceNamed,
  DisposedError,
  FormatError,
  generate,
  generateBatch,
  KernelError,
  manualSeed,
  noGrad,
  OptionError,
  reshape,
  ShapeError,
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

/** What models derived from Llama's have more. */
const BIASED: Partial<CausalLMOptions> = {
  ternary: false,
  attentionBias: 'qkv',
  mlpBias: true,
  queryKeyNorm: true,
  ropeScaling: { type: 'linear', factor: 2 },
  activation: 'geglu',
  contextLength: 64,
};
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
      expect(cache.lengths).toEqual([start + count, start + count]);
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

  test('sequences of different lengths in one cache give the logits of each alone', async () => {
    using model = smallModel(device, { ternary: false, window: 6 });
    using cache = model.createCache(3, 24);
    const { ids } = tokens(device, 3, 12);
    const all = Array.from(await ids.data());
    const counts = [7, 2, 12];
    const sequences = counts.map((count, row) => all.slice(row * 12, row * 12 + count));
    const got = async (logits: Tensor): Promise<Float32Array> => (await logits.data()) as Float32Array;
    const check = async (logits: Float32Array): Promise<void> => {
      for (let row = 0; row < 3; row++) {
        const alone = await got(noGrad(() => model.nextLogits(tensor([sequences[row]], { dtype: 'int32', device }))));
        alone.forEach((each, i) => expect(Math.abs(logits[row * 33 + i] - each)).toBeLessThan(1e-5));
      }
    };
    await check(await got(noGrad(() => model.nextLogits(ids, cache, counts))));
    expect(cache.lengths).toEqual(counts);
    expect(await cache.lengthsTensor.data()).toEqual(Int32Array.from(counts));
    for (const added of [
      [[3], [4], [5]],
      [
        [6, 7, 8],
        [9, 10, 11],
        [12, 13, 14],
      ],
    ]) {
      added.forEach((each, row) => sequences[row].push(...each));
      await check(await got(noGrad(() => model.nextLogits(tensor(added, { dtype: 'int32', device }), cache))));
    }
    cache.setLengths([3, 1, 4]); // back to common beginnings
    sequences.forEach((each, row) => each.splice([3, 1, 4][row], 99, 20));
    await check(
      await got(noGrad(() => model.nextLogits(tensor([[20], [20], [20]], { dtype: 'int32', device }), cache))),
    );
    expect(() => cache.setLengths([1, 2])).toThrow('setLengths: expected 3 lengths, got 2');
    expect(() => cache.setLengths(25)).toThrow('setLengths: expected an integer from 0 to 24 for lengths, got 25');
    expect(() => model.forward(ids, model.createCache(3, 11))).toThrow(
      'expected at most 11 tokens in the cache, got 12',
    );
    expect(() => model.forward(ids, model.createCache(2, 12))).toThrow(ShapeError);
    cache.dispose();
    expect(() => model.forward(ids, cache)).toThrow(DisposedError);
  });

  (device === 'reference' ? test.skip : test)('a captured step, replayed, gives the bits of steps called', async () => {
    using model = smallModel(device);
    model.freeze();
    using cache = model.createCache(2, 9);
    using again = model.createCache(2, 9);
    const prompt = tensor([[1, 2, 3], [4, 5, 6]], { dtype: 'int32', device }); // prettier-ignore
    for (const each of [cache, again]) {
      model.nextLogits(prompt, each, [3, 1]);
    }
    const ids = tensor([[7], [8]], { dtype: 'int32', device });
    using graph = capture(() => noGrad(() => model.nextLogits(ids, cache)), { device });
    expect(cache.lengths).toEqual([3, 1]);
    for (let step = 0; step < 4; step++) {
      const next = [[step + 9], [step + 20]];
      ids.write(next);
      await graph.replay();
      cache.advance();
      const called = noGrad(() => model.nextLogits(tensor(next, { dtype: 'int32', device }), again));
      expect(await bitsOf(graph.result)).toEqual(await bitsOf(called));
    }
    cache.setLengths([9, 5]); // full: nothing is written beyond it
    await expect(graph.replay().then(() => graph.result.data())).rejects.toThrow(KernelError);
    cache.setLengths([5, 5]);
    await graph.replay();
  });

  (device === 'cpu' ? test : test.skip)('a step that fails ends the tokens with its error', async () => {
    using model = smallModel(device);
    const failed = new KernelError('flashAttention: expected luck, got none', 'flashAttention');
    // Whoever reads what a step has written hears of it.
    const enqueue = jest.spyOn(CapturedGraph.prototype, 'enqueue').mockImplementationOnce(() => {
      jest.spyOn(model.device, 'read').mockRejectedValueOnce(failed);
    });
    const tokens: number[] = [];
    const run = async (): Promise<void> => {
      for await (const token of generate(model, [1, 2], { maxTokens: 9 })) tokens.push(token);
    };
    await expect(run()).rejects.toBe(failed);
    expect(enqueue).toHaveBeenCalledTimes(1);
    jest.restoreAllMocks();
    expect(tokens).toHaveLength(1);
  });

  test('the likeliest tokens are the same whether the device finds them or they are read off the logits', async () => {
    using model = smallModel(device, { ternary: false });
    const prompts = [[1, 2, 3], [30], [4, 5, 6, 7]];
    const made = async (options: object): Promise<number[][]> => {
      const out = prompts.map((): number[] => []);
      for await (const { sequence, token } of generateBatch(model, prompts, {
        maxTokens: 8,
        temperature: 0,
        ...options,
      }))
        out[sequence].push(token);
      return out;
    };
    expect(await made({})).toEqual(await made({ logProbabilities: true }));
  });

  test.each([NaN, Infinity])('temperature 0: logits of %d in a later step are refused', async (value) => {
    using model = smallModel(device, { ternary: false });
    const run = async (): Promise<void> => {
      for await (const token of generate(model, [1, 2], { maxTokens: 9, temperature: 0 })) {
        expect(token).toBeGreaterThanOrEqual(0);
        model.norm.weight.write(new Float32Array(model.norm.weight.size).fill(value));
      }
    };
    await expect(run()).rejects.toThrow(OptionError);
  });

  test('a batch of prompts gives the tokens of each alone, with their probabilities', async () => {
    using model = smallModel(device, { ternary: false });
    const prompts = [[1, 2, 3], [30], [4, 5, 6, 7, 8, 9, 10]];
    const options = { maxTokens: 6, temperature: 0.7, topK: 5 };
    const alone = await Promise.all(
      prompts.map(async (prompt, i) => {
        const out: number[] = [];
        for await (const token of generate(model, prompt, { ...options, seed: 5 + i })) out.push(token);
        return out;
      }),
    );
    const together = prompts.map((): number[] => []);
    const ends: (string | null)[] = [];
    const logs = prompts.map((): number[] => []);
    for await (const each of generateBatch(model, prompts, { ...options, seed: 5, logProbabilities: true })) {
      together[each.sequence].push(each.token);
      ends[each.sequence] = each.finish;
      logs[each.sequence].push(each.logProbability as number);
    }
    expect(together).toEqual(alone);
    expect(ends).toEqual(['length', 'length', 'length']);
    const whole = [...prompts[0], ...alone[0]];
    const logits = (await noGrad(() =>
      model.forward(tensor([whole], { dtype: 'int32', device })),
    ).data()) as Float32Array;
    logs[0].forEach((log, i) => {
      const row = logits.subarray((i + 2) * 33, (i + 3) * 33);
      const sum = row.reduce((total, logit) => total + Math.exp(logit), 0);
      expect(Math.abs(log - (row[alone[0][i]] - Math.log(sum)))).toBeLessThan(1e-4);
    });
    const stop = together[2][1];
    const counts = [0, 0, 0];
    for await (const each of generateBatch(model, prompts, { ...options, seed: 5, stopTokens: [stop] })) {
      expect(each.token).toBe(together[each.sequence][counts[each.sequence]++]);
      if (each.token === stop) expect(each.finish).toBe('stop');
    }
    together.forEach((list, i) => expect(counts[i]).toBe(list.includes(stop) ? list.indexOf(stop) + 1 : 6));
  });

  test('a repetition penalty keeps tokens from coming again', async () => {
    using model = smallModel(device, { ternary: false });
    const collect = async (options: object): Promise<number[]> => {
      const out: number[] = [];
      for await (const token of generate(model, [1, 2, 3], { maxTokens: 20, temperature: 0, ...options }))
        out.push(token);
      return out;
    };
    expect(new Set(await collect({})).size).toBeLessThan(20);
    expect(await collect({ repetitionPenalty: 1 })).toEqual(await collect({}));
    const penalized = await collect({ repetitionPenalty: 1e6 });
    expect(new Set([1, 2, 3, ...penalized]).size).toBe(23);
    await expect(collect({ repetitionPenalty: 0 })).rejects.toThrow('above 0 for repetitionPenalty, got 0');
  });

  test('a conversation goes on in its cache', async () => {
    using model = smallModel(device);
    const collect = async (prompt: number[], options: object = {}): Promise<number[]> => {
      const out: number[] = [];
      for await (const token of generate(model, prompt, { maxTokens: 4, temperature: 0, ...options })) out.push(token);
      return out;
    };
    using cache = model.createCache(1, 40);
    const first = await collect([1, 2, 3], { cache });
    expect(cache.lengths).toEqual([6]); // not the last token, which no step has seen
    const second = await collect([first[3], 7, 8], { cache });
    expect(second).toEqual(await collect([1, 2, 3, ...first, 7, 8]));
    await expect(collect([1], { cache: model.createCache(1, 3) })).rejects.toThrow('a full one');
    await expect(collect([1], { cache: model.createCache(2, 9) })).rejects.toThrow('a cache of 1 sequences, got 2');
  });

  test.each([
    ['dense', { ternary: false, tieEmbeddings: false }],
    ['biases, head norms, long context', BIASED],
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
