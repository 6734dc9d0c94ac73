// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { writeFileSync } from 'node:fs';
import * as path from 'node:path';
import {
  DocumentDataset,
  documentEncoder,
  encodeConversation,
  FormatError,
  OptionError,
  type ChatMessage,
  type DocumentBatch,
  type DocumentDatasetOptions,
  type TrainingDocument,
} from '../../lib/index.js';
import { BEGIN, byteTokenizer, chatMl, decodeBytes, encodeBytes, END } from './byte-tokenizer.js';
import { temporaryFolder } from './runs.js';

const folder = temporaryFolder();
const encoder = documentEncoder(byteTokenizer());

type Options = Omit<DocumentDatasetOptions, 'encoder'>;
const datasetOf = (documents: TrainingDocument[], options: Options = {}): DocumentDataset =>
  new DocumentDataset(documents, { encoder, ...options });

/** Each document of a batch: its text, and what is learnt of it, with a dot for what is not. */
function shown({ ids, targets, cuSeqlens }: DocumentBatch): [string, string][] {
  return Array.from(cuSeqlens.subarray(1), (end, i) => {
    const begin = cuSeqlens[i];
    const learnt = Array.from(targets.subarray(begin, end), (id) => (id === -100 ? '.' : decodeBytes([id])));
    return [decodeBytes(ids.subarray(begin, end)), learnt.join('')];
  });
}

const only = (document: TrainingDocument, options: Options = {}): [string, string][] =>
  shown(datasetOf([document], options).next() as DocumentBatch);

const TALK: ChatMessage[] = [
  { role: 'system', content: 'S' },
  { role: 'user', content: 'Hi' },
  { role: 'assistant', content: 'Yo' },
  { role: 'user', content: 'Yo?' },
  { role: 'assistant', content: 'ok' },
];

/** What a conversation's tokens are, and the learnt ones among them as text. */
function learntOf(messages: ChatMessage[], template = chatMl, encode = encodeBytes): [string, string] {
  const { ids, trained } = encodeConversation({ ...byteTokenizer(template), encode }, messages);
  return [decodeBytes(ids), decodeBytes(ids.filter((_, i) => trained[i]))];
}

