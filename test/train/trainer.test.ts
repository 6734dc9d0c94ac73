// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import {
  AdamW,
  add,
  bf16,
  defaultGenerator,
  device as deviceNamed,
  FormatError,
  fp16,
  fp32,
  KernelError,
  Module,
  OptionError,
  mean,
  mul,
  randn,
  scale,
  ShapeError,
  sum,
  tensor,
  TokenDataset,
  Trainer,
  TrainingError,
  uniform,
  type Batch,
  type BatchSource,
  type Json,
  type StepReport,
  type Tensor,
  type TokenBatch,
  type TrainerOptions,
} from '../../lib/index.js';
import { keep } from '../../lib/scope.js';
import { GradientSum } from '../../lib/train/gradient-sum.js';
import { holdMemory } from '../core/hold-memory.js';
import { bitsOf, describeBackends } from '../harness.js';
import { bitsOfModel, metricsOf, smallModel, someTokens, temporaryFolder, VOCABULARY } from './runs.js';

holdMemory();

const folder = temporaryFolder();
const tokens = someTokens(800);

type Options = TrainerOptions<TokenBatch>;

/** A trainer of a small model in float32, of one micro-batch a step. */
function smallTrainer(options: Partial<Options> = {}): Trainer {
  return new Trainer({
    model: options.model ?? smallModel(),
    data: tokens,
    batchSize: 2,
    maxSequenceLength: 12,
    gradientAccumulation: 1,
    mixedPrecision: fp32(),
    learningRate: 1e-2,
    ...options,
  });
}

/** One weight, whose gradient is `count` of the batch if the loss is its sum times that. */
class Weight extends Module {
  weight: Tensor;
  constructor(values: number[], dtype: 'float32' | 'float16' = 'float32') {
    super();
    this.weight = keep(tensor(values, { dtype, requiresGrad: true }));
  }
}

/** Batches with these counts. */
class Counts implements BatchSource<Batch> {
  position = 0;
  constructor(private readonly counts: readonly number[]) {}
  next(): Batch | null {
    return this.position < this.counts.length ? { count: this.counts[this.position++] } : null;
  }
  state(): Json {
    return this.position;
  }
  loadState(state: Json): void {
    this.position = state as number;
  }
}

const ENDLESS = Array.from({ length: 1000 }, () => 1);

/** The first moments after one step are the gradient times 0.1. */
async function gradientsOf(trainer: Trainer): Promise<Float32Array[]> {
  await trainer.train({ steps: 1 });
  const moments = [...trainer.optimizer.state().tensors].filter(([name]) => name.endsWith('.firstMoment'));
  return Promise.all(moments.map(async ([, moment]) => (await moment.data()) as Float32Array));
}

describeBackends((device) => {
  test('trains the default way: float16 with masters, a loss scale and recomputation', async () => {
    const model = smallModel({ device });
    const trainer = new Trainer({
      model,
      data: tokens,
      batchSize: 1,
      maxSequenceLength: 12,
      learningRate: 2e-2,
      metrics: path.join(folder(), 'metrics.jsonl'),
    });
    expect(trainer.config.gradientAccumulation).toBe(4);
    expect(model.checkpointConfig).toMatchObject({ enabled: true, every: 1 });
    expect(new Set([...model.state().values()].map((each) => each.dtype))).toEqual(new Set(['float16']));
    expect(model.config.dtype).toBe('float16');
    const reports: StepReport[] = [];
    const steps = device === 'reference' ? 6 : 25;
    for (let step = 1; step <= steps; step++) {
      const { loss } = await trainer.train({ steps: step });
      reports.push({ loss } as StepReport);
    }
    const [first, last] = [reports[0].loss, reports[steps - 1].loss];
    expect(Math.abs(first - Math.log(VOCABULARY))).toBeLessThan(0.3);
    expect(last).toBeLessThan(first - (device === 'reference' ? 0.05 : 0.5));
    expect([...trainer.optimizer.state().tensors.keys()].filter((name) => name.endsWith('.master'))).toHaveLength(
      model.parameters().length,
    );
    trainer.dispose();
    model.dispose();
  });
});

