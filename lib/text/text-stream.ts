// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkBoolean, checkInteger, checkIterable, checkOptions } from '../check.js';
import { describe } from '../describe.js';
import { OptionError } from '../errors.js';
import { checkStopStrings, StopStrings } from './stop-strings.js';
import type { Tokenizer } from './tokenizer.js';

/** Options of {@link TextStream}. */
export interface TextStreamOptions {
  /** Ends the text; of several, the one that is whole first. It may span tokens, and is not part of the text. Default none. */
  stop?: string | readonly string[];
  /** The tokens before the first, such as a prompt that is continued: they decide whether a space comes first. Default none. */
  context?: Iterable<number>;
  /** As of {@link Tokenizer.decode}. Default true. */
  skipSpecialTokens?: boolean;
}

/**
 * So many tokens are decoded with the next one. The text of a token depends on those before it in two ways only: a space is dropped at the
 * very beginning, and a character of UTF-8 has up to four bytes, of which a token has at least one.
 */
const WINDOW = 4;

/** The beginning of a character decodes to one U+FFFD, which the next token may mend. Those before it are there to stay. */
function settledLength(text: string): number {
  return text.endsWith('\ufffd') ? text.length - 1 : text.length;
}

/**
 * The text of tokens that come one at a time. The pieces, put together, are what {@link Tokenizer.decode} gives for all tokens, or, with `context`,
 * what it adds to the text of the context. No piece has half a character in it. The time for a token does not depend on how many there were.
 */
export class TextStream {
  private readonly stops: StopStrings;
  private readonly skipSpecialTokens: boolean;
  /** The last tokens, at most WINDOW. */
  private window: number[] = [];
  /** How much of the window's text was given before, in UTF-16 units. */
  private given = 0;

  /** @throws OptionError. */
  constructor(
    private readonly tokenizer: Tokenizer,
    options: TextStreamOptions = {},
  ) {
    const op = 'TextStream';
    checkOptions(op, options, ['stop', 'context', 'skipSpecialTokens']);
    this.stops = new StopStrings(checkStopStrings(op, options.stop ?? []));
    this.skipSpecialTokens = checkBoolean(op, 'skipSpecialTokens', options.skipSpecialTokens ?? true);
    if (typeof (tokenizer as Partial<Tokenizer> | null)?.decode !== 'function')
      throw new OptionError(`${op}: expected a Tokenizer for tokenizer, got ${describe(tokenizer)}`);
    for (const id of checkIterable(op, 'context', options.context ?? [])) this.append(id);
    this.window = this.window.slice(-WINDOW);
    this.given = settledLength(this.text());
  }

  /** Whether a stop string was found: no text comes any more. */
  get stopped(): boolean {
    return this.stops.found !== null;
  }

  /** The stop string that was found; null until then. */
  get stopString(): string | null {
    return this.stops.found;
  }

  /**
   * Takes the next token and gives the text that is certain now and was not before, often that of the token, or none.
   *
   * @throws OptionError if it is no id.
   */
  push(id: number): string {
    if (!this.append(id)) return '';
    const text = this.text();
    const piece = text.slice(this.given, settledLength(text));
    this.window = this.window.slice(-WINDOW);
    this.given = settledLength(this.text());
    return this.stops.push(piece);
  }

  /** The text that was held back, at the end of the tokens: half a character, as U+FFFD, and what could have been the beginning of a stop string. */
  flush(): string {
    const text = this.text();
    const piece = this.stops.push(text.slice(this.given));
    this.given = text.length;
    return piece + this.stops.flush();
  }

  /** Adds a token to the window, unless decoding takes no notice of it. */
  private append(id: number): boolean {
    checkInteger('TextStream', 'id', id, 0, 2 ** 31 - 1);
    // A token without text at the front of the window would let the next one be taken for the first of the text, whose space is dropped.
    if (!this.tokenizer.isShown(id, this.skipSpecialTokens)) return false;
    this.window.push(id);
    return true;
  }

  private text(): string {
    return this.tokenizer.decode(this.window, { skipSpecialTokens: this.skipSpecialTokens });
  }
}
