// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { setImmediate as nextTurn } from 'node:timers/promises';
import { checkInteger, checkNumber, checkOptions, checkPath, checkSignal, checkTensor } from '../check.js';
import { describe } from '../describe.js';
import type { Device } from '../device.js';
import { FormatError, OptionError, ShapeError, TrainingError } from '../errors.js';
import { isObject } from '../formats/json.js';
import { Module, overwrite } from '../nn/module.js';
import { defaultGenerator, type RandomState } from '../random.js';
import { keep, tidy } from '../scope.js';
import type { Tensor } from '../tensor.js';
import { AdamW } from './adamw.js';
import { CheckpointFolder, readTrainingCheckpoint, type CheckpointContent } from './checkpoint-folder.js';
import { fp32, lossScaleOf, TRAINING_KEYS, trainingConfig, type TrainingConfig } from './config.js';
import { batchTensors, isTokenArray, TokenDataset, type Batch, type BatchSource, type Json } from './data.js';
import type { TokenBatch } from './data.js';
import { gradNorm } from './grad-norm.js';
import { GradientSum } from './gradient-sum.js';
import { LossScaler, type LossScalerState } from './loss-scaler.js';
import { meanLoss } from './mean-loss.js';
import { MetricsFile } from './metrics-file.js';
import { checkTrainerOptions } from './trainer-options.js';
import type { LossModel, StepReport, TrainerOptions, TrainOptions, TrainResult } from './trainer-options.js';

/** The part of a checkpoint that is not tensors. */
interface SavedState {
  step: number;
  tokens: number;
  seconds: number;
  optimizerSteps: number;
  lossScaler: LossScalerState;
  random: RandomState;
  data: Json;
  config: Omit<TrainingConfig, 'checkpoint'>;
}

function defaultOptimizer(parameters: ReadonlyMap<string, Tensor>, options: TrainerOptions['optimizer']): AdamW {
  if (typeof options === 'function') {
    const made: unknown = options(parameters);
    if (made instanceof AdamW) return made;
    throw new OptionError(`Trainer: expected an AdamW from optimizer, got ${describe(made)}`);
  }
  const all = [...parameters.values()];
  return new AdamW(
    [
      { parameters: all.filter((each) => each.shape.length > 1) },
      { parameters: all.filter((each) => each.shape.length <= 1), weightDecay: 0 },
    ],
    options,
  );
}

/** Throws FormatError unless a run can go on from this. */
function savedState(file: string, state: Readonly<Record<string, unknown>>): SavedState {
  const { random, config, lossScaler, seconds } = state;
  const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
  const counts = [
    state.step,
    state.tokens,
    state.optimizerSteps,
    ...(isObject(random) ? [random.seed, random.offset] : [-1]),
  ];
  if (!counts.every(isCount) || typeof seconds !== 'number' || !isObject(config) || !isObject(lossScaler))
    throw new FormatError(`${file}: expected the state of a run, got other JSON`, file, 8);
  return state as unknown as SavedState;
}

/**
 * Trains a model: micro-batches are accumulated to a step, gradients clipped, the loss scaled for float16; with evaluations, checkpoints and a file of
 * metrics. A run that was stopped and resumed, with the same options, goes on to the same bits as one that was never stopped: model, optimizer,
 * loss scale, the library's random numbers (`defaultGenerator`) and the position in the data are all in the checkpoint.
 *
 * The loss of a step is the mean over all its targets, not the mean of its micro-batches' means: each micro-batch weighs count / (count of
 * all). So the gradient is that of the one large batch, to rounding.
 *
 * ```
 * const trainer = new Trainer({ model, data: tokens, mixedPrecision: bf16(), save: { folder: 'run', every: 100 } });
 * await trainer.resume();
 * await trainer.train({ steps: 1000 });
 * ```
 */
export class Trainer<B extends Batch = TokenBatch> {
  /** With every default filled in. */
  readonly config: TrainingConfig;
  /** What is trained. */
  readonly model: Module;
  /** What updates its parameters. */
  readonly optimizer: AdamW;
  /** Scales the loss of float16 models. */
  readonly lossScaler: LossScaler;

  private readonly options: TrainerOptions<B>;
  private readonly data: BatchSource<B>;
  private readonly parameters: readonly Tensor[];
  private readonly device: Device;
  private readonly folder: CheckpointFolder | null;
  private readonly learningRate: (step: number) => number;
  private readonly maxGradNorm: number;
  private done = 0;
  private savedStep = 0;
  private tokens = 0;
  private seconds = 0;
  private resumed = false;
  private running = false;