describe('gradient accumulation', () => {
  const data = (batchSize: number): TokenDataset =>
    new TokenDataset(tokens, { batchSize, sequenceLength: 12, ignoreToken: 7 });

  test('the gradient is that of the one large batch, though micro-batches count different numbers of targets', async () => {
    const [many, one, again] = [2, 8, 2].map((batchSize) => data(batchSize));
    const counts = [0, 1, 2, 3].map(() => again.next().count);
    expect(new Set(counts).size).toBeGreaterThan(1);
    const split = smallTrainer({ data: many, batchSize: 2, gradientAccumulation: 4, maxGradNorm: Infinity });
    const whole = smallTrainer({ data: one, batchSize: 8, maxGradNorm: Infinity });
    const [splitGradients, wholeGradients] = [await gradientsOf(split), await gradientsOf(whole)];
    expect(many.state()).toEqual(one.state());
    for (const [i, gradient] of wholeGradients.entries()) {
      const largest = gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      gradient.forEach((value, j) => {
        expect(Math.abs(splitGradients[i][j] - value)).toBeLessThan(1e-5 * largest);
      });
    }
  });

  test('so are loss, norm and targets of each step', async () => {
    const run = async (batchSize: number, gradientAccumulation: number): Promise<StepReport[]> => {
      const reports: StepReport[] = [];
      await smallTrainer({
        data: data(batchSize),
        batchSize,
        gradientAccumulation,
        learningRate: 1e-3,
        onStep: (report) => void reports.push(report),
      }).train({ steps: 4 });
      return reports;
    };
    const [split, whole] = [await run(2, 4), await run(8, 1)];
    for (const [i, report] of whole.entries()) {
      expect(Math.abs(split[i].loss / report.loss - 1)).toBeLessThan(1e-5);
      expect(Math.abs(split[i].gradNorm / report.gradNorm - 1)).toBeLessThan(1e-4);
      expect(split[i].tokens).toBe(report.tokens);
    }
  });

  test('is not a mean of means', async () => {
    // The loss of a batch of n is n times the weight: weighed by targets (1 * 1 + 3 * 3) / 4 times, as a mean of means 2 times.
    const model = new Weight([2]);
    const losses: number[] = [];
    const trainer = new Trainer<Batch>({
      model,
      data: new Counts([1, 3]),
      loss: ({ count }) => scale(sum(model.weight), count),
      gradientAccumulation: 2,
      mixedPrecision: null,
      onStep: ({ loss, gradNorm }) => void losses.push(loss, gradNorm),
    });
    await trainer.train({ steps: 1 });
    expect(losses).toEqual([5, 2.5]);
  });

  test('the same micro-batch twice is, to the bit, the micro-batch once', async () => {
    const repeated = (times: number): BatchSource<TokenBatch> => {
      const inner = new TokenDataset(tokens, { batchSize: 2, sequenceLength: 12 });
      let [batch, left] = [inner.next(), times];
      return {
        next() {
          if (left-- === 0) [batch, left] = [inner.next(), times - 1];
          return batch;
        },
        state: () => null,
        loadState: () => undefined,
      };
    };
    // A tied embedding has two gradients, which are added to the sum one after the other: that is another order.
    const [once, twice] = [1, 2].map((times) =>
      smallTrainer({
        model: smallModel({ tieEmbeddings: false }),
        data: repeated(times),
        gradientAccumulation: times,
      }),
    );
    await once.train({ steps: 3 });
    await twice.train({ steps: 3 });
    expect(await bitsOfModel(twice.model)).toEqual(await bitsOfModel(once.model));
  });

  test('one micro-batch is, to the bit, a step by hand', async () => {
    const model = smallModel();
    const data = new TokenDataset(tokens, { batchSize: 2, sequenceLength: 12 });
    const [matrices, vectors] = [true, false].map((matrix) =>
      model.parameters().filter((each) => each.shape.length > 1 === matrix),
    );
    const optimizer = new AdamW([{ parameters: matrices }, { parameters: vectors, weightDecay: 0 }], {
      learningRate: 1e-2,
    });
    for (let step = 0; step < 3; step++) {
      const { ids, targets, rows, sequence } = data.next();
      const shape = [rows, sequence];
      model.loss(tensor(ids, { shape }), tensor(targets, { shape })).backward();
      optimizer.step();
      model.clearGrad();
    }
    const trainer = smallTrainer({ maxGradNorm: Infinity });
    await trainer.train({ steps: 3 });
    expect(await bitsOfModel(trainer.model)).toEqual(await bitsOfModel(model));
  });

  test('gradients of 16-bit parameters are added in float32', async () => {
    const parameter = tensor([0], { dtype: 'bfloat16', requiresGrad: true });
    const sums = new GradientSum([parameter]);
    for (const value of [1, 2 ** -9, 2 ** -9, 2 ** -9]) {
      parameter.grad = keep(tensor([value], { dtype: 'bfloat16' }));
      sums.add();
      expect(parameter.grad).toBeNull();
    }
    sums.finish();
    const grad = parameter.grad as unknown as Tensor;
    expect(grad.dtype).toBe('float32');
    expect(await grad.item()).toBe(1 + 3 * 2 ** -9);
  });

  test('batches without targets are left out; a step without any is an error', async () => {
    const model = new Weight([2]);
    const seen: number[] = [];
    const trainer = new Trainer<Batch>({
      model,
      data: new Counts([0, 4, 0, 0]),
      loss: ({ count }) => {
        seen.push(count);
        return sum(model.weight);
      },
      gradientAccumulation: 2,
      mixedPrecision: null,
    });
    await trainer.train({ steps: 1 });
    expect(seen).toEqual([4]);
    await expect(trainer.train({ steps: 2 })).rejects.toThrow(
      new TrainingError('Trainer: expected at least one target in step 2, got none'),
    );
  });
});

