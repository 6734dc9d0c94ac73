// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { FormatError, OptionError, readJsonl, type JsonLine } from '../../lib/index.js';
import { temporaryFolder } from '../train/runs.js';

const folder = temporaryFolder();

async function read(content: string | Uint8Array): Promise<JsonLine[]> {
  const file = path.join(folder(), 'lines.jsonl');
  writeFileSync(file, content);
  const lines: JsonLine[] = [];
  for await (const line of readJsonl(file)) lines.push(line);
  return lines;
}

async function refusal(content: string | Uint8Array): Promise<{ message: string; offset: number }> {
  const error = await read(content).catch((each: unknown) => each);
  expect(error).toBeInstanceOf(FormatError);
  const { message, offset, file } = error as FormatError;
  return { message: message.replace(file, 'FILE'), offset };
}

describe('readJsonl', () => {
  test('gives values with their lines and offsets; blank lines, carriage returns and a missing newline are no fault', async () => {
    expect(await read('{"a":"ä"}\r\n\n  \t\n[1]\n"x"')).toEqual([
      { value: { a: 'ä' }, line: 1, offset: 0 },
      { value: [1], line: 4, offset: 17 },
      { value: 'x', line: 5, offset: 21 },
    ]);
    expect(await read('')).toEqual([]);
    expect(await read('\n\n')).toEqual([]);
  });

  test('a byte order mark at the beginning is skipped', async () => {
    expect(await read('\uFEFF1\n2\n')).toEqual([
      { value: 1, line: 1, offset: 3 },
      { value: 2, line: 2, offset: 5 },
    ]);
    expect(await read('\uFEFF')).toEqual([]);
    expect((await refusal('1\n\uFEFF2\n')).offset).toBe(2);
  });

  test('lines across the pieces that a file is read in are whole', async () => {
    const long = 'ü'.repeat(200_000);
    const short = Array.from({ length: 30_000 }, (_, i) => ({ i }));
    const values = [...short, long, 7, long, ...short];
    const lines = await read(values.map((each) => JSON.stringify(each)).join('\n'));
    expect(lines.map(({ value }) => value)).toEqual(values);
    expect(lines.map(({ line }) => line)).toEqual(values.map((_, i) => i + 1));
    const { offset } = lines[30_001];
    expect(offset).toBe(Buffer.byteLength(`${short.map((each) => JSON.stringify(each)).join('\n')}\n"${long}"\n`));
  });

  test('what is no JSON is refused with its line and byte', async () => {
    const wrong = await refusal('1\n\n{"a":\n3\n');
    expect(wrong.message).toMatch(/^FILE: expected JSON on line 3, at byte 3, got .*JSON/);
    expect(wrong.offset).toBe(3);
    expect((await refusal('1 2')).message).toMatch(/on line 1, at byte 0, got/);
    expect(await refusal(Uint8Array.of(0x31, 0x0a, 0x22, 0xff, 0x22))).toEqual({
      message: 'FILE: expected JSON on line 2, at byte 2, got bytes that are no UTF-8',
      offset: 2,
    });
  });

  test('a reader that has enough, and files that are not there', async () => {
    const file = path.join(folder(), 'lines.jsonl');
    writeFileSync(file, '1\nwrong\n');
    for await (const { value } of readJsonl(file)) {
      expect(value).toBe(1);
      break;
    }
    await expect(readJsonl(path.join(folder(), 'none')).next()).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(readJsonl(7 as unknown as string).next()).rejects.toThrow(OptionError);
  });
});
