// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { LoadTextModel } from '../text/text-model.js';
import type { Command } from './command.js';

/** A command, as the list of commands has it. */
export interface Entry {
  /** One line. */
  summary: string;
  load(): Command;
}

/* Each is loaded when it is called: `ternflash doctor` has to live where the library cannot be loaded. */

/** The commands by name, in the order of the list. */
export const COMMANDS: Readonly<Record<string, Entry>> = {
  chat: {
    summary: 'talks with a model',
    load: () => (require('./chat.js') as typeof import('./chat.js')).chat,
  },
  generate: {
    summary: 'answers a question or continues a text, with a model',
    load: () => (require('./generate.js') as typeof import('./generate.js')).generate,
  },
  train: {
    summary: 'fine-tunes a model on documents',
    load: () => (require('./train.js') as typeof import('./train.js')).train,
  },
  convert: {
    summary: 'writes a checkpoint in another format',
    load: () => (require('./convert.js') as typeof import('./convert.js')).convert,
  },
  quantize: {
    summary: 'rounds the weights of a model to trits',
    load: () => (require('./quantize.js') as typeof import('./quantize.js')).quantize,
  },
  bench: {
    summary: 'times a model',
    load: () => (require('./bench.js') as typeof import('./bench.js')).bench,
  },
  build: {
    summary: 'builds the native addon for this machine, with CUDA or without',
    load: () => (require('./build.js') as typeof import('./build.js')).build,
  },
  doctor: {
    summary: 'says what works here, what does not, and what to do',
    load: () => (require('./doctor.js') as typeof import('./doctor.js')).doctor,
  },
};

/** The library's models. */
export const loadTextModel: LoadTextModel = (path, options) =>
  (require('./load-text-model.js') as typeof import('./load-text-model.js')).loadTextModel(path, options);
