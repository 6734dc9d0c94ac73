// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { open, type FileHandle } from 'node:fs/promises';
import { describe } from '../describe.js';
import { FormatError, OptionError } from '../errors.js';
import { writeAtomically } from '../formats/atomic-file.js';
import { readTextIfThere } from '../formats/json.js';

/** A text has to fit into a string: lines of a million steps. */
const MAX_BYTES = 2 ** 28;

/** A file of JSON objects, one a line, each with the `step` it belongs to. */
export class MetricsFile {
  private constructor(private readonly handle: FileHandle) {}

  /**
   * Opens the file for the lines after `step`. Those of later steps, written by a run that went on behind the checkpoint it is resumed from, are
   * dropped, and so is what is left of a line that was being written.
   *
   * @param resumed whether there may be lines already.
   * @throws OptionError if there are and should not be; FormatError if the file holds something else.
   */
  static async open(file: string, step: number, resumed: boolean): Promise<MetricsFile> {
    const text = new TextDecoder().decode((await readTextIfThere(file, MAX_BYTES)) ?? new Uint8Array(0));
    if (text !== '' && !resumed) {
      throw new OptionError(`Trainer: expected no metrics of another run in ${file}, got ${text.length} characters`);
    }
    const kept = keptLines(file, text, step);
    if (kept !== text) await writeAtomically(file, (handle) => handle.writeFile(kept));
    return new MetricsFile(await open(file, 'a'));
  }

  async append(record: object): Promise<void> {
    await this.handle.appendFile(`${JSON.stringify(record)}\n`);
  }

  /** Returns when the disk has every line. */
  async sync(): Promise<void> {
    await this.handle.datasync();
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}

function keptLines(file: string, text: string, step: number): string {
  let kept = '';
  for (let begin = 0; begin < text.length;) {
    const end = text.indexOf('\n', begin) + 1;
    if (end === 0) break; // torn
    const line = text.slice(begin, end);
    let record: { step?: unknown } | null;
    try {
      record = JSON.parse(line) as { step?: unknown } | null;
    } catch (error) {
      throw new FormatError(
        `${file}: expected a JSON object on each line, got ${(error as Error).message}`,
        file,
        Buffer.byteLength(text.slice(0, begin)),
      );
    }
    if (typeof record?.step !== 'number') {
      throw new FormatError(
        `${file}: expected a number for step on each line, got ${describe(record?.step)}`,
        file,
        Buffer.byteLength(text.slice(0, begin)),
      );
    }
    if (record.step <= step) kept += line;
    begin = end;
  }
  return kept;
}
