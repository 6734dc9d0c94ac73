// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FormatError, OptionError, Tokenizer, type ChatMessage } from '../../lib/index.js';
import { inChild } from '../core/child.js';
import { checkpointFolder, removeCheckpointFolders, tokenizerOf } from './checkpoint-folder.js';
import { byteLevelTokenizer, FIRST_PIECE, llamaTokenizer, metaspaceTokenizer } from './tiny-tokenizers.js';

afterAll(removeCheckpointFolders);

// 256 he, 257 ll, 258 hell, 259 hello, 260 Ġw
const GREETING = byteLevelTokenizer([
  ['h', 'e'],
  ['l', 'l'],
  ['he', 'll'],
  ['hell', 'o'],
  ['Ġ', 'w'],
]);
const [BEGIN, END, EOT, TOOL] = [261, 262, 263, 264];
const NAMES = { bos_token: '<|begin|>', eos_token: { content: '<|end|>', lstrip: false } };

// 259 ▁, 260 a, 261 b, 262 ▁a, 263 ▁ab
const PIECES = ['▁', 'a', 'b', '▁a', '▁ab'];
const MERGES = [
  ['▁', 'a'],
  ['▁a', 'b'],
] as const;
const [SPACE, A, B, SPACE_A, SPACE_AB] = [0, 1, 2, 3, 4].map((i) => FIRST_PIECE + i);

describe('byte-level BPE', () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await tokenizerOf({ 'tokenizer.json': GREETING.json, 'tokenizer_config.json': NAMES });
  });

  test('encodes by the merges, in their order', () => {
    // [hello][Ġw][o]: "ello" alone has no merge of "e", for "he" is the only one.
    expect(tokenizer.encode('hello wo', { addSpecialTokens: false })).toEqual([259, 260, 0x6f]);
    expect(tokenizer.encode('ello', { addSpecialTokens: false })).toEqual([0x65, 257, 0x6f]);
    expect(tokenizer.encode('é', { addSpecialTokens: false })).toEqual([0xc3, 0xa9]);
    expect(tokenizer.encode('', { addSpecialTokens: false })).toEqual([]);
  });

  test('puts the special token first unless it is told not to, and never twice', () => {
    expect(tokenizer.encode('hell')).toEqual([BEGIN, 258]);
    expect(tokenizer.encode('')).toEqual([BEGIN]);
    expect(tokenizer.encode('<|begin|>hell')).toEqual([BEGIN, 258]);
    expect(tokenizer.encode('<|begin|><|begin|>hell')).toEqual([BEGIN, BEGIN, 258]); // the text has two
    expect(tokenizer.encode('<|begin|>hell', { addSpecialTokens: false })).toEqual([BEGIN, 258]);
  });

  test('makes ids of special tokens in the text', () => {
    expect(tokenizer.encode('he<|eot|> w<tool>', { addSpecialTokens: false })).toEqual([256, EOT, 260, TOOL]);
  });

  test('decodes, with special tokens or without', () => {
    const ids = [BEGIN, 259, 260, 0x6f, TOOL, EOT];
    expect(tokenizer.decode(ids)).toBe('hello wo<tool>');
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe('<|begin|>hello wo<tool><|eot|>');
    expect(tokenizer.decode(Int32Array.of(0xc3, 0xa9, 0xc3))).toBe('é\ufffd');
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([END])).toBe('');
  });

  test('takes no notice of ids beyond the vocabulary, as padded models draw them', () => {
    expect(tokenizer.vocabularySize).toBe(265);
    expect(tokenizer.decode([258, 265, 9999, 0x6f])).toBe('hello');
  });

  test('gives back spaces before punctuation', async () => {
    const config = { ...NAMES, clean_up_tokenization_spaces: true };
    const other = await tokenizerOf({ 'tokenizer.json': GREETING.json, 'tokenizer_config.json': config });
    for (const each of [tokenizer, other]) expect(each.decode(each.encode("he 's ll , o ."))).toBe("he 's ll , o .");
  });

  test('tells the special tokens', () => {
    const { bosToken, eosToken, padToken, stopTokens } = tokenizer;
    expect({ bosToken, eosToken, padToken, stopTokens }).toEqual({
      bosToken: BEGIN,
      eosToken: END,
      padToken: null,
      stopTokens: [END],
    });
    expect([tokenizer.tokenId('hell'), tokenizer.tokenId('nothing')]).toEqual([258, null]);
  });

  test.each([
    ['encode', (each: Tokenizer) => each.encode(1 as unknown as string), 'encode: expected a string for text, got 1'],
    ['decode', (each: Tokenizer) => each.decode([0.5]), /^decode: expected an integer from 0 to .* for ids, got 0.5$/],
    ['options', (each: Tokenizer) => each.encode('', { special: 1 } as object), /^encode: expected only addSpecial/],
  ])('a wrong call of %s', (_, call, message) => {
    expect(() => call(tokenizer)).toThrow(message);
    expect(() => call(tokenizer)).toThrow(OptionError);
  });
});

