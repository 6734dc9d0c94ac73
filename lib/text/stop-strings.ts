// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError } from '../errors.js';

/** One string or several, none of them empty. */
export function checkStopStrings(op: string, stop: string | readonly string[]): readonly string[] {
  const list = typeof stop === 'string' ? [stop] : stop;
  // findIndex looks at holes, some does not.
  if (!Array.isArray(list) || list.findIndex((each) => typeof each !== 'string' || each === '') >= 0)
    throw new OptionError(`${op}: expected a string or a list of strings, none of them empty, for stop`);
  return list as readonly string[];
}

/**
 * Looks for stop strings in a text that comes in pieces. What is found does not depend on where the text is cut: the string that is whole first, and
 * of those that end together the one that begins first.
 */
export class StopStrings {
  /** The string that was found; null until then. */
  found: string | null = null;
  /** What could be the beginning of a stop string. */
  private held = '';

  constructor(private readonly strings: readonly string[]) {}

  /** Takes a piece of text and gives what can be said of all text so far without what was given before. After a stop, nothing. */
  push(piece: string): string {
    if (this.found !== null) return '';
    const text = this.held + piece;
    let end = Infinity;
    let start = 0;
    for (const each of this.strings) {
      const at = text.indexOf(each);
      if (at < 0 || at + each.length > end || (at + each.length === end && at > start)) continue;
      [start, end, this.found] = [at, at + each.length, each];
    }
    const given = this.found === null ? text.length - this.lengthHeld(text) : start;
    this.held = this.found === null ? text.slice(given) : '';
    return text.slice(0, given);
  }

  /** The text that was held back; there is none after a stop. */
  flush(): string {
    const rest = this.held;
    this.held = '';
    return rest;
  }

  /** The length of the longest end of the text with which a stop string begins. */
  private lengthHeld(text: string): number {
    const longest = Math.max(0, ...this.strings.map((each) => each.length - 1));
    for (let length = Math.min(longest, text.length); length > 0; length--) {
      const end = text.slice(-length);
      if (this.strings.some((each) => each.startsWith(end))) return length;
    }
    return 0;
  }
}
