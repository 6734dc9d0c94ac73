// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { createInterface, type Interface } from 'node:readline';
import { parseArgs } from 'node:util';
import { OptionError } from '../errors.js';
import { summaryOf } from './answer.js';
import { checkpointOptions } from './checkpoint-options.js';
import { WrongCall, type Command, type Context } from './command.js';
import { Conversation } from './conversation.js';
import { isExpected } from './expected-error.js';
import { readTextOptions, TEXT_OPTIONS, TEXT_OPTIONS_HELP } from './text-options.js';

const HELP = `Examples
  ternflash chat ./model
  ternflash chat ./model --system "Answer in one sentence."
  printf 'Hello\\nAnd again\\n' | ternflash chat ./model        a line is a message

Usage: ternflash chat <model> [options]

Talks with a model that has a chat template. /help, in the conversation, lists what can be done there. Ctrl-C stops an answer; at the prompt
it leaves when pressed twice, as Ctrl-D and /quit do.

  <model>            folder of a checkpoint, with config.json, safetensors files and tokenizer.json, or a GGUF file;
                     where tokenizer.json lies beside it, that goes before its own tokenizer
  --system TEXT      what the model is told before all; default nothing
${TEXT_OPTIONS_HELP}
`;

const COMMANDS_HELP = `/reset          forgets what was said
/system TEXT    what the model is told before all, from now on; alone, nothing
/save FILE      writes the conversation as JSON
/quit           leaves
/help           this list
`;

const OPTIONS = { ...TEXT_OPTIONS, system: { type: 'string', default: '' } } as const;

/** A conversation at a terminal, or, without one, of lines that come from elsewhere. */
class Chat {
  private readonly lines: Interface;
  private readonly isTerminal: boolean;
  /** Cancels the answer that is being given; null at the prompt. */
  private running: AbortController | null = null;
  /** Whether the last thing that happened at the prompt was Ctrl-C. */
  private mayLeave = false;

  constructor(
    private readonly conversation: Conversation,
    private readonly quiet: boolean,
    private readonly context: Context,
  ) {
    const { input, out, signal } = context;
    this.isTerminal = input.isTTY === true && out.isTTY === true;
    this.lines = createInterface({
      input,
      ...(this.isTerminal && { output: out as unknown as NodeJS.WritableStream }),
      terminal: this.isTerminal,
      prompt: '> ',
    });
    this.lines.on('SIGINT', () => this.interrupt());
    signal.addEventListener('abort', () => this.lines.close());
  }

  /** To the end of the lines. */
  async run(): Promise<void> {
    const { out, signal } = this.context;
    this.prompt();
    try {
      // The iterator keeps the lines that come during an answer.
      for await (const line of this.lines) {
        this.mayLeave = false;
        if (signal.aborted || (await this.take(line.trim())) === 'quit') return;
        this.prompt();
      }
      if (this.isTerminal) out.write('\n'); // after Ctrl-D
    } finally {
      this.lines.close();
    }
  }

  private prompt(): void {
    if (this.isTerminal) this.lines.prompt();
  }

  /** Ctrl-C at a terminal, which readline takes for itself. */
  private interrupt(): void {
    if (this.running !== null) return this.running.abort();
    if (this.mayLeave) return this.lines.close();
    this.mayLeave = true;
    this.lines.write(null, { ctrl: true, name: 'u' }); // what was typed is gone
    this.context.out.write('\n(Ctrl-C again, Ctrl-D or /quit leaves)\n');
    this.prompt();
  }

  private async take(line: string): Promise<'quit' | void> {
    if (line === '') return;
    if (line === '/quit') return 'quit';
    // At a terminal there is somebody who can do better after an error; what a program wrote has to be right.
    try {
      await (line.startsWith('/') ? this.command(line) : this.answer(line));
    } catch (error) {
      if (!this.isTerminal || !isExpected(error)) throw error;
      this.context.errors.write(`${error.message}\n`);
    }
  }

  private async command(line: string): Promise<void> {
    const [, name, rest] = /^\/(\S*)\s*(.*)$/.exec(line) as unknown as [string, string, string];
    const { out } = this.context;
    if (name === 'help') out.write(COMMANDS_HELP);
    else if (name === 'reset') this.conversation.reset();
    else if (name === 'system') this.conversation.system = rest;
    else if (name === 'save' && rest !== '') await this.conversation.save(rest);
    else throw new OptionError(`chat: expected /help, /reset, /system TEXT, /save FILE or /quit, got ${line}`);
  }

  private async answer(content: string): Promise<void> {
    const { out, errors, signal } = this.context;
    this.running = new AbortController();
    try {
      const pieces = this.conversation.say(content, AbortSignal.any([signal, this.running.signal]));
      let next = await pieces.next();
      for (; !next.done; next = await pieces.next()) out.write(next.value);
      out.write('\n');
      if (errors.isTTY && this.isTerminal && !this.quiet) errors.write(`(${summaryOf(next.value)})\n`);
    } finally {
      this.running = null;
    }
  }
}

/** `ternflash chat`. */
export const chat: Command = {
  async run(args, context) {
    const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
    if (values.help) {
      context.out.write(HELP);
      return 0;
    }
    const [path, ...others] = positionals;
    if (path === undefined) throw new WrongCall('expected a model, got none');
    if (others.length > 0) throw new WrongCall(`expected a model only, got also ${JSON.stringify(others[0])}`);
    const options = readTextOptions(values);

    const { load, quiet } = options;
    const model = await context.loadTextModel(path, {
      ...load,
      ...checkpointOptions({ ...load, quiet }, context.errors),
    });
    try {
      context.signal.throwIfAborted(); // while it was loaded
      if (!model.tokenizer.chatTemplates.includes('default')) {
        throw new OptionError(
          `chat: expected a model with a chat template, got ${path} without one; ternflash generate continues texts with it`,
        );
      }
      const { errors, input } = context;
      if (input.isTTY && errors.isTTY && !options.quiet)
        errors.write(`${model.description}\n/help lists what can be done\n`);
      await new Chat(new Conversation(model, options, values.system), options.quiet, context).run();
      return 0;
    } finally {
      model.dispose();
    }
  },
};
