// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { ModuleKind, ScriptTarget, transpileModule } from 'typescript';
import { packageRoot } from '../../lib/native.js';
import { CHAT_FILES } from '../cli/chat-files.js';
import { checkpointFolder, removeCheckpointFolders } from '../text/checkpoint-folder.js';

/** Fenced blocks of README.md: the language, and the text. */
const blocks = [...readFileSync(path.join(packageRoot(), 'README.md'), 'utf8').matchAll(/```(\w*)\n(.*?)```/gs)].map(
  ([, language, text]) => ({ language, text }),
);
const programs = blocks.flatMap(({ language, text }, index) => (language === 'ts' ? [{ text, index }] : []));

describe('README', () => {
  let folder: string;
  beforeAll(() => {
    // Inside the package, so that 'ternflash' is the package itself, as built by `npm run build:ts`.
    if (!existsSync(path.join(packageRoot(), 'dist', 'index.js'))) throw new Error('expected dist, built by npm test');
    folder = mkdtempSync(path.join(packageRoot(), '.out', 'readme-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const run = (text: string, ...args: string[]): { status: number | null; out: string; error: string } => {
    const file = path.join(folder, 'program.mjs');
    const options = { module: ModuleKind.ESNext, target: ScriptTarget.ES2022 };
    writeFileSync(file, transpileModule(text, { compilerOptions: options }).outputText);
    // What stands below the programs is what the cpu device gives, to the last digit.
    const env = { ...process.env, TERNFLASH_CUDA: '0' };
    const child = spawnSync(process.execPath, [file, ...args], { cwd: folder, encoding: 'utf8', timeout: 50_000, env });
    return { status: child.status, out: child.stdout, error: child.stderr };
  };

  test('the first program prints what stands below it', () => {
    const expected = blocks[programs[0].index + 1];
    expect(expected.language).toBe('');
    expect(run(programs[0].text)).toEqual({ status: 0, out: expected.text, error: '' });
  });

  test('the training program learns its sentence', () => {
    const { status, out, error } = run(programs[1].text);
    expect([status, error]).toEqual([0, '']);
    expect(out.split('\n')).toContain('ale swam and the whale sang, a');
  });

  test('the run that is stopped at step 13 ends as the one that is not', () => {
    const start = (...args: string[]): string[] => {
      const { status, out, error } = run(programs[2].text, ...args);
      expect([status, error]).toEqual([0, '']);
      return out.split('\n');
    };
    const [from, to] = start();
    expect(from).toBe('from step 0');
    expect(to).toMatch(/^to step 30 with loss [12]\.\d+$/);
    rmSync(path.join(folder, 'run'), { recursive: true });

    expect(start('13')).toEqual([from, expect.stringMatching(/^to step 13 with loss [345]\.\d+$/), '']);
    expect(start()).toEqual(['from step 13', to, '']);
    const metrics = readFileSync(path.join(folder, 'metrics.jsonl'), 'utf8').trim().split('\n');
    expect(metrics.map((line) => (JSON.parse(line) as { step: number }).step)).toEqual(
      Array.from({ length: 30 }, (_, i) => i + 1),
    );
  }, 150_000);

  test('the model that is trained on documents answers', () => {
    expect(run(programs[3].text)).toEqual({ status: 0, out: 'went down\n', error: '' });
  });

  test('the checkpoint policies take the memory that stands below them', () => {
    const expected = blocks[programs[4].index + 1];
    expect(expected.language).toBe('');
    expect(run(programs[4].text)).toEqual({ status: 0, out: expected.text, error: '' });
  });

  test('a packed sequence gives what it gives alone', () => {
    expect(run(programs[6].text)).toEqual({ status: 0, out: 'true\n', error: '' });
  });

  test('a published checkpoint answers, and is written for others', () => {
    const checkpoint = checkpointFolder(CHAT_FILES);
    const model = path.join(packageRoot(), 'test', 'fixtures', 'models', 'bitnet_master');
    for (const name of ['config.json', 'model.safetensors'])
      cpSync(path.join(model, name), path.join(checkpoint, name));
    const { status, out, error } = run(programs[5].text, checkpoint);
    removeCheckpointFolders();
    expect([status, error]).toEqual([0, '']);
    expect(out).not.toBe('');
    expect(existsSync(path.join(folder, 'packed', 'config.json'))).toBe(true);
  });

  test('every program is run here', () => expect(programs).toHaveLength(7));
});