  /** @throws OptionError, DTypeError, DisposedError, OutOfMemoryError. */
  constructor(options: TrainerOptions<B>) {
    const op = 'Trainer';
    checkTrainerOptions(options);
    const { model, data, seed, save, learningRate, optimizer = {} } = options;
    this.config = trainingConfig(
      Object.fromEntries(Object.entries(options).filter(([key]) => (TRAINING_KEYS as string[]).includes(key))),
    );
    const { batchSize, maxSequenceLength, mixedPrecision, checkpoint } = this.config;
    this.data = isTokenArray(data)
      ? // Whoever gives tokens has B = TokenBatch, the default.
        (new TokenDataset(data, { batchSize, sequenceLength: maxSequenceLength, seed }) as unknown as BatchSource<B>)
      : data;
    if ('checkpointConfig' in model) {
      model.checkpointConfig = checkpoint;
    } else if (options.checkpoint !== undefined && checkpoint.enabled) {
      throw new OptionError(`${op}: expected a model with a checkpointConfig beside checkpoint, got one without`);
    }
    if (mixedPrecision) model.to({ dtype: mixedPrecision.compute });
    this.options = options;
    this.model = model;
    this.parameters = model.parameters();
    this.device = this.parameters[0].device;
    this.maxGradNorm = options.maxGradNorm ?? 1;
    this.lossScaler = new LossScaler(lossScaleOf(mixedPrecision ?? fp32()));
    this.folder = save ? new CheckpointFolder(save.folder, save.keep ?? 3) : null;
    this.optimizer = defaultOptimizer(
      model.namedParameters(),
      typeof optimizer === 'function'
        ? optimizer
        : { ...(mixedPrecision && { masterWeights: mixedPrecision.master === 'float32' }), ...optimizer },
    );
    const constant = typeof learningRate === 'number' ? learningRate : this.optimizer.learningRate;
    this.learningRate = typeof learningRate === 'function' ? learningRate : () => constant;
  }

  /** Steps done since the beginning of the run. */
  get step(): number {
    return this.done;
  }

  /**
   * Trains until the run has `steps` steps.
   *
   * @throws OptionError; TrainingError if gradients are not finite and the loss scale cannot be lowered for them; KernelError; what the data,
   * the loss, a callback or the file system throws. A step that throws leaves everything as it was before it; the trainer can be used on.
   */
  async train(options: TrainOptions): Promise<TrainResult> {
    const op = 'Trainer.train';
    checkOptions(op, options, ['steps', 'signal']);
    checkSignal(op, options.signal);
    const steps = checkInteger(op, 'steps', options.steps, 0, Number.MAX_SAFE_INTEGER);
    if (this.running) throw new OptionError(`${op}: expected a trainer at rest, got one that is training`);
    this.running = true;
    let metrics: MetricsFile | null = null;
    try {
      await this.refuseOtherRun();
      if (this.options.metrics !== undefined)
        metrics = await MetricsFile.open(this.options.metrics, this.done, this.resumed || this.done > 0);
      return await this.run(steps, metrics, options.signal);
    } finally {
      this.running = false;
      await metrics?.close();
    }
  }

  /**
   * Takes the run up where a checkpoint has left it. Training then goes on as if it had never stopped, and overwrites what came after.
   *
   * @param file default: the newest of the folder `save` names; if there is none, the run is at its beginning.
   * @returns the step the run is at.
   * @throws OptionError, ShapeError, DTypeError if the checkpoint is of another model, configuration or data; FormatError if it is no
   * checkpoint. Nothing is changed then.
   */
  async resume(file?: string): Promise<number> {
    const op = 'Trainer.resume';
    if (this.running) throw new OptionError(`${op}: expected a trainer at rest, got one that is training`);
    if (file === undefined && !this.folder) {
      throw new OptionError(`${op}: expected a file, or a trainer made with save, got neither`);
    }
    if (file !== undefined) checkPath(op, 'file', file);
    const found = file ?? (await this.folder?.latest());
    if (found) {
      const content = await readTrainingCheckpoint(found, { device: this.device });
      try {
        await this.restore(found, content);
      } finally {
        for (const tensor of content.tensors.values()) tensor.dispose();
      }
    }
    this.resumed = true;
    return this.done;
  }

  /**
   * Writes a checkpoint into the folder `save` names.
   *
   * @returns its file.
   */
  async save(): Promise<string> {
    if (!this.folder) throw new OptionError('Trainer.save: expected a trainer made with save, got one without');
    const file = await this.folder.write(this.done, this.content());
    this.savedStep = this.done;
    return file;
  }

