// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// How fast llama.cpp and we run the same GGUF file on this machine's processor, in turns, with as many threads. Without a file it is a model of
// bitnet-b1.58-2B-4T's shape with random trits (TQ2_0) and SiLU, which llama.cpp's architecture `bitnet` has. Needs node-llama-cpp, which is no dependency for its size:
//
//   npm install --no-save --ignore-scripts node-llama-cpp@3.22.1 && npm run build:ts && node scripts/compare-llama-cpp.mjs [model.gguf]

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  encodeTernary,
  generate,
  getThreads,
  loadModel,
  randn,
  TernaryTensor,
  uniform,
  writeGguf,
} from '../dist/index.js';

const { getLlama, LlamaLogLevel } = await import('node-llama-cpp').catch(() => {
  console.error('expected node-llama-cpp, got none: npm install --no-save --ignore-scripts node-llama-cpp@3.22.1');
  process.exit(2);
});

const PROMPT = 128;
const TOKENS = 24;
const ROUNDS = 3;

/** Bytes that a file holds again and again, from the beginning to `byteLength`. */
function repeated(type, shape, byteLength, block) {
  return {
    type,
    shape,
    async read(begin = 0, length = byteLength - begin) {
      const bytes = new Uint8Array(length);
      for (let at = 0; at < length;) {
        const from = (begin + at) % block.length;
        const part = block.subarray(from, Math.min(block.length, from + length - at));
        bytes.set(part, at);
        at += part.length;
      }
      return bytes;
    },
  };
}

async function writeRandomModel(file) {
  const [layers, hidden, inner, heads, keyHeads, vocabulary] = [30, 2560, 6912, 20, 5, 128256];
  const headDim = hidden / heads;
  const rows = 256;
  const trits = (await uniform([rows * 256], { low: -1.5, high: 1.5, seed: 1, device: 'cpu' }).data()).map(Math.round);
  const ternary = await encodeTernary(TernaryTensor.fromTrits(trits, [rows, 256], 0.02, { device: 'cpu' }), 'TQ2_0');
  const floats = await randn([2 ** 20], { std: 0.02, dtype: 'bfloat16', seed: 2, device: 'cpu' }).raw();
  const bits = new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
  const one = new Uint8Array(new Float32Array(4096).fill(1).buffer);
  const tensors = new Map();
  const matrix = (name, n, k) => tensors.set(name, repeated('TQ2_0', [n, k], ((n * k) / 256) * 66, ternary));
  const norm = (name, n) => tensors.set(name, repeated('F32', [n], 4 * n, one));
  tensors.set('token_embd.weight', repeated('BF16', [vocabulary, hidden], 2 * vocabulary * hidden, bits));
  norm('output_norm.weight', hidden);
  for (let layer = 0; layer < layers; layer++) {
    const at = `blk.${layer}`;
    for (const name of ['attn_norm', 'ffn_norm', 'attn_sub_norm']) norm(`${at}.${name}.weight`, hidden);
    norm(`${at}.ffn_sub_norm.weight`, inner);
    for (const name of ['attn_q', 'attn_output']) matrix(`${at}.${name}.weight`, hidden, hidden);
    for (const name of ['attn_k', 'attn_v']) matrix(`${at}.${name}.weight`, keyHeads * headDim, hidden);
    for (const name of ['ffn_gate', 'ffn_up']) matrix(`${at}.${name}.weight`, inner, hidden);
    matrix(`${at}.ffn_down.weight`, hidden, inner);
  }
  const u32 = (value) => ({ type: 'u32', value });
  const f32 = (value) => ({ type: 'f32', value });
  const tokens = ['<unk>', '<s>', '</s>'];
  for (let byte = 0; byte < 256; byte++) tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
  while (tokens.length < vocabulary) tokens.push(`▁${tokens.length}`);
  await writeGguf(file, {
    metadata: {
      'general.architecture': 'bitnet',
      'general.file_type': u32(37),
      'bitnet.block_count': u32(layers),
      'bitnet.context_length': u32(4096),
      'bitnet.embedding_length': u32(hidden),
      'bitnet.feed_forward_length': u32(inner),
      'bitnet.vocab_size': u32(vocabulary),
      'bitnet.attention.head_count': u32(heads),
      'bitnet.attention.head_count_kv': u32(keyHeads),
      'bitnet.attention.layer_norm_rms_epsilon': f32(1e-5),
      'bitnet.rope.dimension_count': u32(headDim),
      'bitnet.rope.freq_base': f32(500000),
      'tokenizer.ggml.model': 'llama',
      'tokenizer.ggml.tokens': tokens,
      'tokenizer.ggml.scores': Float32Array.from(tokens, (_, i) => -i),
      'tokenizer.ggml.token_type': Int32Array.from(tokens, (_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1)),
      'tokenizer.ggml.bos_token_id': u32(1),
      'tokenizer.ggml.eos_token_id': u32(2),
    },
    tensors,
  });
}

/** Prompt tokens a second, and milliseconds from one token to the next, the median. */
async function time(tokens) {
  const times = [performance.now()];
  const iterator = tokens[Symbol.asyncIterator]();
  while (!(await iterator.next()).done) {
    times.push(performance.now());
    if (times.length > TOKENS) break;
  }
  await iterator.return?.();
  const steps = times.slice(3).map((each, i) => each - times[i + 2]);
  return { prompt: PROMPT / ((times[1] - times[0]) / 1000), step: steps.sort((a, b) => a - b)[steps.length >> 1] };
}

async function theirs(llama, file, prompt) {
  const model = await llama.loadModel({ modelPath: file });
  const context = await model.createContext({ contextSize: 256, batchSize: PROMPT, threads: getThreads() });
  const figures = await time(context.getSequence().evaluate(prompt, { temperature: 0, yieldEogToken: true }));
  await model.dispose();
  return figures;
}

async function ours(file, prompt) {
  const model = await loadModel(file, { device: 'cpu' });
  const figures = await time(generate(model, prompt, { maxTokens: TOKENS, temperature: 0 }));
  model.dispose();
  return figures;
}

const folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'));
try {
  const file = process.argv[2] ?? path.join(folder, 'random.gguf');
  if (process.argv[2] === undefined) await writeRandomModel(file);
  const llama = await getLlama({
    gpu: false,
    build: 'never',
    maxThreads: getThreads(),
    progressLogs: false,
    logLevel: LlamaLogLevel.error,
  });
  const prompt = Array.from({ length: PROMPT }, (_, i) => (i * 7919) % 30000);
  console.log(`${getThreads()} threads; prompt of ${PROMPT} tokens: tokens/s | from token to token: ms, tokens/s`);
  const show = (name, { prompt: rate, step }) =>
    console.log(
      `${name.padEnd(10)} ${rate.toFixed(1).padStart(7)} | ${step.toFixed(1).padStart(7)} ${(1000 / step).toFixed(1).padStart(7)}`,
    );
  for (let round = 0; round < ROUNDS; round++) {
    show('ternflash', await ours(file, prompt));
    show('llama.cpp', await theirs(llama, file, prompt));
  }
} finally {
  rmSync(folder, { recursive: true });
}
process.exit(0);
