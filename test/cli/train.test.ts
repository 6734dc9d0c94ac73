// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { main } from '../../lib/cli/main.js';
import {
  CausalLM,
  liveTensors,
  loadLora,
  loadModel,
  manualSeed,
  noGrad,
  tensor,
  Tokenizer,
  trackTensors,
  type CausalLMOptions,
  type StepReport,
} from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import { checkpointFolder, removeCheckpointFolders } from '../text/checkpoint-folder.js';
import { metricsOf, temporaryFolder } from '../train/runs.js';
import { call, type Result } from './capture-context.js';
import { CHAT_FILES } from './chat-files.js';

afterAll(removeCheckpointFolders);

const folder = temporaryFolder();

const DOCUMENTS = Array.from({ length: 24 }, (_, i) => {
  const question = `${i % 5}+${i % 3}`;
  if (i % 3 === 0) return { text: `the answer to ${question}` };
  if (i % 3 === 1) return { prompt: `${question}=`, completion: 'aa' };
  return {
    messages: [
      { role: 'user', content: question },
      { role: 'assistant', content: 'abab'.slice(0, 1 + (i % 4)) },
    ],
  };
});

/** The folder of a small model and a file of documents. */
async function inputs(options: Partial<CausalLMOptions> = {}): Promise<{ model: string; data: string; place: string }> {
  const model = checkpointFolder(CHAT_FILES);
  manualSeed(1);
  const sizes = { vocabulary: 264, layers: 2, hidden: 32, heads: 2, intermediate: 32 };
  using made = new CausalLM({ ...sizes, ternary: false, dropout: 0.1, ...options });
  // Logits of some size, as trained models have them: adapters cannot make the output projection larger.
  made.embedding.write(Float32Array.from(await made.embedding.data(), (each) => 25 * each));
  await made.save(path.join(model, 'model.safetensors'));
  const place = folder();
  const data = path.join(place, 'data.jsonl');
  writeFileSync(data, DOCUMENTS.map((each) => `${JSON.stringify(each)}\n`).join(''));
  return { model, data, place };
}

const SMALL = ['--batch-tokens', '64', '--sequence-length', '32', '--eval-share', '0.2', '--learning-rate', '0.02'];

function reportsOf(out: string): StepReport[] {
  const lines = out.trimEnd().split('\n');
  return lines.slice(0, -1).map((line) => JSON.parse(line) as StepReport);
}

const endOf = (out: string): unknown => JSON.parse(out.trimEnd().split('\n').at(-1) as string);