describe('mixed precision', () => {
  test('bfloat16 with masters follows float32, where bfloat16 alone stalls', async () => {
    const start = randn([16, 16], { seed: 3 });
    const goal = await randn([16, 16], { seed: 4, std: 0.04 }).data();
    const values = await start.data();
    /** Mean squared distance to a goal close by, in steps far smaller than a unit in a bfloat16's last place. */
    const run = async (options: Partial<TrainerOptions<Batch>>, dtype: 'float32' | 'bfloat16'): Promise<number[]> => {
      class Point extends Module {
        point = keep(tensor(values, { shape: [16, 16], dtype, requiresGrad: true }));
      }
      const minusTarget = tensor(
        values.map((value, i) => -value - goal[i]),
        { shape: [16, 16] },
      );
      const model = new Point();
      const losses: number[] = [];
      await new Trainer<Batch>({
        model,
        data: new Counts(ENDLESS),
        loss: () => {
          const difference = add(model.point.cast('float32'), minusTarget);
          return mean(mul(difference, difference));
        },
        gradientAccumulation: 1,
        learningRate: 2e-4,
        onStep: ({ loss }) => void losses.push(loss),
        ...options,
      }).train({ steps: 300 });
      return losses;
    };
    const exact = await run({ mixedPrecision: fp32() }, 'float32');
    const masters = await run({ mixedPrecision: bf16() }, 'float32');
    const alone = await run({ mixedPrecision: null, optimizer: { masterWeights: false } }, 'bfloat16');
    const [begin, end] = [exact[0], exact[299]];
    expect(end).toBeLessThan(0.1 * begin);
    // What is left is the rounding of the parameters themselves.
    expect(masters[299]).toBeLessThan(0.1 * begin);
    for (let i = 0; i < 300; i += 10) expect(Math.abs(masters[i] - exact[i])).toBeLessThan(0.05 * begin);
    expect(alone[299]).toBeGreaterThan(0.5 * begin);
  });

  test('a language model in bfloat16 with masters learns as in float32', async () => {
    const run = async (options: Partial<Options>): Promise<number> => {
      // At three times the rate runs that differ by a rounding come 0.1 apart in 50 steps, to either side.
      const trainer = smallTrainer({ learningRate: 3e-3, ...options });
      const losses: number[] = [];
      for (let step = 1; step <= 50; step++) losses.push((await trainer.train({ steps: step })).loss as number);
      return losses.slice(-10).reduce((total, loss) => total + loss / 10, 0);
    };
    const exact = await run({ mixedPrecision: fp32() });
    expect(exact).toBeLessThan(3);
    expect(Math.abs((await run({ mixedPrecision: bf16() })) - exact)).toBeLessThan(0.05);
    expect(Math.abs((await run({ mixedPrecision: fp16() })) - exact)).toBeLessThan(0.05);
  });

  test('a step whose gradients overflow changes nothing but the scale', async () => {
    const model = new Weight([1, 2, 3]);
    const reports: StepReport[] = [];
    const trainer = new Trainer<Batch>({
      model,
      data: new Counts(ENDLESS),
      // Gradients of ones: 65536 of them overflows float16, 32768 does not.
      loss: () => sum(model.weight),
      gradientAccumulation: 1,
      mixedPrecision: fp16({ growthInterval: 2 }),
      maxGradNorm: Infinity,
      onStep: (report) => void reports.push(report),
    });
    const before = await bitsOfModel(model);
    const moments = async (): Promise<number[][]> =>
      Promise.all([...trainer.optimizer.state().tensors.values()].map(bitsOf));
    const momentsBefore = await moments();
    await trainer.train({ steps: 1 });
    expect(await bitsOfModel(model)).toEqual(before);
    expect(await moments()).toEqual(momentsBefore);
    expect([trainer.optimizer.stepCount, trainer.step, trainer.lossScaler.scale]).toEqual([0, 1, 32768]);
    await trainer.train({ steps: 6 });
    expect(reports.map(({ skipped }) => skipped)).toEqual([true, false, false, true, false, false]);
    expect(reports.map(({ lossScale }) => lossScale)).toEqual([65536, 32768, 32768, 65536, 32768, 32768]);
    expect(reports[0].gradNorm).toBe(Infinity);
    expect(reports[1].gradNorm).toBe(Math.fround(Math.sqrt(3)));
    expect(trainer.optimizer.stepCount).toBe(4);
  });

  test('without a dynamic scale, gradients that are not finite end the run, and the step is not taken', async () => {
    const model = new Weight([1, 1]);
    const data = new Counts(ENDLESS);
    let factor = 1;
    const trainer = new Trainer<Batch>({
      model,
      data,
      loss: () => scale(sum(model.weight), factor),
      gradientAccumulation: 3,
      mixedPrecision: null,
    });
    await trainer.train({ steps: 1 });
    const before = await bitsOfModel(model);
    factor = 3e38;
    await expect(trainer.train({ steps: 2 })).rejects.toThrow(
      new TrainingError('Trainer: expected finite gradients in step 2, got a norm of Infinity'),
    );
    expect([trainer.step, trainer.optimizer.stepCount, data.position]).toEqual([1, 1, 3]);
    expect(await bitsOfModel(model)).toEqual(before);
    expect(model.weight.grad).toBeNull();
    factor = 1;
    expect((await trainer.train({ steps: 2 })).step).toBe(2);
  });
});

