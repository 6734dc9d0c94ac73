// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  applyLora,
  capture,
  CausalLM,
  manualSeed,
  noGrad,
  OptionError,
  scale,
  ShapeError,
  tensor,
  tidy,
  type CausalLMOptions,
  type CheckpointConfig,
  type DeviceName,
  type Tensor,
} from '../../lib/index.js';
import { bitsOf, describeBackends } from '../harness.js';
import { Random } from '../random.js';
import { holdMemory } from '../core/hold-memory.js';

holdMemory();

const SMALL: CausalLMOptions = { vocabulary: 33, layers: 3, hidden: 32, heads: 4, keyHeads: 2, intermediate: 48 };
/** One is empty, one is a single token that nothing follows. */
const LENGTHS = [5, 1, 9, 0, 3];
const TOTAL = 18;
const CU_SEQLENS = [0, 5, 6, 15, 15, 18];

function smallModel(device: DeviceName, options: Partial<CausalLMOptions> = {}): CausalLM {
  manualSeed(7);
  return new CausalLM({ ...SMALL, ...options }, { device });
}

function rowOf(device: DeviceName, values: readonly number[]): Tensor {
  return tensor(Int32Array.from(values), { shape: [1, values.length], device });
}

/** Ids of the documents, end to end, and the token after each of theirs; some others count for nothing too, as those of prompts. */
function tokens(): { ids: number[]; targets: number[] } {
  const random = new Random('documents');
  const ids = Array.from({ length: TOTAL }, () => random.integer(0, 32));
  const ends = new Set(CU_SEQLENS.slice(1).map((end) => end - 1));
  const targets = ids.map((_, i) => (ends.has(i) || i === 7 ? -100 : ids[i + 1]));
  return { ids, targets };
}

const countOf = (targets: readonly number[]): number => targets.filter((target) => target !== -100).length;

interface Results {
  loss: number;
  gradients: Record<string, number[]>;
}

async function resultsOf(model: CausalLM, losses: () => Tensor[]): Promise<Results> {
  model.clearGrad();
  let loss = 0;
  for (const part of tidy(() =>
    losses().map((each) => {
      each.backward();
      return each.detach();
    }),
  )) {
    loss += await part.item();
    part.dispose();
  }
  const gradients: Results['gradients'] = {};
  for (const [name, { grad }] of model.namedParameters()) gradients[name] = Array.from(await (grad as Tensor).data());
  return { loss, gradients };
}

function packedResults(model: CausalLM, device: DeviceName): Promise<Results> {
  const { ids, targets } = tokens();
  return resultsOf(model, () => [model.loss(rowOf(device, ids), rowOf(device, targets), { cuSeqlens: CU_SEQLENS })]);
}

/** Each document alone, its mean loss weighted by its targets. */
function separateResults(model: CausalLM, device: DeviceName): Promise<Results> {
  const { ids, targets } = tokens();
  const total = countOf(targets);
  return resultsOf(model, () =>
    LENGTHS.flatMap((_, i) => {
      const part = (values: readonly number[]): number[] => values.slice(CU_SEQLENS[i], CU_SEQLENS[i + 1]);
      const count = countOf(part(targets));
      if (count === 0) return [];
      return [scale(model.loss(rowOf(device, part(ids)), rowOf(device, part(targets))), count / total)];
    }),
  );
}

/** Tiles of other sizes add up in another order: a few hundred roundings of the largest entry, as of a model against the reference. */
function expectSame(got: Results, expected: Results): void {
  expect(Math.abs(got.loss - expected.loss)).toBeLessThan(2e-6 * expected.loss);
  for (const [name, values] of Object.entries(expected.gradients)) {
    const largest = Math.max(...values.map(Math.abs));
    const error = Math.max(...values.map((value, i) => Math.abs(got.gradients[name][i] - value)));
    expect({ name, isNear: error <= largest * 2e-5 }).toEqual({ name, isNear: true });
  }
}

const MODELS: [string, Partial<CausalLMOptions>][] = [
  ['dense', { ternary: false }],
  ['a sliding window, head norms, biases', { ternary: false, window: 3, queryKeyNorm: true, attentionBias: 'qkv' }],
  ['ternary', {}],
];

