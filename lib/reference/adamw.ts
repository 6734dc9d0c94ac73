// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { AdamWParams } from '../backend.js';
import { load, store } from './buffer.js';

/**
 * One step of Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
 * algorithm 2, with torch.optim.AdamW's learning rate on the decay and eps outside the corrected root). Per element, at
 * step t:
 *
 *   p = p * (1 - learningRate * weightDecay)
 *   m = beta1 * m + (1 - beta1) * g
 *   v = beta2 * v + (1 - beta2) * g^2
 *   p = p - learningRate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 */
export function adamw(params: AdamWParams): void {
  const { parameters, gradients, firstMoments, secondMoments, weightDecays, learningRate, beta1, beta2, eps, step } =
    params;
  const correction1 = 1 - beta1 ** step;
  const correction2 = 1 - beta2 ** step;
  for (let index = 0; index < parameters.length; index++) {
    const p = load(parameters[index]);
    const g = load(gradients[index]);
    const m = load(firstMoments[index]);
    const v = load(secondMoments[index]);
    const keep = 1 - learningRate * weightDecays[index];
    for (let i = 0; i < p.length; i++) {
      m[i] = beta1 * m[i] + (1 - beta1) * g[i];
      v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
      p[i] = p[i] * keep - (learningRate * (m[i] / correction1)) / (Math.sqrt(v[i] / correction2) + eps);
    }
    store(parameters[index], p);
    store(firstMoments[index], m);
    store(secondMoments[index], v);
  }
}
