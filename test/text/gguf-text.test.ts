// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { FormatError, Tokenizer, writeGguf, type GgufValue } from '../../lib/index.js';
import { readGgufTokenizer } from '../../lib/models/gguf-tokenizer.js';
import { Random } from '../random.js';
import { checkpointFolder, removeCheckpointFolders } from './checkpoint-folder.js';
import { byteLevelTokenizer, SPLITS } from './tiny-tokenizers.js';

afterAll(removeCheckpointFolders);

/** The tokenizer of a GGUF file with this metadata. */
async function ggufTokenizer(metadata: Record<string, GgufValue>): Promise<Tokenizer> {
  const file = path.join(checkpointFolder({}), 'model.gguf');
  await writeGguf(file, { metadata: { 'general.architecture': 'llama', ...metadata }, tensors: {} });
  return Tokenizer.load(file);
}

const TEXT =
  "It's the 1024th whale, and THE sea's; we're 3.14 at DON'T I'LL\n\n  two  spaces \r\n\tcafé cafe\u0301 Ελλάδα 日本語 don't HelloWorld /path/to x²٣४";
const STRESS = [
  ...[
    '',
    ' ',
    '   ',
    'a',
    '\n',
    ' \n \n',
    '\t\t',
    TEXT,
    TEXT.toUpperCase(),
    '\u0000\u0001',
    '\ufeff',
    'e\u0301',
    '🐋👩‍👩‍👧',
    '\ud83d',
  ],
  ...['1', '12', '123', '1234', '12345', 'a1b22c333', "'s", "'S", "x'Ll y", '!!!\n\n', ' !?', 'naïve İstanbul ß ſ K'],
  ...[
    '<|begin|>',
    'x<|begin|>y',
    '<|eot|><tool> <tool>',
    '<|begin|><|begin|>the',
    'the<|end|>',
    '__proto__ constructor',
  ],
];

function stress(name: string): string[] {
  const random = new Random(name);
  const letters = [...TEXT, ...'<|>eotбж中 \n\n  \'"09½'];
  const words = Array.from({ length: 200 }, () =>
    Array.from({ length: random.integer(1, 30) }, () => letters[random.integer(0, letters.length - 1)]).join(''),
  );
  return [...STRESS, ...words];
}

/** Across the places where some way splits a text and another does not, and a word that other merges come before. */
const MERGES = [
  't h',
  'h e',
  't he',
  "' S",
  "' s",
  'o W',
  '1 2',
  '12 3',
  '123 4',
  '! !',
  '!! Ċ',
  'Ċ Ċ',
  'Ġ Ġ',
  'Ã ©',
  'e Ì',
  '. 1',
  '/ p',
]
  .concat(['Ġ 1', 'w h', 'wh a', 'l e', 'Ġ !', 'c a', 'ca f', 'Ġ the', 'b 2', '2 2', '4 5'])
  .map((pair) => pair.split(' ') as [string, string]);

const CONFIG = {
  bos_token: '<|begin|>',
  eos_token: { content: '<|end|>' },
  pad_token: '<tool>',
  chat_template: "{{ bos_token }}{% for m in messages %}{{ m['content'] }}<|eot|>{% endfor %}",
};