describe('evaluation', () => {
  test('every n steps and at the end, over all targets, without touching the run', async () => {
    const dataset = new TokenDataset(tokens, { batchSize: 5, sequenceLength: 12, ignoreToken: 3 });
    const told: { step: number; loss: number }[] = [];
    const metrics = path.join(folder(), 'metrics.jsonl');
    const evaluated = smallTrainer({
      metrics,
      evaluation: {
        data: () => dataset.pass(),
        every: 2,
        loss({ ids, targets, rows, sequence }) {
          uniform([3]); // the run must not notice
          const shape = [rows, sequence];
          return evaluatedModel.loss(tensor(ids, { shape }), tensor(targets, { shape }));
        },
      },
      onEvaluate: (report) => void told.push(report),
    });
    const evaluatedModel = evaluated.model as ReturnType<typeof smallModel>;
    const before = defaultGenerator().state;
    const result = await evaluated.train({ steps: 5 });
    expect(defaultGenerator().state).toEqual(before);
    expect(told.map(({ step }) => step)).toEqual([2, 4, 5]);
    expect(result.evaluation).toBe(told[2].loss);
    expect((await metricsOf(metrics)).map(({ step, evaluation }) => [step, evaluation])).toEqual([
      [1, undefined],
      [2, told[0].loss],
      [3, undefined],
      [4, told[1].loss],
      [5, told[2].loss],
    ]);
    // One batch of everything is the mean over all targets.
    const all = new TokenDataset(tokens, { batchSize: dataset.windows, sequenceLength: 12, ignoreToken: 3 });
    const { ids, targets, rows, sequence } = all.pass().next().value as TokenBatch;
    const shape = [rows, sequence];
    const loss = await evaluatedModel.loss(tensor(ids, { shape }), tensor(targets, { shape })).item();
    expect(Math.abs(told[2].loss / loss - 1)).toBeLessThan(1e-5);

    const plain = smallTrainer();
    await plain.train({ steps: 5 });
    expect(await bitsOfModel(plain.model)).toEqual(await bitsOfModel(evaluated.model));
  });
});

