// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { TextGenerationOptions } from '../text/text-model.js';
import { WrongCall } from './command.js';
import { readNumber } from './read-number.js';

/** The options that `generate` and `chat` share, for `parseArgs`. */
export const TEXT_OPTIONS = {
  'max-tokens': { type: 'string', default: '512' },
  temperature: { type: 'string', default: '0.7' },
  'top-k': { type: 'string', default: '0' },
  'top-p': { type: 'string', default: '0.95' },
  'min-p': { type: 'string', default: '0' },
  seed: { type: 'string', default: '0' },
  stop: { type: 'string', multiple: true, default: [] as string[] },
  device: { type: 'string' },
  dtype: { type: 'string' },
  'cache-dtype': { type: 'string' },
  quiet: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

/** What the help says of them. */
export const TEXT_OPTIONS_HELP = `  --max-tokens N     most tokens of an answer; default 512
  --temperature T    0 takes the likeliest token always, 1 draws by the model's own probabilities; default 0.7
  --top-k K          draw from the K likeliest tokens; default 0, all
  --top-p P          draw from the fewest likeliest tokens with probability P together; default 0.95
  --min-p P          draw from tokens at least P times as likely as the likeliest; default 0, all
  --seed N           of the draws: the same seed gives the same text; default 0
  --stop TEXT        ends the answer before this text; may be given several times
  --device NAME      cpu, cuda:0, …; default the best one, see ternflash doctor
  --dtype NAME       float32, float16 or bfloat16; default that of the model
  --cache-dtype NAME of the keys and values of the tokens so far: float32, float16, bfloat16, or int8, half the memory
                     of 16 bits; default that of the model
  --quiet            the text, and nothing on standard error but errors
  -h, --help         this text`;

/** What {@link readTextOptions} reads. */
export interface TextOptions {
  sampling: Omit<TextGenerationOptions, 'stopTokens' | 'signal'>;
  stop: readonly string[];
  quiet: boolean;
  /** For the loader. */
  load: { device?: string; dtype?: string; cacheDtype?: string };
}

/** The values as `parseArgs` gives them. */
interface Values {
  'max-tokens': string;
  temperature: string;
  'top-k': string;
  'top-p': string;
  'min-p': string;
  seed: string;
  stop: readonly string[];
  device?: string;
  dtype?: string;
  'cache-dtype'?: string;
  quiet: boolean;
}

/** @throws WrongCall if a value makes no sense. */
export function readTextOptions(values: Values): TextOptions {
  if (values.stop.includes('')) throw new WrongCall('expected a text for --stop, got an empty one');
  const { device, dtype, 'cache-dtype': cacheDtype } = values;
  const number = (name: keyof Values, low: number, high: number, isInteger: boolean): number =>
    readNumber(name, String(values[name]), low, high, isInteger);
  return {
    sampling: {
      maxTokens: number('max-tokens', 1, 2 ** 24, true),
      temperature: number('temperature', 0, Infinity, false),
      topK: number('top-k', 0, 2 ** 24, true),
      topP: number('top-p', 0, 1, false),
      minP: number('min-p', 0, 1, false),
      seed: number('seed', 0, Number.MAX_SAFE_INTEGER, true),
    },
    stop: values.stop,
    quiet: values.quiet,
    load: {
      ...(device !== undefined && { device }),
      ...(dtype !== undefined && { dtype }),
      ...(cacheDtype !== undefined && { cacheDtype }),
    },
  };
}
