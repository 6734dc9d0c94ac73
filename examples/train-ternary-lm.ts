// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

/**
 * Trains a small ternary (BitNet b1.58) language model on the text of Moby Dick, packs its weights to two bits each, and lets it write. Run with
 * `npm run demo`; `npm run demo -- --help` lists the options.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import * as path from 'node:path';
import { parseArgs } from 'node:util';
import { plot } from 'asciichart';
import { Presets, SingleBar } from 'cli-progress';
import {
  AdamW,
  CausalLM,
  clipGradNorm,
  device as openDevice,
  devices,
  generate,
  Generator,
  manualSeed,
  noGrad,
  tensor,
  tidy,
  warmupCosine,
  type DeviceName,
  type Tensor,
} from 'ternflash';
import { BytePairEncoding } from './byte-pair-encoding.js';

const HELP = `Trains a small ternary language model on Moby Dick, freezes it to packed weights and generates text.

  npm run demo -- [options]

  --device NAME   auto, cpu or reference (default auto)
  --steps N       training steps (default 800)
  --seed N        seed of weights, batches and generated text (default 1)
  --out FOLDER    where the packed model is written (default demo-output)
  --help          this text`;

// By the better result: after 700 steps each, 2.35 bits/byte of validation text with 2048 tokens, 2.46 with 1024, and 2.48
// with bytes (256).
const VOCABULARY = 2048;
const SEQUENCE = 128;
const BATCH = 8;
const VALIDATION_SHARE = 0.05;
const VALIDATION_BATCHES = 16;
const PEAK_LEARNING_RATE = 2.5e-3;
const GENERATED_CHARACTERS = 300;
const PROMPT = 'The whale';

const root = path.resolve(__dirname, '../..');

interface Options {
  device: DeviceName;
  steps: number;
  seed: number;
  out: string;
}

function readOptions(): Options | null {
  const { values } = parseArgs({
    options: {
      device: { type: 'string', default: 'auto' },
      steps: { type: 'string', default: '800' },
      seed: { type: 'string', default: '1' },
      out: { type: 'string', default: path.join(root, 'demo-output') },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return null;
  const integer = (name: 'steps' | 'seed', low: number): number => {
    const value = Number(values[name]);
    if (!Number.isSafeInteger(value) || value < low) {
      throw new Error(`--${name}: expected an integer of at least ${low}, got ${values[name]}`);
    }
    return value;
  };
  return { device: values.device as DeviceName, steps: integer('steps', 1), seed: integer('seed', 0), out: values.out };
}

/** Windows of SEQUENCE tokens and the tokens after each of theirs. */
function batchOf(tokens: Int32Array, starts: readonly number[], model: CausalLM): { ids: Tensor; targets: Tensor } {
  const window = (shift: number): Tensor => {
    const values = new Int32Array(starts.length * SEQUENCE);
    starts.forEach((start, row) =>
      values.set(tokens.subarray(start + shift, start + shift + SEQUENCE), row * SEQUENCE),
    );
    return tensor(values, { shape: [starts.length, SEQUENCE], device: model.device });
  };
  return { ids: window(0), targets: window(1) };
}