test.each<[string, Record<string, unknown>, number[]]>([
  ['generation_config.json', { 'generation_config.json': { eos_token_id: [EOT, END] } }, [END, EOT]],
  ['config.json', { 'config.json': { eos_token_id: EOT } }, [END, EOT]],
  ['both', { 'generation_config.json': { eos_token_id: EOT }, 'config.json': { eos_token_id: [7] } }, [7, END, EOT]],
  ['neither', { 'generation_config.json': {}, 'config.json': { eos_token_id: null } }, [END]],
])('tokens at which generation ends, of %s', async (_, files, expected) => {
  const names = { 'special_tokens_map.json': NAMES };
  expect((await tokenizerOf({ 'tokenizer.json': GREETING.json, ...names, ...files })).stopTokens).toEqual(expected);
});

test('add_bos_token adds what tokenizer.json does not', async () => {
  const json = { ...GREETING.json, post_processor: null };
  const config = { ...NAMES, add_bos_token: true };
  const tokenizer = await tokenizerOf({ 'tokenizer.json': json, 'tokenizer_config.json': config });
  expect(tokenizer.encode('hell')).toEqual([BEGIN, 258]);
  expect(tokenizer.encode('<|begin|>hell')).toEqual([BEGIN, 258]);
  expect(tokenizer.encode('hell', { addSpecialTokens: false })).toEqual([258]);
});

test('tokens that only tokenizer_config.json calls special are left out too', async () => {
  const config = { ...NAMES, additional_special_tokens: ['<tool>'] };
  const tokenizer = await tokenizerOf({ 'tokenizer.json': GREETING.json, 'tokenizer_config.json': config });
  expect(tokenizer.decode([258, TOOL])).toBe('hell');
});

describe('SentencePiece-style BPE', () => {
  const names = { 'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' } };

  test('as of Llama 2', async () => {
    const tokenizer = await tokenizerOf({ 'tokenizer.json': llamaTokenizer(PIECES, MERGES), ...names });
    const ids = [1, SPACE_AB, A, SPACE, B, SPACE_A, 3 + 0xc3, 3 + 0xa9];
    expect(tokenizer.encode('aba b aé')).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe('aba b aé'); // the space that encoding put first is dropped
    expect(tokenizer.decode([SPACE, SPACE_A])).toBe(' a'); // and no other
    expect(tokenizer.decode([3 + 0xc3])).toBe('\ufffd');
    // Llama 2's normaliser puts a space first after every special token, and so do the Python tokenizers.
    expect(tokenizer.encode('a</s>a')).toEqual([1, SPACE_A, 2, SPACE_A]);
  });

  test('with Metaspace', async () => {
    const tokenizer = await tokenizerOf({ 'tokenizer.json': metaspaceTokenizer(PIECES, MERGES), ...names });
    const ids = [1, SPACE_AB, A, SPACE, B, SPACE_A, 3 + 0xc3, 3 + 0xa9];
    expect(tokenizer.encode('aba b aé')).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe('aba b aé');
    expect(tokenizer.encode('a</s>a')).toEqual([1, SPACE_A, 2, A]); // a space at the very first only
  });
});