describe('byte-level BPE, written and read back', () => {
  const { json, specialIds } = byteLevelTokenizer(MERGES);
  const base = json as { model: object };
  const encodings = new Map<string, string>();

  test.each(SPLITS)(
    '$name gives the tokens and texts that tokenizer.json gives',
    async ({ name, parts, ignore_merges }) => {
      const folder = checkpointFolder({
        'tokenizer.json': { ...base, ...parts, model: { ...base.model, ignore_merges } },
        'tokenizer_config.json': CONFIG,
        'generation_config.json': { eos_token_id: [specialIds['<|eot|>'], specialIds['<tool>']] },
      });
      const { metadata, missing } = await readGgufTokenizer(folder, 400);
      expect([metadata['tokenizer.ggml.pre'], missing]).toEqual([name, null]);
      const [expected, got] = [await Tokenizer.load(folder), await ggufTokenizer(metadata)];
      const facts = ({
        bosToken,
        eosToken,
        padToken,
        stopTokens,
        vocabularySize,
        chatTemplates,
      }: Tokenizer): object => ({
        bosToken,
        eosToken,
        padToken,
        stopTokens,
        vocabularySize,
        chatTemplates,
      });
      expect(facts(got)).toEqual(facts(expected));
      for (const text of stress(name)) {
        for (const addSpecialTokens of [true, false]) {
          const ids = expected.encode(text, { addSpecialTokens });
          expect(got.encode(text, { addSpecialTokens })).toEqual(ids);
          for (const skipSpecialTokens of [true, false])
            expect(got.decode(ids, { skipSpecialTokens })).toBe(expected.decode(ids, { skipSpecialTokens }));
        }
      }
      const messages = [{ role: 'user', content: TEXT }];
      expect(got.encodeChat(messages)).toEqual(expected.encodeChat(messages));
      encodings.set(name, JSON.stringify(stress('all').map((text) => got.encode(text))));
    },
  );

  test('they differ in what the texts above hold', () => expect(new Set(encodings.values()).size).toBe(SPLITS.length));

  test('a token that ends texts', async () => {
    const round = (id: string): object => ({ SpecialToken: { id, type_id: 0 } });
    const post_processor = {
      type: 'TemplateProcessing',
      single: [{ Sequence: { id: 'A', type_id: 0 } }, round('<|end|>')],
      pair: [],
      special_tokens: { '<|end|>': { id: '<|end|>', ids: [specialIds['<|end|>']], tokens: ['<|end|>'] } },
    };
    const folder = checkpointFolder({ 'tokenizer.json': { ...base, post_processor }, 'tokenizer_config.json': CONFIG });
    const got = await ggufTokenizer((await readGgufTokenizer(folder, 400)).metadata);
    expect(got.encode('a')).toEqual([97, specialIds['<|end|>']]);
    expect((await Tokenizer.load(folder)).encode('a')).toEqual([97, specialIds['<|end|>']]);
  });
});

/** What SentencePiece does (bpe_model.cc): of all neighbours that are a piece together, those with the highest score become one, the leftmost of equals. */
function sentencePiece(pieces: ReadonlyMap<string, { id: number; score: number }>, text: string): number[] {
  const symbols = [...`▁${text.replaceAll(' ', '▁')}`];
  for (;;) {
    let best = -1;
    let highest = -Infinity;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const score = pieces.get(symbols[i] + symbols[i + 1])?.score ?? -Infinity;
      if (score > highest) [best, highest] = [i, score];
    }
    if (best < 0) break;
    symbols.splice(best, 2, symbols[best] + symbols[best + 1]);
  }
  return symbols.flatMap((symbol) => pieces.get(symbol)?.id ?? [...Buffer.from(symbol)].map((byte) => 3 + byte));
}

