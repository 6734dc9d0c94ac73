// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { FormatError } from '../errors.js';
import { openGguf } from '../formats/gguf.js';
import { describe } from '../describe.js';
import { GGUF_SPLITS, type GgufSplit } from './gguf-splits.js';
import type { JsonObject, TokenizerFiles } from './tokenizer-files.js';

/** llama.cpp's kinds of tokens (llama.h: enum llama_token_type); one is anything else that stands for itself. */
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE] = [1, 2, 3, 4, 5, 6];

/** Tokens at which llama.cpp too ends a text, whatever the file says of them. */
const END_TEXTS = ['<|eot_id|>', '<|eom_id|>', '<|im_end|>', '<|end|>', '<|endoftext|>', '<|end_of_text|>'].concat([
  '<end_of_turn>',
  '<EOT>',
]);

/** The vocabulary of a GGUF file. */
interface Vocabulary {
  tokens: readonly string[];
  types: Int32Array;
}

/**
 * What a GGUF file says of text (`tokenizer.ggml.*`, `tokenizer.chat_template`), as the files beside another checkpoint would: byte-level BPE (`gpt2`) with the
 * ways to split texts of {@link GGUF_SPLITS}, and BPE in the manner of SentencePiece (`llama`), whose scores become merges.
 *
 * @throws FormatError if the file has no tokenizer, or one of another kind, which is named.
 */
export async function readGgufText(op: string, file: string): Promise<TokenizerFiles> {
  const opened = await openGguf(file);
  await opened.close();
  return new GgufText(op, file, opened.metadata).read();
}

class GgufText {
  constructor(
    private readonly op: string,
    private readonly file: string,
    private readonly metadata: Readonly<Record<string, unknown>>,
  ) {}

  read(): TokenizerFiles {
    const kind = this.get('model');
    if (kind === undefined || kind === 'no_vocab')
      throw this.fail(
        'a GGUF file with a tokenizer',
        'one without; Tokenizer.load reads a folder with tokenizer.json too',
      );
    if (kind !== 'gpt2' && kind !== 'llama')
      throw this.fail(
        'a tokenizer of kind gpt2 (byte-level BPE) or llama (SentencePiece) for tokenizer.ggml.model',
        describe(kind),
      );
    const vocabulary = this.vocabulary();
    const split = kind === 'gpt2' ? this.split(vocabulary) : null;
    // What llama.cpp takes for what the file does not say.
    const usual = split === null ? { unk: 0, bos: 1, eos: 2 } : { unk: null, bos: null, eos: null };
    const id = (key: string, otherwise: number | null = null): number | null =>
      this.tokenId(vocabulary, key, otherwise);
    const [unk, bos, eos] = [id('unknown', usual.unk), id('bos', usual.bos), id('eos', usual.eos)];
    const flag = (key: string, otherwise: boolean): boolean => {
      const value = this.get(key) ?? otherwise;
      if (typeof value !== 'boolean') throw this.fail(`a boolean for tokenizer.ggml.${key}`, describe(value));
      return value;
    };
    const textOf = (token: number | null): string | null => (token === null ? null : vocabulary.tokens[token]);
    const begin = flag('add_bos_token', split?.addsBos ?? true) ? bos : null;
    const end = flag('add_eos_token', false) ? eos : null;
    const parts =
      split === null
        ? sentencePiece(vocabulary, this.merges(vocabulary), textOf(unk), flag('add_space_prefix', true))
        : byteLevel(vocabulary, this.merges(vocabulary), split);
    const ends = vocabulary.tokens.flatMap((text, token) =>
      END_TEXTS.includes(text) && vocabulary.types[token] !== NORMAL ? [token] : [],
    );
    const templates = this.templates();
    const special: [string, string | null][] = [
      ['bos_token', textOf(bos)],
      ['eos_token', textOf(eos)],
      ['unk_token', textOf(unk)],
      ['pad_token', textOf(id('padding'))],
    ];
    return {
      folder: this.file,
      source: this.file,
      tokenizer: {
        version: '1.0',
        added_tokens: addedTokens(vocabulary),
        post_processor: template(vocabulary.tokens, begin, end),
        ...parts,
      },
      tokenizerConfig: {
        ...Object.fromEntries(special.filter(([, text]) => text !== null)),
        ...(templates.length > 0 && { chat_template: templates }),
      },
      specialTokensMap: {},
      generationConfig: { eos_token_id: [id('eot'), id('eom'), ...ends].filter((each) => each !== null) },
      modelConfig: {},
      chatTemplate: null,
    };
  }

