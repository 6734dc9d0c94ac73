// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError, TextStream, type TextStreamOptions, type Tokenizer } from '../../lib/index.js';
import { StopStrings } from '../../lib/text/stop-strings.js';
import { Random } from '../random.js';
import { removeCheckpointFolders, tokenizerOf } from './checkpoint-folder.js';
import {
  byteLevelTokenizer,
  FIRST_PIECE,
  inByteLetters,
  learnMerges,
  llamaTokenizer,
  metaspaceTokenizer,
} from './tiny-tokenizers.js';

afterAll(removeCheckpointFolders);

/** Characters of one to four bytes, and what goes together: a flag, a family, a skin tone, letters with marks, a U+FFFD that is meant. */
const CHARACTERS = [
  ...'ab c.\n é ß 你好吗 😀🎉 \ufffd \ufeff',
  '👨‍👩‍👧',
  '🇩🇪',
  '👍🏽',
  'e\u0301\u0323',
  'क्षि',
  '　',
  '\u00a0',
];

function randomText(random: Random, length: number): string {
  return Array.from({ length }, () => CHARACTERS[random.integer(0, CHARACTERS.length - 1)]).join('');
}

/** What a stream gives for tokens, piece by piece. */
function piecesOf(tokenizer: Tokenizer, ids: Iterable<number>, options?: TextStreamOptions): string[] {
  const stream = new TextStream(tokenizer, options);
  const pieces = Array.from(ids, (id) => stream.push(id));
  return [...pieces, stream.flush()];
}

// Merges of bytes, not of characters: many tokens end inside of one.
const SPLIT = byteLevelTokenizer([
  ...learnMerges('😀🎉😀👍🏽 你好吗 éß 😃 你 😀 你好', 25),
  ...[['Ġ', inByteLetters('😀')[0]] as const, inByteLetters('好').slice(1) as [string, string]],
]);
const PIECES = ['▁', 'a', 'b', 'c', '.', 'é', '▁a', '▁ab', '▁▁', '好'];
const MERGES = [
  ['▁', 'a'],
  ['▁a', 'b'],
  ['▁', '▁'],
] as const;

const KINDS: [string, () => Promise<Tokenizer>][] = [
  ['byte-level BPE', () => tokenizerOf({ 'tokenizer.json': SPLIT.json })],
  ['bytes alone', () => tokenizerOf({ 'tokenizer.json': byteLevelTokenizer([]).json })],
  ['Llama 2', () => tokenizerOf({ 'tokenizer.json': llamaTokenizer(PIECES, MERGES) })],
  ['Metaspace', () => tokenizerOf({ 'tokenizer.json': metaspaceTokenizer(PIECES, MERGES) })],
];

describe.each(KINDS)('the pieces of %s', (name, load) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await load();
  });

  test('are together what decode gives, for texts', () => {
    const random = new Random(`texts ${name}`);
    for (let i = 0; i < 200; i++) {
      const text = randomText(random, random.integer(0, 30));
      const ids = tokenizer.encode(text);
      const pieces = piecesOf(tokenizer, ids);
      expect(pieces.join('')).toBe(tokenizer.decode(ids));
      expect(pieces.at(-1)).toBe(text.endsWith('\ufffd') ? '\ufffd' : ''); // nothing else may need to wait for the end
      for (const piece of pieces) {
        expect(piece).not.toMatch(/\p{Cs}/u); // half a pair of UTF-16
        if (!text.includes('\ufffd')) expect(piece).not.toContain('\ufffd');
      }
    }
  });

  test.each([true, false])('and for any tokens, with skipSpecialTokens %s', (skipSpecialTokens) => {
    const random = new Random(`tokens ${name} ${skipSpecialTokens}`);
    for (let i = 0; i < 300; i++) {
      // Bytes that are no UTF-8, special tokens, and ids that no token has.
      const ids = Array.from(random.integers(random.integer(0, 40), 0, tokenizer.vocabularySize + 2));
      const pieces = piecesOf(tokenizer, ids, { skipSpecialTokens });
      expect(pieces.join('')).toBe(tokenizer.decode(ids, { skipSpecialTokens }));
    }
  });

  test('and with a context what decode adds to it', () => {
    const random = new Random(`context ${name}`);
    for (let i = 0; i < 200; i++) {
      const ids = tokenizer.encode(randomText(random, random.integer(2, 20)));
      // Cut anywhere: a prompt that was cut inside of a character has its beginning, and the stream gives the whole character.
      const cut = random.integer(1, ids.length);
      const [context, rest] = [ids.slice(0, cut), ids.slice(cut)];
      const before = tokenizer.decode(context).replace(/\ufffd$/, '');
      expect(piecesOf(tokenizer, rest, { context }).join('')).toBe(tokenizer.decode(ids).slice(before.length));
    }
  });

  test('take no more time for later tokens', () => {
    const decode = jest.spyOn(tokenizer, 'decode');
    const random = new Random(`time ${name}`);
    // Bytes that never make a character are held back no longer than others.
    piecesOf(tokenizer, random.integers(300, 0x80, 0xbf), { context: random.integers(300, 0, 255) });
    const lengths = decode.mock.calls.map(([ids]) => [...ids].length);
    decode.mockRestore();
    expect(Math.max(...lengths)).toBe(5);
    expect(lengths.length).toBeLessThanOrEqual(2 * 300 + 2);
  });
});