describe('documents', () => {
  test('of a text all is learnt, its end too', () => {
    expect(only({ text: 'abc' })).toEqual([['<s>abc</s>', 'abc</s>.']]);
    expect(only({ text: 'abc</s>' })).toEqual([['<s>abc</s>', 'abc</s>.']]);
  });

  test('of a prompt and its completion the completion is learnt, and its end', () => {
    expect(only({ prompt: 'ab', completion: 'cd' })).toEqual([['<s>abcd</s>', '..cd</s>.']]);
    expect(only({ prompt: 'a</s>', completion: 'c' })).toEqual([['<s>a</s>c</s>', '..c</s>.']]);
    expect(only({ prompt: '', completion: 'c' })).toEqual([['<s>c</s>', 'c</s>.']]);
  });

  test('a tokenizer that ends texts itself does not end the prompt', () => {
    const ending = {
      encode: (text: string, options: { addSpecialTokens: boolean }) => [
        ...encodeBytes(text, options),
        ...(options.addSpecialTokens ? [END] : []),
      ],
      endToken: END,
    };
    const data = new DocumentDataset([{ prompt: 'ab', completion: 'c' }, { text: 'x' }], { encoder: ending });
    expect(shown(data.next() as DocumentBatch).sort()).toEqual([
      ['<s>abc</s>', '..c</s>.'],
      ['<s>x</s>', 'x</s>.'],
    ]);
  });

  test('a token is never across the end of a prompt: the model goes on from the tokens of the prompt', () => {
    // "ab" is one token.
    const pairs = {
      encode: (text: string, options: { addSpecialTokens: boolean }) =>
        encodeBytes(text.replaceAll('ab', 'é'), options).map((id) => (id === 0xc3 ? 300 : id === 0xa9 ? 301 : id)),
    };
    const idsOf = (document: TrainingDocument): number[] =>
      Array.from((new DocumentDataset([document], { encoder: pairs }).next() as DocumentBatch).ids);
    expect(idsOf({ prompt: 'xa', completion: 'by' })).toEqual([BEGIN, 120, 97, 98, 121]);
    expect(idsOf({ prompt: 'x', completion: 'aby' })).toEqual([BEGIN, 120, 300, 301, 121]);
  });

  test('of a conversation the answers are learnt, with what ends them', () => {
    const text = chatMl(TALK, { addGenerationPrompt: false });
    expect(learntOf(TALK)).toEqual([text, 'Yo<|im_end|>\nok<|im_end|>\n']);
    // What introduces it is learnt too where it begins the conversation: nobody can tell it from the answer.
    expect(learntOf(TALK.slice(2, 4))[1]).toBe('<|im_start|>assistant\nYo<|im_end|>\n');
    expect(learntOf(TALK.slice(0, 2))[1]).toBe('');
    expect(only({ messages: TALK.slice(1, 3) }).map(([, learnt]) => learnt.replace(/^\.+/, ''))).toEqual([
      'Yo<|im_end|>\n.',
    ]);
  });

  test('a template that writes earlier answers otherwise, and one without a prompt for the answer', () => {
    // As of Qwen 3: thoughts stand in the last answer only.
    const thinking = (messages: readonly ChatMessage[], { addGenerationPrompt = true } = {}): string => {
      const last = messages.map(({ role }) => role).lastIndexOf('user');
      const thought = messages.map(({ role, content }, i) => ({
        role,
        content: role === 'assistant' && i > last ? `<think>\n\n</think>\n\n${content}` : content,
      }));
      return chatMl(thought, { addGenerationPrompt });
    };
    expect(learntOf(TALK, thinking)[1]).toBe('Yo<|im_end|>\n<think>\n\n</think>\n\nok<|im_end|>\n');
    // As of Llama 2.
    const instructions = (messages: readonly ChatMessage[]): string =>
      messages.map(({ role, content }) => (role === 'user' ? `<s>[INST] ${content} [/INST]` : ` ${content} </s>`)).join(''); // prettier-ignore
    expect(learntOf(TALK.slice(1), instructions)).toEqual([
      '<s>[INST] Hi [/INST] Yo </s><s>[INST] Yo? [/INST] ok </s>',
      ' Yo </s> ok </s>',
    ]);
    // As of DeepSeek's distillates: the prompt begins a thought that is not kept.
    const begun = (messages: readonly ChatMessage[], { addGenerationPrompt = true } = {}): string =>
      chatMl(messages, { addGenerationPrompt }) + (addGenerationPrompt ? '<think>\n' : '');
    expect(learntOf(TALK, begun)[1]).toBe('Yo<|im_end|>\nok<|im_end|>\n');
  });

  test('a template that leaves an answer out, or tells something else, is refused', () => {
    const silent = (messages: readonly ChatMessage[], options = {}): string =>
      chatMl(
        messages.filter(({ role }, i) => role !== 'assistant' || i > 2),
        options,
      );
    const message = 'encodeConversation: expected a chat template that says message 3 as it is, got another text';
    expect(() => learntOf(TALK, silent)).toThrow(new OptionError(message));
    const counting = (messages: readonly ChatMessage[], options = {}): string =>
      `${messages.length}${chatMl(messages, options)}`;
    expect(() => learntOf(TALK, counting)).toThrow(message);
  });
});