  private get(key: string): unknown {
    return this.metadata[`tokenizer.ggml.${key}`];
  }

  private fail(expected: string, got: string): FormatError {
    return new FormatError(`${this.op}: expected ${expected}, got ${got} (${this.file})`, this.file, 0);
  }

  private vocabulary(): Vocabulary {
    const tokens = this.texts('tokens');
    const types = this.get('token_type') ?? new Int32Array(tokens.length).fill(NORMAL);
    if (!(types instanceof Int32Array) || types.length !== tokens.length)
      throw this.fail(`${tokens.length} kinds of tokens for tokenizer.ggml.token_type`, describe(types));
    return { tokens, types };
  }

  private texts(key: string): string[] {
    const value = this.get(key);
    if (!Array.isArray(value) || !value.every((each) => typeof each === 'string'))
      throw this.fail(`texts for tokenizer.ggml.${key}`, value === undefined ? 'none' : describe(value));
    return value;
  }

  private split({ tokens }: Vocabulary): GgufSplit {
    // Microsoft's own file of BitNet b1.58 2B-4T does not say it; its vocabulary is that of Llama 3.
    const isLlama3 = tokens[Number(this.get('bos_token_id'))] === '<|begin_of_text|>';
    const name = this.get('pre') ?? (isLlama3 ? 'llama-bpe' : undefined);
    const split = GGUF_SPLITS.find((each) => each.name === name);
    if (split) return split;
    const names = GGUF_SPLITS.map((each) => each.name).join(', ');
    throw this.fail(`one of ${names} for tokenizer.ggml.pre`, name === undefined ? 'none' : describe(name));
  }

  private tokenId({ tokens }: Vocabulary, name: string, otherwise: number | null): number | null {
    const key = `${name}_token_id`;
    const value = this.get(key) ?? otherwise;
    if (value === null) return null;
    if (!Number.isInteger(value) || (value as number) < 0 || (value as number) >= tokens.length)
      throw this.fail(`a token from 0 to ${tokens.length - 1} for tokenizer.ggml.${key}`, describe(value));
    return value as number;
  }

  /** The pairs that become one token, first the one that does so first. */
  private merges(vocabulary: Vocabulary): [string, string][] {
    if (this.get('model') === 'llama') return mergesByScore(vocabulary, this.scores(vocabulary));
    const known = new Set(vocabulary.tokens);
    return this.texts('merges').map((merge) => {
      const space = merge.indexOf(' ', 1);
      const [left, right] = [merge.slice(0, space), merge.slice(space + 1)];
      if (space < 0 || ![left, right, left + right].every((each) => known.has(each)))
        throw this.fail('two tokens that become a third in each of tokenizer.ggml.merges', describe(merge));
      return [left, right];
    });
  }

  private scores({ tokens }: Vocabulary): Float32Array {
    const scores = this.get('scores');
    if (scores instanceof Float32Array && scores.length === tokens.length) return scores;
    throw this.fail(
      `${tokens.length} scores for tokenizer.ggml.scores`,
      scores === undefined ? 'none' : describe(scores),
    );
  }

  private templates(): { name: string; template: string }[] {
    const key = 'tokenizer.chat_template';
    return Object.entries(this.metadata).flatMap(([name, template]) => {
      if (name !== key && !name.startsWith(`${key}.`)) return [];
      if (typeof template !== 'string') throw this.fail(`a text for ${name}`, describe(template));
      return [{ name: name === key ? 'default' : name.slice(key.length + 1), template }];
    });
  }
}

