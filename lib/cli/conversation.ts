// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { writeFile } from 'node:fs/promises';
import type { ChatMessage } from '../text/chat-template.js';
import type { LoadedTextModel } from '../text/text-model.js';
import { answer, type AnswerEnd } from './answer.js';
import type { TextOptions } from './text-options.js';

/** What was said, and how the model goes on with it. */
export class Conversation {
  private turns: ChatMessage[] = [];
  private answers = 0;

  constructor(
    private readonly model: LoadedTextModel,
    private readonly options: TextOptions,
    /** What the model is told before all; empty for nothing. */
    public system: string,
  ) {}

  /** All of it, as the chat template takes it. */
  get messages(): ChatMessage[] {
    return this.system === '' ? [...this.turns] : [{ role: 'system', content: this.system }, ...this.turns];
  }

  /** Forgets what was said. */
  reset(): void {
    this.turns = [];
  }

  /** Writes it as JSON: a list of {role, content}. */
  async save(file: string): Promise<void> {
    await writeFile(file, `${JSON.stringify(this.messages, null, 2)}\n`);
  }

  /**
   * Says something and gives the answer as it comes. What came of an answer that was cancelled stays; if it has no text or fails, it is as if
   * nothing had been said.
   */
  async *say(content: string, signal: AbortSignal): AsyncGenerator<string, AnswerEnd> {
    const before = this.turns;
    this.turns = [...before, { role: 'user', content }];
    let said = '';
    try {
      const { sampling, stop } = this.options;
      // A seed of its own for each answer, or a question asked twice would get the same one.
      const seed = (sampling.seed ?? 0) + this.answers++;
      const ids = this.model.tokenizer.encodeChat(this.messages);
      const request = { sampling: { ...sampling, seed }, stop, signal, continues: false };
      const pieces = answer('chat', this.model, ids, request);
      let next = await pieces.next();
      for (; !next.done; next = await pieces.next()) {
        said += next.value;
        yield next.value;
      }
      return next.value;
    } finally {
      this.turns = said === '' ? before : [...this.turns, { role: 'assistant', content: said }];
    }
  }
}
