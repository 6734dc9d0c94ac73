// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { AdamWParams } from '../backend.js';
import { load, store } from './buffer.js';

/**
 * One step of Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
 * algorithm 2, with torch.optim.AdamW's learning rate on the decay and eps outside the corrected root). Per element, at
 * step t:
 * (p is the master where there is one, and the parameter its rounding; g is the gradient times the coefficient)
 *
 *   p = p * (1 - learningRate * weightDecay)
 *   m = beta1 * m + (1 - beta1) * g
 *   v = beta2 * v + (1 - beta2) * g^2
 *   p = p - learningRate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 */
export function adamw(params: AdamWParams): void {
  const { parameters, masters, gradients, firstMoments, secondMoments, weightDecays } = params;
  const { learningRate, beta1, beta2, eps, step } = params;
  const coefficient = params.coefficient ? load(params.coefficient)[0] : 1;
  const correction1 = 1 - beta1 ** step;
  const correction2 = 1 - beta2 ** step;
  for (let index = 0; index < parameters.length; index++) {
    const master = masters[index];
    const p = load(master ?? parameters[index]);
    const gradient = load(gradients[index]);
    const m = load(firstMoments[index]);
    const v = load(secondMoments[index]);
    const keep = 1 - learningRate * weightDecays[index];
    for (let i = 0; i < p.length; i++) {
      const g = gradient[i] * coefficient;
      m[i] = beta1 * m[i] + (1 - beta1) * g;
      v[i] = beta2 * v[i] + (1 - beta2) * g * g;
      p[i] = p[i] * keep - (learningRate * (m[i] / correction1)) / (Math.sqrt(v[i] / correction2) + eps);
    }
    if (master) store(master, p);
    store(parameters[index], master ? load(master) : p);
    store(firstMoments[index], m);
    store(secondMoments[index], v);
  }
}
