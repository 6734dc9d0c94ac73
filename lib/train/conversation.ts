// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { describe } from '../describe.js';
import { OptionError } from '../errors.js';
import { checkMessages, type ChatMessage } from '../text/chat-template.js';
import type { Tokenizer } from '../text/tokenizer.js';

/** The tokens of a document. */
export interface EncodedDocument {
  /** Its tokens. */
  readonly ids: readonly number[];
  /** Of each, whether it is learnt: predicted from those before it. The first one never is. */
  readonly trained: readonly boolean[];
}

/**
 * @internal The tokens of a text, and how many there are before each of its cuts. A model goes on from the tokens of the text before a cut, so a token
 * across one would be of no use: the parts are encoded by themselves then.
 *
 * @param cuts positions in the text, ascending.
 */
export function encodeWithCuts(
  encode: (text: string, addSpecialTokens: boolean) => readonly number[],
  text: string,
  cuts: readonly number[],
): { ids: readonly number[]; at: number[] } {
  const whole = encode(text, true);
  const parts = [0, ...cuts].map((begin, part) => encode(text.slice(begin, cuts[part]), part === 0));
  const together = parts.flat();
  const at: number[] = [];
  parts.slice(0, -1).forEach((part, i) => at.push((at[i - 1] ?? 0) + part.length));
  if (together.length === whole.length && together.every((id, i) => id === whole[i])) return { ids: whole, at };
  // A part may begin otherwise than it goes on, with a space of its own.
  const heads = cuts.map((cut) => encode(text.slice(0, cut), true));
  if (heads.every((head) => head.every((id, i) => id === whole[i])))
    return { ids: whole, at: heads.map(({ length }) => length) };
  return { ids: together, at };
}

/** @internal Throws OptionError unless it can encode texts and conversations. */
export function checkTokenizer(op: string, tokenizer: Pick<Tokenizer, 'encode' | 'applyChatTemplate'>): void {
  const { encode, applyChatTemplate } = (tokenizer ?? {}) as Partial<Tokenizer>;
  if (typeof encode !== 'function' || typeof applyChatTemplate !== 'function')
    throw new OptionError(`${op}: expected a Tokenizer for tokenizer, got ${describe(tokenizer)}`);
}

/**
 * The tokens of a conversation by the tokenizer's chat template. Learnt are the messages of the role `assistant`, from behind what introduces an
 * answer to what ends it, which the model has to learn to say.
 *
 * @throws OptionError if the template refuses the messages, or says an answer other than it is.
 */
export function encodeConversation(
  tokenizer: Pick<Tokenizer, 'encode' | 'applyChatTemplate'>,
  messages: readonly ChatMessage[],
): EncodedDocument {
  checkTokenizer('encodeConversation', tokenizer);
  checkMessages('encodeConversation', messages);
  const render = (count: number, addGenerationPrompt: boolean): string =>
    tokenizer.applyChatTemplate(messages.slice(0, count), { addGenerationPrompt });
  const whole = render(messages.length, false);
  const cuts: number[] = [];
  messages.forEach(({ role }, i) => {
    if (role !== 'assistant') return;
    const introduced = i === 0 ? '' : render(i, true);
    cuts.push(...answerIn(whole, messages, i, { introduced, answered: render(i + 1, false) }, cuts.at(-1) ?? 0));
  });
  const encode = (text: string): readonly number[] => tokenizer.encode(text, { addSpecialTokens: false });
  const { ids, at } = encodeWithCuts(encode, whole, cuts);
  // Outside before the first cut, inside before the second, and so on.
  let passed = 0;
  const trained = ids.map((_, i) => {
    while (passed < at.length && at[passed] <= i) passed++;
    return passed % 2 === 1;
  });
  return { ids, trained };
}

/**
 * From where to where a conversation's text is the answer of message `index`. Templates may write a message otherwise when others follow, as those that
 * leave out what was thought then: what the text has in common with the conversation up to there decides.
 */
function answerIn(
  whole: string,
  messages: readonly ChatMessage[],
  index: number,
  { introduced, answered }: { introduced: string; answered: string },
  from: number,
): [number, number] {
  const content = messages[index].content.trim();
  let begin = 0;
  while (begin < introduced.length && introduced[begin] === whole[begin]) begin++;
  const found = answered.lastIndexOf(content);
  const said = content + answered.slice(found + content.length);
  const at = whole.indexOf(said, begin);
  // What is before the answer must not be taken for a part of it.
  const before = index === 0 ? '' : messages[index - 1].content.trim();
  const isWhole = whole.slice(from, begin).includes(before);
  if (begin < from || found < 0 || at < 0 || !isWhole) {
    throw new OptionError(
      `encodeConversation: expected a chat template that says message ${index + 1} as it is, got another text`,
    );
  }
  return [begin, at + said.length];
}
