// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { linearCrossEntropy } from '../../lib/index.js';
import { linearCrossEntropyCases, type LinearCase, type LinearCrossEntropyCase } from '../cases.js';
import type { OpSpec } from '../op-spec.js';
import { lossGradient, lossOf, lossOptions, lossTargets } from './cross-entropy.js';
import { biasGradient, inputGradient, linearInputs, product, weightGradient } from './linear.js';

const linearOf = ({ name, rows, vocabulary, features, bias }: LinearCrossEntropyCase): LinearCase => ({
  name,
  lead: [rows],
  n: vocabulary,
  k: features,
  ...(bias && { bias }),
});

/** The plain pair: the logits as a tensor would hold them, and their loss. */
export const linearCrossEntropySpec: OpSpec<LinearCrossEntropyCase> = {
  op: 'linearCrossEntropy',
  cases: linearCrossEntropyCases,
  float32Outputs: ['loss'],
  inputs(c, random) {
    const inputs = linearInputs(linearOf(c), random);
    const spread = c.spread ?? 1;
    const weight = { ...inputs.weight, values: inputs.weight.values.map((value) => value * spread) };
    return { ...inputs, weight, targets: lossTargets(c, random) };
  },
  call: ({ x, weight, targets, bias }, c) => ({
    loss: linearCrossEntropy(x, weight, targets, { ...lossOptions(c), ...(bias && { bias }) }),
  }),
  forward: (a, { x, weight, bias, targets }, c) => ({
    loss: lossOf(a, product(a, x, weight, bias, linearOf(c)), targets, c),
  }),
  backward(a, { x, weight, bias, targets }, { loss }, c) {
    const linear = linearOf(c);
    const dLogits = lossGradient(a, product(a, x, weight, bias, linear), targets, loss, c);
    return {
      x: inputGradient(a, dLogits, weight, linear),
      weight: weightGradient(a, dLogits, x, linear),
      ...(bias && { bias: biasGradient(a, dLogits, linear) }),
    };
  },
};