describeBackends((device) => {
  test.each(MODELS)('loss and gradients are those of the documents one by one: %s', async (_, options) => {
    using model = smallModel(device, options);
    const [packed, separate] = [await packedResults(model, device), await separateResults(model, device)];
    expect(Object.keys(packed.gradients)).toHaveLength(model.parameters().length);
    expectSame(packed, separate);
  });

  test.each(MODELS)('another token in one document changes no bit of the others: %s', async (_, options) => {
    using model = smallModel(device, options);
    const { ids, targets } = tokens();
    const run = async (list: readonly number[]): Promise<{ logits: number[]; packed: Results }> => {
      const row = rowOf(device, list);
      const result = noGrad(() => model.forward(row, { cuSeqlens: CU_SEQLENS }));
      const logits = await bitsOf(result);
      for (const each of [row, result]) each.dispose();
      const packed = await resultsOf(model, () => [
        // Only the last document counts.
        model.loss(
          rowOf(device, list),
          rowOf(
            device,
            targets.map((target, i) => (i < 15 ? -100 : target)),
          ),
          {
            cuSeqlens: Int32Array.from(CU_SEQLENS),
          },
        ),
      ]);
      return { logits, packed };
    };
    const before = await run(ids);
    const after = await run(ids.map((id, i) => (i === 8 ? (id + 1) % 33 : id)));
    const rows = (logits: readonly number[], begin: number, end: number): number[] =>
      logits.slice(begin * 33, end * 33);
    expect(rows(after.logits, 0, 8)).toEqual(rows(before.logits, 0, 8));
    expect(rows(after.logits, 8, 9)).not.toEqual(rows(before.logits, 8, 9));
    expect(rows(after.logits, 15, 18)).toEqual(rows(before.logits, 15, 18));
    expect(after.packed).toEqual(before.packed);
  });

  test('the logits of a document are those of it alone', async () => {
    using model = smallModel(device, { ternary: false });
    const { ids } = tokens();
    const row = rowOf(device, ids);
    const packed = noGrad(() => model.forward(row, { cuSeqlens: CU_SEQLENS }));
    const alone = noGrad(() => model.forward(rowOf(device, ids.slice(6, 15))));
    expect(packed.shape).toEqual([1, TOTAL, 33]);
    const values = (await packed.data()) as Float32Array;
    const expected = (await alone.data()) as Float32Array;
    expected.forEach((each, i) => expect(Math.abs(values[6 * 33 + i] - each)).toBeLessThan(1e-5));
    // In its order of sums nothing but the positions can differ, and they begin at 0 in both.
    if (device === 'reference') expect(values.slice(6 * 33, 15 * 33)).toEqual(expected);
    for (const each of [row, packed, alone]) each.dispose();
  });

  const policies: Partial<CheckpointConfig>[] = [
    { every: 1 },
    { every: 2, policy: 'selective' },
    { every: 1, offload: 'host' },
    { every: 3, policy: 'selective', offload: 'host' },
  ];
  test.each(policies)('recomputed, %p, with dropout: the same bits', async (policy) => {
    using model = smallModel(device, { dropout: 0.2 });
    const run = async (config: Partial<CheckpointConfig>): Promise<Results> => {
      model.checkpointConfig = config;
      manualSeed(3);
      return packedResults(model, device);
    };
    expect(await run(policy)).toEqual(await run({ enabled: false }));
  });

  test('adapters on packed ternary weights get the gradients of the documents one by one', async () => {
    using model = smallModel(device);
    model.freeze();
    model.train();
    manualSeed(2);
    applyLora(model, { rank: 3 });
    model.checkpointConfig = { every: 1 };
    const [packed, separate] = [await packedResults(model, device), await separateResults(model, device)];
    expectSame(packed, separate);
  });

  test.each(['bfloat16', 'float16'] as const)(
    'one document packed is the row itself, to the bit: %s',
    async (dtype) => {
      using model = smallModel(device, { dtype });
      const { ids, targets } = tokens();
      const whole = await resultsOf(model, () => [model.loss(rowOf(device, ids), rowOf(device, targets))]);
      const packed = await resultsOf(model, () => [
        model.loss(rowOf(device, ids), rowOf(device, targets), { cuSeqlens: [0, TOTAL] }),
      ]);
      expect(packed).toEqual(whole);
    },
  );

  (device === 'reference' ? test.skip : test)(
    'a captured pass over packed documents gives the bits of a call',
    async () => {
      using model = smallModel(device);
      const row = rowOf(device, tokens().ids);
      const called = noGrad(() => model.forward(row, { cuSeqlens: CU_SEQLENS }));
      using graph = capture(() => noGrad(() => model.forward(row, { cuSeqlens: CU_SEQLENS })), { device });
      await graph.replay();
      expect(await bitsOf(graph.result)).toEqual(await bitsOf(called));
      for (const each of [row, called]) each.dispose();
    },
  );

  test('what does not fit is refused', () => {
    using model = smallModel(device);
    const row = rowOf(device, tokens().ids);
    const refusal = (call: () => unknown): unknown => {
      try {
        return call();
      } catch (error) {
        return error;
      }
    };
    expect(refusal(() => model.forward(row, { cuSeqlens: [0, 5, 17] }))).toEqual(
      new OptionError('CausalLM.forward: expected an integer from 18 to 18 for cuSeqlens[2], got 17'),
    );
    expect(refusal(() => model.loss(row, row, { cuSeqlens: [0, 9, 8, 18] }))).toEqual(
      new OptionError('CausalLM.forward: expected an integer from 9 to 18 for cuSeqlens[2], got 8'),
    );
    expect(refusal(() => model.loss(row, row, { cuSeqlen: [0, 18] } as object))).toBeInstanceOf(OptionError);
    const two = tensor(new Int32Array(18), { shape: [2, 9], device });
    expect(refusal(() => model.forward(two, { cuSeqlens: CU_SEQLENS }))).toEqual(
      new ShapeError('CausalLM.forward: expected ids of shape [1, S] of packed documents, got [2, 9]'),
    );
    for (const each of [row, two]) each.dispose();
  });
});