describe('SentencePiece', () => {
  const hex = (byte: number): string => byte.toString(16).toUpperCase().padStart(2, '0');
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${hex(byte)}>`);
  const words = [
    'the',
    'then',
    'hen',
    'en',
    'th',
    'he',
    '▁the',
    '▁then',
    '▁t',
    '▁th',
    'whale',
    'wh',
    'al',
    'ale',
    'le',
    'wha',
    'ha',
  ];
  const pieces = [...words, '▁▁', '▁▁▁▁', 'aa', 'aaa', 'aaaa', ...new Set([...words.join('')])];
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, ...pieces, '<|im_end|>', ' <tool> '];
  const scores = Float32Array.from(tokens, (_, id) => (id < 259 ? 0 : -(((id * 7919) % 1000) + id / 1000)));
  const types = Int32Array.from(tokens, (text, id) => (id < 3 ? 3 : id < 259 ? 6 : text.startsWith('<|') ? 3 : 1));
  types[0] = 2;
  types[tokens.length - 1] = 4;
  const metadata = {
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.scores': scores,
    'tokenizer.ggml.token_type': types,
  };

  test('joins neighbours by their scores; bytes for the rest', async () => {
    const tokenizer = await ggufTokenizer(metadata);
    const table = new Map(pieces.map((piece, i) => [piece, { id: 259 + i, score: scores[259 + i] }]));
    const random = new Random('pieces');
    const letters = [...'thenwaleaaaa  é中'];
    for (let round = 0; round < 500; round++) {
      const text = Array.from(
        { length: random.integer(1, 24) },
        () => letters[random.integer(0, letters.length - 1)],
      ).join('');
      expect([text, tokenizer.encode(text)]).toEqual([text, [1, ...sentencePiece(table, text)]]);
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
  });

  test('special tokens, and those that stand in the text', async () => {
    const tokenizer = await ggufTokenizer(metadata);
    const end = tokens.indexOf('<|im_end|>');
    expect(tokenizer).toMatchObject({ bosToken: 1, eosToken: 2, stopTokens: [2, end] });
    const [the, tool] = [tokens.indexOf('▁the'), tokens.indexOf(' <tool> ')];
    expect(tokenizer.encode('the<|im_end|>the <tool> the')).toEqual([1, the, end, the, tool, the]);
    expect(tokenizer.decode([1, the, end, the])).toBe('the the');
    const without = await ggufTokenizer({
      ...metadata,
      'tokenizer.ggml.add_space_prefix': false,
      'tokenizer.ggml.add_bos_token': false,
    });
    expect(without.encode('the')).toEqual([tokens.indexOf('the')]);
  });
});

test("Microsoft's file of BitNet b1.58 2B-4T does not say how texts are split: its vocabulary does", async () => {
  const metadata = {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.tokens': ['<|begin_of_text|>', '1', '2', '12'],
    'tokenizer.ggml.merges': ['1 2'],
    'tokenizer.ggml.bos_token_id': { type: 'u32', value: 0 },
  } as const;
  expect((await ggufTokenizer(metadata)).encode('1212')).toEqual([0, 3, 1, 2]); // three digits, and one
});

describe('is refused', () => {
  const good = {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'gpt-2',
    'tokenizer.ggml.tokens': ['a', 'b', 'ab'],
    'tokenizer.ggml.merges': ['a b'],
  };
  const u32 = (value: number): GgufValue => ({ type: 'u32', value });
  test.each<[string, Record<string, GgufValue>, RegExp]>([
    ['no tokenizer', { 'tokenizer.ggml.model': 'no_vocab' }, /expected a GGUF file with a tokenizer, got one without/],
    [
      'another kind',
      { ...good, 'tokenizer.ggml.model': 'bert' },
      /gpt2 .* or llama .* for tokenizer.ggml.model, got "bert" \(/,
    ],
    [
      'another way to split',
      { ...good, 'tokenizer.ggml.pre': 'viking' },
      /expected one of llama-bpe, .* for tokenizer.ggml.pre, got "viking" \(/,
    ],
    ['none', { 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.tokens': ['a'] }, /for tokenizer.ggml.pre, got none/],
    [
      'a merge that makes no token',
      { ...good, 'tokenizer.ggml.merges': ['b a'] },
      /two tokens that become a third .*, got "b a"/,
    ],
    ['a merge of one', { ...good, 'tokenizer.ggml.merges': ['ab'] }, /got "ab"/],
    ['other kinds of tokens', { ...good, 'tokenizer.ggml.token_type': Int32Array.of(1) }, /expected 3 kinds of tokens/],
    [
      'a token beyond the last',
      { ...good, 'tokenizer.ggml.eos_token_id': u32(3) },
      /a token from 0 to 2 for tokenizer.ggml.eos_token_id, got 3/,
    ],
    [
      'a flag that is none',
      { ...good, 'tokenizer.ggml.add_bos_token': u32(1) },
      /a boolean for tokenizer.ggml.add_bos_token, got 1/,
    ],
    [
      'a template that is none',
      { ...good, 'tokenizer.chat_template': u32(1) },
      /a text for tokenizer.chat_template, got 1/,
    ],
    [
      'pieces without scores',
      { ...good, 'tokenizer.ggml.model': 'llama' },
      /expected 3 scores for tokenizer.ggml.scores, got none/,
    ],
  ])('%s', async (_, metadata, message) => {
    const loading = ggufTokenizer(metadata);
    await expect(loading).rejects.toThrow(FormatError);
    await expect(loading).rejects.toThrow(message);
  });
});
