// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Trains a small ternary (BitNet b1.58) language model on the text of Moby Dick, packs its weights to two bits each, and lets it write. Run with
 * `npm run demo`; `npm run demo -- --help` lists the options.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { plot } from 'asciichart';
import { Presets, SingleBar } from 'cli-progress';
import {
  AdamW,
  CausalLM,
  device as openDevice,
  devices,
  generate,
  Generator,
  gradNorm,
  manualSeed,
  noGrad,
  tensor,
  tidy,
  warmupCosine,
  type DeviceName,
  type FloatDType,
  type Tensor,
} from 'ternflash';
import { BytePairEncoding } from './byte-pair-encoding.js';

const HELP = `Trains a small ternary language model on Moby Dick, freezes it to packed weights and generates text.

  npm run demo -- [options]

  --device NAME   auto, cuda, cpu or reference (default auto)
  --dtype NAME    float32, or bfloat16 with float32 masters (default float32)
  --steps N       training steps (default 800)
  --batch N       windows of text in a step (default 8)
  --sequence N    tokens in a window (default 128)
  --layers N      transformer blocks (default 4)
  --hidden N      features, a multiple of 192 (default 192)
  --seed N        seed of weights, batches and generated text (default 1)
  --out FOLDER    where the packed model is written (default demo-output)
  --export FOLDER writes what the same training elsewhere needs: tokens, batches, first weights, learning rates; and how this one went
  --help          this text`;

// By the better result: after 700 steps each, 2.35 bits/byte of validation text with 2048 tokens, 2.46 with 1024, and 2.48
// with bytes (256).
const VOCABULARY = 2048;
const VALIDATION_SHARE = 0.05;
const VALIDATION_WINDOWS = 128;
const PEAK_LEARNING_RATE = 2.5e-3;
const BETAS = [0.9, 0.95] as const;
const WEIGHT_DECAY = 0.05;
const MAX_GRADIENT_NORM = 1;
/** Steps before tokens a second are counted: the first ones also take memory from the system and load kernels. */
const WARM_UP = 20;
/** Features of a layer go in steps of these: three heads of 64 that share their keys and values. */
const HIDDEN_STEP = 192;
const GENERATED_CHARACTERS = 300;
const PROMPT = 'The whale';

const root = path.resolve(__dirname, '../..');

interface Options {
  device: DeviceName;
  dtype: FloatDType;
  steps: number;
  batch: number;
  sequence: number;
  layers: number;
  hidden: number;
  seed: number;
  out: string;
  export: string | undefined;
}

