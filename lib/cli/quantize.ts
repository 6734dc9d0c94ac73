// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { parseArgs } from 'node:util';
import { exportWithText } from '../models/export-with-text.js';
import { loadModel } from '../models/load-model.js';
import { quantizeModel } from '../nn/quantize-model.js';
import type { TernaryMethod } from '../ops/quantize-ternary.js';
import { checkpointOptions, readTwoPlaces } from './checkpoint-options.js';
import type { Command } from './command.js';

const HELP = `Examples
  ternflash quantize ./llama ./llama-ternary
  ternflash quantize ./llama ./llama-ternary --method twn --json

Usage: ternflash quantize <from> <to> [options]

Rounds the weights of a float model's linear layers to trits and writes the result, as convert does. A model that was not trained for it answers nonsense
afterwards: this is where training with quantisation begins (ternflash train), or what measures how far a model is from it.

  <from>             folder of a checkpoint, a GGUF file, or a file that CausalLM.save wrote
  <to>               a folder, or the name of a GGUF file
  --method NAME      absmean, twn, percentile, meanStd or threshold, see quantizeTernary; default absmean. With all but that a
                     GGUF file gets a scale for each row, a folder one for each matrix
  --percentile N     of percentile, --k N of meanStd, --threshold N of threshold
  --device NAME      where the work is done; default the best one
  --json             the summary as one JSON object
  --quiet            no warnings
  -h, --help         this text
`;

const OPTIONS = {
  method: { type: 'string', default: 'absmean' },
  percentile: { type: 'string' },
  k: { type: 'string' },
  threshold: { type: 'string' },
  device: { type: 'string' },
  json: { type: 'boolean', default: false },
  quiet: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

/** `ternflash quantize`. */
export const quantize: Command = {
  async run(args, { out, errors }) {
    const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
    if (values.help) {
      out.write(HELP);
      return 0;
    }
    const [from, to] = readTwoPlaces(positionals);
    const { method } = values;
    const number = (name: 'percentile' | 'k' | 'threshold'): Record<string, number> =>
      values[name] === undefined ? {} : { [name]: Number(values[name]) };
    const load = checkpointOptions(values, errors);
    using model = await loadModel(from, load);
    // Transformers has one scale for a matrix, GGUF one for each block.
    const granularity = to.toLowerCase().endsWith('.gguf') ? {} : { granularity: 'tensor' as const };
    const parameters = { ...number('percentile'), ...number('k'), ...number('threshold') };
    const options = { method: method as TernaryMethod, minLayerSize: 0, ...granularity, ...parameters };
    const summary = await quantizeModel(model, options);
    await exportWithText(from, model, to, { onWarning: load.onWarning });
    out.write(values.json ? `${JSON.stringify(summary)}\n` : `${String(summary)}\n`);
    return 0;
  },
};
