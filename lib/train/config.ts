// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkObject, checkOneOf, checkOptions } from '../check.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import type { CausalLM } from '../models/causal-lm.js';
import { resolveCheckpointConfig } from '../nn/checkpoint-config.js';
import { resolveLossScale, type LossScaleConfig } from './loss-scaler.js';

/** In which dtypes a model is trained, and how its loss is scaled. */
export interface MixedPrecisionConfig extends LossScaleConfig {
  /** The dtype of parameters, activations and gradients. */
  compute: FloatDType;
  /** The dtype of what the optimizer updates. */
  master: 'float32';
}

/** How a {@link Trainer} trains. */
export interface TrainingConfig {
  /** Sequences in a micro-batch. Default 4. */
  batchSize: number;
  /** Tokens in a sequence, at most. Default 2048. */
  maxSequenceLength: number;
  /** Micro-batches in a step. Default 4. */
  gradientAccumulation: number;
  /** Default {@link fp16}; null trains the parameters in the dtype they have, without scaling the loss. */
  mixedPrecision: MixedPrecisionConfig | null;
  /** What is recomputed in the backward pass. Default: every layer. */
  checkpoint: Partial<CausalLM['checkpointConfig']>;
}

const UNSCALED = { lossScale: 1, dynamic: false } as const;

/** float16 with float32 masters and a dynamic loss scale, see {@link LossScaler}. */
export function fp16(options: Partial<LossScaleConfig> = {}): MixedPrecisionConfig {
  return { compute: 'float16', master: 'float32', ...resolveLossScale('fp16', options) };
}

/** bfloat16 with float32 masters. Its range is that of float32, so the loss is not scaled. */
export function bf16(): MixedPrecisionConfig {
  return { compute: 'bfloat16', master: 'float32', ...resolveLossScale('bf16', UNSCALED) };
}

/** float32 throughout. */
export function fp32(): MixedPrecisionConfig {
  return { compute: 'float32', master: 'float32', ...resolveLossScale('fp32', UNSCALED) };
}

/** @internal */
export function lossScaleOf(config: MixedPrecisionConfig): LossScaleConfig {
  const lossScale: Partial<MixedPrecisionConfig> = { ...config };
  delete lossScale.compute;
  delete lossScale.master;
  return lossScale as LossScaleConfig;
}

/** @internal The keys of {@link TrainingConfig}. */
export const TRAINING_KEYS: readonly (keyof TrainingConfig)[] = [
  'batchSize',
  'maxSequenceLength',
  'gradientAccumulation',
  'mixedPrecision',
  'checkpoint',
];

/**
 * A training configuration: the given options, defaults for the others.
 *
 * @throws OptionError.
 */
export function trainingConfig(options: Partial<TrainingConfig> = {}): TrainingConfig {
  const op = 'TrainingConfig';
  checkOptions(op, options, TRAINING_KEYS);
  const size = (name: 'batchSize' | 'maxSequenceLength' | 'gradientAccumulation', otherwise: number): number =>
    checkInteger(op, name, options[name] ?? otherwise, 1, 2 ** 31 - 1);
  const sizes = {
    batchSize: size('batchSize', 4),
    maxSequenceLength: size('maxSequenceLength', 2048),
    gradientAccumulation: size('gradientAccumulation', 4),
  };
  let { mixedPrecision = fp16() } = options;
  if (mixedPrecision !== null) {
    checkObject(op, 'mixedPrecision', mixedPrecision);
    mixedPrecision = {
      compute: checkOneOf(op, 'mixedPrecision.compute', mixedPrecision.compute, FLOAT_DTYPES),
      master: checkOneOf(op, 'mixedPrecision.master', mixedPrecision.master, ['float32']),
      ...resolveLossScale(`${op}.mixedPrecision`, lossScaleOf(mixedPrecision)),
    };
  }
  const checkpoint = options.checkpoint ?? {};
  resolveCheckpointConfig(checkpoint);
  return { ...sizes, mixedPrecision, checkpoint: { enabled: true, every: 1, ...checkpoint } };
}