describe('chat templates', () => {
  const MESSAGES: ChatMessage[] = [
    { role: 'user', content: ' hello ' },
    { role: 'assistant', content: 'he' },
  ];
  // The form of microsoft/bitnet-b1.58-2B-4T's.
  const TEMPLATE =
    "{% for message in messages %}{% set content = message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot|>' %}" +
    '{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}' +
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";
  const withTemplate = (chat_template: unknown, files: Record<string, unknown> = {}): Promise<Tokenizer> =>
    tokenizerOf({ 'tokenizer.json': GREETING.json, 'tokenizer_config.json': { ...NAMES, chat_template }, ...files });

  test('make a text, and ids with special tokens and one beginning', async () => {
    const tokenizer = await withTemplate(TEMPLATE);
    const text = '<|begin|>User: hello<|eot|>Assistant: he<|eot|>';
    expect(tokenizer.applyChatTemplate(MESSAGES)).toBe(`${text}Assistant: `);
    expect(tokenizer.applyChatTemplate(MESSAGES, { addGenerationPrompt: false })).toBe(text);
    const ids = tokenizer.encodeChat(MESSAGES, { addGenerationPrompt: false });
    const bytes = (part: string): number[] => [...new TextEncoder().encode(part)];
    // The regular expression takes " hello" for one word, in which "hello" merges as it does alone.
    expect(ids).toEqual([BEGIN, ...bytes('User: '), 259, EOT, ...bytes('Assistant: '), 256, EOT]);
    expect(tokenizer.encode(text)).toEqual(ids); // also where the text is encoded as any other
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(text);
  });

  test('may be several', async () => {
    const tokenizer = await withTemplate([
      { name: 'default', template: 'one' },
      { name: 'tools', template: '{{ bos_token }}{{ tools is none }} {{ depth }}' },
    ]);
    expect(tokenizer.chatTemplates).toEqual(['default', 'tools']);
    expect(tokenizer.applyChatTemplate(MESSAGES)).toBe('one');
    const options = { template: 'tools', variables: { depth: 3 } };
    expect(tokenizer.applyChatTemplate(MESSAGES, options)).toBe('<|begin|>true 3');
    expect(() => tokenizer.applyChatTemplate(MESSAGES, { template: 'x' })).toThrow(
      /^applyChatTemplate: expected a model with the chat template "x", got one with default, tools \(/,
    );
  });

  test('may be in a file, which has precedence', async () => {
    const tokenizer = await withTemplate('one', { 'chat_template.jinja': 'two' });
    expect(tokenizer.applyChatTemplate(MESSAGES)).toBe('two');
  });

  test('may be missing', async () => {
    const tokenizer = await withTemplate(undefined);
    expect(tokenizer.chatTemplates).toEqual([]);
    const call = (): unknown => tokenizer.encodeChat(MESSAGES);
    expect(call).toThrow(OptionError);
    expect(call).toThrow(/^encodeChat: expected a model with the chat template "default", got a model without any \(/);
  });

  test('may refuse the messages', async () => {
    const tokenizer = await withTemplate("{{ raise_exception('Roles must take turns') }}");
    const call = (): unknown => tokenizer.applyChatTemplate(MESSAGES);
    expect(call).toThrow(OptionError);
    expect(call).toThrow(/^applyChatTemplate: expected messages .* got its refusal: Roles must take turns$/);
  });

  test('may be no Jinja, or no template', async () => {
    const tokenizer = await withTemplate('{% if %}');
    expect(() => tokenizer.applyChatTemplate(MESSAGES)).toThrow(FormatError);
    await expect(withTemplate([{ name: 'default' }])).rejects.toThrow(/chat_template$/);
  });

  test.each([[[]], [[{ role: 'user' }]], ['hello']])('do not take %j for messages', async (messages) => {
    const tokenizer = await withTemplate(TEMPLATE);
    expect(() => tokenizer.applyChatTemplate(messages as ChatMessage[])).toThrow(
      /^applyChatTemplate: expected one or more/,
    );
  });
});

describe('a folder', () => {
  const expectError = async (folder: string, message: RegExp): Promise<void> => {
    const error = await Tokenizer.load(folder).catch((each: unknown) => each);
    expect(error).toBeInstanceOf(FormatError);
    expect((error as FormatError).message).toMatch(message);
  };

  test('without tokenizer.json', async () => {
    await expectError(
      '/no/such/folder',
      /^Tokenizer.load: expected a folder with tokenizer.json or a GGUF file, got .* not there$/,
    );
    await expectError(__filename, /, which is neither$/);
    await expectError(checkpointFolder({}), / without one$/);
    await expectError(
      checkpointFolder({ 'tokenizer.model': '' }),
      / with tokenizer.model only; .* writes tokenizer.json$/,
    );
  });

  test('with one that is none', async () => {
    await expectError(
      checkpointFolder({ 'tokenizer.json': '{' }),
      /tokenizer.json: expected JSON in UTF-8 at byte 0, got /,
    );
    await expectError(
      checkpointFolder({ 'tokenizer.json': [] }),
      /tokenizer.json: expected a JSON object at byte 0, got \[\]$/,
    );
    await expectError(
      checkpointFolder({ 'tokenizer.json': {} }),
      /tokenizer.json: expected a tokenizer of Hugging Face, got /,
    );
  });
});

describe('without the optional package', () => {
  const load = (missing: string, folder: string): ReturnType<typeof inChild> =>
    inChild(
      async (library, name, where) => {
        type Resolve = (request: string, parent: unknown, isMain: boolean, options?: { paths: string[] }) => string;
        const modules = process.getBuiltinModule('node:module') as unknown as { _resolveFilename: Resolve };
        const resolve = modules._resolveFilename;
        // As if it were installed nowhere.
        modules._resolveFilename = (request, parent, isMain, options) =>
          resolve(request, parent, isMain, request === name ? { paths: ['/no/such/folder'] } : options);
        try {
          return (await library.Tokenizer.load(where)).applyChatTemplate([{ role: 'user', content: 'he' }]);
        } catch (error) {
          const { code, message, dependency } = error as Error & { code: string; dependency: string };
          return { code, message, dependency };
        }
      },
      [missing, folder],
    );

  test.each([
    ['@huggingface/tokenizers', 'Tokenizer.load'],
    ['@huggingface/jinja', 'applyChatTemplate'],
  ])('%s', async (name, op) => {
    const config = { ...NAMES, chat_template: 'text' };
    const folder = checkpointFolder({ 'tokenizer.json': GREETING.json, 'tokenizer_config.json': config });
    expect((await load('nothing', folder)).result).toBe('text');
    expect((await load(name, folder)).result).toEqual({
      code: 'ERR_DEPENDENCY',
      dependency: name,
      message: `${op}: expected the optional package ${name}, got none; npm install ${name} adds it`,
    });
  });
});