describe('DocumentDataset', () => {
  const texts = Array.from({ length: 40 }, (_, i) => ({ text: String.fromCharCode(48 + i).repeat(1 + (i % 7)) }));
  const drain = (data: DocumentDataset): DocumentBatch[] => {
    const batches: DocumentBatch[] = [];
    for (let batch = data.next(); batch; batch = data.next()) batches.push(batch);
    return batches;
  };
  const textsOf = (batches: readonly DocumentBatch[]): string[] =>
    batches.flatMap(shown).map(([text]) => text.slice(3, -4));

  test('packs whole documents, no more tokens than asked for, each once in an epoch, in an order of its own', () => {
    const data = datasetOf(texts, { maxTokens: 20, maxSequenceLength: 10, epochs: 2, seed: 3 });
    expect([data.documents, data.tokens, data.targets]).toEqual([40, 235, 195]);
    const count = data.countBatches(1);
    const batches = drain(data);
    expect(batches).toHaveLength(data.countBatches(2));
    const all = texts.map(({ text }) => text).sort();
    const [first, second] = [textsOf(batches.slice(0, count)), textsOf(batches.slice(count))];
    expect([...first].sort()).toEqual(all);
    expect([...second].sort()).toEqual(all);
    expect(first).not.toEqual(second);
    batches.forEach(({ sequence, ids, targets, rows, count: targetCount, cuSeqlens }, i) => {
      expect([ids.length, targets.length, rows, cuSeqlens.at(-1)]).toEqual([sequence, sequence, 1, sequence]);
      expect(sequence).toBeLessThanOrEqual(20);
      expect(targetCount).toBe(targets.filter((target) => target !== -100).length);
      // The first document of the next batch did not fit.
      if (i !== count - 1 && i !== batches.length - 1)
        expect(sequence + batches[i + 1].cuSeqlens[1]).toBeGreaterThan(20);
    });
    expect(drain(datasetOf(texts, { maxTokens: 20, maxSequenceLength: 10, epochs: 2, seed: 3 }))).toEqual(batches);
    expect(drain(datasetOf(texts, { maxTokens: 20, maxSequenceLength: 10, epochs: 2, seed: 4 }))).not.toEqual(batches);
  });

  test('pass() gives all documents as they come, and leaves next() where it is', () => {
    const data = datasetOf(texts, { maxTokens: 30, maxSequenceLength: 10 });
    data.next();
    const state = data.state();
    expect(textsOf([...data.pass()])).toEqual(texts.map(({ text }) => text));
    expect(data.state()).toEqual(state);
    const ordered = datasetOf(texts, { maxTokens: 30, maxSequenceLength: 10, order: 'sequential', epochs: 1 });
    expect(drain(ordered)).toEqual([...data.pass()]);
  });

  test('longer documents are split, every token a target once, or cut', () => {
    const options = { maxTokens: 8, maxSequenceLength: 4, order: 'sequential', epochs: 1 } as const;
    const document = { text: 'abcdefgh' };
    const all = (given: TrainingDocument, more: Options): [string, string][] =>
      drain(datasetOf([given], { ...options, ...more })).flatMap(shown);
    expect(all(document, {})).toEqual([
      ['<s>abc', 'abcd'],
      ['defg', 'efgh'],
      ['h</s>', '</s>.'],
    ]);
    expect(all(document, { longDocuments: 'cut' })).toEqual([['<s>abc', 'abcd']]);
    expect(all({ prompt: 'abcdef', completion: 'g' }, {})).toEqual([['defg', '..g</s>']]);
    expect(all({ prompt: 'abcdef', completion: 'gh' }, {})).toEqual([
      ['defg', '..gh'],
      ['h</s>', '</s>.'],
    ]);
  });

  test('documents without anything to learn are left out', () => {
    const data = datasetOf([{ text: '' }, { text: 'a' }, { messages: TALK.slice(0, 2) }], { order: 'sequential' });
    // An empty text is learnt to end at once.
    expect([...data.pass()].flatMap(shown)).toEqual([
      ['<s></s>', '</s>.'],
      ['<s>a</s>', 'a</s>.'],
    ]);
    expect(() => datasetOf([{ messages: TALK.slice(0, 2) }])).toThrow(
      new OptionError('DocumentDataset: expected a document with tokens to learn, got 1 without'),
    );
  });

  test('split: each document is in one part, by the seed', () => {
    const data = datasetOf(texts, { maxTokens: 40, maxSequenceLength: 3, seed: 5 });
    const [train, held] = data.split(0.1) as [DocumentDataset, DocumentDataset];
    expect([train.documents, held.documents]).toEqual([36, 4]);
    const lettersOf = (part: DocumentDataset): Set<string> =>
      new Set([...part.pass()].flatMap(shown).map(([text]) => text.replace(/<\/?s>/g, '')[0]).filter(Boolean)); // prettier-ignore
    const [a, b] = [lettersOf(train), lettersOf(held)];
    expect([...b].filter((letter) => a.has(letter))).toEqual([]);
    expect(train.tokens + held.tokens).toBe(data.tokens);
    expect(data.split(0.1)[1]?.state()).toEqual(held.state());
    const other = datasetOf(texts, { maxTokens: 40, maxSequenceLength: 3, seed: 6 }).split(0.1)[1] as DocumentDataset;
    expect(lettersOf(other)).not.toEqual(b);
    expect(data.split(0.001)[1]).toBeNull();
    expect(() => data.split(1)).toThrow('expected a share that leaves some of 40 documents, got 1');
  });

  test('goes on where a state says, which only the same documents and sizes take', () => {
    const options = { maxTokens: 20, maxSequenceLength: 10, seed: 3 };
    const data = datasetOf(texts, options);
    const states = Array.from({ length: 40 }, () => [data.state(), data.next()] as const);
    for (const [state, batch] of [states[0], states[7], states[39]]) {
      const again = datasetOf(texts, options);
      again.next();
      again.loadState(JSON.parse(JSON.stringify(state)) as typeof state);
      expect(again.next()).toEqual(batch);
    }
    expect(data.epoch).toBeGreaterThan(1);
    const refused = (other: DocumentDataset): unknown => {
      try {
        return other.loadState(states[3][0]);
      } catch (error) {
        return (error as OptionError).message;
      }
    };
    expect(refused(datasetOf(texts, { ...options, seed: 4 }))).toBe(
      'DocumentDataset.loadState: expected 4 for seed, got 3',
    );
    expect(refused(datasetOf(texts, { ...options, maxTokens: 21 }))).toMatch(/expected 21 for maxTokens, got 20/);
    expect(refused(datasetOf([...texts.slice(1), { text: 'other' }], options))).toMatch(/for tokens, got/);
    expect(refused(datasetOf(texts, { ...options, longDocuments: 'cut' }))).toBeUndefined();
  });

  test('reads files of all forms; a wrong line is refused with its place', async () => {
    const place = folder();
    const write = (lines: string[]): string => {
      const file = path.join(place, 'data.jsonl');
      writeFileSync(file, lines.join('\n'));
      return file;
    };
    const good = [
      '{"text":"abc","id":7}',
      '',
      '{"prompt":"a","completion":"b"}',
      JSON.stringify({ messages: TALK.slice(1, 3), prompt: 'Hi' }),
    ];
    const options = { encoder, order: 'sequential' } as const;
    const data = await DocumentDataset.read(write(good), options);
    expect([...data.pass()]).toEqual([
      ...new DocumentDataset(
        [{ text: 'abc' }, { prompt: 'a', completion: 'b' }, { messages: TALK.slice(1, 3) }],
        options,
      ).pass(),
    ]);
    expect(data.largestToken).toBe(259);
    const refused = async (line: string, more: object = {}): Promise<string> => {
      const error = await DocumentDataset.read(write([good[0], '', line]), { ...options, ...more }).catch(
        (each: unknown) => each as FormatError,
      );
      expect(error).toBeInstanceOf(FormatError);
      expect((error as FormatError).offset).toBe(23);
      return (error as FormatError).message.replace(place, '');
    };
    const forms = '{text}, {prompt, completion} or {messages: [{role, content}, …]}';
    expect(await refused('{"txt":1}')).toBe(`/data.jsonl: expected ${forms} on line 3, at byte 23, got {"txt":1}`);
    for (const wrong of [
      '[]',
      'null',
      '{"prompt":"a"}',
      '{"text":3}',
      '{"messages":[]}',
      '{"messages":[{"role":"a"}]}',
    ])
      expect(await refused(wrong)).toContain(`expected ${forms} on line 3`);
    expect(await refused('{"text":')).toContain('expected JSON on line 3');
    const withoutChat = { encoder: { encode: encodeBytes } };
    expect(await refused(good[3], withoutChat)).toContain(
      'expected a document that can be encoded on line 3, at byte 23, got DocumentDataset.read: expected an encoder with encodeChat',
    );
    await expect(DocumentDataset.read(write(['', '']), options)).rejects.toThrow(
      'expected a document with tokens to learn, got 0 documents without',
    );
    await expect(DocumentDataset.read(write(good), { ...options, signal: AbortSignal.abort() })).rejects.toMatchObject({
      name: 'AbortError',
    });
  });

  test('nonsense is refused', () => {
    expect(() => datasetOf(texts, { maxTokens: 8, maxSequenceLength: 9 })).toThrow(
      'DocumentDataset: expected an integer from 1 to 8 for maxSequenceLength, got 9',
    );
    expect(() => datasetOf(texts, { maxToken: 8 } as object)).toThrow(OptionError);
    expect(() => new DocumentDataset(texts, {} as DocumentDatasetOptions)).toThrow('for encoder, got undefined');
    expect(() => datasetOf([{ txt: '' } as unknown as TrainingDocument])).toThrow('expected {text}, {prompt');
    expect(() => new DocumentDataset(texts, { encoder: { encode: () => [-1] } })).toThrow('for a token, got -1');
  });
});
