// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { describe, shorten } from '../describe.js';
import { malformed } from './malformed.js';
import { OpenFile } from './open-file.js';

/**
 * JSON from files, in bounded memory: `JSON.parse` makes tens of bytes of every bracket, so that a file of brackets would end the process, and what it makes
 * of brackets in each other, nothing that calls itself can go through.
 */

/** What the brackets of a text may be. */
export interface BracketLimits {
  /** In each other. */
  nesting: number;
  /** So many in any text, and then one for so many bytes. */
  free: number;
  bytesPerBracket: number;
}

/** Of files that people and programs write: configs, tokenizers, documents. A vocabulary of a million merges fits, each a list. */
const COMMON: BracketLimits = { nesting: 100, free: 2 ** 21, bytesPerBracket: 16 };

/** Configs have some kilobytes, tokenizers some megabytes. */
const MAX_JSON_BYTES = 2 ** 27;

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Where there is one bracket too many; null if there is none. */
export function bracketTooMany(bytes: Uint8Array, limits = COMMON): number | null {
  const most = limits.free + bytes.length / limits.bytesPerBracket;
  let [depth, count, inText] = [0, 0, false];
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === 0x22) inText = !inText;
    else if (inText) i += byte === 0x5c ? 1 : 0;
    else if (byte === 0x5d || byte === 0x7d) depth--;
    else if (byte === 0x5b || byte === 0x7b) {
      depth++;
      count++;
      if (depth > limits.nesting || count > most) return i;
    }
  }
  return null;
}

/**
 * The object that a text of JSON in UTF-8 is.
 *
 * @param offset where in the file the text begins, for messages.
 * @throws FormatError.
 */
export function parseJson(file: string, offset: number, bytes: Uint8Array, limits = COMMON): Record<string, unknown> {
  const bracket = bracketTooMany(bytes, limits);
  if (bracket !== null) {
    const expected = `JSON with fewer brackets, at most ${limits.nesting} in each other`;
    throw malformed(file, offset + bracket, expected, 'another one');
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (error) {
    throw malformed(file, offset, 'JSON in UTF-8', shorten((error as Error).message));
  }
  if (!isObject(value)) throw malformed(file, offset, 'a JSON object', describe(value));
  return value;
}

/** The same of a text from inside another one, as in the metadata of a safetensors file. Throws FormatError. */
export function parseJsonText(file: string, offset: number, text: string | undefined): Record<string, unknown> {
  if (text === undefined) throw malformed(file, offset, 'a JSON object', 'none');
  return parseJson(file, offset, new TextEncoder().encode(text));
}

/** The text of a file, of at most so many bytes. Throws FormatError if it has more, or is no file; the error of the file system. */
export async function readText(file: string, mostBytes = MAX_JSON_BYTES): Promise<Uint8Array> {
  const source = await OpenFile.open(file);
  try {
    if (source.size > mostBytes) throw malformed(file, 0, `a file of at most ${mostBytes} bytes`, String(source.size));
    return await source.read(0, source.size);
  } finally {
    await source.close();
  }
}

/** {@link readText}, or null if there is no such file. */
export async function readTextIfThere(file: string, mostBytes = MAX_JSON_BYTES): Promise<Uint8Array | null> {
  try {
    return await readText(file, mostBytes);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** The object that a file of JSON holds. Throws FormatError; the error of the file system. */
export async function readJson(file: string): Promise<Record<string, unknown>> {
  return parseJson(file, 0, await readText(file));
}

/** {@link readJson}, or null if there is no such file. */
export async function readJsonIfThere(file: string): Promise<Record<string, unknown> | null> {
  const bytes = await readTextIfThere(file);
  return bytes && parseJson(file, 0, bytes);
}
