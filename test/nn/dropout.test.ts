// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  CausalLM,
  defaultGenerator,
  generate,
  manualSeed,
  noGrad,
  OptionError,
  tensor,
  tidy,
  type CheckpointConfig,
  type DeviceName,
} from '../../lib/index.js';
import { bitsOf, describeBackends, FLOAT_DTYPES } from '../harness.js';
import type { FloatDType } from '../../lib/dtype.js';

const SHAPE = { vocabulary: 13, layers: 3, hidden: 16, heads: 4, keyHeads: 2, intermediate: 24 };

function build(device: DeviceName, dropout: number, dtype: FloatDType = 'float32', ternary = true): CausalLM {
  manualSeed(3);
  return new CausalLM({ ...SHAPE, dropout, dtype, ternary }, { device });
}

/** Bits of the loss and of every gradient, and where the random sequence stands afterwards. */
async function step(model: CausalLM, checkpoint: Partial<CheckpointConfig>): Promise<unknown> {
  model.checkpointConfig = checkpoint;
  manualSeed(11);
  const ids = tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], { shape: [2, 5], dtype: 'int32', device: model.device });
  const targets = tensor([1, 4, 1, 5, 9, 2, 6, 5, 3, 5], { shape: [2, 5], dtype: 'int32', device: model.device });
  const loss = model.loss(ids, targets);
  loss.backward();
  const gradients: Record<string, number[]> = {};
  for (const [name, parameter] of model.namedParameters()) {
    if (parameter.grad) gradients[name] = await bitsOf(parameter.grad);
  }
  const result = { loss: await bitsOf(loss), gradients, random: defaultGenerator().state };
  model.clearGrad();
  for (const each of [ids, targets, loss]) each.dispose();
  return result;
}

describeBackends((device) => {
  describe.each(FLOAT_DTYPES)('%s', (dtype) => {
    test.each([true, false])('every checkpoint policy gives the bits of none, ternary: %s', async (ternary) => {
      using model = build(device, 0.25, dtype, ternary);
      const expected = await step(model, { enabled: false });
      for (const every of [1, 2]) {
        for (const policy of ['full', 'selective'] as const) {
          for (const offload of ['none', 'host'] as const) {
            expect(await step(model, { every, policy, offload })).toEqual(expected);
          }
        }
      }
    });
  });

  test('is on while the model trains, and draws anew at every call', async () => {
    using model = build(device, 0.25);
    using ids = tensor([3, 1, 4, 1], { shape: [1, 4], dtype: 'int32', device });
    const logits = async (): Promise<number[]> => {
      const result = noGrad(() => tidy(() => model.forward(ids)));
      const bits = await bitsOf(result);
      result.dispose();
      return bits;
    };
    expect(model.training).toBe(true);
    const [first, second] = [await logits(), await logits()];
    expect(second).not.toEqual(first);
    expect(model.eval()).toBe(model);
    expect([model.training, model.layers[1].training, model.layers[1].attention.training]).toEqual([
      false,
      false,
      false,
    ]);
    const before = defaultGenerator().state;
    const constant = await logits();
    expect(await logits()).toEqual(constant);
    expect(defaultGenerator().state).toEqual(before);
    using plain = build(device, 0);
    const same = noGrad(() => tidy(() => plain.forward(ids)));
    expect(await bitsOf(same)).toEqual(constant);
    same.dispose();
    model.train();
    expect(await logits()).not.toEqual(constant);
  });

  test('a cache knows none', async () => {
    const tokens = async (dropout: number): Promise<number[]> => {
      using model = build(device, dropout);
      const made: number[] = [];
      for await (const token of generate(model, [1, 2], { maxTokens: 5, seed: 1 })) made.push(token);
      return made;
    };
    expect(await tokens(0.5)).toEqual(await tokens(0));
  });

  test.each([-0.1, 1, NaN])('%s is refused', (dropout) => {
    expect(() => build(device, dropout)).toThrow(
      new OptionError(`CausalLM: expected a probability from 0 to below 1 for dropout, got ${dropout}`),
    );
  });
});
