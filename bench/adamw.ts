// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { FloatDType } from '../lib/dtype.js';
import { Generator } from '../lib/random.js';
import { keep } from '../lib/scope.js';
import { randn, type Tensor } from '../lib/tensor.js';
import { AdamW } from '../lib/train/adamw.js';
import type { NamedCase } from './cases.js';
import { DEVICE } from './options.js';
import { subject } from './schema.js';

const LENGTH = 2 ** 22;
const LEARNING_RATE = 1e-3;
const WEIGHT_DECAY = 0.1;
const SAMPLES = 200;

/** A step over parameter, gradient, both moments and the master, if there is one: each read, and all but the gradient written. */
export function adamwCase(dtype: FloatDType): NamedCase {
  const hasMaster = dtype !== 'float32';
  const name = `adamw ${dtype}${hasMaster ? ' with masters' : ''}, ${LENGTH} parameters`;
  return {
    name,
    subject: subject('AdamW', dtype),
    unit: 'bytes',
    prepare() {
      const parameter = randn([LENGTH], { device: DEVICE, dtype, seed: 7, requiresGrad: true });
      parameter.grad = keep(randn([LENGTH], { device: DEVICE, dtype, seed: 8 }));
      const optimizer = new AdamW([parameter], { learningRate: LEARNING_RATE, weightDecay: WEIGHT_DECAY });
      return {
        amount: 3 * parameter.bytes + 4 * LENGTH * (hasMaster ? 6 : 4),
        async check() {
          const [before, gradient] = [await parameter.data(), await (parameter.grad as Tensor).data()];
          optimizer.step();
          const updated = optimizer.state().tensors.get('0.master') ?? parameter;
          const after = await updated.data();
          const random = new Generator(3);
          for (let sample = 0; sample < SAMPLES; sample++) {
            const i = random.integer(LENGTH);
            // The moments of the first step, corrected, are g and g^2.
            const update = (LEARNING_RATE * gradient[i]) / (Math.abs(gradient[i]) + 1e-8);
            const expected = before[i] * (1 - LEARNING_RATE * WEIGHT_DECAY) - update;
            if (!(Math.abs(after[i] - expected) <= 2 ** -22 * Math.abs(expected) + 1e-9)) {
              throw new Error(`bench ${name}: expected ${expected}, got ${after[i]}`);
            }
          }
        },
        run: () => optimizer.step(),
        dispose() {
          optimizer.dispose();
          parameter.dispose();
        },
      };
    },
  };
}
