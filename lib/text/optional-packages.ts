// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { DependencyError } from '../errors.js';

/**
 * Packages that are loaded when they are first needed, so that programs without text do without them. Their types are written out here, as far as
 * they are used: a program that lacks the packages can then still be compiled against ours.
 */

/** `Tokenizer` of @huggingface/tokenizers. */
export interface HuggingFaceTokenizer {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  /** Throws for an empty list, and for ids that no token has. */
  decode(ids: number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  get_vocab(withAddedTokens: boolean): Map<string | undefined, number>;
  get_added_tokens_decoder(): Map<number, { content: string; special: boolean }>;
}

interface TokenizersPackage {
  Tokenizer: new (tokenizer: object, config: object) => HuggingFaceTokenizer;
}

interface JinjaPackage {
  /** The constructor throws for a template that is not well formed; `render` throws what the template raises. */
  Template: new (source: string) => { render(variables: Record<string, unknown>): string };
}

// `require` and not `import()`: both packages have a CommonJS build, and the whole text side can then do without promises. The names are
// written out in the calls so that bundlers see them.
function load<T>(op: string, name: string, require: () => unknown): T {
  try {
    return require() as T;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    // Of the package itself, and not of something it loads.
    if (code !== 'MODULE_NOT_FOUND' || !message.includes(`'${name}'`)) throw error;
    throw new DependencyError(
      `${op}: expected the optional package ${name}, got none; npm install ${name} adds it`,
      name,
    );
  }
}

/** @throws DependencyError if it is not installed. */
export function loadTokenizers(op: string): TokenizersPackage {
  return load(op, '@huggingface/tokenizers', () => require('@huggingface/tokenizers'));
}

/** @throws DependencyError if it is not installed. */
export function loadJinja(op: string): JinjaPackage {
  return load(op, '@huggingface/jinja', () => require('@huggingface/jinja'));
}
