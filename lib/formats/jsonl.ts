// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { createReadStream } from 'node:fs';
import { checkPath } from '../check.js';
import { FormatError } from '../errors.js';
import { bracketTooMany } from './json.js';

/** A line of a JSON Lines file, and where it is, for whoever finds fault with it. */
export interface JsonLine {
  /** What the line says. */
  readonly value: unknown;
  /** Counted from 1; blank lines count. */
  readonly line: number;
  /** Byte at which the line begins. */
  readonly offset: number;
}

const NEWLINE = 0x0a;
const BYTE_ORDER_MARK = Buffer.of(0xef, 0xbb, 0xbf);
/** Tens of millions of tokens; a file with a longer line is none of lines. */
const MOST_LINE_BYTES = 2 ** 26;

/**
 * The values of a JSON Lines file: UTF-8, one value a line. The file is read as it is asked for, a line at a time. Blank lines are skipped; a
 * byte order mark at the beginning, carriage returns and a missing newline at the end are no fault.
 *
 * @throws FormatError with the line and its byte offset if a line is not JSON; the error of the file system.
 */
export async function* readJsonl(file: string): AsyncGenerator<JsonLine> {
  checkPath('readJsonl', 'file', file);
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let line = 0;
  for await (const { bytes, offset } of linesOf(file)) {
    line++;
    const fail = (got: string): never => {
      throw lineError(file, { line, offset }, 'JSON', got);
    };
    if (bytes.length > MOST_LINE_BYTES) fail(`one of more than ${MOST_LINE_BYTES} bytes`);
    let text = '';
    try {
      text = decoder.decode(bytes);
    } catch {
      fail('bytes that are no UTF-8');
    }
    if (text.trim() === '') continue;
    if (bracketTooMany(bytes) !== null) fail('more brackets, or more of them in each other, than documents have');
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      fail((error as Error).message);
    }
    yield { value, line, offset };
  }
}

/** @internal What is wrong with a line. */
export function lineError(
  file: string,
  { line, offset }: Pick<JsonLine, 'line' | 'offset'>,
  expected: string,
  got: string,
): FormatError {
  return new FormatError(`${file}: expected ${expected} on line ${line}, at byte ${offset}, got ${got}`, file, offset);
}

/** Lines without their newline. One that is longer than any may be is given when that is known, and is the last. */
async function* linesOf(file: string): AsyncGenerator<{ bytes: Buffer; offset: number }> {
  let parts: Buffer[] = [];
  let length = 0;
  let offset = 0;
  const take = (): { bytes: Buffer; offset: number } => {
    const all = parts.length === 1 ? parts[0] : Buffer.concat(parts);
    const skipped = offset === 0 && all.subarray(0, 3).equals(BYTE_ORDER_MARK) ? 3 : 0;
    return { bytes: all.subarray(skipped), offset: offset + skipped };
  };
  for await (const chunk of createReadStream(file, { highWaterMark: 2 ** 18 }) as AsyncIterable<Buffer>) {
    let begin = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, begin)) {
      parts.push(chunk.subarray(begin, end));
      yield take();
      offset += length + end - begin + 1;
      [parts, length, begin] = [[], 0, end + 1];
    }
    if (begin === chunk.length) continue;
    parts.push(chunk.subarray(begin));
    length += chunk.length - begin;
    if (length > MOST_LINE_BYTES) return yield take();
  }
  if (length > 0) yield take();
}