  /** The mean loss over all targets of the evaluation's data, without dropout. Takes no random numbers from the run. */
  async evaluate(): Promise<number> {
    const { evaluation } = this.options;
    if (!evaluation) {
      throw new OptionError('Trainer.evaluate: expected a trainer made with evaluation, got one without');
    }
    const { model } = this.options;
    const { training } = model;
    model.eval();
    try {
      return await meanLoss(evaluation.data(), (batch) => evaluation.loss?.(batch) ?? this.lossOf(batch));
    } finally {
      model.train(training);
    }
  }

  /** Frees the optimizer's memory. The model stays. */
  dispose(): void {
    this.optimizer.dispose();
  }

  /** Called at the end of a `using` block: see {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  private async run(steps: number, metrics: MetricsFile | null, signal?: AbortSignal): Promise<TrainResult> {
    const { evaluation, save, onStep, onEvaluate } = this.options;
    const result: TrainResult = { step: this.done, reason: 'done', loss: null, evaluation: null };
    const isTime = (every: number | undefined): boolean =>
      this.done === steps || (every !== undefined && this.done % every === 0);
    const begin = performance.now() - this.seconds * 1000;
    while (this.done < steps) {
      // A device that computes at the call leaves the event loop no time to abort the signal.
      if (signal) await nextTurn();
      if (signal?.aborted) {
        result.reason = 'aborted';
        break;
      }
      const report = await this.takeStep();
      if (!report) {
        result.reason = 'exhausted';
        break;
      }
      this.seconds = report.seconds = (performance.now() - begin) / 1000;
      result.step = this.done;
      result.loss = report.loss;
      try {
        if (evaluation && isTime(evaluation.every)) result.evaluation = report.evaluation = await this.evaluate();
      } finally {
        await metrics?.append(report);
      }
      await onStep?.(report);
      if (report.evaluation !== undefined) await onEvaluate?.({ step: this.done, loss: report.evaluation });
      if (save && isTime(save.every)) await this.checkpoint(metrics);
    }
    if (result.reason === 'exhausted' && evaluation && result.loss !== null) {
      const loss = await this.evaluate();
      result.evaluation = loss;
      await metrics?.append({ step: this.done, seconds: this.seconds, evaluation: loss });
      await onEvaluate?.({ step: this.done, loss });
    }
    if (save && this.savedStep !== this.done) await this.checkpoint(metrics);
    return result;
  }

  private async checkpoint(metrics: MetricsFile | null): Promise<void> {
    await metrics?.sync();
    const file = await this.save();
    await this.options.onCheckpoint?.({ step: this.done, file });
  }

  /** One step, or null at the end of the data. If it throws, everything is as it was before. */
  private async takeStep(): Promise<StepReport | null> {
    const before = { data: this.data.state(), random: defaultGenerator().state, lossScaler: this.lossScaler.state };
    const sum = new GradientSum(this.parameters);
    const losses: { value: Tensor; weight: number }[] = [];
    try {
      const batches = await this.draw();
      if (batches.length === 0) return null;
      const step = this.done + 1;
      const learningRate = checkNumber('Trainer', 'learningRate', this.learningRate(step), 0);
      const count = batches.reduce((total, batch) => total + batch.count, 0);
      if (count === 0) throw new TrainingError(`Trainer: expected at least one target in step ${step}, got none`);
      const counted = batches.filter((batch) => batch.count > 0);
      const { scale: lossScale } = this.lossScaler;
      for (const batch of counted) {
        const weight = batch.count / count;
        losses.push({ value: this.backward(batch, weight), weight });
        if (counted.length > 1) sum.add();
      }
      sum.finish();
      const { norm, coefficient } = gradNorm(this.parameters, { maxNorm: this.maxGradNorm, lossScale });
      losses.push({ value: keep(norm), weight: 0 }, { value: keep(coefficient), weight: 0 });
      const [gradientNorm, ...values] = await Promise.all(
        [norm, ...losses.slice(0, counted.length).map(({ value }) => value)].map((each) => each.item()),
      );
      const good = this.lossScaler.update(gradientNorm);
      if (good) {
        this.optimizer.learningRate = learningRate;
        this.optimizer.step({ coefficient });
      } else if (!this.lossScaler.config.dynamic) {
        throw new TrainingError(`Trainer: expected finite gradients in step ${step}, got a norm of ${gradientNorm}`);
      }
      this.done = step;
      this.tokens += count;
      return {
        step,
        loss: values.reduce((total, value, i) => total + value * losses[i].weight, 0),
        learningRate,
        gradNorm: gradientNorm,
        lossScale,
        tokens: this.tokens,
        seconds: this.seconds,
        skipped: !good,
      };
    } catch (error) {
      await this.data.loadState(before.data);
      defaultGenerator().state = before.random;
      this.lossScaler.state = before.lossScaler;
      throw error;
    } finally {
      sum.dispose();
      for (const { value } of losses) value.dispose();
      this.model.clearGrad();
    }
  }

