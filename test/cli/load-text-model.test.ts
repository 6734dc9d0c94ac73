// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { loadTextModel } from '../../lib/cli/commands.js';
import { CausalLM, liveTensors, manualSeed, trackTensors } from '../../lib/index.js';
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

  test.each([
    [['--device', 'gpu'], /^ternflash generate: .*got gpu|"gpu"/],
    [['--dtype', 'int4'], /^ternflash generate: loadTextModel: expected one of float32, .* for dtype, got "int4"\n$/],
  ])('does not take %j', async (args, message) => {
    const { code, errors } = await generate(...args);
    expect(code).toBe(1);
    expect(errors).toMatch(message);
  });
});