function readOptions(): Options | null {
  const { values } = parseArgs({
    options: {
      device: { type: 'string', default: 'auto' },
      dtype: { type: 'string', default: 'float32' },
      steps: { type: 'string', default: '800' },
      batch: { type: 'string', default: '8' },
      sequence: { type: 'string', default: '128' },
      layers: { type: 'string', default: '4' },
      hidden: { type: 'string', default: String(HIDDEN_STEP) },
      seed: { type: 'string', default: '1' },
      out: { type: 'string', default: path.join(root, 'demo-output') },
      export: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return null;
  const integer = (name: 'steps' | 'batch' | 'sequence' | 'layers' | 'hidden' | 'seed', low: number): number => {
    const value = Number(values[name]);
    if (!Number.isSafeInteger(value) || value < low) {
      throw new Error(`--${name}: expected an integer of at least ${low}, got ${values[name]}`);
    }
    return value;
  };
  const hidden = integer('hidden', HIDDEN_STEP);
  if (hidden % HIDDEN_STEP !== 0) throw new Error(`--hidden: expected a multiple of ${HIDDEN_STEP}, got ${hidden}`);
  if (values.dtype !== 'float32' && values.dtype !== 'bfloat16') {
    throw new Error(`--dtype: expected float32 or bfloat16, got ${values.dtype}`);
  }
  return {
    device: values.device as DeviceName,
    dtype: values.dtype,
    steps: integer('steps', 1),
    batch: integer('batch', 1),
    sequence: integer('sequence', 1),
    layers: integer('layers', 1),
    hidden,
    seed: integer('seed', 0),
    out: values.out,
    export: values.export,
  };
}

/** Windows of `sequence` tokens and the tokens after each of theirs. */
function batchOf(
  tokens: Int32Array,
  starts: readonly number[],
  sequence: number,
  model: CausalLM,
): { ids: Tensor; targets: Tensor } {
  const window = (shift: number): Tensor => {
    const values = new Int32Array(starts.length * sequence);
    starts.forEach((start, row) =>
      values.set(tokens.subarray(start + shift, start + shift + sequence), row * sequence),
    );
    return tensor(values, { shape: [starts.length, sequence], device: model.device });
  };
  return { ids: window(0), targets: window(1) };
}

/** Where the windows of validation begin, spread over the text; as many as whole batches hold. */
function validationStarts(tokens: Int32Array, { batch, sequence }: Options): number[] {
  const windows = Math.floor((tokens.length - 1) / sequence);
  const wanted = Math.max(batch, Math.floor(VALIDATION_WINDOWS / batch) * batch);
  const stride = Math.max(1, Math.floor(windows / wanted));
  const starts = Array.from({ length: windows }, (_, i) => i * sequence).filter((_, i) => i % stride === 0);
  const count = Math.floor(Math.min(starts.length, wanted) / batch) * batch;
  if (count === 0) throw new Error(`--batch: expected at most ${starts.length} windows to validate, got ${batch}`);
  return starts.slice(0, count);
}

async function validationLoss(model: CausalLM, tokens: Int32Array, options: Options): Promise<number> {
  const { batch, sequence } = options;
  const starts = validationStarts(tokens, options);
  let total = 0;
  for (let i = 0; i < starts.length; i += batch) {
    const loss = noGrad(() =>
      tidy(() => {
        const { ids, targets } = batchOf(tokens, starts.slice(i, i + batch), sequence, model);
        return model.loss(ids, targets);
      }),
    );
    total += (await loss.item()) * batch;
    loss.dispose();
  }
  return total / starts.length;
}

/** What a model of token frequencies alone would score, in nats per token. */
function unigramEntropy(train: Int32Array, validation: Int32Array): number {
  const counts = new Float64Array(VOCABULARY).fill(1);
  for (const token of train) counts[token]++;
  const total = counts.reduce((sum, count) => sum + count, 0);
  let loss = 0;
  for (const token of validation) loss -= Math.log(counts[token] / total);
  return loss / validation.length;
}

/** Where the windows of each step begin. */
function drawStarts(tokens: Int32Array, { steps, batch, sequence, seed }: Options): number[][] {
  const random = new Generator(seed);
  return Array.from({ length: steps }, () =>
    Array.from({ length: batch }, () => random.integer(tokens.length - sequence)),
  );
}

/** Forward and backward of one batch; the loss, and gradients in the parameters. */
function gradients(model: CausalLM, tokens: Int32Array, starts: readonly number[], sequence: number): Tensor {
  return tidy(() => {
    const { ids, targets } = batchOf(tokens, starts, sequence, model);
    const loss = model.loss(ids, targets);
    loss.backward();
    return loss.detach();
  });
}

async function peakOfOneStep(
  model: CausalLM,
  tokens: Int32Array,
  { batch, sequence }: Options,
  checkpointing: boolean,
): Promise<number> {
  model.checkpointConfig = { enabled: checkpointing, every: 1 };
  model.device.resetPeakMemory();
  const starts = Array.from({ length: batch }, (_, i) => i);
  gradients(model, tokens, starts, sequence).dispose();
  model.clearGrad();
  await model.device.synchronize();
  model.checkpointConfig = { enabled: false, every: 1 };
  return model.device.memory().peakBytes;
}

function scheduleOf({ steps }: Options): (step: number) => number {
  return warmupCosine({
    peak: PEAK_LEARNING_RATE,
    warmup: Math.min(50, Math.ceil(steps / 10)),
    total: steps,
    floor: PEAK_LEARNING_RATE / 20,
  });
}

async function train(
  model: CausalLM,
  tokens: Int32Array,
  options: Options,
): Promise<{ losses: number[]; tokensPerSecond: number }> {
  const { steps, batch, sequence } = options;
  const matrices = model.parameters().filter((parameter) => parameter.shape.length > 1);
  const vectors = model.parameters().filter((parameter) => parameter.shape.length <= 1);
  const optimizer = new AdamW([{ parameters: matrices }, { parameters: vectors, weightDecay: 0 }], {
    betas: BETAS,
    weightDecay: WEIGHT_DECAY,
  });
  const schedule = scheduleOf(options);
  const starts = drawStarts(tokens, options);
  const losses: number[] = [];
  const bar = new SingleBar(
    {
      format: 'training |{bar}| {value}/{total} | loss {loss} | {speed} tokens/s | {eta_formatted} left',
      etaBuffer: 50,
      hideCursor: true,
      noTTYOutput: true,
      notTTYSchedule: 10_000,
    },
    Presets.shades_classic,
  );
  const warmUp = Math.min(WARM_UP, Math.floor(steps / 2));
  let [start, counted] = [performance.now(), 0];
  const speed = (): number => ((losses.length - counted) * batch * sequence * 1000) / (performance.now() - start);
  const read = async (loss: Tensor | null): Promise<void> => {
    if (!loss) return;
    losses.push(await loss.item());
    loss.dispose();
    if (losses.length === warmUp) [start, counted] = [performance.now(), warmUp];
    bar.update(losses.length, { loss: losses[losses.length - 1].toFixed(3), speed: speed().toFixed(0) });
  };
  bar.start(steps, 0, { loss: '-', speed: '-' });
  // Read when the next step is queued, so that the device need not wait for this program.
  let last: Tensor | null = null;
  try {
    for (let step = 1; step <= steps; step++) {
      optimizer.learningRate = schedule(step);
      const loss = gradients(model, tokens, starts[step - 1], sequence);
      const { norm, coefficient } = gradNorm(model.parameters(), { maxNorm: MAX_GRADIENT_NORM });
      optimizer.step({ coefficient });
      for (const each of [norm, coefficient]) each.dispose();
      model.clearGrad();
      await read(last);
      last = loss;
    }
    await read(last);
  } finally {
    bar.stop();
    optimizer.dispose();
  }
  return { losses, tokensPerSecond: speed() };
}

/** What another program needs to train the same model on the same batches: see bench/torch_demo.py. */
async function exportRun(
  folder: string,
  model: CausalLM,
  tokens: { train: Int32Array; validation: Int32Array },
  options: Options,
): Promise<void> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'train.i32'), tokens.train);
  writeFileSync(path.join(folder, 'validation.i32'), tokens.validation);
  writeFileSync(path.join(folder, 'starts.i32'), Int32Array.from(drawStarts(tokens.train, options).flat()));
  await model.save(path.join(folder, 'model.safetensors'));
  const schedule = scheduleOf(options);
  const { steps, batch, sequence, dtype } = options;
  const run = {
    ...{ steps, batch, sequence, dtype, warmUp: WARM_UP, model: model.config },
    ...{ betas: BETAS, eps: 1e-8, weightDecay: WEIGHT_DECAY, maxGradientNorm: MAX_GRADIENT_NORM },
    learningRates: Array.from({ length: steps }, (_, i) => schedule(i + 1)),
    validationStarts: validationStarts(tokens.validation, options),
  };
  writeFileSync(path.join(folder, 'run.json'), JSON.stringify(run));
}