  private async draw(): Promise<B[]> {
    const batches: B[] = [];
    while (batches.length < this.config.gradientAccumulation) {
      const batch = await this.data.next();
      if (!batch) break;
      checkNumber('Trainer', 'count of a batch', batch.count, 0);
      this.checkSizes(batch as Partial<TokenBatch>);
      batches.push(batch);
    }
    return batches;
  }

  /** No more tokens than configured; of packed documents, in all and in one. */
  private checkSizes({ rows = 1, sequence = 1, cuSeqlens }: Partial<TokenBatch>): void {
    const { batchSize, maxSequenceLength } = this.config;
    checkInteger('Trainer', 'rows of a batch', rows, 1, batchSize);
    checkInteger('Trainer', 'sequence of a batch', sequence, 1, maxSequenceLength * (cuSeqlens ? batchSize : 1));
    const longest = cuSeqlens?.reduce((most, end, i) => Math.max(most, end - (cuSeqlens[i - 1] ?? 0)), 0) ?? 0;
    checkInteger('Trainer', 'the longest document of a batch', longest, 0, maxSequenceLength);
  }

  /** Forward and backward of a micro-batch; gives its loss. */
  private backward(batch: B, weight: number): Tensor {
    return keep(
      tidy(() => {
        const loss = checkTensor('Trainer', 'loss', this.lossOf(batch));
        if (loss.size !== 1) {
          throw new ShapeError(`Trainer: expected a loss of one element, got shape [${loss.shape.join(', ')}]`);
        }
        this.lossScaler.scaleLoss(loss, weight).backward();
        return loss.detach();
      }),
    );
  }

  private lossOf(batch: B): Tensor {
    if (this.options.loss) return this.options.loss(batch);
    const tokens = batch as Batch as TokenBatch;
    const { ids, targets } = batchTensors(tokens, { device: this.device });
    const { cuSeqlens } = tokens;
    return (this.model as LossModel).loss(ids, targets, ...(cuSeqlens ? [{ cuSeqlens }] : []));
  }

  /** A run that begins must not mix its files with those of another. */
  private async refuseOtherRun(): Promise<void> {
    if (this.resumed || this.done > 0) return;
    const other = await this.folder?.latest();
    if (other) throw new OptionError(`Trainer: expected resume(), or a folder without checkpoints, got ${other}`);
  }

  private tensors(): Map<string, Tensor> {
    const { tensors } = this.optimizer.state();
    const weights = this.options.save?.weights === 'trained' ? this.model.namedParameters() : this.model.state();
    return new Map([
      ...[...weights].map(([name, tensor]) => [`model.${name}`, tensor] as const),
      ...[...tensors].map(([name, tensor]) => [`optimizer.${name}`, tensor] as const),
    ]);
  }

  /** What changes the course of a run. */
  private fixedConfig(): SavedState['config'] {
    const { batchSize, maxSequenceLength, gradientAccumulation, mixedPrecision } = this.config;
    return { batchSize, maxSequenceLength, gradientAccumulation, mixedPrecision };
  }

  private content(): CheckpointContent {
    const state: SavedState = {
      step: this.done,
      tokens: this.tokens,
      seconds: this.seconds,
      optimizerSteps: this.optimizer.stepCount,
      lossScaler: this.lossScaler.state,
      random: defaultGenerator().state,
      data: this.data.state(),
      config: this.fixedConfig(),
    };
    return { tensors: this.tensors(), state: state as unknown as CheckpointContent['state'] };
  }

  private async restore(file: string, { tensors, state }: CheckpointContent): Promise<void> {
    const op = 'Trainer.resume';
    const saved = savedState(file, state);
    for (const [name, own] of Object.entries(this.fixedConfig())) {
      const given = (saved.config as Record<string, unknown>)[name];
      if (JSON.stringify(given) !== JSON.stringify(own)) {
        throw new OptionError(
          `${op}: expected ${JSON.stringify(given)} for ${name} as in the checkpoint, got ${JSON.stringify(own)}`,
        );
      }
    }
    new LossScaler(this.lossScaler.config).state = saved.lossScaler; // throws what ours would
    const before = this.data.state();
    await this.data.loadState(saved.data);
    try {
      await overwrite(op, this.tensors(), tensors);
    } catch (error) {
      await this.data.loadState(before);
      throw error;
    }
    this.optimizer.stepCount = saved.optimizerSteps;
    this.lossScaler.state = saved.lossScaler;
    defaultGenerator().state = saved.random;
    this.done = this.savedStep = saved.step;
    this.tokens = saved.tokens;
    this.seconds = saved.seconds;
  }
}
