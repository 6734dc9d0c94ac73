// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device as deviceNamed, getThreads } from '../lib/device.js';
import { noGrad } from '../lib/autograd/tape.js';
import { measure } from '../lib/cli/bench.js';
import { createDryDevice } from '../lib/dry-device.js';
import { CausalLM, type CausalLMOptions } from '../lib/models/causal-lm.js';
import { generateBatch } from '../lib/models/generate.js';
import { TernaryLinear } from '../lib/nn/linear.js';
import { sum } from '../lib/ops/sum.js';
import { Generator } from '../lib/random.js';
import { tidy } from '../lib/scope.js';
import { ones, tensor, tensorFromRaw, zeros, type Tensor } from '../lib/tensor.js';
import { withMemory } from './memory-use.js';
import { DEVICE, SMALL } from './options.js';
import { writeResults } from './results.js';
import { OURS, subject, type Ceiling, type Result } from './schema.js';
import { timesOf } from './statistics.js';

/**
 * `npm run bench -- --suite model`: a model of the shape of microsoft/bitnet-b1.58-2B-4T with random weights reads prompts and makes tokens: how many a second, and
 * what share of the time the memory would take that alone has to be read. Before it is timed, the captured step that is timed is compared with the
 * forward pass over the whole sequence. `--small` is the same with a model that any machine holds.
 */

const SHAPE: CausalLMOptions = SMALL
  ? { vocabulary: 1024, layers: 2, hidden: 256, heads: 4, keyHeads: 2, intermediate: 512 }
  : { vocabulary: 128256, layers: 30, hidden: 2560, heads: 20, keyHeads: 5, intermediate: 6912 };
const OPTIONS: CausalLMOptions = {
  ...SHAPE,
  ropeTheta: 500000,
  activation: 'relu2Glu',
  dtype: 'bfloat16',
  ternary: true,
};

const TOKENS = 24;
const BATCHES = [1, 8, 64];
const PROMPTS = [128, 512, 2048];

/** Random trits and norms of 1; drawn for 2^20 elements and repeated, for what is drawn has no part in the time. */
function randomModel(): CausalLM {
  const device = deviceNamed(DEVICE);
  const outline = new CausalLM(OPTIONS, { device: createDryDevice() });
  const random = new Generator(1);
  const bytes = Uint8Array.from({ length: 2 ** 20 }, () =>
    [0, 2, 4, 6].reduce((byte, shift) => byte | (random.integer(3) << shift), 0),
  );
  // bfloat16 of a normal deviate of standard deviation 0.02: the upper half of its float32.
  const floats = new Uint16Array(Float32Array.from(random.normal(2 ** 20), (each) => each * 0.02).buffer).filter(
    (_, i) => i % 2 === 1,
  );
  const repeated = <T extends Uint8Array | Uint16Array>(block: T, whole: T): T => {
    for (let at = 0; at < whole.length; at += block.length) whole.set(block.subarray(0, whole.length - at), at);
    return whole;
  };
  const ternary = new Set(
    [...outline.modules()].filter(([, each]) => each instanceof TernaryLinear).map(([name]) => `${name}.weight`),
  );
  const state = new Map<string, Tensor>();
  for (const [name, { shape, size }] of outline.state()) {
    if (ternary.has(name)) {
      const packed = repeated(bytes, new Uint8Array(size / 4));
      state.set(`${name}.packed`, tensorFromRaw(packed, [shape[0], shape[1] / 4], { dtype: 'uint8', device }));
      state.set(`${name}.scale`, tensor([0.02], { device }));
    } else if (shape.length === 1) state.set(name, ones(shape, { dtype: 'bfloat16', device }));
    else state.set(name, tensorFromRaw(repeated(floats, new Uint16Array(size)), shape, { dtype: 'bfloat16', device }));
  }
  return CausalLM.fromState('bench', OPTIONS, state, device).eval();
}

const promptOf = (tokens: number, seed: number): number[] => {
  const random = new Generator(seed);
  return Array.from({ length: tokens }, () => random.integer(OPTIONS.vocabulary));
};

