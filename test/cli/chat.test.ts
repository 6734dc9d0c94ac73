// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { readFileSync } from 'node:fs';
import * as path from 'node:path';
import { main } from '../../lib/cli/main.js';
import type { Tokenizer } from '../../lib/index.js';
import { checkpointFolder, removeCheckpointFolders, tokenizerOf } from '../text/checkpoint-folder.js';
import { call, Terminal } from './capture-context.js';
import { BASE_FILES, CHAT_FILES, EOT } from './chat-files.js';
import { bytesOf, fakeModel, loaderOf, untilAborted, type Asked } from './fake-model.js';

afterAll(removeCheckpointFolders);

let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await tokenizerOf(CHAT_FILES);
});

/** How many messages there were. */
const count = ({ prompt }: Asked): number[] => [...bytesOf(`answer ${prompt.split('[user]').length - 1}`), EOT];

describe('lines from elsewhere', () => {
  test('are messages of one conversation', async () => {
    const model = fakeModel(tokenizer, count);
    const result = await call(['chat', 'm'], { load: loaderOf(model), input: 'one\n\n  two \n' });
    expect(result).toEqual({ code: 0, out: 'answer 1\nanswer 2\n', errors: '' });
    expect(model.asked.map(({ prompt, seed }) => [prompt, seed])).toEqual([
      ['<|begin|>[user]one<|eot|>[assistant]', 0],
      ['<|begin|>[user]one<|eot|>[assistant]answer 1<|eot|>[user]two<|eot|>[assistant]', 1],
    ]);
    expect(model.disposed).toBe(true);
  });

  test('may be commands', async () => {
    const file = path.join(checkpointFolder({}), 'saved.json');
    const model = fakeModel(tokenizer, count);
    const input = `one\n/reset\n/system be brief\ntwo\n/save ${file}\n/system\nthree\n/quit\nfour`;
    const { code, out } = await call(['chat', 'm', '--system', 'first'], { load: loaderOf(model), input });
    expect([code, out]).toEqual([0, 'answer 1\nanswer 1\nanswer 2\n']);
    expect(model.asked.map(({ prompt }) => prompt)).toEqual([
      '<|begin|>[system]first<|eot|>[user]one<|eot|>[assistant]',
      '<|begin|>[system]be brief<|eot|>[user]two<|eot|>[assistant]',
      '<|begin|>[user]two<|eot|>[assistant]answer 1<|eot|>[user]three<|eot|>[assistant]',
    ]);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual([
      { role: 'system', content: 'be brief' },
      { role: 'user', content: 'two' },
      { role: 'assistant', content: 'answer 1' },
    ]);
  });

  test.each([
    ['/nonsense', /^ternflash chat: expected \/help, \/reset, .* or \/quit, got \/nonsense\n$/],
    ['/save', /^ternflash chat: expected \/help, .*, got \/save\n$/],
    ['/save /no/such/folder/x', /^ternflash chat: ENOENT: no such file or directory, open '.*x'\n$/],
  ])('end with an error after %j', async (line, message) => {
    const result = await call(['chat', 'm'], { load: loaderOf(fakeModel(tokenizer, count)), input: `${line}\none\n` });
    expect(result).toEqual({ code: 1, out: '', errors: expect.stringMatching(message) as string });
  });

  test('end by Ctrl-C', async () => {
    const controller = new AbortController();
    const model = fakeModel(tokenizer, function* () {
      yield* bytesOf('half');
      controller.abort();
    });
    const options = { load: loaderOf(model), input: 'one\ntwo\n', signal: controller.signal };
    expect(await call(['chat', 'm'], options)).toEqual({ code: 130, out: 'half\n', errors: '' });
    expect(model.asked).toHaveLength(1);
  });
});

test('a model without chat template', async () => {
  const model = fakeModel(await tokenizerOf(BASE_FILES), count);
  const message =
    'expected a model with a chat template, got m without one; ternflash generate continues texts with it';
  expect(await call(['chat', 'm'], { load: loaderOf(model) })).toEqual({
    code: 1,
    out: '',
    errors: `ternflash chat: ${message}\n`,
  });
  expect(model.disposed).toBe(true);
});

describe('at a terminal', () => {
  const CTRL_C = '\x03';
  const CTRL_D = '\x04';
  const start = (
    reply: Parameters<typeof fakeModel>[1],
    signal?: AbortSignal,
  ): { terminal: Terminal; model: ReturnType<typeof fakeModel>; end: Promise<number> } => {
    const terminal = new Terminal();
    const model = fakeModel(tokenizer, reply, 120);
    return { terminal, model, end: main(['chat', 'm'], terminal.context(loaderOf(model), signal)) };
  };

  test('asks, answers, tells the speed and asks again', async () => {
    const { terminal, model, end } = start(count);
    await terminal.shows('a fake\n/help lists what can be done\n> ');
    terminal.type('hello\n');
    await terminal.shows('answer 1\n(prompt 24 tokens in ');
    await terminal.shows('stop)\n> ');
    terminal.type('/help\n');
    await terminal.shows('/quit           leaves\n');
    await terminal.shows('> ');
    terminal.type(CTRL_D);
    expect(await end).toBe(0);
    expect(model.disposed).toBe(true);
  });

  test('Ctrl-C stops an answer, and what came of it stays', async () => {
    const { terminal, model, end } = start(async function* ({ signal, prompt }) {
      yield* bytesOf('half');
      if (!prompt.includes('two')) await untilAborted(signal);
    });
    await terminal.shows('> ');
    terminal.type('one\n');
    await terminal.shows('half');
    terminal.type(CTRL_C);
    await terminal.shows('\n(prompt ');
    await terminal.shows('cancelled)\n> ');
    terminal.type('two\n');
    await terminal.shows('stop)\n> ');
    expect(model.asked[1].prompt).toContain('[user]one<|eot|>[assistant]half<|eot|>[user]two');
    terminal.type('/quit\n');
    expect(await end).toBe(0);
  });

  test('Ctrl-C at the prompt asks again, and twice leaves', async () => {
    const { terminal, end } = start(count);
    await terminal.shows('> ');
    terminal.type(`typed${CTRL_C}`);
    await terminal.shows('\n(Ctrl-C again, Ctrl-D or /quit leaves)\n');
    await terminal.shows('> ');
    terminal.type('one\n'); // something between the two, and without what was typed before
    await terminal.shows('answer 1\n(prompt 22 tokens');
    await terminal.shows('> ');
    terminal.type(CTRL_C);
    await terminal.shows('leaves)\n');
    terminal.type(CTRL_C);
    expect(await end).toBe(0);
  });

  test('an error is told, and forgets the message', async () => {
    const { terminal, model, end } = start(count);
    await terminal.shows('> ');
    terminal.type(`${'long '.repeat(30)}\n`);
    await terminal.shows("chat: expected a prompt of fewer than 120 tokens, the model's context, got ");
    await terminal.shows('> ');
    terminal.type('/save /no/such/folder/x\n');
    await terminal.shows('ENOENT');
    await terminal.shows('> ');
    terminal.type('one\n');
    await terminal.shows('answer 1\n');
    expect(model.asked).toHaveLength(1);
    terminal.type('/quit\n');
    expect(await end).toBe(0);
  });

  test('a signal from elsewhere ends it', async () => {
    const controller = new AbortController();
    const { terminal, end } = start(count, controller.signal);
    await terminal.shows('> ');
    controller.abort();
    expect(await end).toBe(130);
  });
});
