// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { WrongCall } from './command.js';
import { readNumber } from './read-number.js';

/** For `parseArgs`. Defaults are those of {@link readTrainOptions}: what was given has to be told from what was not. */
export const TRAIN_OPTIONS = {
  model: { type: 'string' },
  data: { type: 'string' },
  out: { type: 'string' },
  'eval-data': { type: 'string' },
  'eval-share': { type: 'string' },
  'lora-rank': { type: 'string' },
  'lora-alpha': { type: 'string' },
  'lora-dropout': { type: 'string' },
  'lora-targets': { type: 'string' },
  full: { type: 'boolean' },
  merge: { type: 'boolean' },
  steps: { type: 'string' },
  epochs: { type: 'string' },
  'batch-tokens': { type: 'string' },
  'sequence-length': { type: 'string' },
  long: { type: 'string' },
  'learning-rate': { type: 'string' },
  warmup: { type: 'string' },
  'weight-decay': { type: 'string' },
  accumulate: { type: 'string' },
  'eval-every': { type: 'string' },
  'save-every': { type: 'string' },
  seed: { type: 'string' },
  device: { type: 'string' },
  dtype: { type: 'string' },
  resume: { type: 'boolean' },
  json: { type: 'boolean' },
  quiet: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
} as const;

/** `ternflash train --help`. */
export const TRAIN_HELP = `Examples
  ternflash train --model ./model --data chats.jsonl --out ./run
  ternflash train --model ./model --data chats.jsonl --out ./run --epochs 3 --lora-rank 16 --merge
  ternflash train --model ./model --data texts.jsonl --out ./run --full --steps 2000 --dtype bfloat16
  ternflash train --out ./run --resume                                 goes on where the run stopped, to the same bits

Usage: ternflash train --model PATH --data FILE --out FOLDER [options]

Fine-tunes a model on documents, one a line: {"text"}, {"prompt", "completion"} or {"messages": [{"role", "content"}, …]}. Of prompts nothing is
learnt, of conversations what the assistant says. Adapters (LoRA) are trained on a model that stays as it is, or with --full all of its weights.
Ctrl-C stops after the step in progress and saves it.

  --model PATH           folder of a checkpoint, with tokenizer.json, or a GGUF file
  --data FILE            the documents, JSON Lines
  --out FOLDER           gets adapters.safetensors, or model.safetensors with --full and --merge; metrics.jsonl, a line a step;
                         checkpoints
  --eval-data FILE       documents to evaluate with
  --eval-share S         share of --data to evaluate with where there is no --eval-data; default 0.05
  --eval-every N         steps from one evaluation to the next; default only at the end

  --lora-rank R          features in the middle of an adapter; default 8
  --lora-alpha A         an adapter counts A / R times; default 16
  --lora-dropout P       probability with which an adapter's inputs are dropped; default 0
  --lora-targets NAMES   layers with an adapter, such as query,value or mlp.down; default all linear ones
  --merge                at the end, the adapters are added to the weights; ternary weights are rounded to trits anew
  --full                 all weights are trained, ternary ones by quantisation-aware training

  --epochs N             times that each document is learnt from; default 1
  --steps N              steps, instead of epochs
  --batch-tokens N       most tokens of a batch, in which documents lie end to end; default 4096
  --sequence-length N    most tokens of a document; default 2048, or the model's context or --batch-tokens if that is less
  --long split|cut       what becomes of longer ones: pieces, or their beginning; default split
  --accumulate N         batches in a step; default 1
  --learning-rate R      the highest; default 0.0002, with --full 0.00002. It falls to a tenth along a cosine
  --warmup N             steps in which it rises; default 3 in 100, 100 at most
  --weight-decay D       default 0.01

  --save-every N         steps from one checkpoint to the next; default 100
  --seed N               of the order of documents, the adapters at the start and dropout; default 0
  --device NAME          cpu, cuda:0, …; default the best one, see ternflash doctor
  --dtype NAME           float32, float16 or bfloat16; default that of the model
  --resume               goes on with the run in --out, with the options that it began with
  --json                 JSON lines: one for each step, then one with the end and the files
  --quiet                nothing on standard error but errors
  -h, --help             this text
`;

/** What was given, by the names of {@link TRAIN_OPTIONS}. */
export type GivenOptions = { readonly [name in keyof typeof TRAIN_OPTIONS]?: string | boolean };

/** Those of a call, not of a run. */
export const CALL_OPTIONS: readonly string[] = ['out', 'resume', 'json', 'quiet', 'help'];
/** Those of a run that may be others when it is resumed: they change nothing of what is learnt, but for roundings of another device. */
export const FREE_OPTIONS: readonly string[] = ['eval-every', 'save-every', 'device', 'merge'];
const PATHS: readonly string[] = ['model', 'data', 'eval-data'];