describe('ternflash train', () => {
  test('trains adapters: the loss falls, and the adapters give the loss that was told', async () => {
    const { model, data, place } = await inputs();
    const out = path.join(place, 'run');
    trackTensors(true);
    const args = ['train', '--model', model, '--data', data, '--out', out, ...SMALL, '--json', '--quiet'];
    const run = await call([...args, '--epochs', '12', '--lora-rank', '4', '--eval-every', '10']);
    expect([run.code, run.errors]).toEqual([0, '']);
    expect(liveTensors()).toEqual([]);
    trackTensors(false);
    const reports = reportsOf(run.out);
    expect(reports.map(({ step }) => step)).toEqual(reports.map((_, i) => i + 1));
    const evaluations = reports.flatMap(({ evaluation }) => evaluation ?? []);
    expect(evaluations.length).toBe(Math.ceil(reports.length / 10));
    const end = endOf(run.out) as { evaluation: number };
    expect(end).toMatchObject({
      step: reports.length,
      reason: 'done',
      evaluation: evaluations.at(-1),
      files: [path.join(out, 'adapters.safetensors')],
    });
    // Of 264 tokens at the start.
    expect(reports[0].loss).toBeGreaterThan(5);
    expect(end.evaluation).toBeLessThan(3);
    expect(await metricsOf(path.join(out, 'metrics.jsonl'))).toEqual(
      reports.map(({ seconds, ...rest }) => (expect(seconds).toBeGreaterThan(0), rest)),
    );
    expect(readdirSync(path.join(out, 'checkpoints'))).toContain('latest');

    const tokenizer = await Tokenizer.load(model);
    const ids = tokenizer.encode('1+1=aa');
    const likelihood = async (adapters: boolean): Promise<number> => {
      using loaded = await loadModel(model);
      if (adapters) await loadLora(loaded, path.join(out, 'adapters.safetensors'));
      loaded.eval();
      const targets = ids.map((_, i) => (i < ids.length - 3 ? -100 : (ids[i + 1] ?? -100)));
      const row = (values: number[]) => tensor([values], { dtype: 'int32', device: loaded.device });
      using loss = noGrad(() => loaded.loss(row(ids), row(targets)));
      return loss.item();
    };
    expect(await likelihood(true)).toBeLessThan((await likelihood(false)) / 2);
  }, 60_000);

  test('trains all weights of a ternary model, and the result answers', async () => {
    const { model, data, place } = await inputs({ ternary: true, dropout: 0 });
    const out = path.join(place, 'run');
    const args = ['train', '--model', model, '--data', data, '--out', out, ...SMALL, '--steps', '40', '--full'];
    const run = await call([...args, '--accumulate', '2', '--weight-decay', '0', '--warmup', '4', '--long', 'cut']);
    expect(run).toEqual({ code: 0, out: `${out}/model.safetensors\n`, errors: expect.any(String) as string });
    const [, , ...lines] = run.errors.trimEnd().split('\n');
    expect(run.errors).toMatch(/2 layers of 32 in float32 on \S+; \d+ numbers are trained\n/);
    expect(lines.at(-1)).toMatch(/^done: step 40, loss \d\.\d{3}, evaluation \d\.\d{3}$/);
    const losses = (await metricsOf(path.join(out, 'metrics.jsonl'))).map(({ loss }) => loss as number);
    expect(losses[39]).toBeLessThan(losses[0] / 2);
    using trained = await loadModel(out, { trainable: true });
    expect(trained.config.ternary).toBe(true);
    expect((await Tokenizer.load(out)).stopTokens).toEqual((await Tokenizer.load(model)).stopTokens);
  }, 60_000);

  test('merges adapters into the weights; of ternary ones it tells the loss after that', async () => {
    const { model, data, place } = await inputs({ ternary: true, dropout: 0 });
    const out = path.join(place, 'run');
    const args = ['train', '--model', model, '--data', data, '--out', out, ...SMALL, '--steps', '3', '--merge'];
    const run = await call([...args, '--lora-targets', 'query,mlp.down']);
    expect(run.errors).toMatch(/\nmerged, with ternary weights rounded to trits anew: evaluation \d\.\d{3}\n/);
    expect(run.out).toBe(`${out}/adapters.safetensors\n${out}/model.safetensors\n`);
    using merged = await loadModel(out);
    expect([...merged.state().keys()].filter((name) => name.includes('lora'))).toEqual([]);
  });

  /** As on a computer where the first step that the test names is followed by Ctrl-C. */
  async function interrupted(args: string[], step: number): Promise<Result> {
    const controller = new AbortController();
    let [out, errors] = ['', ''];
    const code = await main(args, {
      out: {
        write(text) {
          out += text;
          if (text.startsWith(`{"step":${step},`)) controller.abort();
        },
      },
      errors: { write: (text) => (errors += text) },
      input: process.stdin,
      signal: controller.signal,
      loadTextModel: () => Promise.reject(new Error('no model was to be loaded')),
    });
    return { code, out, errors };
  }

  test('Ctrl-C saves, and says how to go on, which ends at the same bits', async () => {
    const { model, data, place } = await inputs();
    const [whole, out] = [path.join(place, 'whole'), path.join(place, 'run')];
    const begin = ['train', '--model', model, '--data', data, ...SMALL, '--steps', '9', '--lora-dropout', '0.1'];
    expect((await call([...begin, '--out', whole])).code).toBe(0);
    const stopped = await interrupted([...begin, '--out', out, '--json', '--eval-every', '2'], 4);
    expect(stopped.code).toBe(130);
    expect(stopped.errors).toContain(`stopped at step 4 of 9; to go on: ternflash train --out ${out} --resume\n`);
    expect(endOf(stopped.out)).toMatchObject({ reason: 'aborted', step: 4, files: [] });
    expect(existsSync(path.join(out, 'adapters.safetensors'))).toBe(false);

    const again = await call(['train', '--model', model, '--data', data, '--out', out]);
    expect([again.code, again.errors]).toEqual([
      1,
      `ternflash train: expected --resume, or a folder without a run for --out, got ${out}\n`,
    ]);
    const other = await call(['train', '--out', out, '--resume', '--steps', '10']);
    expect([other.code, other.errors]).toEqual([
      2,
      'ternflash train: expected --steps 9 beside --resume, as the run began, got 10; see ternflash train --help\n',
    ]);
    expect((await call(['train', '--out', out, '--resume', '--seed', '1'])).errors).toContain(
      'expected no --seed beside --resume, as the run began, got 1',
    );

    const resumed = await call(['train', '--out', out, '--resume', '--json']);
    expect(resumed.code).toBe(0);
    expect(reportsOf(resumed.out).map(({ step }) => step)).toEqual([5, 6, 7, 8, 9]);
    expect(resumed.errors).toContain('step 4 of 9');
    const bytes = (run: string): Buffer => readFileSync(path.join(run, 'adapters.safetensors'));
    expect(bytes(out).equals(bytes(whole))).toBe(true);
    // Once more, of a run that is over: its results are written again.
    expect(await call(['train', '--out', out, '--resume', '--quiet'])).toEqual({
      code: 0,
      errors: '',
      out: `${out}/adapters.safetensors\n`,
    });
    expect(bytes(out).equals(bytes(whole))).toBe(true);
  }, 60_000);

  test('a run that is killed goes on to the same bits', async () => {
    const { model, data, place } = await inputs();
    const program = path.join(packageRoot(), 'bin', 'ternflash.cjs');
    if (!existsSync(path.join(packageRoot(), 'dist', 'cli', 'train.js')))
      throw new Error('expected dist, built by npm test');
    const start = (
      args: string[],
      killAt: number,
    ): Promise<{ code: number | null; signal: string | null; errors: string }> =>
      new Promise((resolve, reject) => {
        const child = spawn(process.execPath, [program, 'train', ...args, '--json'], { timeout: 50_000 });
        let [out, errors] = ['', ''];
        child.stdout.on('data', (chunk: Buffer) => {
          out += chunk.toString();
          if (out.includes(`{"step":${killAt},`)) child.kill('SIGKILL');
        });
        child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
        child.on('error', reject);
        child.on('close', (code, signal) => resolve({ code, signal, errors }));
      });
    const [whole, out] = [path.join(place, 'whole'), path.join(place, 'run')];
    const begin = ['--model', model, '--data', data, ...SMALL, '--steps', '60', '--save-every', '3', '--quiet'];
    expect(await start([...begin, '--out', whole], Infinity)).toEqual({ code: 0, signal: null, errors: '' });
    expect(await start([...begin, '--out', out], 8)).toEqual({ code: null, signal: 'SIGKILL', errors: '' });
    expect(await start(['--out', out, '--resume'], 25)).toMatchObject({ code: null, signal: 'SIGKILL' });
    expect(existsSync(path.join(out, 'adapters.safetensors'))).toBe(false);
    expect(await start(['--out', out, '--resume', '--quiet'], Infinity)).toEqual({ code: 0, signal: null, errors: '' });
    const bytes = (run: string): Buffer => readFileSync(path.join(run, 'adapters.safetensors'));
    expect(bytes(out).equals(bytes(whole))).toBe(true);
    expect(await metricsOf(path.join(out, 'metrics.jsonl'))).toEqual(
      await metricsOf(path.join(whole, 'metrics.jsonl')),
    );
  }, 120_000);

  test('at a terminal: a bar, and the curve at the end', async () => {
    const { model, data, place } = await inputs();
    const args = ['train', '--model', model, '--data', data, '--out', path.join(place, 'run'), ...SMALL];
    const { code, errors } = await call([...args, '--steps', '12'], { terminal: true });
    expect(code).toBe(0);
    expect(errors).toMatch(/\r\x1b\[2K█+░+ 6\/12, loss \d\.\d{3}, \d+ targets\/s, 0:\d\d left\r/);
    expect(errors).toMatch(/\x1b\[2Ktraining loss, nats a token\n *\d+\.\d{3} ┤.*[╮─]/);
  });

  test('a wrong line of the data is told with its place, and no run is begun', async () => {
    const { model, data, place } = await inputs();
    writeFileSync(data, '{"text":"a"}\n{"texts":"b"}\n');
    const run = await call(['train', '--model', model, '--data', data, '--out', path.join(place, 'run')]);
    expect([run.code, run.out]).toEqual([1, '']);
    expect(run.errors).toBe(
      `ternflash train: ${data}: expected {text}, {prompt, completion} or {messages: [{role, content}, …]} on line 2, at byte 13, got {"texts":"b"}\n`,
    );
    expect(existsSync(path.join(place, 'run'))).toBe(false);
  });

  test('tokens that the model lacks, and documents longer than its context', async () => {
    const { model, data, place } = await inputs({ vocabulary: 200, contextLength: 30 });
    const args = ['train', '--model', model, '--data', data, '--out', path.join(place, 'run')];
    expect((await call(args)).errors).toBe(
      "ternflash train: expected a tokenizer of the model's 200 tokens, got one that makes token 258\n",
    );
    const { model: whole } = await inputs({ contextLength: 30 });
    args[2] = whole;
    expect((await call([...args, '--sequence-length', '31'])).errors).toBe(
      "ternflash train: expected a sequence length of at most 30, the model's context, got 31\n",
    );
    // Without a length, that of the context.
    const first = async (out: string, ...more: string[]): Promise<StepReport> => {
      const run = await call([
        ...args.slice(0, -1),
        path.join(place, out),
        '--steps',
        '1',
        '--json',
        '--quiet',
        ...more,
      ]);
      expect([run.code, run.errors]).toEqual([0, '']);
      return reportsOf(run.out)[0];
    };
    expect((await first('without')).loss).toBe((await first('with', '--sequence-length', '30')).loss);
  });

  test('--help', async () => {
    const { code, out, errors } = await call(['train', '--help']);
    expect([code, errors]).toEqual([0, '']);
    expect(out).toContain('--lora-rank R');
    for (const line of out.split('\n')) expect(line.length).toBeLessThanOrEqual(150);
  });

  const given = ['--model', 'm', '--data', 'd', '--out', path.join('not', 'there')];
  test.each([
    [[], 'expected --out, got none'],
    [['--out', 'o'], 'expected --model, got none'],
    [given.slice(0, 2).concat('--out', 'o'), 'expected --data, got none'],
    [[...given, '--full', '--lora-rank', '3'], 'expected --full or --lora-rank, got both'],
    [[...given, '--full', '--merge'], 'expected --full or --merge, got both'],
    [[...given, '--steps', '3', '--epochs', '3'], 'expected --steps or --epochs, got both'],
    [[...given, '--steps', '0'], 'expected an integer from 1 to 2147483647 for --steps, got "0"'],
    [[...given, '--learning-rate', 'x'], 'expected a number of at least'],
    [
      [...given, '--batch-tokens', '8', '--sequence-length', '9'],
      'expected an integer from 1 to 8 for --sequence-length, got "9"',
    ],
    [[...given, '--long', 'drop'], 'expected split or cut for --long, got "drop"'],
    [[...given, '--dtype', 'int8'], 'expected float32 or float16 or bfloat16 for --dtype, got "int8"'],
    [[...given, 'more'], "Unexpected argument 'more'"],
  ] as [string[], string][])('a wrong call: %j', async (args, message) => {
    const { code, out, errors } = await call(['train', ...args]);
    expect([code, out]).toEqual([2, '']);
    expect(errors.slice('ternflash train: '.length)).toContain(message);
    expect(existsSync('not')).toBe(false);
  });

  test('--resume without a run', async () => {
    const empty = path.join(folder(), 'empty');
    mkdirSync(empty);
    expect(await call(['train', '--out', empty, '--resume'])).toEqual({
      code: 1,
      out: '',
      errors: `ternflash train: expected a folder with a run for --out beside --resume, got ${empty}\n`,
    });
  });
});