/** Averages over equal spans, so that the curve fits the terminal. */
function smooth(values: readonly number[], points: number): number[] {
  const span = Math.max(1, values.length / points);
  return Array.from({ length: Math.min(points, values.length) }, (_, i) => {
    const part = values.slice(Math.floor(i * span), Math.max(Math.floor((i + 1) * span), Math.floor(i * span) + 1));
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

async function largestDifference(a: CausalLM, b: CausalLM, tokens: Int32Array, sequence: number): Promise<number> {
  const logits = async (model: CausalLM): Promise<Float32Array> => {
    const result = noGrad(() => tidy(() => model.forward(batchOf(tokens, [0], sequence, model).ids)));
    const values = (await result.data()) as Float32Array;
    result.dispose();
    return values;
  };
  const [left, right] = [await logits(a), await logits(b)];
  return left.reduce((largest, value, i) => Math.max(largest, Math.abs(value - right[i])), 0);
}

async function write(model: CausalLM, tokenizer: BytePairEncoding, seed: number): Promise<void> {
  const decoder = new TextDecoder();
  process.stdout.write(`\n  ${PROMPT}`);
  let characters = 0;
  const settings = { maxTokens: GENERATED_CHARACTERS, temperature: 0.7, topK: 40, seed };
  for await (const token of generate(model, tokenizer.encode(PROMPT), settings)) {
    const text = decoder.decode(tokenizer.decode([token]), { stream: true });
    process.stdout.write(text.replaceAll('\n', '\n  '));
    characters += text.length;
    if (characters >= GENERATED_CHARACTERS) break;
  }
  process.stdout.write('\n\n');
}

const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(2)} MB`;

async function main(): Promise<void> {
  const options = readOptions();
  if (!options) {
    console.log(HELP);
    return;
  }
  const device = openDevice(options.device);
  const report = devices().find((each) => each.id === device.id);
  console.log(`device: ${device.id} (${report?.reason ?? ''})`);

  const text = readFileSync(path.join(root, 'examples/data/moby-dick.txt'), 'utf8');
  const split = Math.floor(text.length * (1 - VALIDATION_SHARE));
  const tokenizer = BytePairEncoding.train(text.slice(0, split), VOCABULARY);
  const trainTokens = Int32Array.from(tokenizer.encode(text.slice(0, split)));
  const validationTokens = Int32Array.from(tokenizer.encode(text.slice(split)));
  const bytesPerToken = Buffer.byteLength(text.slice(split)) / validationTokens.length;
  const unigram = unigramEntropy(trainTokens, validationTokens);
  console.log(
    `text: ${trainTokens.length} tokens to train on, ${validationTokens.length} to validate, ${bytesPerToken.toFixed(2)} bytes a token`,
  );

  manualSeed(options.seed);
  const model = new CausalLM(
    {
      vocabulary: VOCABULARY,
      hidden: options.hidden,
      layers: options.layers,
      heads: options.hidden / 64,
      keyHeads: options.hidden / HIDDEN_STEP,
      intermediate: (options.hidden / 3) * 8,
      dtype: options.dtype,
    },
    { device },
  );
  const parameters = model.parameterCount();
  const floatBytes = [...model.state().values()].reduce((sum, each) => sum + each.bytes, 0);
  console.log(
    `model: ${parameters} parameters, ${model.config.layers} layers, ternary linear layers, ${options.dtype}; ` +
      `${options.batch} windows of ${options.sequence} tokens a step\n`,
  );
  if (options.export !== undefined)
    await exportRun(options.export, model, { train: trainTokens, validation: validationTokens }, options);

  const peakPlain = await peakOfOneStep(model, trainTokens, options, false);
  const peakCheckpointed = await peakOfOneStep(model, trainTokens, options, true);
  const before = await validationLoss(model, validationTokens, options);
  const { losses, tokensPerSecond } = await train(model, trainTokens, options);
  const after = await validationLoss(model, validationTokens, options);
  if (options.export !== undefined) {
    const result = { device: report?.reason ?? device.id, tokensPerSecond, losses, before, after };
    writeFileSync(path.join(options.export, 'result.json'), JSON.stringify(result));
  }

  console.log(`\ntraining loss, nats per token, over ${options.steps} steps`);
  console.log(plot(smooth(losses, 72), { height: 10 }));
  const bits = (nats: number): string =>
    `${nats.toFixed(3)} nats/token (${(nats / Math.LN2 / bytesPerToken).toFixed(3)} bits/byte)`;
  console.log(`\nvalidation loss before  ${bits(before)}`);
  console.log(`token frequencies alone ${bits(unigram)}`);
  console.log(`validation loss after   ${bits(after)}`);

  model.freeze();
  mkdirSync(options.out, { recursive: true });
  const file = path.join(options.out, 'moby-dick-ternary.safetensors');
  await model.save(file);
  const reloaded = await CausalLM.load(file, { device });
  const difference = await largestDifference(model, reloaded, validationTokens, options.sequence);
  console.log(
    `\nfrozen to packed ternary weights, saved to ${path.relative(process.cwd(), file)}, reloaded: largest logit difference ${difference}`,
  );
  if (difference !== 0) throw new Error('the reloaded model differs from the one that was saved');

  await write(reloaded, tokenizer, options.seed);

  const packedBytes = [...reloaded.state().values()].reduce((sum, each) => sum + each.bytes, 0);
  console.table({
    parameters: { value: parameters.toLocaleString('en') },
    [`weights, ${options.dtype}`]: { value: megabytes(floatBytes) },
    'weights, ternary linear layers packed': { value: megabytes(packedBytes) },
    'peak memory of a step': { value: megabytes(peakPlain) },
    'peak memory of a step, checkpointed': { value: megabytes(peakCheckpointed) },
    'tokens/s, training': { value: tokensPerSecond.toFixed(0) },
  });
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
