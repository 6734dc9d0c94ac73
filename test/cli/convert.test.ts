// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import {
  CausalLM,
  exportModel,
  liveTensors,
  loadModel,
  manualSeed,
  openGguf,
  trackTensors,
  type Conversion,
} from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import { checkpointFolder, removeCheckpointFolders } from '../text/checkpoint-folder.js';
import { call } from './capture-context.js';
import { CHAT_FILES } from './chat-files.js';

let folder: string;
let made = 0;
beforeAll(() => (folder = mkdtempSync(path.join(tmpdir(), 'ternflash-'))));
afterAll(() => {
  rmSync(folder, { recursive: true });
  removeCheckpointFolders();
});
const place = (ending = ''): string => path.join(folder, `model-${made++}${ending}`);
const fixture = (name: string): string => path.join(packageRoot(), 'test', 'fixtures', 'models', name);

/** A file of CausalLM.save. */
async function saved(frozen: boolean): Promise<string> {
  manualSeed(1);
  const shape = {
    vocabulary: 40,
    layers: 1,
    hidden: 256,
    heads: 4,
    intermediate: 256,
    activation: 'relu2Glu',
  } as const;
  using model = new CausalLM(shape);
  if (frozen) model.freeze();
  const file = place('.safetensors');
  await model.save(file);
  return file;
}

describe('ternflash convert', () => {
  test('a folder to a folder, with the tokenizer, verified', async () => {
    const from = checkpointFolder(CHAT_FILES);
    for (const name of readdirSync(fixture('bitnet_bitlinear')))
      cpSync(path.join(fixture('bitnet_bitlinear'), name), path.join(from, name));
    const to = place();
    const { code, out, errors } = await call(['convert', from, to, '--verify']);
    expect([code, errors]).toEqual([0, '']);
    expect(out).toContain('verified: the same tensors to the bit');
    expect(readdirSync(to)).toEqual(
      expect.arrayContaining(['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']),
    );
    expect(out).toContain('copied: tokenizer.json, tokenizer_config.json');
  });

  test.each([
    ['TQ1_0', true],
    ['TQ2_0', true],
    ['I2_S', false],
  ])('to a GGUF file of %s and back', async (ternary, rounds) => {
    trackTensors(true);
    const from = await saved(true);
    const to = place('.gguf');
    const { code, out } = await call(['convert', from, to, '--ternary', ternary, '--verify', '--json']);
    expect(code).toBe(0);
    const { differences, tensors } = JSON.parse(out) as Conversion;
    expect(tensors).toBeGreaterThan(10);
    // Scales become float16; trits and all else are the same.
    const names = (differences ?? []).map(({ name }) => name);
    expect(names.every((name) => name.endsWith('.weight.scale'))).toBe(true);
    expect(names.length > 0).toBe(rounds);
    for (const { relative } of differences ?? []) expect(relative > 0 && relative <= 2 ** -11).toBe(true);
    const back = await call(['convert', to, place(), '--verify']);
    expect(back).toMatchObject({ code: 0, errors: '' });
    expect(back.out).toContain('verified');
    expect(liveTensors()).toEqual([]);
    trackTensors(false);
  });

  test('masters are kept if asked for', async () => {
    const [packed, kept] = [place(), place()];
    expect((await call(['convert', fixture('bitnet_master'), packed])).code).toBe(0);
    expect((await call(['convert', fixture('bitnet_master'), kept, '--masters', '--verify'])).out).toContain(
      'verified',
    );
    await expect(loadModel(packed, { trainable: true })).rejects.toThrow('packed trits');
    using model = await loadModel(kept, { trainable: true });
    expect(model.parameters().length).toBeGreaterThan(10);
  });

  test.each([
    [['convert'], 2, 'expected what to read and what to write, got 0 names'],
    [['convert', 'a', 'b', 'c'], 2, 'got 3 names'],
    [['convert', 'a', 'b.gguf', '--ternary', 'Q4_0'], 2, 'expected TQ1_0, TQ2_0 or I2_S for --ternary, got "Q4_0"'],
    [['convert', 'nowhere', 'b'], 1, 'ENOENT'],
    [['convert', '.', './'], 1, 'expected another place to write to'],
    [['quantize', 'a'], 2, 'got 1 names'],
  ])('%j is told', async (args, code, message) => {
    const result = await call(args);
    expect(result).toMatchObject({ code, out: '' });
    expect(result.errors).toContain(message);
    expect(result.errors.trimEnd().split('\n')).toHaveLength(1);
  });

  test('what has no place in the format is told, and nothing is written', async () => {
    const to = place('.gguf');
    const { code, errors } = await call(['convert', fixture('bitnet_bitlinear'), to]);
    expect([code, existsSync(to)]).toEqual([1, false]);
    expect(errors).toMatch(/^ternflash convert: .*blocks of 256.*\n$/);
  });
});

describe('ternflash quantize', () => {
  test('a float model becomes a ternary one', async () => {
    const to = place();
    const { code, out, errors } = await call(['quantize', fixture('llama'), to]);
    expect([code, errors]).toEqual([0, '']);
    expect(out).toContain('14 quantised');
    using model = await loadModel(to);
    expect([model.config.ternary, model.config.subNorm]).toEqual([true, false]);
    const json = await call(['quantize', fixture('llama'), place(), '--method', 'twn', '--json']);
    expect((JSON.parse(json.out) as { layers: unknown[] }).layers).toHaveLength(14);
    const args = ['quantize', fixture('llama'), place(), '--method', 'percentile'];
    expect((await call([...args, '--percentile', '50'])).out).toMatch(/5\d\.\d % of the trits are 0/);
    expect((await call([...args, '--percentile', 'half'])).errors).toContain('percentile, got NaN');
  });

  test('a GGUF file gets the tokenizer, or it is told why not', async () => {
    const { errors } = await call(['quantize', fixture('llama'), place('.gguf')]);
    expect(errors).toContain('blocks of 256'); // its layers are too narrow
    const to = place('.gguf');
    const dense = checkpointFolder(CHAT_FILES);
    manualSeed(2);
    using model = new CausalLM({
      vocabulary: 300,
      layers: 1,
      hidden: 256,
      heads: 4,
      intermediate: 256,
      ternary: false,
    });
    await exportModel(model, dense);
    expect(await call(['quantize', dense, to])).toMatchObject({ code: 0, errors: '' });
    const file = await openGguf(to);
    expect(file.metadata['tokenizer.ggml.model']).toBe('gpt2');
    await file.close();
  });

  test('another method is told', async () => {
    const { code, errors } = await call(['quantize', fixture('llama'), place(), '--method', 'absmax']);
    expect(code).toBe(1);
    expect(errors).toContain('absmax');
  });
});

test.each(['convert', 'quantize'])('ternflash %s --help teaches', async (name) => {
  const { code, out } = await call([name, '--help']);
  expect(code).toBe(0);
  expect(out).toMatch(/^Examples\n/);
  expect(out).toContain(`Usage: ternflash ${name} <from> <to>`);
});
