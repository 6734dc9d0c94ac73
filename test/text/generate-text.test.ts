// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { generate, generateText, loadModel, OptionError, type CausalLM, type Tokenizer } from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import { CHAT_FILES } from '../cli/chat-files.js';
import { removeCheckpointFolders, tokenizerOf } from './checkpoint-folder.js';

let model: CausalLM;
let tokenizer: Tokenizer;
beforeAll(async () => {
  model = await loadModel(path.join(packageRoot(), 'test', 'fixtures', 'models', 'llama'), { dtype: 'float32' });
  tokenizer = await tokenizerOf(CHAT_FILES);
});
afterAll(() => {
  model.dispose();
  removeCheckpointFolders();
});

const OPTIONS = { maxTokens: 40, temperature: 2, seed: 5 };

async function textOf(...args: Parameters<typeof generateText>): Promise<string> {
  let text = '';
  for await (const piece of generateText(...args)) {
    expect(piece).not.toBe('');
    text += piece;
  }
  return text;
}

async function tokensOf(prompt: readonly number[]): Promise<number[]> {
  const tokens: number[] = [];
  for await (const token of generate(model, prompt, { ...OPTIONS, stopTokens: tokenizer.stopTokens }))
    tokens.push(token);
  return tokens;
}

test('gives the text of the tokens that generate gives, for a text and for messages', async () => {
  const text = await textOf(model, tokenizer, 'the whale', OPTIONS);
  expect(text).toBe(tokenizer.decode(await tokensOf(tokenizer.encode('the whale'))));
  expect(text.length).toBeGreaterThan(5);
  const messages = [{ role: 'user', content: 'the whale' }];
  const answer = await textOf(model, tokenizer, messages, OPTIONS);
  expect(answer).toBe(tokenizer.decode(await tokensOf(tokenizer.encodeChat(messages))));
  expect(answer).not.toBe(text);
});

test('ends before a stop string', async () => {
  const text = await textOf(model, tokenizer, 'the whale', OPTIONS);
  const stop = text.slice(3, 5);
  expect(await textOf(model, tokenizer, 'the whale', { ...OPTIONS, stop })).toBe(text.slice(0, text.indexOf(stop)));
});

test('ends with an end token, of which there is no text', async () => {
  const [first] = await tokensOf(tokenizer.encode('the whale'));
  const ending = Object.create(tokenizer, { stopTokens: { value: [first] } }) as Tokenizer;
  expect(await textOf(model, ending, 'the whale', OPTIONS)).toBe('');
});

test('ends when it is aborted', async () => {
  const controller = new AbortController();
  let pieces = 0;
  for await (const piece of generateText(model, tokenizer, 'the whale', { ...OPTIONS, signal: controller.signal })) {
    expect(piece).not.toBe('');
    if (++pieces === 2) controller.abort();
  }
  expect(pieces).toBeLessThanOrEqual(3);
});

test('refuses what is no prompt', async () => {
  await expect(textOf(model, tokenizer, 5 as unknown as string)).rejects.toThrow(OptionError);
  await expect(textOf(model, tokenizer, 'x', { stop: '' })).rejects.toThrow(OptionError);
  await expect(textOf(model, tokenizer, 'x', { topK: -1 })).rejects.toThrow('generate: expected an integer');
});
