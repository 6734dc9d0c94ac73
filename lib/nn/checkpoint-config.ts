// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkpointWith, type CheckpointOptions } from '../autograd/checkpoint.js';
import { isGradEnabled } from '../autograd/tape.js';
import { checkBoolean, checkInteger, checkOneOf, checkOptions } from '../check.js';
import type { Tensor } from '../tensor.js';

/** What a model keeps of its layers for the backward pass. */
export interface CheckpointConfig extends Required<CheckpointOptions> {
  /** Default true. */
  enabled: boolean;
  /** Layers to a checkpointed segment: the inputs of every `every`-th layer are kept. Default 1. */
  every: number;
}

/**
 * @internal With the defaults of {@link CheckpointConfig} for what is absent.
 *
 * @throws OptionError.
 */
export function resolveCheckpointConfig(config: Partial<CheckpointConfig>): CheckpointConfig {
  const op = 'CheckpointConfig';
  checkOptions(op, config, ['enabled', 'every', 'policy', 'offload']);
  return {
    enabled: checkBoolean(op, 'enabled', config.enabled ?? true),
    every: checkInteger(op, 'every', config.every ?? 1, 1, 2 ** 31 - 1),
    policy: checkOneOf(op, 'policy', config.policy ?? 'full', ['full', 'selective']),
    offload: checkOneOf(op, 'offload', config.offload ?? 'none', ['none', 'host']),
  };
}

/**
 * Of the inputs of that many layers, the share that is kept between the forward and the backward pass: ⌈layers / every⌉ / layers, or 1 without
 * checkpoints. What `selective` keeps besides is not in it.
 *
 * @throws OptionError.
 */
export function memoryReductionFactor(config: Partial<CheckpointConfig>, layers: number): number {
  const { enabled, every } = resolveCheckpointConfig(config);
  checkInteger('memoryReductionFactor', 'layers', layers, 0, 2 ** 31 - 1);
  return enabled && layers > 0 ? Math.ceil(layers / every) / layers : 1;
}

/**
 * @internal Runs layers one after the other, by segments if `config` says so. Throws OptionError.
 *
 * @param context what each layer is given beside its input. It must still be of use in the backward pass.
 */
export function runLayers<C>(
  layers: readonly { forward(x: Tensor, context?: C): Tensor }[],
  x: Tensor,
  config: CheckpointConfig,
  context?: C,
): Tensor {
  const { enabled, every, policy, offload } = resolveCheckpointConfig(config);
  if (!enabled || !isGradEnabled()) return layers.reduce((h, layer) => layer.forward(h, context), x);
  let h = x;
  for (let start = 0; start < layers.length; start += every) {
    const segment = layers.slice(start, start + every);
    const run = (input: Tensor): Tensor => segment.reduce((value, layer) => layer.forward(value, context), input);
    const next = checkpointWith({ policy, offload }, run, h);
    // Now only the segment holds it, and may move it to the host. What came in is the caller's, and a layer may give back what it gets.
    if (h !== x && h !== next) h.dispose();
    h = next;
  }
  return h;
}
