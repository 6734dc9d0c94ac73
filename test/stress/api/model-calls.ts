// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { device, Generator, TextStream } from '../../../lib/index.js';
import type { MakeArguments } from './calls.js';
import { SMALL } from './world.js';

/** Models, what they generate, and text. */

const messages = (): object[] => [
  { role: 'user', content: 'why?' },
  { role: 'assistant', content: 'so' },
];

const sampling = { temperature: 1, topK: 4, topP: 0.9, minP: 0.01 };

const generation = (): object => ({
  ...sampling,
  maxTokens: 2,
  seed: 3,
  stopTokens: [1],
  repetitionPenalty: 1.1,
  signal: new AbortController().signal,
});

const config = (): object => ({
  ...SMALL,
  keyHeads: 1,
  headDim: 4,
  ropeTheta: 10000,
  ropeScaling: { type: 'factors', factors: [1, 2] },
  window: 4,
  attentionBias: 'qkv',
  mlpBias: true,
  queryKeyNorm: true,
  normEps: 1e-5,
  ternary: true,
  subNorm: false,
  activation: 'relu2Glu',
  dropout: 0.1,
  dtype: 'float32',
  tieEmbeddings: false,
  contextLength: 16,
});

export const MODEL_CALLS: Readonly<Record<string, MakeArguments>> = {
  'new CausalLM': (w) => [config(), { device: w.device }],
  'CausalLM.load': (w) => [w.files.model, { device: w.device }],
  'CausalLM#checkpointConfig=': (w) => [w.model(), { enabled: true, every: 2, policy: 'selective', offload: 'host' }],
  'CausalLM#createCache': (w) => [w.model(), 2, 32, { dtype: 'int8', pageSize: 16, pages: 3 }],
  'CausalLM#forward': (w) => [w.model(), w.ids(1, 3), { cuSeqlens: [0, 1, 3] }],
  'CausalLM#nextLogits': (w) => {
    const model = w.model();
    return [model, w.ids(2, 3), w.own(model.createCache(2, 4)), [2, 3]];
  },
  'CausalLM#loss': (w) => [w.model(), w.ids(1, 3), w.ids(1, 3), { cuSeqlens: Int32Array.of(0, 1, 3) }],
  'CausalLM#to': (w) => [w.model(), { dtype: 'bfloat16' }],
  'CausalLM#freeze': (w) => [w.model()],
  'CausalLM#save': (w) => [w.model(), w.out('.safetensors')],

  'new DecodingCache': (w) => [2, 4, { keyHeads: 1, headDim: 4, dtype: 'float16', layers: 2 }, device(w.device)],
  'DecodingCache#setLengths': (w) => [w.own(w.model().createCache(2, 4)), [1, 2]],
  'DecodingCache#advance': (w) => [w.own(w.model().createCache(2, 4)), [1, 2]],
  'DecodingCache#reserve': (w) => [w.own(w.model().createCache(2, 32, { pageSize: 16, pages: 4 })), [1, 17]],
  'DecodingCache#dispose': (w) => [w.own(w.model().createCache(2, 4))],

  generate: (w) => {
    const model = w.model();
    return [model, [1, 2, 3], { ...generation(), cache: w.own(model.createCache(1, 8)) }];
  },
  generateBatch: (w) => {
    const model = w.model();
    return [
      model,
      [[1, 2, 3], [4]],
      { ...generation(), logProbabilities: true, cache: w.own(model.createCache(2, 8)) },
    ];
  },
  // A prompt of a million letters is no fault, and takes long to read.
  generateText: (w) => [
    w.model(),
    w.files.tokenizer,
    messages(),
    { ...sampling, maxTokens: 2, stop: ['x', 'yz'], signal: AbortSignal.timeout(100) },
  ],
  sample: () => [Float32Array.of(0, 1, 2, 3), { ...sampling }, new Generator()],

  convertModel: (w) => [
    w.files.checkpoint,
    w.out('.gguf'),
    { device: w.device, masters: false, verify: true, onWarning: () => undefined, format: 'gguf', ternary: 'TQ1_0' },
  ],
  exportModel: (w) => [
    w.model({ ternary: false }),
    w.out('.gguf'),
    { format: 'gguf', ternary: 'I2_S', metadata: { 'general.name': 'small', size: { type: 'u32', value: 3 } } },
  ],
  loadModel: (w) => [
    w.files.checkpoint,
    { device: w.device, dtype: 'float32', trainable: true, onWarning: () => undefined },
  ],

  'Tokenizer.load': (w) => [w.files.checkpoint],
  'Tokenizer#encode': (w) => [w.files.tokenizer, 'the sea', { addSpecialTokens: true }],
  'Tokenizer#decode': (w) => [w.files.tokenizer, [97, 98], { skipSpecialTokens: true }],
  'Tokenizer#tokenId': (w) => [w.files.tokenizer, 'a'],
  'Tokenizer#applyChatTemplate': (w) => [
    w.files.tokenizer,
    messages(),
    { addGenerationPrompt: true, template: 'default', variables: {} },
  ],
  'Tokenizer#encodeChat': (w) => [w.files.tokenizer, messages(), { addGenerationPrompt: true }],
  'new TextStream': (w) => [w.files.tokenizer, { stop: ['x', 'yz'], context: [97], skipSpecialTokens: true }],
  'TextStream#push': (w) => [new TextStream(w.files.tokenizer), 97],
  'TextStream#flush': (w) => [new TextStream(w.files.tokenizer)],
};