describe('callbacks, signals and ends', () => {
  test('callbacks are awaited, in order', async () => {
    const told: string[] = [];
    const say = (what: string) => async (report: { step: number }) => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      told.push(`${what} ${report.step}`);
    };
    await smallTrainer({
      evaluation: { data: () => new TokenDataset(tokens, { sequenceLength: 12 }).pass() },
      save: { folder: folder(), every: 1 },
      onStep: say('step'),
      onEvaluate: say('evaluate'),
      onCheckpoint: say('checkpoint'),
    }).train({ steps: 2 });
    expect(told).toEqual(['step 1', 'checkpoint 1', 'step 2', 'evaluate 2', 'checkpoint 2']);
  });

  test.each(['onStep', 'onEvaluate', 'onCheckpoint'] as const)('an error in %s ends the run cleanly', async (name) => {
    let fail = true;
    const metrics = path.join(folder(), 'metrics.jsonl');
    const trainer = smallTrainer({
      evaluation: { data: () => new TokenDataset(tokens, { sequenceLength: 12 }).pass(), every: 1 },
      save: { folder: folder(), every: 1 },
      metrics,
      async [name]({ step }: { step: number }) {
        await Promise.resolve();
        if (fail && step === 2) throw new Error('enough');
      },
    });
    await expect(trainer.train({ steps: 4 })).rejects.toThrow('enough');
    expect(trainer.step).toBe(2);
    expect(trainer.model.parameters().every((each) => each.grad === null)).toBe(true);
    fail = false;
    expect(await trainer.train({ steps: 4 })).toMatchObject({ step: 4, reason: 'done' });
    expect((await metricsOf(metrics)).map(({ step }) => step)).toEqual([1, 2, 3, 4]);
    const plain = smallTrainer();
    await plain.train({ steps: 4 });
    expect(await bitsOfModel(trainer.model)).toEqual(await bitsOfModel(plain.model));
  });

  test('a loss that throws leaves the step to be taken again', async () => {
    let calls = 0;
    const model = smallModel();
    const trainer = smallTrainer({
      model,
      gradientAccumulation: 2,
      loss({ ids, targets, rows, sequence }) {
        if (++calls === 4) throw new Error('no loss');
        uniform([5]);
        const shape = [rows, sequence];
        return model.loss(tensor(ids, { shape }), tensor(targets, { shape }));
      },
    });
    await expect(trainer.train({ steps: 3 })).rejects.toThrow('no loss');
    expect(trainer.step).toBe(1);
    await trainer.train({ steps: 3 });
    const plain = smallTrainer({ gradientAccumulation: 2 });
    await plain.train({ steps: 3 });
    expect(await bitsOfModel(model)).toEqual(await bitsOfModel(plain.model));
    expect(defaultGenerator().state.offset).toBeGreaterThan(0);
  });

  test('so does a kernel that fails', async () => {
    const broken = tokens.slice(0, 60);
    broken[20] = VOCABULARY;
    const trainer = smallTrainer({
      data: new TokenDataset(broken, { batchSize: 1, sequenceLength: 12, order: 'sequential' }),
    });
    await expect(trainer.train({ steps: 9 })).rejects.toThrow(KernelError);
    expect([trainer.step, trainer.optimizer.stepCount]).toEqual([1, 1]);
    const plain = smallTrainer({
      data: new TokenDataset(tokens, { batchSize: 1, sequenceLength: 12, order: 'sequential' }),
    });
    await plain.train({ steps: 1 });
    expect(await bitsOfModel(trainer.model)).toEqual(await bitsOfModel(plain.model));
  });

  test('a signal stops after the step in progress, with a checkpoint', async () => {
    const controller = new AbortController();
    const place = folder();
    const trainer = smallTrainer({
      save: { folder: place },
      onStep({ step }) {
        if (step === 3) controller.abort();
      },
    });
    expect(await trainer.train({ steps: 9, signal: controller.signal })).toMatchObject({ step: 3, reason: 'aborted' });
    expect(readdirSync(place).sort()).toEqual(['latest', 'step-00000003.safetensors']);
    // Aborted already: no step, and no second checkpoint.
    expect(await trainer.train({ steps: 9, signal: controller.signal })).toEqual({
      step: 3,
      reason: 'aborted',
      loss: null,
      evaluation: null,
    });
    expect(await trainer.train({ steps: 4 })).toMatchObject({ step: 4, reason: 'done' });
  });

  test('data may come to an end, in the middle of a step', async () => {
    const model = new Weight([1]);
    const metrics = path.join(folder(), 'metrics.jsonl');
    const trainer = new Trainer<Batch>({
      model,
      data: new Counts([1, 1, 1]),
      loss: () => sum(model.weight),
      gradientAccumulation: 2,
      mixedPrecision: null,
      metrics,
      evaluation: { data: () => [{ count: 1 }] },
    });
    const result = await trainer.train({ steps: 9 });
    expect(result).toMatchObject({ step: 2, reason: 'exhausted' });
    expect((await metricsOf(metrics)).map(({ step, evaluation }) => [step, evaluation])).toEqual([
      [1, undefined],
      [2, undefined],
      [2, result.evaluation],
    ]);
    expect(await trainer.train({ steps: 9 })).toEqual({ step: 2, reason: 'exhausted', loss: null, evaluation: null });
  });

  test('the learning rate is the schedule of the step, or a constant', async () => {
    const rates: number[] = [];
    const onStep = ({ learningRate }: StepReport): void => void rates.push(learningRate);
    await smallTrainer({ learningRate: (step) => step / 100, onStep }).train({ steps: 3 });
    await smallTrainer({ learningRate: undefined, optimizer: { learningRate: 0.5 }, onStep }).train({ steps: 2 });
    expect(rates).toEqual([0.01, 0.02, 0.03, 0.5, 0.5]);
  });

  test('everything is freed', async () => {
    const memory = (): object => {
      const { tensors, bytes } = deviceNamed('auto').memory();
      return { tensors, bytes };
    };
    const model = smallModel();
    model.to({ dtype: 'float16' });
    const before = memory();
    const trainer = smallTrainer({
      model,
      mixedPrecision: fp16(),
      gradientAccumulation: 2,
      save: { folder: folder(), every: 1 },
      evaluation: { data: () => new TokenDataset(tokens, { sequenceLength: 12 }).pass(), every: 1 },
      onStep({ step }) {
        if (step === 3) throw new Error('enough');
      },
    });
    await expect(trainer.train({ steps: 5 })).rejects.toThrow('enough');
    await trainer.resume();
    trainer.dispose();
    expect(memory()).toEqual(before);
  });
});

