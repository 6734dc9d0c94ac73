// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  checkFunction,
  checkInteger,
  checkNumber,
  checkObject,
  checkOneOf,
  checkOptions,
  checkPath,
  checkPositive,
} from '../check.js';
import { describe } from '../describe.js';
import { OptionError } from '../errors.js';
import { Module } from '../nn/module.js';
import type { PackedDocuments } from '../nn/transformer.js';
import type { Tensor } from '../tensor.js';
import type { AdamW, AdamWOptions } from './adamw.js';
import { TRAINING_KEYS, type TrainingConfig } from './config.js';
import { isTokenArray, type Batch, type BatchSource, type TokenArray, type TokenBatch } from './data.js';

/** What one step did; a line of the metrics file, where numbers that are not finite are null. */
export interface StepReport {
  /** Counted from 1. */
  step: number;
  /** The mean over all targets of the step, in front of the update. */
  loss: number;
  /** Of the update. */
  learningRate: number;
  /** Before clipping, without the loss scale. */
  gradNorm: number;
  /** What the loss of this step was multiplied by. */
  lossScale: number;
  /** Targets of all steps so far. */
  tokens: number;
  /** Spent in `train()` so far. */
  seconds: number;
  /** True if the gradients overflowed: the parameters are what they were, and the loss scale is lower. */
  skipped: boolean;
  /** The evaluation loss after this step, if it was time. */
  evaluation?: number;
}

/** How a {@link Trainer} is evaluated. */
export interface EvaluationOptions<B extends Batch> {
  /** The batches of an evaluation, from their beginning at every call: `() => dataset.pass()`. */
  data(): Iterable<B> | AsyncIterable<B>;
  /** Steps from one evaluation to the next; there is one at the end anyway. Default: only that. */
  every?: number;
  /** The mean loss of a batch. Default: the trainer's. */
  loss?(batch: B): Tensor;
}

/** Where a {@link Trainer} puts its checkpoints. */
export interface SaveOptions {
  /** Made if it is not there. */
  folder: string;
  /** Steps from one checkpoint to the next; there is one when `train()` ends or is aborted anyway. Default: only that. */
  every?: number;
  /** How many checkpoints stay. Default 3. */
  keep?: number;
  /**
   * Which tensors of the model are in a checkpoint: all, or those that are trained. The others have to be in the model again when the run is resumed;
   * of adapters on a large model this saves most of the file. Default `all`.
   */
  weights?: 'all' | 'trained';
}

/** A model that says itself what it loses on tokens, as {@link CausalLM}. */
export interface LossModel extends Module {
  /**
   * The mean loss of the targets, a tensor of one element.
   *
   * @param options `cuSeqlens`: the row is packed of documents, which must not see each other. Given for batches that have it, and only then.
   */
  loss(ids: Tensor, targets: Tensor, options?: Partial<PackedDocuments>): Tensor;
}

/** What a {@link Trainer} is made of; the {@link TrainingConfig} has its defaults. */
export interface TrainerOptions<B extends Batch = TokenBatch> extends Partial<TrainingConfig> {
  /** Its parameters are turned into the compute dtype of `mixedPrecision`, and its `checkpointConfig`, if it has one, becomes `checkpoint`. */
  model: Module;
  /**
   * The mean loss of a micro-batch over its `count` targets, a tensor of one element; runs inside a `tidy`. Default, for batches of tokens:
   * `model.loss(ids, targets)`, with `{ cuSeqlens }` if the batch has it.
   */
  loss?(batch: B): Tensor;
  /** Tokens, for a {@link TokenDataset} with the sizes of the configuration; or any source of batches. */
  data: BatchSource<B> | TokenArray;
  /** Of the order of the windows, where `data` are tokens. Default 0. */
  seed?: number;
  /** A constant, or the learning rate of each step, counted from 1: {@link warmupCosine}. Default: the optimizer's. */
  learningRate?: number | ((step: number) => number);
  /** The joint norm that gradients are clipped to. Default 1; Infinity for none. */
  maxGradNorm?: number;
  /** Options of the {@link AdamW}, which decays matrices alone; or a function that makes one of the named parameters. */
  optimizer?: AdamWOptions | ((parameters: ReadonlyMap<string, Tensor>) => AdamW);
  /** Default: no evaluation. */
  evaluation?: EvaluationOptions<B>;
  /** Default: no checkpoints. */
  save?: SaveOptions;
  /** A file that gets a line of JSON for each step, see {@link StepReport}. */
  metrics?: string;
  /** Callbacks are awaited. An error in one stops `train()`, which throws it; the step it was told of stays done. */
  onStep?(report: StepReport): void | Promise<void>;
  /** Called after each evaluation, as `onStep` is. */
  onEvaluate?(report: { step: number; loss: number }): void | Promise<void>;
  /** Called when a checkpoint is on the disk, as `onStep` is. */
  onCheckpoint?(report: { step: number; file: string }): void | Promise<void>;
}

