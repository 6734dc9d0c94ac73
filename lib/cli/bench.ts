// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { parseArgs } from 'node:util';
import { getThreads } from '../device.js';
import type { CausalLM } from '../models/causal-lm.js';
import { generateBatch } from '../models/generate.js';
import { loadModel } from '../models/load-model.js';
import { Generator } from '../random.js';
import { checkpointOptions } from './checkpoint-options.js';
import { WrongCall, type Command } from './command.js';
import { readNumber } from './read-number.js';

const HELP = `Examples
  ternflash bench ./model
  ternflash bench ./model --batch 8 --prompt 512
  ternflash bench ./model --json | jq .generation.tokensPerSecond

Usage: ternflash bench <model> [options]

How fast a model reads prompts and makes tokens here. Prompts are random tokens; nothing but the model is read, no tokenizer is needed. Of the steps the median
counts; their bytes are those of all weights and of the keys and values read, so that their rate can be held against the memory's.

  <model>            folder of a checkpoint, a GGUF file, or a file that CausalLM.save wrote
  --prompt N         tokens of a prompt; default 128
  --tokens N         tokens that are made; default 32
  --batch N          sequences at once; default 1
  --device NAME      cpu, cuda:0, …; default the best one
  --dtype NAME       float32, float16 or bfloat16; default that of the model
  --json             one JSON object
  --quiet            no warnings
  -h, --help         this text
`;

const OPTIONS = {
  prompt: { type: 'string', default: '128' },
  tokens: { type: 'string', default: '32' },
  batch: { type: 'string', default: '1' },
  device: { type: 'string' },
  dtype: { type: 'string' },
  json: { type: 'boolean', default: false },
  quiet: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

interface Sizes {
  batch: number;
  prompt: number;
  tokens: number;
}

interface Figures {
  /** To the first token, all prompts together. */
  prompt: { tokens: number; milliseconds: number; tokensPerSecond: number };
  /** From one token of every sequence to the next: the median. */
  generation: { milliseconds: number; tokensPerSecond: number; bytes: number; gigabytesPerSecond: number };
  /** The times of which the median is told, in milliseconds, the shortest first. */
  steps: number[];
}

/** Weights, and keys and values of what a sequence holds in the middle of the run. */
function bytesOfStep(model: CausalLM, { batch, prompt, tokens }: Sizes): number {
  const weights = [...model.state().values()].reduce((sum, each) => sum + each.bytes, 0);
  const { layers, keyHeads, headDim, dtype } = model.config;
  const perToken = 2 * layers * keyHeads * headDim * (dtype === 'float32' ? 4 : 2);
  return weights + batch * perToken * (prompt + tokens / 2);
}

/** Reads random prompts and makes tokens; an aborted signal throws. */
export async function measure(model: CausalLM, sizes: Sizes, signal?: AbortSignal): Promise<Figures> {
  const { batch, prompt, tokens } = sizes;
  const random = new Generator(0);
  const prompts = Array.from({ length: batch }, () =>
    Array.from({ length: prompt }, () => random.integer(model.config.vocabulary)),
  );
  const times = [performance.now()];
  // Temperature 0 draws nothing, and no token ends a sequence.
  for await (const { sequence } of generateBatch(model, prompts, {
    maxTokens: tokens,
    temperature: 0,
    ...(signal && { signal }),
  }))
    if (sequence === batch - 1) times.push(performance.now());
  signal?.throwIfAborted();
  const first = times[1] - times[0];
  // The first step is captured before it is run.
  const steps = times
    .slice(3)
    .map((time, i) => time - times[i + 2])
    .sort((a, b) => a - b);
  const step = steps[steps.length >> 1];
  const bytes = bytesOfStep(model, sizes);
  return {
    prompt: { tokens: batch * prompt, milliseconds: first, tokensPerSecond: (batch * prompt) / (first / 1000) },
    generation: {
      milliseconds: step,
      tokensPerSecond: batch / (step / 1000),
      bytes,
      gigabytesPerSecond: bytes / 1e6 / step,
    },
    steps,
  };
}

/** `ternflash bench`. */
export const bench: Command = {
  async run(args, { out, errors, signal }) {
    const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
    if (values.help) {
      out.write(HELP);
      return 0;
    }
    const [location, ...others] = positionals;
    if (location === undefined || others.length > 0)
      throw new WrongCall(`expected one model, got ${positionals.length}`);
    const sizes = {
      batch: readNumber('batch', values.batch, 1, 4096, true),
      prompt: readNumber('prompt', values.prompt, 1, 2 ** 20, true),
      tokens: readNumber('tokens', values.tokens, 4, 2 ** 20, true),
    };
    using model = await loadModel(location, checkpointOptions(values, errors));
    const threads = model.device.type === 'cpu' ? getThreads() : null;
    const { prompt, generation } = await measure(model, sizes, signal);
    if (values.json) {
      const place = { device: model.device.id, threads, dtype: model.config.dtype };
      out.write(`${JSON.stringify({ model: location, ...place, ...sizes, prompt, generation })}\n`);
      return 0;
    }
    const rate = (value: number): string => value.toFixed(value < 100 ? 1 : 0);
    out.write(
      `${location} on ${model.device.id}${threads === null ? '' : `, ${threads} threads`}, ${model.config.dtype}\n` +
        `prompt       ${rate(prompt.tokensPerSecond)} tokens/s: ${prompt.tokens} tokens in ${rate(prompt.milliseconds)} ms\n` +
        `generation   ${rate(generation.tokensPerSecond)} tokens/s: ${rate(generation.milliseconds)} ms a step, ` +
        `${rate(generation.gigabytesPerSecond)} GB/s of weights, keys and values\n`,
    );
    return 0;
  },
};
