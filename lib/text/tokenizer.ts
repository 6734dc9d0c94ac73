// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkBoolean, checkInteger, checkIterable, checkOptions, checkPath, checkString } from '../check.js';
import { FormatError, OptionError } from '../errors.js';
import { isGguf } from '../formats/open-tensors.js';
import { ChatTemplates, type ChatMessage, type ChatTemplateOptions } from './chat-template.js';
import { readGgufText } from './gguf-text.js';
import { loadTokenizers, type HuggingFaceTokenizer } from './optional-packages.js';
import { readTokenizerFiles, type JsonObject, type TokenizerFiles } from './tokenizer-files.js';

/** Options of {@link Tokenizer.encode}. */
export interface EncodeOptions {
  /** Put the tokens round the text that the model was trained with, most often one at the beginning. Default true. */
  addSpecialTokens?: boolean;
}

/** Options of {@link Tokenizer.decode}. */
export interface DecodeOptions {
  /** Leave out special tokens, such as the one that ends a text. Default true. */
  skipSpecialTokens?: boolean;
}

const SPECIAL_TOKENS = ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token'];

/** The text of a special token, which files give as a string or as an object. */
function contentOf(value: unknown): string | null {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : null;
}

function readSpecialTokens({ tokenizerConfig, specialTokensMap }: TokenizerFiles): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of SPECIAL_TOKENS) {
    const content = contentOf(tokenizerConfig[name]) ?? contentOf(specialTokensMap[name]);
    if (content !== null) found[name] = content;
  }
  return found;
}

/** The ids of `eos_token_id`: none, one or several. */
function endIds({ eos_token_id: ids }: JsonObject): number[] {
  return [ids].flat().filter((id): id is number => Number.isInteger(id));
}

/**
 * Text to tokens and back, as a published checkpoint defines them. Two optional packages do the work, and are loaded when they are first needed:
 * `@huggingface/tokenizers`, and `@huggingface/jinja` for conversations.
 *
 * Decoding gives what the decoder of tokenizer.json gives: `clean_up_tokenization_spaces`, which takes spaces away before punctuation, is not
 * applied, for decoding would then not give the text that was encoded.
 */
export class Tokenizer {
  /** One more than the largest id; a model may have more rows, to a round number. */
  readonly vocabularySize: number;
  /** Id of the token that begins a text; null if there is none. */
  readonly bosToken: number | null;
  /** Id of the token that ends a text; null if there is none. Generation ends at any of {@link stopTokens}. */
  readonly eosToken: number | null;
  /** Id of the token that fills up shorter texts of a batch; null if there is none. */
  readonly padToken: number | null;
  /**
   * Ids at which generation ends: `eos_token_id` of generation_config.json and config.json, and {@link eosToken}; of a GGUF file also its `eot` and `eom` and what
   * llama.cpp takes for an end by its text, such as `<|im_end|>`. Ascending.
   */
  readonly stopTokens: readonly number[];

  private readonly inner: HuggingFaceTokenizer;
  private readonly templates: ChatTemplates;
  private readonly special: ReadonlySet<number>;
  /** The text of the token that begins a text. */
  private readonly bosText: string | null;
  private readonly addsBos: boolean;

  /** @internal See {@link load}. */
  constructor(files: TokenizerFiles) {
    const { Tokenizer: HuggingFace } = loadTokenizers('Tokenizer.load');
    const { source } = files;
    try {
      this.inner = new HuggingFace(files.tokenizer, files.tokenizerConfig);
    } catch (error) {
      const got = (error as Error).message;
      throw new FormatError(`${source}: expected a tokenizer of Hugging Face, got ${got}`, source, 0);
    }
    const texts = readSpecialTokens(files);
    const idOf = (name: string): number | null => this.tokenId(texts[name] ?? '');
    this.bosToken = idOf('bos_token');
    this.eosToken = idOf('eos_token');
    this.padToken = idOf('pad_token');
    this.bosText = texts.bos_token ?? null;
    // Some checkpoints (DeepSeek's) say it here only, and Transformers follows.
    this.addsBos = files.tokenizerConfig.add_bos_token === true;
    const ends = [...endIds(files.generationConfig), ...endIds(files.modelConfig), this.eosToken ?? []].flat();
    this.stopTokens = [...new Set(ends)].sort((a, b) => a - b);
    let largest = -1;
    for (const id of this.inner.get_vocab(true).values()) largest = Math.max(largest, id);
    this.vocabularySize = largest + 1;
    this.special = this.specialIds(files, Object.values(texts));
    this.templates = new ChatTemplates(files, texts);
  }