/** What a run is made of. */
export interface TrainSettings {
  model: string;
  data: string;
  out: string;
  evaluation: { file: string } | { share: number };
  /** Null: all weights. */
  lora: { rank: number; alpha: number; dropout: number; targets: string[] | null } | null;
  merge: boolean;
  length: { epochs: number } | { steps: number };
  batchTokens: number;
  /** Null: follows from the model. */
  sequenceLength: number | null;
  longDocuments: 'split' | 'cut';
  accumulate: number;
  learningRate: number;
  /** Null: follows from the steps. */
  warmup: number | null;
  weightDecay: number;
  evalEvery: number | null;
  saveEvery: number;
  seed: number;
  device: string | null;
  dtype: string | null;
}

/** Paths as they are called from everywhere, so that a run can be resumed from anywhere. */
export function withWholePaths(given: GivenOptions): GivenOptions {
  return Object.fromEntries(
    Object.entries(given).map(([name, value]) => [
      name,
      PATHS.includes(name) && typeof value === 'string' ? path.resolve(value) : value,
    ]),
  );
}

/** @throws WrongCall if a value makes no sense. */
export function readTrainOptions(given: GivenOptions): TrainSettings {
  const text = (name: keyof GivenOptions): string | null => (given[name] as string | undefined) ?? null;
  const required = (name: keyof GivenOptions): string => {
    const value = text(name);
    if (value === null || value === '') throw new WrongCall(`expected --${name}, got none`);
    return value;
  };
  const number = (
    name: keyof GivenOptions,
    otherwise: number,
    low: number,
    high = Infinity,
    isInteger = true,
  ): number => readNumber(name, text(name) ?? String(otherwise), low, high, isInteger);
  const choice = <T extends string>(name: keyof GivenOptions, otherwise: T, allowed: readonly T[]): T => {
    const value = text(name) ?? otherwise;
    if (!(allowed as readonly string[]).includes(value))
      throw new WrongCall(`expected ${allowed.join(' or ')} for --${name}, got ${JSON.stringify(value)}`);
    return value as T;
  };
  const refuseBeside = (option: keyof GivenOptions, others: readonly (keyof GivenOptions)[]): void => {
    const other = others.find((name) => given[name] !== undefined);
    if (given[option] !== undefined && other !== undefined)
      throw new WrongCall(`expected --${option} or --${other}, got both`);
  };
  refuseBeside('full', ['lora-rank', 'lora-alpha', 'lora-dropout', 'lora-targets', 'merge']);
  refuseBeside('steps', ['epochs']);
  refuseBeside('eval-data', ['eval-share']);
  const full = given.full === true;
  const batchTokens = number('batch-tokens', 4096, 1, 2 ** 24);
  const evalData = text('eval-data');
  return {
    model: required('model'),
    data: required('data'),
    out: required('out'),
    evaluation: evalData === null ? { share: number('eval-share', 0.05, 0, 1, false) } : { file: evalData },
    lora: full
      ? null
      : {
          rank: number('lora-rank', 8, 1, 2 ** 16),
          alpha: number('lora-alpha', 16, Number.MIN_VALUE, Infinity, false),
          dropout: number('lora-dropout', 0, 0, 0.99, false),
          targets: text('lora-targets')?.split(',') ?? null,
        },
    merge: given.merge === true,
    length:
      given.steps === undefined
        ? { epochs: number('epochs', 1, 1, 2 ** 20) }
        : { steps: number('steps', 1, 1, 2 ** 31 - 1) },
    batchTokens,
    sequenceLength: given['sequence-length'] === undefined ? null : number('sequence-length', 1, 1, batchTokens),
    longDocuments: choice('long', 'split', ['split', 'cut']),
    accumulate: number('accumulate', 1, 1, 2 ** 16),
    learningRate: number('learning-rate', full ? 2e-5 : 2e-4, Number.MIN_VALUE, Infinity, false),
    warmup: given.warmup === undefined ? null : number('warmup', 0, 0, 2 ** 31 - 1),
    weightDecay: number('weight-decay', 0.01, 0, Infinity, false),
    evalEvery: given['eval-every'] === undefined ? null : number('eval-every', 1, 1, 2 ** 31 - 1),
    saveEvery: number('save-every', 100, 1, 2 ** 31 - 1),
    seed: number('seed', 0, 0, Number.MAX_SAFE_INTEGER),
    device: text('device'),
    dtype: given.dtype === undefined ? null : choice('dtype', 'float32', ['float32', 'float16', 'bfloat16']),
  };
}
