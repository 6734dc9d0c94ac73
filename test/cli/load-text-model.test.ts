// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cpSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { loadTextModel } from '../../lib/cli/commands.js';
import { CausalLM, convertModel, liveTensors, manualSeed, trackTensors } from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import type { LoadedTextModel } from '../../lib/text/text-model.js';
import { checkpointFolder, removeCheckpointFolders } from '../text/checkpoint-folder.js';
import { call, type Result } from './capture-context.js';
import { CHAT_FILES } from './chat-files.js';

afterAll(removeCheckpointFolders);

describe('a model of this library', () => {
  let folder: string;
  beforeAll(async () => {
    manualSeed(1);
    folder = checkpointFolder(CHAT_FILES);
    const sizes = { layers: 1, hidden: 16, heads: 2, intermediate: 32 };
    using model = new CausalLM({ vocabulary: 264, ...sizes }); // more than the tokenizer has, to a round number
    await model.save(path.join(folder, 'model.safetensors'));
  });

  const generate = (...args: string[]): Promise<Result> =>
    call(['generate', folder, 'hello', '--max-tokens', '12', ...args], { load: loadTextModel });

  test('answers, the same for the same seed', async () => {
    const { code, out, errors } = await generate('--temperature', '1', '--seed', '3', '--json');
    expect([code, errors]).toEqual([0, '']);
    const lines = out.trimEnd().split('\n');
    const text = (each: string): unknown => (JSON.parse(each) as { text?: string }).text;
    const again = await generate('--temperature', '1', '--seed', '3');
    expect(again).toEqual({ code: 0, errors: '', out: expect.any(String) as string });
    expect(again.out.replace(/\n$/, '')).toBe(lines.map(text).join('').replace(/\n$/, ''));
    expect(JSON.parse(lines.at(-1) as string)).toMatchObject({
      promptTokens: 24, // <|begin|>[user]hello<|eot|>[assistant]
      model: expect.stringMatching(/: 1 layers of 16 in float32 on /) as string,
    });
  });

  test('on the device and in the dtype that are asked for, and leaves nothing behind', async () => {
    trackTensors(true);
    const { code, out } = await generate('--device', 'reference', '--dtype', 'bfloat16', '--json');
    expect(code).toBe(0);
    expect(out).toContain('in bfloat16 on reference"}');
    expect(liveTensors()).toEqual([]);
    trackTensors(false);
  });

  test('through a cache of the dtype that is asked for', async () => {
    const made = jest.spyOn(CausalLM.prototype, 'createCache');
    const { code, out } = await generate('--cache-dtype', 'int8');
    expect([code, out.length > 0]).toEqual([0, true]);
    expect(made).toHaveBeenCalledWith(1, 1024, { dtype: 'int8' });
    made.mockRestore();
  });

  test.each([
    [['--device', 'gpu'], /^ternflash generate: .*got gpu|"gpu"/],
    [['--cache-dtype', 'int4'], /^ternflash generate: createCache: expected one of .* for dtype, got "int4"\n$/],
    [['--dtype', 'int4'], /^ternflash generate: loadModel: expected one of float32, .* for dtype, got "int4"\n$/],
  ])('does not take %j', async (args, message) => {
    const { code, errors } = await generate(...args);
    expect(code).toBe(1);
    expect(errors).toMatch(message);
  });
});

describe('a published checkpoint', () => {
  const fixture = path.join(packageRoot(), 'test', 'fixtures', 'models', 'bitnet_bitlinear');
  let folder: string;
  beforeAll(() => {
    folder = checkpointFolder(CHAT_FILES);
    for (const name of ['config.json', 'model.safetensors']) cpSync(path.join(fixture, name), path.join(folder, name));
  });

  test('answers, and warnings are on standard error', async () => {
    const { code, out, errors } = await call(
      ['generate', folder, 'hello', '--max-tokens', '8', '--dtype', 'float16', '--json'],
      {
        load: loadTextModel,
      },
    );
    expect(code).toBe(0);
    expect(errors).toMatch(/^warning: squared ReLU overflows float16 .*\n$/);
    expect(out).toMatch(/: 2 layers of 64 in float16 on /);
  });

  const collect = async (model: LoadedTextModel, prompt: readonly number[]): Promise<number[]> => {
    const out: number[] = [];
    for await (const token of model.generate(prompt, { maxTokens: 6, temperature: 0 })) out.push(token);
    return out;
  };

  test('a conversation reads what is new, and goes on as if it had read all', async () => {
    const load = (): Promise<LoadedTextModel> => loadTextModel(folder, { dtype: 'float32' });
    const model = await load();
    const read = jest.spyOn(CausalLM.prototype, 'nextLogits');
    const tokensRead = (): number => (read.mock.calls[0][0] as { shape: readonly number[] }).shape[1];
    const first = await collect(model, [1, 2, 3, 4, 5]);
    expect(tokensRead()).toBe(5);
    for (const prompt of [
      [1, 2, 3, 4, 5, ...first, 7, 8],
      [1, 2, 3, 9], // another beginning
      [1, 2, 3, 9], // the same once more
    ]) {
      read.mockClear();
      const got = await collect(model, prompt);
      // Of the answer before, the last token was never read by the model.
      expect(tokensRead()).toBe(prompt.length === 13 ? 3 : 1);
      const fresh = await load();
      expect(got).toEqual(await collect(fresh, prompt));
      fresh.dispose();
    }
    // A prompt that needs a larger cache is read from the beginning.
    const long = Array.from({ length: 1030 }, (_, i) => i % 300);
    read.mockClear();
    await collect(model, long);
    expect(tokensRead()).toBe(512);
    read.mockRestore();
    model.dispose();
  });
});

test('a GGUF file alone, and tokenizer.json beside it goes first', async () => {
  const fixture = path.join(packageRoot(), 'test', 'fixtures', 'models', 'llama');
  const folder = checkpointFolder(CHAT_FILES);
  for (const name of ['config.json', 'model.safetensors']) cpSync(path.join(fixture, name), path.join(folder, name));
  const file = path.join(checkpointFolder({}), 'model.gguf');
  await convertModel(folder, file);
  const generate = (model: string): Promise<Result> =>
    call(['generate', model, 'hello', '--max-tokens', '8', '--temperature', '0'], { load: loadTextModel });
  expect(await generate(file)).toEqual({ ...(await generate(folder)), code: 0 });
  writeFileSync(path.join(path.dirname(file), 'tokenizer.json'), '{}');
  expect((await generate(file)).errors).toContain('tokenizer.json: expected a tokenizer of Hugging Face');
});
