// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError, type Tokenizer } from '../../lib/index.js';
import { removeCheckpointFolders, tokenizerOf } from '../text/checkpoint-folder.js';
import { call } from './capture-context.js';
import { BASE_FILES, CHAT_FILES, EOT } from './chat-files.js';
import { bytesOf, fakeModel, loaderOf } from './fake-model.js';

afterAll(removeCheckpointFolders);

let chat: Tokenizer;
let base: Tokenizer;
beforeAll(async () => {
  [chat, base] = await Promise.all([tokenizerOf(CHAT_FILES), tokenizerOf(BASE_FILES)]);
});

const blue = (): number[] => [...bytesOf('blue 😀'), EOT];

test('asks as the chat template does, and writes the answer', async () => {
  const model = fakeModel(chat, blue);
  const result = await call(['generate', 'm', 'the sky?'], { load: loaderOf(model) });
  expect(result).toEqual({ code: 0, out: 'blue 😀\n', errors: '' });
  expect(model.asked).toEqual([
    {
      prompt: '<|begin|>[user]the sky?<|eot|>[assistant]',
      maxTokens: 512,
      temperature: 0.7,
      topK: 0,
      topP: 0.95,
      minP: 0,
      seed: 0,
      stopTokens: chat.stopTokens,
      signal: expect.any(AbortSignal),
    },
  ]);
  expect(model.disposed).toBe(true);
});

test('--raw, and a model without template, continue the text', async () => {
  for (const [tokenizer, args] of [[chat, ['--raw']] as const, [base, []] as const]) {
    const model = fakeModel(tokenizer, blue);
    await call(['generate', 'm', 'the sky is ', ...args], { load: loaderOf(model) });
    expect(model.asked[0].prompt).toBe('<|begin|>the sky is ');
  }
});

test.each([[['-']], [[]]])('the prompt of standard input, for %j', async (args) => {
  const model = fakeModel(base, blue);
  await call(['generate', 'm', ...args], { load: loaderOf(model), input: 'two\nlines\n' });
  expect(model.asked[0].prompt).toBe('<|begin|>two\nlines');
});

test('options', async () => {
  const model = fakeModel(base, blue);
  const load = jest.fn(loaderOf(model));
  const options =
    '--max-tokens 7 --temperature 0 --top-k 5 --top-p 0.5 --min-p 0.1 --seed 9 --device cpu --dtype bfloat16';
  await call(['generate', 'm', 'x', ...options.split(' ')], { load });
  const expected = { maxTokens: 7, temperature: 0, topK: 5, topP: 0.5, minP: 0.1, seed: 9 };
  expect(model.asked[0]).toMatchObject(expected);
  expect(load).toHaveBeenCalledWith('m', expect.objectContaining({ device: 'cpu', dtype: 'bfloat16' }));
});

test('stops before a stop string, and asks for no more tokens', async () => {
  let made = 0;
  const model = fakeModel(base, function* () {
    for (const id of bytesOf('one\ntwo, three')) {
      made++;
      yield id;
    }
  });
  const load = loaderOf(model);
  expect((await call(['generate', 'm', 'x', '--stop', ', ', '--stop', 'x'], { load })).out).toBe('one\ntwo\n');
  expect(made).toBe('one\ntwo, '.length);
});

describe('--json', () => {
  const linesOf = async (...args: Parameters<typeof call>): Promise<Record<string, unknown>[]> => {
    const { code, out, errors } = await call(...args);
    expect([code, errors]).toEqual([0, '']);
    return out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  };
  const end = { stopString: null, promptTokens: 2, model: 'a fake', seconds: expect.any(Number) };

  test('a line for each piece, and one for the end', async () => {
    const load = loaderOf(fakeModel(base, blue));
    const lines = await linesOf(['generate', 'm', 'x', '--json'], { load, terminal: true });
    expect(lines.slice(0, -1)).toEqual([...'blue ', '😀'].map((text) => ({ text })));
    expect(lines.at(-1)).toEqual({
      ...end,
      finishReason: 'stop',
      tokens: 10,
      promptSeconds: expect.any(Number),
      tokensPerSecond: expect.any(Number),
    });
  });

  test.each<[string, string[], number[], number, object]>([
    ['as many tokens as asked for', ['--max-tokens', '2'], [97, 97, 97], 99, { finishReason: 'length', tokens: 2 }],
    ['as many as fit', [], [97, 97, 97], 4, { finishReason: 'length', tokens: 2 }],
    ['no token', [], [], 99, { finishReason: 'stop', tokens: 0, promptSeconds: null, tokensPerSecond: null }],
    ['a stop string', ['--stop', 'ab'], [97, 98], 99, { finishReason: 'stop', tokens: 2, stopString: 'ab' }],
    ['half a character', [], [0xe4], 99, { finishReason: 'stop', tokens: 1, tokensPerSecond: null }],
  ])('%s', async (_, args, ids, contextLength, expected) => {
    const load = loaderOf(fakeModel(base, () => ids, contextLength));
    const lines = await linesOf(['generate', 'm', 'x', '--json', ...args], { load });
    expect(lines.at(-1)).toMatchObject({ ...end, ...expected });
  });
});

test('tells the speed at a terminal, unless it is to be quiet', async () => {
  const load = loaderOf(fakeModel(base, blue));
  const { out, errors } = await call(['generate', 'm', 'x'], { load, terminal: true });
  expect(out).toBe('blue 😀\n');
  expect(errors).toMatch(/^prompt 2 tokens in [\d.]+ s; answer 10 tokens, [\d.]+ tokens\/s; stop\n$/);
  expect((await call(['generate', 'm', 'x', '--quiet'], { load, terminal: true })).errors).toBe('');
});

test('Ctrl-C ends with what there is', async () => {
  const controller = new AbortController();
  const model = fakeModel(base, async function* ({ signal }) {
    yield* bytesOf('half');
    controller.abort();
    await Promise.resolve();
    signal?.throwIfAborted();
  });
  const { code, out, errors } = await call(['generate', 'm', 'x', '--json'], {
    load: loaderOf(model),
    signal: controller.signal,
  });
  expect([code, errors]).toEqual([130, '']);
  expect(JSON.parse(out.trimEnd().split('\n').at(-1) as string)).toMatchObject({
    finishReason: 'cancelled',
    tokens: 4,
  });
  expect(model.disposed).toBe(true);
});

test('a failure frees the model', async () => {
  const model = fakeModel(base, () => {
    throw new OptionError('op: expected x, got y');
  });
  const load = loaderOf(model);
  expect(await call(['generate', 'm', 'x'], { load })).toEqual({
    code: 1,
    out: '',
    errors: 'ternflash generate: op: expected x, got y\n',
  });
  expect(model.disposed).toBe(true);
});

test('a prompt that fills the context', async () => {
  const load = loaderOf(fakeModel(base, blue, 4));
  expect((await call(['generate', 'm', 'abc'], { load })).errors).toBe(
    "ternflash generate: expected a prompt of fewer than 4 tokens, the model's context, got 4\n",
  );
});
