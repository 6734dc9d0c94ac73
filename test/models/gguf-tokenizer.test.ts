// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cpSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { convertModel, FormatError, openGguf } from '../../lib/index.js';
import { readGgufTokenizer } from '../../lib/models/gguf-tokenizer.js';
import { packageRoot } from '../../lib/native.js';
import { checkpointFolder, removeCheckpointFolders } from '../text/checkpoint-folder.js';
import { byteLevelTokenizer, learnMerges, llamaTokenizer, split, SPLITS } from '../text/tiny-tokenizers.js';

afterAll(removeCheckpointFolders);

const { json, specialIds } = byteLevelTokenizer(learnMerges('the whale and the sea', 3));
const CONFIG = { bos_token: '<|begin|>', eos_token: { content: '<|end|>' }, chat_template: '{{ messages }}' };

const read = (tokenizer: object, vocabulary = 300, more: Record<string, unknown> = {}) =>
  readGgufTokenizer(
    checkpointFolder({ 'tokenizer.json': tokenizer, 'tokenizer_config.json': CONFIG, ...more }),
    vocabulary,
  );

test('byte-level BPE: tokens, kinds, merges, special tokens and the chat template', async () => {
  const { metadata, missing } = await read(json);
  expect(missing).toBeNull();
  const tokens = metadata['tokenizer.ggml.tokens'] as string[];
  const types = metadata['tokenizer.ggml.token_type'] as Int32Array;
  expect([tokens.length, types.length]).toEqual([300, 300]);
  expect([tokens[97], tokens[32], types[97]]).toEqual(['a', 'Ġ', 1]);
  expect([tokens[specialIds['<|begin|>']], types[specialIds['<|begin|>']]]).toEqual(['<|begin|>', 3]);
  expect([tokens[specialIds['<tool>']], types[specialIds['<tool>']]]).toEqual(['<tool>', 4]);
  expect([tokens[299], types[299]]).toEqual(['[PAD299]', 5]);
  expect(metadata['tokenizer.ggml.merges']).toEqual((json as { model: { merges: string[] } }).model.merges);
  expect(metadata).toMatchObject({
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'gpt-2',
    'tokenizer.ggml.bos_token_id': { type: 'u32', value: specialIds['<|begin|>'] },
    'tokenizer.ggml.eos_token_id': { type: 'u32', value: specialIds['<|end|>'] },
    'tokenizer.ggml.add_bos_token': true,
    'tokenizer.chat_template': '{{ messages }}',
  });
});

// Each as the tokenizer.json of these models has it; of the same kind without ignore_merges or with another normalizer, the name that means that.
test.each(SPLITS)('texts are split as by $name', async ({ name, parts, ignore_merges }) => {
  const model = { ...(json as { model: object }).model, ignore_merges };
  const { metadata } = await read({ ...json, ...parts, model });
  expect(metadata['tokenizer.ggml.pre']).toBe(name);
});

test.each([
  ['a SentencePiece-style one', llamaTokenizer(['a'], []), 300, 'no byte-level BPE'],
  ['another way to split', { ...json, pre_tokenizer: split('\\w+') }, 300, 'no name in llama.cpp'],
  ['another normalizer', { ...json, normalizer: { type: 'Lowercase' } }, 300, 'no name in llama.cpp'],
  [
    'a space before every text',
    { ...json, pre_tokenizer: { type: 'ByteLevel', add_prefix_space: true } },
    300,
    'no name in llama.cpp',
  ],
  ['more tokens than the model', json, 100, "more than the model's 100 tokens"],
])('%s is not converted, and why', async (_, tokenizer, vocabulary, why) => {
  const { metadata, missing } = await read(tokenizer, vocabulary);
  expect(metadata).toEqual({ 'tokenizer.ggml.model': 'no_vocab' });
  expect(missing).toContain(why);
});

test('a file that is no JSON', async () => {
  const folder = checkpointFolder({});
  writeFileSync(path.join(folder, 'tokenizer.json'), '{');
  await expect(readGgufTokenizer(folder, 300)).rejects.toThrow(FormatError);
});

test('convertModel puts it into the file, or tells that it cannot', async () => {
  const folder = checkpointFolder({ 'tokenizer.json': json, 'tokenizer_config.json': CONFIG });
  const model = path.join(packageRoot(), 'test', 'fixtures', 'models', 'llama');
  for (const name of ['config.json', 'model.safetensors']) cpSync(path.join(model, name), path.join(folder, name));
  const to = path.join(folder, 'model.gguf');
  const warnings: string[] = [];
  const options = { metadata: { 'general.name': 'small' }, onWarning: (each: string) => warnings.push(each) };
  await convertModel(folder, to, options);
  const file = await openGguf(to);
  expect(file.metadata).toMatchObject({ 'tokenizer.ggml.model': 'gpt2', 'general.name': 'small' });
  expect((file.metadata['tokenizer.ggml.tokens'] as string[]).length).toBe(320);
  await file.close();
  expect(warnings).toEqual([]);
  await convertModel(model, to, options);
  expect(warnings).toEqual([`${to} has no tokenizer: no tokenizer.json`]);
});
