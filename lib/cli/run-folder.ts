// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { mkdir, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { OptionError } from '../errors.js';
import { writeAtomically } from '../formats/atomic-file.js';
import { readJsonIfThere } from '../formats/json.js';
import { copyTextFiles, folderOf } from '../models/text-files.js';
import { WrongCall } from './command.js';
import { CALL_OPTIONS, FREE_OPTIONS, withWholePaths, type GivenOptions } from './train-options.js';

const OPTIONS_FILE = 'options.json';

/** The folder of a run of `ternflash train`. */
export class RunFolder {
  constructor(private readonly folder: string) {}

  file(name: string): string {
    return path.join(this.folder, name);
  }

  /**
   * The options of the run: those given, or, with `resume`, those that it began with.
   *
   * @throws OptionError if there is a run already, or none to resume; WrongCall if a resumed one began with other options; FormatError.
   */
  async options(given: GivenOptions): Promise<GivenOptions> {
    const own = withWholePaths(given);
    const file = this.file(OPTIONS_FILE);
    const stored = await readJsonIfThere(file);
    if (given.resume !== true) {
      if (stored === null) return own;
      throw new OptionError(`train: expected --resume, or a folder without a run for --out, got ${this.folder}`);
    }
    if (stored === null)
      throw new OptionError(`train: expected a folder with a run for --out beside --resume, got ${this.folder}`);
    const began = stored as GivenOptions;
    for (const [name, value] of Object.entries(own)) {
      if (CALL_OPTIONS.includes(name) || FREE_OPTIONS.includes(name)) continue;
      const before = began[name as keyof GivenOptions];
      if (before === value) continue;
      const expected = before === undefined ? `no --${name}` : `--${name} ${String(before)}`;
      throw new WrongCall(`expected ${expected} beside --resume, as the run began, got ${String(value)}`);
    }
    return { ...began, ...own };
  }

  /** Makes the folder, with the options of the run: it can be resumed from now on. */
  async enter(options: GivenOptions): Promise<void> {
    const kept = Object.entries(options).filter(([name]) => !CALL_OPTIONS.includes(name));
    await mkdir(this.folder, { recursive: true });
    const text = `${JSON.stringify(Object.fromEntries(kept), null, 2)}\n`;
    await writeAtomically(this.file(OPTIONS_FILE), (handle) => handle.writeFile(text));
  }

  /** Makes of a saved model one that can be talked with. */
  async copyTokenizer(from: string, stopTokens: readonly number[]): Promise<void> {
    // For what only config.json said, which a saved model does without. Where there is such a file, it is copied over this one.
    await writeFile(this.file('generation_config.json'), `${JSON.stringify({ eos_token_id: stopTokens })}\n`);
    await copyTextFiles(await folderOf(from), this.folder);
  }
}
