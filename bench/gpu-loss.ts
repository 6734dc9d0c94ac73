// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { crossEntropy, type CrossEntropyOptions } from '../lib/ops/cross-entropy.js';
import { linearCrossEntropy } from '../lib/ops/linear-cross-entropy.js';
import { Generator } from '../lib/random.js';
import { tidy } from '../lib/scope.js';
import { tensor, type Tensor } from '../lib/tensor.js';
import { clearGrads, disposeAll, size, type GpuCase } from './gpu-case.js';
import { expectNear, operand, readerOf, type Operand } from './operands.js';
import { DEVICE } from './options.js';
import { subject } from './schema.js';

const DTYPE = 'bfloat16';
const LOGIT_ROWS = size(2048, 32);
const FEATURE_ROWS = size(4096, 32);
const VOCABULARY = size(128256, 1002);
const FEATURES = size(2048, 64);
const CHECKED_ROWS = 2;
const SAMPLES = 50;

/** The loss of a row of logits and the gradient of the mean loss for them. */
function exactLoss(logits: Float64Array, target: number, rows: number): { loss: number; gradient: Float64Array } {
  const largest = logits.reduce((most, value) => Math.max(most, value), -Infinity);
  const total = logits.reduce((sum, value) => sum + Math.exp(value - largest), 0);
  const lse = largest + Math.log(total);
  return {
    loss: lse - logits[target],
    gradient: logits.map((value, j) => (Math.exp(value - lse) - (j === target ? 1 : 0)) / rows),
  };
}

function makeTargets(rows: number): { targets: Tensor; classes: Int32Array } {
  const random = new Generator(9);
  const classes = Int32Array.from({ length: rows }, () => random.integer(VOCABULARY));
  return { targets: tensor(classes, { device: DEVICE }), classes };
}

function crossEntropyCase(backward: boolean): GpuCase {
  const pass = backward ? 'forward+backward' : 'forward';
  const name = `loss crossEntropy ${pass} bf16 V${VOCABULARY}`;
  return {
    name,
    subject: subject('crossEntropy', DTYPE, { pass }),
    prepare() {
      const logits = operand([LOGIT_ROWS, VOCABULARY], DTYPE, { seed: 1, requiresGrad: backward });
      const { targets, classes } = makeTargets(LOGIT_ROWS);
      const loss = (options?: CrossEntropyOptions): Tensor => crossEntropy(logits.tensor, targets, options);
      const run = (): void => {
        tidy(() => {
          const value = loss();
          if (backward) value.backward();
        });
      };
      return {
        flops: 0,
        bytes: logits.tensor.bytes * (backward ? 3 : 1),
        async check() {
          using each = loss({ reduction: 'none' });
          const losses = await each.data();
          run();
          const got = backward ? await readerOf(logits.tensor.grad as Tensor) : null;
          logits.tensor.clearGrad();
          const random = new Generator(3);
          for (let i = 0; i < CHECKED_ROWS; i++) {
            const row = random.integer(LOGIT_ROWS);
            const start = row * VOCABULARY;
            const exact = exactLoss(Float64Array.from(logits.part(start, VOCABULARY)), classes[row], LOGIT_ROWS);
            expectNear(name, 'float32', losses[row], exact.loss, 2 ** -18 * exact.loss);
            for (let sample = 0; got && sample < SAMPLES; sample++) {
              const col = sample === 0 ? classes[row] : random.integer(VOCABULARY);
              const expected = exact.gradient[col];
              expectNear(`${name} gradient`, DTYPE, got(start + col), expected, 2 ** -16 * Math.abs(expected));
            }
          }
        },
        run() {
          run();
          logits.tensor.clearGrad();
        },
        dispose: () => disposeAll([logits.tensor, targets]),
      };
    },
  };
}

/** Logits of a row of x, and of its gradient the sum of the weights by that of the logits. */
function exactLinearLoss(
  x: Operand,
  weight: Operand,
  row: number,
  target: number,
): { loss: number; dX: Float64Array; dXMagnitude: Float64Array } {
  const features = x.part(row * FEATURES, FEATURES);
  const weightOf = (j: number): Float32Array => weight.part(j * FEATURES, FEATURES);
  const logits = Float64Array.from({ length: VOCABULARY }, (_, j) => {
    const each = weightOf(j);
    let sum = 0;
    for (let i = 0; i < FEATURES; i++) sum += features[i] * each[i];
    return sum;
  });
  const { loss, gradient } = exactLoss(logits, target, FEATURE_ROWS);
  const [dX, dXMagnitude] = [new Float64Array(FEATURES), new Float64Array(FEATURES)];
  for (let j = 0; j < VOCABULARY; j++) {
    const each = weightOf(j);
    for (let i = 0; i < FEATURES; i++) {
      dX[i] += gradient[j] * each[i];
      dXMagnitude[i] += Math.abs(gradient[j] * each[i]);
    }
  }
  return { loss, dX, dXMagnitude };
}

/** Counted as the three products of the pair of ops that holds the logits. */
function linearCrossEntropyCase(): GpuCase {
  const name = `loss linearCrossEntropy forward+backward bf16 V${VOCABULARY}`;
  return {
    name,
    subject: subject('linearCrossEntropy', DTYPE, { pass: 'forward+backward' }),
    prepare() {
      const x = operand([FEATURE_ROWS, FEATURES], DTYPE, { seed: 1, requiresGrad: true });
      const weight = operand([VOCABULARY, FEATURES], DTYPE, { seed: 2, std: 0.02, requiresGrad: true });
      const { targets, classes } = makeTargets(FEATURE_ROWS);
      const leaves = [x.tensor, weight.tensor];
      const step = (): void => tidy(() => linearCrossEntropy(x.tensor, weight.tensor, targets).backward());
      return {
        flops: 6 * FEATURE_ROWS * VOCABULARY * FEATURES,
        // Inputs twice, for the forward and the backward pass, and their gradients.
        bytes: 3 * (x.tensor.bytes + weight.tensor.bytes),
        async check() {
          const row = 1;
          using each = tidy(() => linearCrossEntropy(x.tensor, weight.tensor, targets, { reduction: 'none' }).detach());
          const losses = await each.data();
          step();
          const got = await readerOf(x.tensor.grad as Tensor);
          clearGrads(leaves);
          const { loss, dX, dXMagnitude } = exactLinearLoss(x, weight, row, classes[row]);
          expectNear(name, 'float32', losses[row], loss, 2 ** -16 * loss);
          // The gradient of the logits may be rounded to bfloat16 before it is multiplied.
          dX.forEach((value, i) =>
            expectNear(`${name} dX`, DTYPE, got(row * FEATURES + i), value, 2 ** -8 * dXMagnitude[i]),
          );
        },
        run() {
          step();
          clearGrads(leaves);
        },
        dispose: () => disposeAll([...leaves, targets]),
      };
    },
  };
}

export const lossCases = (): GpuCase[] => [crossEntropyCase(false), crossEntropyCase(true), linearCrossEntropyCase()];
