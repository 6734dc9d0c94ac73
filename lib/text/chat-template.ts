// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import * as path from 'node:path';
import { checkBoolean, checkObject, checkOptions, checkString } from '../check.js';
import { describe } from '../describe.js';
import { FormatError, OptionError } from '../errors.js';
import { loadJinja } from './optional-packages.js';
import type { TokenizerFiles } from './tokenizer-files.js';

/** One message of a conversation. */
export interface ChatMessage {
  /** Who says it: `system`, `user`, `assistant`, or what else the model's template knows. */
  role: string;
  /** What is said. */
  content: string;
}

/** Options of {@link Tokenizer.applyChatTemplate}. */
export interface ChatTemplateOptions {
  /** End with what introduces an answer of the model. Default true. */
  addGenerationPrompt?: boolean;
  /** Which of the model's templates, where it has several. Default `default`. */
  template?: string;
  /** More variables for the template, such as `enable_thinking`. Default none. */
  variables?: Readonly<Record<string, unknown>>;
}

const DEFAULT_NAME = 'default';

/** The sources of a checkpoint's chat templates, by name. */
function readSources({ folder, tokenizerConfig, chatTemplate }: TokenizerFiles): Map<string, string> {
  const file = path.join(folder, 'tokenizer_config.json');
  const given = tokenizerConfig.chat_template ?? [];
  const list = typeof given === 'string' ? [{ name: DEFAULT_NAME, template: given }] : given;
  const sources = new Map<string, string>();
  const fail = (): never => {
    throw new FormatError(`${file}: expected a string or a list of {name, template} for chat_template`, file, 0);
  };
  if (!Array.isArray(list)) return fail();
  for (const each of list as unknown[]) {
    const { name, template } = (each ?? {}) as Record<string, unknown>;
    if (typeof name !== 'string' || typeof template !== 'string') return fail();
    sources.set(name, template);
  }
  // As in Transformers, the file has precedence.
  if (chatTemplate !== null) sources.set(DEFAULT_NAME, chatTemplate);
  return sources;
}

/** @internal Throws OptionError unless they are one or more. */
export function checkMessages(op: string, messages: readonly ChatMessage[]): void {
  // findIndex looks at holes, every does not.
  const fits =
    Array.isArray(messages) &&
    messages.length > 0 &&
    messages.findIndex((each) => typeof each?.role !== 'string' || typeof each.content !== 'string') < 0;
  if (!fits) throw new OptionError(`${op}: expected one or more {role, content}, both strings, for messages`);
}

/** The chat templates of a checkpoint: programs in Jinja that make one text of a conversation. */
export class ChatTemplates {
  private readonly sources: Map<string, string>;
  private readonly compiled = new Map<string, { render(variables: Record<string, unknown>): string }>();
  private readonly folder: string;

  constructor(
    files: TokenizerFiles,
    /** `bos_token`, `eos_token` and the like, as templates name them. */
    private readonly specialTokens: Readonly<Record<string, string>>,
  ) {
    this.sources = readSources(files);
    this.folder = files.folder;
  }

  /** Names of the templates. */
  get names(): string[] {
    return [...this.sources.keys()];
  }

  /** The text of a conversation. */
  render(op: string, messages: readonly ChatMessage[], options: ChatTemplateOptions): string {
    checkOptions(op, options, ['addGenerationPrompt', 'template', 'variables']);
    checkMessages(op, messages);
    if (options.variables !== undefined) checkObject(op, 'variables', options.variables);
    const template = this.compile(op, checkString(op, 'template', options.template ?? DEFAULT_NAME));
    const variables = {
      ...this.specialTokens,
      // Templates ask whether there are any; Transformers too says that there are none.
      tools: null,
      documents: null,
      ...options.variables,
      messages,
      add_generation_prompt: checkBoolean(op, 'addGenerationPrompt', options.addGenerationPrompt ?? true),
    };
    try {
      return template.render(variables);
    } catch (error) {
      // Templates raise errors of their own, for roles that they do not know or that do not take turns.
      throw new OptionError(
        `${op}: expected messages that the model's chat template takes, got its refusal: ${(error as Error).message}`,
      );
    }
  }

  private compile(op: string, name: string): { render(variables: Record<string, unknown>): string } {
    const known = this.compiled.get(name);
    if (known) return known;
    const source = this.sources.get(name);
    if (source === undefined) {
      const got = this.sources.size === 0 ? 'a model without any' : `one with ${this.names.join(', ')}`;
      throw new OptionError(
        `${op}: expected a model with the chat template ${describe(name)}, got ${got} (${this.folder})`,
      );
    }
    const { Template } = loadJinja(op);
    try {
      const template = new Template(source);
      this.compiled.set(name, template);
      return template;
    } catch (error) {
      const why = (error as Error).message;
      throw new FormatError(`${this.folder}: expected a chat template in Jinja, got ${why}`, this.folder, 0);
    }
  }
}