describe('what is refused', () => {
  const message = (options: Partial<Options>): string => {
    try {
      smallTrainer(options);
    } catch (error) {
      expect(error).toBeInstanceOf(OptionError);
      return (error as Error).message;
    }
    return 'nothing';
  };

  test('options that make no sense', () => {
    expect(message({ batchsize: 3 } as object)).toMatch(
      /^Trainer: expected only batchSize, .* as options, got batchsize$/,
    );
    expect(message({ gradientAccumulation: 0 })).toBe(
      'TrainingConfig: expected an integer from 1 to 2147483647 for gradientAccumulation, got 0',
    );
    expect(message({ model: {} as Module })).toBe('Trainer: expected a Module for model, got an object');
    expect(message({ model: new Weight([1]) })).toBe('Trainer: expected a loss, or a model that has one, got neither');
    expect(message({ model: new Weight([1]), loss: () => tensor(1), checkpoint: { every: 2 } })).toBe(
      'Trainer: expected a model with a checkpointConfig beside checkpoint, got one without',
    );
    expect(message({ optimizer: () => undefined as unknown as AdamW })).toBe(
      'Trainer: expected an AdamW from optimizer, got undefined',
    );
    expect(message({ data: undefined })).toBe(
      'Trainer: expected tokens or a source of batches for data, got undefined',
    );
    expect(message({ maxGradNorm: 0 })).toBe('Trainer: expected a finite number above 0 for maxGradNorm, got 0');
    expect(message({ learningRate: -1 })).toBe(
      'Trainer: expected a finite number of at least 0 for learningRate, got -1',
    );
    expect(message({ save: { folder: 'x', keep: 0 } })).toMatch('for save.keep, got 0');
    expect(message({ data: new TokenDataset(tokens, { sequenceLength: 12 }), seed: 1 })).toBe(
      'Trainer: expected tokens as data beside seed, got a source with an order of its own',
    );
  });

  test('batches beyond the configuration, and losses that are none', async () => {
    const long = smallTrainer({ data: new TokenDataset(tokens, { batchSize: 2, sequenceLength: 13 }) });
    await expect(long.train({ steps: 1 })).rejects.toThrow(
      'Trainer: expected an integer from 1 to 12 for sequence of a batch, got 13',
    );
    const many = smallTrainer({ data: new TokenDataset(tokens, { batchSize: 3, sequenceLength: 12 }) });
    await expect(many.train({ steps: 1 })).rejects.toThrow(
      'Trainer: expected an integer from 1 to 2 for rows of a batch, got 3',
    );
    const model = new Weight([1, 2]);
    await expect(smallTrainer({ model, loss: () => model.weight }).train({ steps: 1 })).rejects.toThrow(
      new ShapeError('Trainer: expected a loss of one element, got shape [2]'),
    );
  });

  test('two runs at once', async () => {
    const trainer = smallTrainer();
    const first = trainer.train({ steps: 2 });
    await expect(trainer.train({ steps: 2 })).rejects.toThrow(
      'Trainer.train: expected a trainer at rest, got one that is training',
    );
    await expect(trainer.resume('x')).rejects.toThrow(OptionError);
    await first;
  });

  test("another run's files", async () => {
    const [place, metrics] = [folder(), path.join(folder(), 'metrics.jsonl')];
    await smallTrainer({ save: { folder: place }, metrics }).train({ steps: 1 });
    await expect(smallTrainer({ save: { folder: place } }).train({ steps: 1 })).rejects.toThrow(
      'Trainer: expected resume(), or a folder without checkpoints, got',
    );
    await expect(smallTrainer({ metrics }).train({ steps: 1 })).rejects.toThrow(
      'Trainer: expected no metrics of another run in',
    );
    expect((await metricsOf(metrics)).length).toBe(1);
    const text = path.join(folder(), 'notes.txt');
    writeFileSync(text, '{"step":1}\nmy notes\n');
    const resumed = smallTrainer({ save: { folder: folder() }, metrics: text });
    await resumed.resume();
    const error: unknown = await resumed.train({ steps: 1 }).catch((each: unknown) => each);
    expect(error).toBeInstanceOf(FormatError);
    expect((error as FormatError).offset).toBe(11);
    expect(existsSync(text)).toBe(true);
  });
});
