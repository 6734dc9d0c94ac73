// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { addAbortSignal, type Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import type { Tokenizer } from '../text/tokenizer.js';
import { answer, summaryOf } from './answer.js';
import { checkpointOptions } from './checkpoint-options.js';
import { WrongCall, type Command, type Context } from './command.js';
import { readTextOptions, TEXT_OPTIONS, TEXT_OPTIONS_HELP } from './text-options.js';

const HELP = `Examples
  ternflash generate ./model "Why is the sky blue?"
  ternflash generate ./model - < letter.txt                       the prompt from standard input
  ternflash generate ./model "Once upon a time" --raw             continues the text
  ternflash generate ./model "Name a whale" --temperature 0 --json
  ternflash generate ./model "A list:" --raw --stop $'\\n\\n'       to the first empty line

Usage: ternflash generate <model> [prompt] [options]

Writes what a model answers, as it comes. A model with a chat template is asked as a user would ask it; one without, or with --raw, continues
the text of the prompt.

  <model>            folder of a checkpoint, with config.json, safetensors files and tokenizer.json, or a GGUF file;
                     where tokenizer.json lies beside it, that goes before its own tokenizer
  [prompt]           - or none: standard input, without the newline at its end
  --raw              no chat template
  --json             JSON lines: {"text"} for each piece, then one with the counts, the speed and the finish reason
${TEXT_OPTIONS_HELP}
`;

const OPTIONS = {
  ...TEXT_OPTIONS,
  raw: { type: 'boolean', default: false },
  json: { type: 'boolean', default: false },
} as const;

async function readPrompt(given: string | undefined, { input, signal }: Context): Promise<string> {
  if (given !== undefined && given !== '-') return given;
  if (given === undefined && input.isTTY) throw new WrongCall('expected a prompt, got none');
  const prompt = await text(addAbortSignal(signal, input as Readable));
  return prompt.replace(/\r?\n$/, '');
}

function encodePrompt(tokenizer: Tokenizer, prompt: string, raw: boolean): number[] {
  return raw ? tokenizer.encode(prompt) : tokenizer.encodeChat([{ role: 'user', content: prompt }]);
}

/** `ternflash generate`. */
export const generate: Command = {
  async run(args, context) {
    const { out, errors, signal } = context;
    const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
    if (values.help) {
      out.write(HELP);
      return 0;
    }
    const [path, given, ...others] = positionals;
    if (path === undefined) throw new WrongCall('expected a model, got none');
    if (others.length > 0) throw new WrongCall(`expected one prompt, in quotes, got also ${JSON.stringify(others[0])}`);
    const { sampling, stop, quiet, load } = readTextOptions(values);
    const prompt = await readPrompt(given, context);

    const model = await context.loadTextModel(path, { ...load, ...checkpointOptions({ ...load, quiet }, errors) });
    try {
      const raw = values.raw || !model.tokenizer.chatTemplates.includes('default');
      const ids = encodePrompt(model.tokenizer, prompt, raw);
      if (ids.length === 0) throw new WrongCall('expected a prompt of at least one token, got an empty one');
      const pieces = answer('generate', model, ids, { sampling, stop, signal, continues: raw });
      const writeJson = (value: object): unknown => out.write(`${JSON.stringify(value)}\n`);
      let last = '';
      let next = await pieces.next();
      for (; !next.done; next = await pieces.next()) {
        last = next.value;
        if (values.json) writeJson({ text: last });
        else out.write(last);
      }
      if (values.json) writeJson({ ...next.value, model: model.description });
      // At a terminal, Ctrl-C has begun a line.
      else if (!last.endsWith('\n') && !(signal.aborted && out.isTTY)) out.write('\n');
      if (errors.isTTY && !quiet && !values.json) errors.write(`${summaryOf(next.value)}\n`);
      return 0;
    } finally {
      model.dispose();
    }
  },
};