/** Bytes a second of the device's memory: the fastest of sums over more than its caches hold. */
async function readRate(): Promise<number> {
  const device = deviceNamed(DEVICE);
  const x = zeros([SMALL ? 2 ** 20 : 2 ** 28], { device });
  let fastest = Infinity;
  for (let run = 0; run < 5; run++) {
    fastest = Math.min(fastest, await device.time(() => tidy(() => void sum(x))));
  }
  const rate = x.bytes / (fastest / 1000);
  x.dispose();
  return rate;
}

/** That decoding gives the logits' largest where a pass over the whole sequence has them; ties within the rounding of bfloat16 excepted. */
async function check(model: CausalLM): Promise<void> {
  const prompt = promptOf(40, 7);
  const made: number[] = [];
  for await (const { token } of generateBatch(model, [prompt], { maxTokens: 8, temperature: 0 })) made.push(token);
  const ids = tensor([[...prompt, ...made.slice(0, -1)]], { dtype: 'int32', device: DEVICE });
  const logits = (await noGrad(() => model.forward(ids)).data()) as Float32Array;
  made.forEach((token, i) => {
    const row = logits.slice((prompt.length - 1 + i) * OPTIONS.vocabulary, (prompt.length + i) * OPTIONS.vocabulary);
    const largest = row.reduce((most, each) => Math.max(most, each), -Infinity);
    if (!(row[token] >= largest - 0.05 * Math.abs(largest)))
      throw new Error(`bench: expected token ${i} to have a logit of about ${largest}, got ${row[token]}`);
  });
  ids.dispose();
}

export async function runModel(): Promise<void> {
  const rate = await readRate();
  const model = randomModel();
  // The embedding is read as the output projection; of its rows as the embedding, one.
  const weights = [...model.state().values()].reduce((total, each) => total + each.bytes, 0);
  console.log(
    `${model.device.id}, ${getThreads()} threads; ${(weights / 1e9).toFixed(2)} GB of weights; memory is read at ${(rate / 1e9).toFixed(1)} GB/s`,
  );
  await check(model);
  const results: Result[] = [];
  const ceiling: Ceiling = { name: 'reading memory', unit: 'bytes', perSecond: rate };
  for (const [batch, prompt] of [...BATCHES.map((each) => [each, 128]), ...PROMPTS.slice(1).map((each) => [1, each])]) {
    const { value: figures, memory } = await withMemory(() => measure(model, { batch, prompt, tokens: TOKENS }));
    const { milliseconds: each, bytes } = figures.generation;
    const ofRoof = bytes / (each / 1000) / rate;
    console.log(
      `batch ${String(batch).padStart(2)}, prompt ${String(prompt).padStart(4)} | prompt ${figures.prompt.tokensPerSecond.toFixed(0).padStart(5)} tokens/s | ` +
        `${each.toFixed(1).padStart(7)} ms a step, ${(batch / (each / 1000)).toFixed(1).padStart(6)} tokens/s | ${(100 * ofRoof).toFixed(0).padStart(3)} % of the memory's rate`,
    );
    const point = { batch, sequence: prompt, alongSequence: `B ${batch}`, alongBatch: `prompt ${prompt}` };
    const common = {
      by: OURS,
      variant: null,
      threads: model.device.type === 'cpu' ? getThreads() : null,
      callMilliseconds: null,
      memory,
      note: null,
    };
    results.push(
      {
        name: `model prompt B${batch} S${prompt}`,
        ...subject('model: prompt', model.config.dtype, point),
        ...common,
        ...timesOf([figures.prompt.milliseconds]),
        work: { tokens: figures.prompt.tokens },
        ceiling: null,
      },
      {
        name: `model step B${batch} S${prompt}`,
        ...subject('model: step', model.config.dtype, point),
        ...common,
        ...timesOf(figures.steps),
        work: { tokens: batch, bytes },
        ceiling,
      },
    );
  }
  model.dispose();
  writeResults(model.device, results);
}