/** How far {@link Trainer.train} goes. */
export interface TrainOptions {
  /** The step to stop after, counted from the beginning of the run. */
  steps: number;
  /** Stops after the step in progress. */
  signal?: AbortSignal;
}

/** How {@link Trainer.train} ended. */
export interface TrainResult {
  /** Steps done since the beginning of the run. */
  step: number;
  /** `done`: all steps; `aborted`: by the signal; `exhausted`: the data came to an end. */
  reason: 'done' | 'aborted' | 'exhausted';
  /** Of the last step of this call; null if there was none. */
  loss: number | null;
  /** Of the last evaluation of this call; null if there was none. */
  evaluation: number | null;
}

const OPTION_KEYS = [
  ...TRAINING_KEYS,
  ...['model', 'loss', 'data', 'seed', 'learningRate', 'maxGradNorm', 'optimizer', 'evaluation', 'save', 'metrics'],
  ...['onStep', 'onEvaluate', 'onCheckpoint'],
];

/** @internal Everything but what {@link trainingConfig} checks. */
export function checkTrainerOptions<B extends Batch>(options: TrainerOptions<B>): void {
  const op = 'Trainer';
  checkOptions(op, options, OPTION_KEYS);
  const { model, data, loss, evaluation, save, learningRate, maxGradNorm = 1 } = options;
  if (!(model instanceof Module)) throw new OptionError(`${op}: expected a Module for model, got ${describe(model)}`);
  if (model.parameters().length === 0) {
    throw new OptionError(`${op}: expected a model with parameters to train, got none`);
  }
  if (!loss && typeof (model as LossModel).loss !== 'function') {
    throw new OptionError(`${op}: expected a loss, or a model that has one, got neither`);
  }
  if (!isTokenArray(data) && typeof (data as BatchSource<B> | undefined)?.next !== 'function') {
    throw new OptionError(`${op}: expected tokens or a source of batches for data, got ${describe(data)}`);
  }
  if (!isTokenArray(data) && options.seed !== undefined) {
    throw new OptionError(`${op}: expected tokens as data beside seed, got a source with an order of its own`);
  }
  if (loss !== undefined) checkFunction(op, 'loss', loss);
  for (const name of ['onStep', 'onEvaluate', 'onCheckpoint'] as const)
    if (options[name] !== undefined) checkFunction(op, name, options[name]);
  if (options.metrics !== undefined) checkPath(op, 'metrics', options.metrics);
  const { optimizer = {} } = options;
  if (typeof optimizer !== 'function') checkObject(op, 'optimizer', optimizer);
  if (evaluation !== undefined) {
    checkOptions(`${op}.evaluation`, evaluation, ['data', 'every', 'loss']);
    checkFunction(op, 'evaluation.data', evaluation.data);
    if (evaluation.loss !== undefined) checkFunction(op, 'evaluation.loss', evaluation.loss);
    checkInteger(op, 'evaluation.every', evaluation.every ?? 1, 1, Number.MAX_SAFE_INTEGER);
  }
  if (save !== undefined) {
    checkOptions(`${op}.save`, save, ['folder', 'every', 'keep', 'weights']);
    checkPath(op, 'save.folder', save.folder);
    checkOneOf(op, 'save.weights', save.weights ?? 'all', ['all', 'trained']);
    checkInteger(op, 'save.every', save.every ?? 1, 1, Number.MAX_SAFE_INTEGER);
    checkInteger(op, 'save.keep', save.keep ?? 3, 1, Number.MAX_SAFE_INTEGER);
  }
  if (maxGradNorm !== Infinity) checkPositive(op, 'maxGradNorm', maxGradNorm);
  if (typeof learningRate !== 'function' && learningRate !== undefined) {
    checkNumber(op, 'learningRate', learningRate, 0);
  }
}
