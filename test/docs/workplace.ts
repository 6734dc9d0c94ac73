// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { CausalLM, exportModel, manualSeed } from '../../lib/index.js';
import { packageRoot } from '../../lib/native.js';
import { CHAT_FILES } from '../cli/chat-files.js';

const DOCUMENTS = [
  { text: 'So the whale swam, and the sea was wide.' },
  { prompt: 'Who sings?', completion: ' The whale.' },
  {
    messages: [
      { role: 'user', content: 'Where is the ship?' },
      { role: 'assistant', content: 'It went down.' },
    ],
  },
];

/** As BitNet b1.58 2B-4T, and as Llama, with rows that fill the blocks of GGUF's ternary types. */
const SHAPE = { vocabulary: 264, layers: 1, hidden: 256, heads: 4, intermediate: 256, contextLength: 4096 };
const MODELS = {
  model: { ...SHAPE, activation: 'relu2Glu' },
  llama: { ...SHAPE, ternary: false },
} as const;

/** Where the documents' programs and commands run. */
export class Workplace {
  private constructor(readonly folder: string) {}

  /**
   * Makes what the documents speak of, under the names that they use: `model`, a ternary checkpoint with masters and a tokenizer, and `llama`, one of
   * floats, both tiny and of random weights; `chats.jsonl`, a document of each form, several times.
   */
  static async make(): Promise<Workplace> {
    // Inside the package, so that 'ternflash' is the package itself, as built by `npm run build:ts`.
    if (!existsSync(path.join(packageRoot(), 'dist', 'index.js'))) throw new Error('expected dist, built by npm test');
    const place = new Workplace(mkdtempSync(path.join(packageRoot(), '.out', 'docs-')));
    const files = path.join(place.folder, 'files');
    mkdirSync(files);
    for (const [name, options] of Object.entries(MODELS)) {
      manualSeed(0);
      using model = new CausalLM(options, { device: 'reference' });
      await exportModel(model, path.join(files, name));
      for (const [file, content] of Object.entries(CHAT_FILES))
        writeFileSync(path.join(files, name, file), JSON.stringify(content));
    }
    const lines = Array.from({ length: 8 }, () => DOCUMENTS).flat();
    writeFileSync(path.join(files, 'chats.jsonl'), lines.map((each) => `${JSON.stringify(each)}\n`).join(''));
    return place;
  }

  /** The folder of one document, with all of that in it at first. */
  of(document: string): string {
    const folder = path.join(this.folder, document.replace('/', '-'));
    if (!existsSync(folder)) cpSync(path.join(this.folder, 'files'), folder, { recursive: true });
    return folder;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true });
  }
}