  /**
   * Reads the tokenizer of a checkpoint.
   *
   * @param location a folder that holds tokenizer.json and, where the model has them, tokenizer_config.json, special_tokens_map.json, generation_config.json,
   *   config.json and chat_template.jinja; or a GGUF file, of which its own tokenizer is read: byte-level BPE (`gpt2`) that splits texts as a model does whose way is
   *   known, or SentencePiece (`llama`), and its chat templates.
   * @throws DependencyError without @huggingface/tokenizers; FormatError if there is no tokenizer, it is of another kind, or a file is not what it should be.
   */
  static async load(location: string): Promise<Tokenizer> {
    const op = 'Tokenizer.load';
    checkPath(op, 'location', location);
    const read = (await isGguf(location)) ? readGgufText : readTokenizerFiles;
    return new Tokenizer(await read(op, location));
  }

  /** Those tokenizer.json calls special, and those the other files do: tokenizer.json of fine-tuned models is not always kept up to date. */
  private specialIds({ tokenizerConfig, specialTokensMap }: TokenizerFiles, named: readonly string[]): Set<number> {
    const ids = [...this.inner.get_added_tokens_decoder()].flatMap(([id, { special }]) => (special ? [id] : []));
    const additional = [tokenizerConfig, specialTokensMap].map((each) => each.additional_special_tokens ?? []).flat();
    const texts = [...named, ...additional.map(contentOf)];
    return new Set([...ids, ...texts.flatMap((text) => (text === null ? [] : (this.tokenId(text) ?? [])))]);
  }

  /**
   * The tokens of a text. Special tokens that stand in the text, such as `<|eot_id|>`, become their ids: do not encode text of strangers together
   * with what a template makes.
   *
   * @param options `addSpecialTokens`: a text that begins with the token that begins texts does not get a second one.
   * @throws OptionError.
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const op = 'encode';
    checkString(op, 'text', text);
    checkOptions(op, options, ['addSpecialTokens']);
    const add = checkBoolean(op, 'addSpecialTokens', options.addSpecialTokens ?? true);
    const { ids } = this.inner.encode(text, { add_special_tokens: add });
    if (ids.includes(undefined))
      throw new OptionError(`${op}: expected text of known tokens, got some that the vocabulary cannot represent`);
    return add ? this.withOneBos(text, ids as number[]) : (ids as number[]);
  }

  private withOneBos(text: string, ids: number[]): number[] {
    const { bosToken, bosText } = this;
    if (bosToken === null || bosText === null) return ids;
    if (ids[0] !== bosToken) return this.addsBos ? [bosToken, ...ids] : ids;
    return ids[1] === bosToken && text.startsWith(bosText) ? ids.slice(1) : ids;
  }

  /**
   * The text of tokens. Ids that no token has, as models with a round number of rows may draw them, count for nothing. Bytes that are no UTF-8
   * become U+FFFD; for tokens that come one at a time see {@link TextStream}.
   *
   * @throws OptionError.
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const op = 'decode';
    checkOptions(op, options, ['skipSpecialTokens']);
    const skip = checkBoolean(op, 'skipSpecialTokens', options.skipSpecialTokens ?? true);
    const shown: number[] = [];
    for (const id of checkIterable(op, 'ids', ids))
      if (this.isShown(checkInteger(op, 'ids', id, 0, 2 ** 31 - 1), skip)) shown.push(id);
    if (shown.length === 0) return '';
    return this.inner.decode(shown, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  }

  /** @internal Whether decoding takes notice of a token. */
  isShown(id: number, skipSpecialTokens: boolean): boolean {
    return this.inner.id_to_token(id) !== undefined && !(skipSpecialTokens && this.special.has(id));
  }

  /** The id of a token by its text, as tokenizer.json writes it; null if there is none. Throws OptionError. */
  tokenId(token: string): number | null {
    return this.inner.token_to_id(checkString('tokenId', 'token', token)) ?? null;
  }

  /** Names of the model's chat templates; most models have one, `default`, and those that were not made for conversations none. */
  get chatTemplates(): readonly string[] {
    return this.templates.names;
  }

  /**
   * The text of a conversation, as the model was trained on it. It has the token that begins a text in it: encode it without special tokens, or
   * use {@link encodeChat}.
   *
   * @throws OptionError if the model has no such template, or the template refuses the messages; FormatError if it is no Jinja; DependencyError
   *   without @huggingface/jinja.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    return this.templates.render('applyChatTemplate', messages, options);
  }

  /** The tokens of a conversation: those of {@link applyChatTemplate}'s text. */
  encodeChat(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): number[] {
    return this.encode(this.templates.render('encodeChat', messages, options), { addSpecialTokens: false });
  }
}
