// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { PassThrough, Readable } from 'node:stream';
import type { Context, Output } from '../../lib/cli/command.js';
import { main } from '../../lib/cli/main.js';
import type { LoadTextModel } from '../../lib/text/text-model.js';

export interface Result {
  code: number;
  out: string;
  errors: string;
}

export interface CallOptions {
  load?: LoadTextModel;
  /** Standard input. Default empty. */
  input?: string;
  signal?: AbortSignal;
  /** Whether standard input and standard error are terminals. Default false. */
  terminal?: boolean;
}

const noModel: LoadTextModel = () => Promise.reject(new Error('no model was to be loaded'));

/** Calls the command line in this process. */
export async function call(args: string[], options: CallOptions = {}): Promise<Result> {
  const { load = noModel, input = '', signal = new AbortController().signal, terminal = false } = options;
  let [out, errors] = ['', ''];
  const code = await main(args, {
    out: { write: (text) => (out += text) },
    errors: { write: (text) => (errors += text), isTTY: terminal },
    input: Object.assign(Readable.from(input === '' ? [] : [input]), { isTTY: terminal }),
    signal,
    loadTextModel: load,
  });
  return { code, out, errors };
}

/** A terminal in this process: what is typed, and what is on the screen. */
export class Terminal {
  readonly input = Object.assign(new PassThrough(), { isTTY: true, setRawMode: () => undefined });
  readonly output = Object.assign(new PassThrough(), { isTTY: true, columns: 80 });
  screen = '';
  private changed = (): void => undefined;

  constructor() {
    this.output.on('data', (chunk: Buffer) => {
      this.screen += chunk.toString().replace(/\x1b\[\d*[A-Z]/g, ''); // less the movements of the cursor
      this.changed();
    });
  }

  context(load: LoadTextModel, signal = new AbortController().signal): Context {
    const output: Output = this.output;
    return { out: output, errors: output, input: this.input, signal, loadTextModel: load };
  }

  type(text: string): void {
    this.input.write(text);
  }

  /** Waits until the screen shows a text after all that was waited for before. */
  async shows(text: string): Promise<void> {
    while (!this.screen.includes(text)) await new Promise<void>((resolve) => (this.changed = resolve));
    this.screen = this.screen.slice(this.screen.indexOf(text) + text.length);
  }
}