async function validationLoss(model: CausalLM, tokens: Int32Array): Promise<number> {
  const windows = Math.floor((tokens.length - 1) / SEQUENCE);
  const stride = Math.max(1, Math.floor(windows / (VALIDATION_BATCHES * BATCH)));
  const starts = Array.from({ length: windows }, (_, i) => i * SEQUENCE).filter((_, i) => i % stride === 0);
  let total = 0;
  let rows = 0;
  for (let i = 0; i + BATCH <= starts.length && i < VALIDATION_BATCHES * BATCH; i += BATCH) {
    const loss = noGrad(() =>
      tidy(() => {
        const { ids, targets } = batchOf(tokens, starts.slice(i, i + BATCH), model);
        return model.loss(ids, targets);
      }),
    );
    total += (await loss.item()) * BATCH;
    rows += BATCH;
    loss.dispose();
  }
  return total / rows;
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

/** Forward and backward of one batch; the loss, and gradients in the parameters. */
function gradients(model: CausalLM, tokens: Int32Array, random: Generator): Tensor {
  return tidy(() => {
    const starts = Array.from({ length: BATCH }, () => random.integer(tokens.length - SEQUENCE));
    const { ids, targets } = batchOf(tokens, starts, model);
    const loss = model.loss(ids, targets);
    loss.backward();
    return loss.detach();
  });
}

async function peakOfOneStep(model: CausalLM, tokens: Int32Array, checkpointing: boolean): Promise<number> {
  model.checkpointConfig = { enabled: checkpointing, every: 1 };
  model.device.resetPeakMemory();
  gradients(model, tokens, new Generator(0)).dispose();
  model.clearGrad();
  await model.device.synchronize();
  model.checkpointConfig = { enabled: false, every: 1 };
  return model.device.memory().peakBytes;
}

async function train(
  model: CausalLM,
  tokens: Int32Array,
  options: Options,
): Promise<{ losses: number[]; tokensPerSecond: number }> {
  const matrices = model.parameters().filter((parameter) => parameter.shape.length > 1);
  const vectors = model.parameters().filter((parameter) => parameter.shape.length <= 1);
  const optimizer = new AdamW([{ parameters: matrices }, { parameters: vectors, weightDecay: 0 }], {
    betas: [0.9, 0.95],
    weightDecay: 0.05,
  });
  const schedule = warmupCosine({
    peak: PEAK_LEARNING_RATE,
    warmup: Math.min(50, Math.ceil(options.steps / 10)),
    total: options.steps,
    floor: PEAK_LEARNING_RATE / 20,
  });
  const random = new Generator(options.seed);
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
  const start = performance.now();
  const speed = (): number => (losses.length * BATCH * SEQUENCE * 1000) / (performance.now() - start);
  bar.start(options.steps, 0, { loss: '-', speed: '-' });
  try {
    for (let step = 1; step <= options.steps; step++) {
      optimizer.learningRate = schedule(step);
      const loss = gradients(model, tokens, random);
      clipGradNorm(model.parameters(), 1).dispose();
      optimizer.step();
      model.clearGrad();
      losses.push(await loss.item());
      loss.dispose();
      bar.update(step, { loss: losses[step - 1].toFixed(3), speed: speed().toFixed(0) });
    }
  } finally {
    bar.stop();
    optimizer.dispose();
  }
  return { losses, tokensPerSecond: speed() };
}

/** Averages over equal spans, so that the curve fits the terminal. */
function smooth(values: readonly number[], points: number): number[] {
  const span = Math.max(1, values.length / points);
  return Array.from({ length: Math.min(points, values.length) }, (_, i) => {
    const part = values.slice(Math.floor(i * span), Math.max(Math.floor((i + 1) * span), Math.floor(i * span) + 1));
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

async function largestDifference(a: CausalLM, b: CausalLM, tokens: Int32Array): Promise<number> {
  const logits = async (model: CausalLM): Promise<Float32Array> => {
    const result = noGrad(() => tidy(() => model.forward(batchOf(tokens, [0], model).ids)));
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
    { vocabulary: VOCABULARY, hidden: 192, layers: 4, heads: 3, keyHeads: 1, intermediate: 512 },
    { device },
  );
  const parameters = model.parameterCount();
  const floatBytes = [...model.state().values()].reduce((sum, each) => sum + each.bytes, 0);
  console.log(`model: ${parameters} parameters, ${model.config.layers} layers, ternary linear layers\n`);

  const peakPlain = await peakOfOneStep(model, trainTokens, false);
  const peakCheckpointed = await peakOfOneStep(model, trainTokens, true);
  const before = await validationLoss(model, validationTokens);
  const { losses, tokensPerSecond } = await train(model, trainTokens, options);
  const after = await validationLoss(model, validationTokens);

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
  const difference = await largestDifference(model, reloaded, validationTokens);
  console.log(
    `\nfrozen to packed ternary weights, saved to ${path.relative(process.cwd(), file)}, reloaded: largest logit difference ${difference}`,
  );
  if (difference !== 0) throw new Error('the reloaded model differs from the one that was saved');

  await write(reloaded, tokenizer, options.seed);

  const packedBytes = [...reloaded.state().values()].reduce((sum, each) => sum + each.bytes, 0);
  console.table({
    parameters: { value: parameters.toLocaleString('en') },
    'weights, float32': { value: megabytes(floatBytes) },
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
