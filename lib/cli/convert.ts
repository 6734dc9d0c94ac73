// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { parseArgs } from 'node:util';
import { convertModel, type Conversion, type Difference } from '../models/convert-model.js';
import { checkpointOptions, readTwoPlaces } from './checkpoint-options.js';
import { WrongCall, type Command } from './command.js';

const HELP = `Examples
  ternflash convert ./bitnet-b1.58-2B-4T bitnet.gguf --ternary I2_S     for bitnet.cpp
  ternflash convert ./model model.gguf --verify                        for llama.cpp, and read again
  ternflash convert model.gguf ./model                                 for Transformers

Usage: ternflash convert <from> <to> [options]

Writes a checkpoint in another format: a folder with config.json and model.safetensors, or, where the name ends in .gguf, a GGUF file. The tokenizer's
files are copied from folder to folder; a GGUF file gets it with its chat template if it is a byte-level BPE (Llama 3, Qwen, SmolLM, BitNet 2B-4T), else it
is for tokens only.

  <from>             folder of a checkpoint, a GGUF file, or a file that CausalLM.save wrote
  <to>               what is written; files of the same names are replaced
  --ternary TYPE     how a GGUF file holds trits: TQ1_0, TQ2_0 or I2_S; default TQ2_0
  --masters          keep the float masters of ternary layers, where there are any; default they become trits
  --verify           read what was written and compare it; exit code 1 if more than the scales of TQ1_0 and TQ2_0 differ,
                     which float16 has to hold
  --device NAME      where the work is done; default the best one
  --json             what was done as one JSON object
  --quiet            no warnings
  -h, --help         this text
`;

const OPTIONS = {
  ternary: { type: 'string' },
  masters: { type: 'boolean', default: false },
  verify: { type: 'boolean', default: false },
  device: { type: 'string' },
  json: { type: 'boolean', default: false },
  quiet: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

/** Whether a difference is one that TQ1_0 and TQ2_0 leave no way around: a scale of trits, rounded to float16. */
const isRounding = ({ name, relative }: Difference): boolean => name.endsWith('.weight.scale') && relative <= 2 ** -11;

function show({ tensors, bytes, differences, copied }: Conversion, to: string): string {
  const lines = [`${to}: ${tensors} tensors, ${(bytes / 1e6).toFixed(1)} MB of weights`];
  if (copied.length > 0) lines.push(`copied: ${copied.join(', ')}`);
  if (differences?.length === 0) lines.push('verified: the same tensors to the bit');
  for (const { name, count, largest } of differences ?? [])
    lines.push(`differs: ${name}, ${count} numbers${largest > 0 ? ` by at most ${largest}` : ''}`);
  return `${lines.join('\n')}\n`;
}

/** `ternflash convert`. */
export const convert: Command = {
  async run(args, { out, errors }) {
    const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
    if (values.help) {
      out.write(HELP);
      return 0;
    }
    const [from, to] = readTwoPlaces(positionals);
    const { ternary, masters, verify } = values;
    if (ternary !== undefined && !['TQ1_0', 'TQ2_0', 'I2_S'].includes(ternary))
      throw new WrongCall(`expected TQ1_0, TQ2_0 or I2_S for --ternary, got ${JSON.stringify(ternary)}`);
    const done = await convertModel(from, to, {
      masters,
      verify,
      ...checkpointOptions(values, errors),
      ...(ternary !== undefined && { ternary: ternary as 'TQ1_0' }),
    });
    out.write(values.json ? `${JSON.stringify(done)}\n` : show(done, to));
    const rounds = to.toLowerCase().endsWith('.gguf') && ternary !== 'I2_S';
    return (done.differences ?? []).every((each) => rounds && isRounding(each)) ? 0 : 1;
  },
};
