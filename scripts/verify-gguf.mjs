// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Whether llama.cpp reads our GGUF files as we mean them: small random models of every architecture are written, and both continue the same prompt. Needs
// node-llama-cpp, which is no dependency for its size:
//
//   npm install --no-save --ignore-scripts node-llama-cpp@3.22.1 && npm run build:ts && node scripts/verify-gguf.mjs
//
// Both take the likeliest token 24 times. llama.cpp rounds activations of ternary layers in blocks of 256, we in rows, which are blocks here.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { CausalLM, exportModel, generate, loadModel, manualSeed, randn } from '../dist/index.js';

const { getLlama, LlamaLogLevel } = await import('node-llama-cpp').catch(() => {
  console.error('expected node-llama-cpp, got none: npm install --no-save --ignore-scripts node-llama-cpp@3.22.1');
  process.exit(2);
});

const VOCABULARY = 320;
const PROMPT = [1, 40, 90, 200, 17];
const TOKENS = 24;

const SHAPE = {
  vocabulary: VOCABULARY,
  layers: 2,
  hidden: 256,
  heads: 4,
  keyHeads: 2,
  intermediate: 512,
  tieEmbeddings: false,
  contextLength: 256,
};
const DENSE = { ...SHAPE, ternary: false };
const LLAMA = { ...SHAPE, subNorm: false };
const LLAMA3 = { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 32 };
/** By the name of the file. */
const MODELS = {
  'llama float32': [DENSE],
  'llama bfloat16': [{ ...DENSE, dtype: 'bfloat16' }],
  'llama tied, 3.1 frequencies': [{ ...DENSE, tieEmbeddings: true, ropeScaling: LLAMA3 }],
  qwen2: [{ ...DENSE, attentionBias: 'qkv' }],
  qwen3: [{ ...DENSE, queryKeyNorm: true }],
  'llama TQ1_0': [LLAMA, 'TQ1_0'],
  'llama TQ2_0': [LLAMA, 'TQ2_0'],
  'bitnet TQ2_0': [{ ...SHAPE, intermediate: 256, tieEmbeddings: true }, 'TQ2_0'],
};

/** A vocabulary of bytes, so that the file has a tokenizer; the prompt is given in tokens. */
const tokens = ['<unk>', '<s>', '</s>'];
for (let byte = 0; byte < 256; byte++) tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
while (tokens.length < VOCABULARY) tokens.push(`▁${tokens.length}`);
const METADATA = {
  'tokenizer.ggml.model': 'llama',
  'tokenizer.ggml.tokens': tokens,
  'tokenizer.ggml.scores': Float32Array.from(tokens, (_, i) => -i),
  'tokenizer.ggml.token_type': Int32Array.from(tokens, (_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1)),
  'tokenizer.ggml.bos_token_id': { type: 'u32', value: 1 },
  'tokenizer.ggml.eos_token_id': { type: 'u32', value: 2 },
  'tokenizer.ggml.unknown_token_id': { type: 'u32', value: 0 },
};

async function ours(config, ternary, file) {
  manualSeed(3);
  const model = new CausalLM(config, { device: 'cpu' });
  for (const [name, each] of model.state()) {
    // Far enough apart that rounding decides no token; norms that are not 1, biases that are not 0.
    const std = { embedding: 1, head: 0.2 }[name] ?? (each.shape.length === 1 ? 0.2 : 0);
    if (std === 0) continue;
    const values = await randn(each.shape, { std, device: 'cpu' }).data();
    each.write(name.includes('orm.') ? values.map((value) => 1 + value) : values);
  }
  model.freeze();
  await exportModel(model, file, { ternary, metadata: METADATA });
  model.dispose();
  // Read back, and run as llama.cpp runs it: with activations of 32 bits, whatever the weights have.
  const read = await loadModel(file, { device: 'cpu', dtype: 'float32' });
  const made = [];
  for await (const token of generate(read, PROMPT, { maxTokens: TOKENS, temperature: 0 })) made.push(token);
  read.dispose();
  return made;
}

async function theirs(llama, file) {
  const model = await llama.loadModel({ modelPath: file });
  const context = await model.createContext({ contextSize: 256 });
  const made = [];
  for await (const token of context.getSequence().evaluate(PROMPT, { temperature: 0 })) {
    made.push(token);
    if (made.length === TOKENS) break;
  }
  await model.dispose();
  return made;
}

const folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'));
let failed = 0;
try {
  const llama = await getLlama({ gpu: false, build: 'never', progressLogs: false, logLevel: LlamaLogLevel.error });
  for (const [name, [config, ternary]] of Object.entries(MODELS)) {
    const file = path.join(folder, `${name}.gguf`);
    const expected = await ours(config, ternary, file);
    const got = await theirs(llama, file);
    const same = expected.findIndex((token, i) => token !== got[i]);
    console.log(
      `${name.padEnd(30)} ${same < 0 ? `all ${TOKENS} tokens are the same` : `differs from token ${same} on`}`,
    );
    if (same >= 0) {
      failed++;
      console.log(`  ours   ${expected.join(' ')}\n  theirs ${got.join(' ')}`);
    }
  }
} finally {
  rmSync(folder, { recursive: true });
}
process.exit(failed === 0 ? 0 : 1);