/** All but those that stand in an empty place of the vocabulary. */
function vocabOf({ tokens, types }: Vocabulary): Record<string, number> {
  return Object.fromEntries(tokens.flatMap((text, id) => (types[id] === UNUSED ? [] : [[text, id]])));
}

/** Tokens that are found in a text as they are, and not made by merging. */
function addedTokens({ tokens, types }: Vocabulary): JsonObject[] {
  return tokens.flatMap((content, id) => {
    if (![UNKNOWN, CONTROL, USER_DEFINED].includes(types[id])) return [];
    const special = types[id] !== USER_DEFINED;
    return [{ id, content, special, single_word: false, lstrip: false, rstrip: false, normalized: false }];
  });
}

/** Tokens before and behind a text; null for none. */
function template(tokens: readonly string[], begin: number | null, end: number | null): JsonObject {
  const piece = (id: number | null): JsonObject[] =>
    id === null ? [] : [{ SpecialToken: { id: tokens[id], type_id: 0 } }];
  const round = (id: string): JsonObject[] => [...piece(begin), { Sequence: { id, type_id: 0 } }, ...piece(end)];
  const used = [begin, end].filter((id) => id !== null);
  return {
    type: 'TemplateProcessing',
    single: round('A'),
    pair: [...round('A'), ...round('B')],
    special_tokens: Object.fromEntries(
      used.map((id) => [tokens[id], { id: tokens[id], ids: [id], tokens: [tokens[id]] }]),
    ),
  };
}

function byteLevel(vocabulary: Vocabulary, merges: [string, string][], split: GgufSplit): JsonObject {
  const steps: JsonObject[] = [];
  if (split.digits) steps.push({ type: 'Digits', individual_digits: true });
  if (split.regex !== null)
    steps.push({ type: 'Split', pattern: { Regex: split.regex }, behavior: 'Isolated', invert: false });
  steps.push({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: split.regex === null });
  return {
    normalizer: split.normalizer && { type: split.normalizer },
    pre_tokenizer: { type: 'Sequence', pretokenizers: steps },
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: 'BPE',
      unk_token: null,
      byte_fallback: false,
      ignore_merges: split.ignoreMerges,
      vocab: vocabOf(vocabulary),
      merges,
    },
  };
}

/** As Transformers has Llama 2: `▁` for a space, one before the text and behind every special token; bytes for what is no piece. */
function sentencePiece(
  vocabulary: Vocabulary,
  merges: [string, string][],
  unknown: string | null,
  spaceFirst: boolean,
): JsonObject {
  const replace = (from: string, to: string): JsonObject => ({
    type: 'Replace',
    pattern: { String: from },
    content: to,
  });
  return {
    normalizer: {
      type: 'Sequence',
      normalizers: [...(spaceFirst ? [{ type: 'Prepend', prepend: '▁' }] : []), replace(' ', '▁')],
    },
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        replace('▁', ' '),
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(spaceFirst ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
      ],
    },
    model: {
      type: 'BPE',
      unk_token: unknown,
      fuse_unk: true,
      byte_fallback: vocabulary.types.includes(BYTE),
      vocab: vocabOf(vocabulary),
      merges,
    },
  };
}

/**
 * SentencePiece joins, of all neighbours that are a piece together, those whose piece has the highest score. So do merges in the order of the scores, with a merge for
 * each way to make a piece of two. Of equal scores SentencePiece takes the leftmost, merges the one that is listed first: the longer left part.
 */
function mergesByScore({ tokens, types }: Vocabulary, scores: Float32Array): [string, string][] {
  const isPiece = (id: number): boolean => types[id] === NORMAL;
  const pieces = new Set(tokens.filter((_, id) => isPiece(id)));
  const order = Array.from(tokens.keys()).filter(isPiece);
  order.sort((a, b) => scores[b] - scores[a] || a - b);
  return order.flatMap((id) => {
    const letters = Array.from(tokens[id]);
    const ways: [string, string][] = [];
    for (let length = letters.length - 1; length > 0; length--) {
      const [left, right] = [letters.slice(0, length).join(''), letters.slice(length).join('')];
      if (pieces.has(left) && pieces.has(right)) ways.push([left, right]);
    }
    return ways;
  });
}