describe('a stream', () => {
  let bytes: Tokenizer;
  let llama: Tokenizer;
  beforeAll(async () => {
    [bytes, llama] = await Promise.all([KINDS[1][1](), KINDS[2][1]()]);
  });
  const [a, ab, space] = ['a', '▁ab', '▁'].map((piece) => FIRST_PIECE + PIECES.indexOf(piece));

  test('holds back half a character, and no more', () => {
    expect(piecesOf(bytes, [0x61, 0xf0, 0x9f, 0x98, 0x80])).toEqual(['a', '', '', '', '😀', '']);
    expect(piecesOf(bytes, [0xe4, 0xbd])).toEqual(['', '', '\ufffd']); // which never came whole
    expect(piecesOf(bytes, [0xe4, 0x61])).toEqual(['', '\ufffda', '']);
    expect(piecesOf(bytes, [0x80, 0x80, 0x80])).toEqual(['', '\ufffd', '\ufffd', '\ufffd']);
  });

  test('has the spaces of the text', () => {
    expect(piecesOf(llama, [ab, ab, space, a])).toEqual(['ab', ' ab', ' ', 'a', '']);
    expect(piecesOf(llama, [ab, ab], { context: [ab] })).toEqual([' ab', ' ab', '']);
    // A special token without text is no beginning, and in a row of them none is.
    expect(piecesOf(llama, [ab, 2, ab])).toEqual(['ab', '', ' ab', '']);
    expect(piecesOf(llama, [ab, ...new Array<number>(9).fill(2), ab]).join('')).toBe('ab ab');
    expect(piecesOf(llama, [2, ab], { context: [1] })).toEqual(['', 'ab', '']);
  });

  test('stops at a string that spans tokens', () => {
    const stream = new TextStream(bytes, { stop: ['\nUser:', '###'] });
    const push = (text: string): string[] => [...new TextEncoder().encode(text)].map((byte) => stream.push(byte));
    expect(push('a#b##c')).toEqual(['a', '', '#b', '', '', '##c']);
    expect([stream.stopped, stream.stopString]).toEqual([false, null]);
    expect(push('d\nUser').join('')).toBe('d');
    expect(push(':')).toEqual(['']);
    expect([stream.stopped, stream.stopString]).toEqual([true, '\nUser:']);
    expect(push('more')).toEqual(['', '', '', '']);
    expect(stream.flush()).toBe('');
  });

  test('gives at its end what could have been the beginning of a stop string', () => {
    expect(piecesOf(bytes, [0x61, 0x23, 0x23], { stop: '###' })).toEqual(['a', '', '', '##']);
    // Half a character is text of its own only then, and can be a stop string as well.
    expect(piecesOf(bytes, [0x61, 0xe4], { stop: 'a\ufffd' })).toEqual(['', '', '']);
  });

  test.each([
    [{ stop: '' }, 'TextStream: expected a string or a list of strings, none of them empty, for stop'],
    [{ stop: [1] }, 'TextStream: expected a string or a list of strings, none of them empty, for stop'],
    [{ stops: [] }, /^TextStream: expected only stop, context/],
    [{ context: [-1] }, /^TextStream: expected an integer from 0/],
  ])('does not take %j', (options, message) => {
    const call = (): unknown => new TextStream(bytes, options as unknown as TextStreamOptions);
    expect(call).toThrow(OptionError);
    expect(call).toThrow(message);
  });
});

describe('stop strings', () => {
  /** By the definition: letter for letter, the first that is whole; of those that end together the longest. */
  function expected(text: string, strings: readonly string[]): [string, string | null] {
    for (let end = 0; end <= text.length; end++) {
      const [found] = strings.filter((each) => text.slice(0, end).endsWith(each)).sort((a, b) => b.length - a.length);
      if (found !== undefined) return [text.slice(0, end - found.length), found];
    }
    return [text, null];
  }

  test('are found wherever the text is cut', () => {
    const random = new Random('stop strings');
    const letters = (least: number, most: number): string =>
      Array.from({ length: random.integer(least, most) }, () => 'ab'[random.integer(0, 1)]).join('');
    for (let i = 0; i < 2000; i++) {
      const text = letters(0, 25);
      const strings = Array.from({ length: random.integer(0, 3) }, () => letters(1, 6));
      const stops = new StopStrings(strings);
      let given = '';
      for (let at = 0; at < text.length;) {
        const next = at + random.integer(1, 5);
        given += stops.push(text.slice(at, next));
        at = next;
        // Nothing is held back that could not begin a stop string.
        const rest = text.slice(given.length, Math.min(at, text.length));
        if (stops.found === null && rest !== '') expect(strings.some((each) => each.startsWith(rest))).toBe(true);
      }
      expect([given + stops.flush(), stops.found]).toEqual(expected(text, strings));
    }
  });
});
