// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  checkInteger,
  checkIterable,
  checkObject,
  checkOneOf,
  checkOptions,
  checkRange,
  checkSignal,
} from '../check.js';
import { describe } from '../describe.js';
import { FormatError, OptionError } from '../errors.js';
import { lineError, readJsonl } from '../formats/jsonl.js';
import { checkSeed } from '../random.js';
import type { BatchSource, Json, TokenBatch } from './data.js';
import { DocumentStore, type Piece } from './document-store.js';
import {
  DOCUMENT_FORMS,
  documentOf,
  encodeDocument,
  type DocumentEncoder,
  type TrainingDocument,
} from './documents.js';
import { permutationOf } from './permutation.js';

/** Documents packed end to end in one row: `rows` is 1, `sequence` the number of tokens. */
export interface DocumentBatch extends TokenBatch {
  readonly cuSeqlens: Int32Array;
}

/** Options of {@link DocumentDataset}. */
export interface DocumentDatasetOptions {
  /** Makes tokens of documents. */
  encoder: DocumentEncoder;
  /** Most tokens in a batch. Default 8192. */
  maxTokens?: number;
  /** Most tokens of a document, at most maxTokens. Default 2048. */
  maxSequenceLength?: number;
  /**
   * What becomes of longer documents: `split`, pieces that do not see each other, of which every token is a target once; or `cut`, the beginning.
   * Default `split`.
   */
  longDocuments?: 'split' | 'cut';
  /** The documents of an epoch in an order of their own (default), or as they come. */
  order?: 'random' | 'sequential';
  /** Of the random order, and of {@link DocumentDataset.split}. Default 0. */
  seed?: number;
  /** `next` ends after so many epochs. Default: it does not. */
  epochs?: number;
}

/** {@link DocumentDatasetOptions} with every default filled in. */
type Resolved = Required<Omit<DocumentDatasetOptions, 'encoder' | 'epochs'>> & { epochs: number | null };

const MOST_EPOCHS = 2 ** 21 - 1;
const OPTION_KEYS = ['encoder', 'maxTokens', 'maxSequenceLength', 'longDocuments', 'order', 'seed', 'epochs'];

/**
 * Batches of whole documents, as many as fit, end to end in one row without padding: {@link CausalLM.loss} with their `cuSeqlens` computes each as if it were
 * alone. Each epoch visits every document once; a batch holds documents of one epoch. Batches differ in their number of targets, by which a
 * {@link Trainer} weighs them.
 *
 * A target is the token after each; -100 in front of tokens that are not learnt (those of prompts) and at the end of a document. Documents without
 * anything to learn are left out. The tokens of all are held in memory, 5 bytes each.
 *
 * ```
 * const data = await DocumentDataset.read('train.jsonl', { encoder: documentEncoder(tokenizer), maxTokens: 4096 });
 * const trainer = new Trainer({ model, data, batchSize: 2, maxSequenceLength: 2048, mixedPrecision: bf16() });
 * ```
 */
export class DocumentDataset implements BatchSource<DocumentBatch> {
  /** Documents with anything to learn. */
  readonly documents: number;
  /** Tokens of an epoch. */
  readonly tokens: number;
  /** Targets of an epoch. */
  readonly targets: number;
  /** The largest token of all documents. A model needs a larger vocabulary. */
  readonly largestToken: number;

  private readonly options: Resolved;
  private readonly store: DocumentStore;
  private readonly pieces: readonly Piece[];
  private readonly digest: string;
  private epochIndex = 0;
  private position = 0;
  private permutation: { epoch: number; order: Uint32Array } | null = null;

  /**
   * @throws OptionError, also if there is nothing to learn; what the encoder throws.
   */
  constructor(documents: Iterable<TrainingDocument>, options: DocumentDatasetOptions);
  /** @internal */
  constructor(documents: DocumentStore, options: Resolved, pieces?: readonly Piece[]);
  constructor(
    documents: Iterable<TrainingDocument> | DocumentStore,
    options: DocumentDatasetOptions | Resolved,
    pieces?: readonly Piece[],
  ) {
    const op = 'DocumentDataset';
    if (documents instanceof DocumentStore) {
      this.store = documents;
      this.options = options as Resolved;
    } else {
      this.options = resolveOptions(op, options as DocumentDatasetOptions);
      this.store = new DocumentStore();
      const { encoder } = options as DocumentDatasetOptions;
      for (const each of checkIterable(op, 'documents', documents)) {
        const document = documentOf(each);
        if (!document) throw new OptionError(`${op}: expected ${DOCUMENT_FORMS} for a document, got another value`);
        this.store.add(encodeDocument(op, document, encoder));
      }
    }
    const { maxSequenceLength, longDocuments } = this.options;
    this.pieces = pieces ?? this.store.pieces(maxSequenceLength, longDocuments);
    if (this.pieces.length === 0)
      throw new OptionError(`${op}: expected a document with tokens to learn, got ${this.store.length} without`);
    this.documents = new Set(this.pieces.map(({ document }) => document)).size;
    this.tokens = this.pieces.reduce((sum, { length }) => sum + length, 0);
    this.targets = this.pieces.reduce((sum, { count }) => sum + count, 0);
    this.largestToken = this.store.largest();
    this.digest = this.store.digest(this.pieces);
  }

  /**
   * Reads a JSON Lines file with a document on each line: `{"text"}`, `{"prompt", "completion"}` or `{"messages": [{"role", "content"}, …]}`, also of
   * different forms; other keys are ignored.
   *
   * @param options `signal` stops the reading, which can take long.
   * @throws FormatError with the line if one is none of these, or cannot be encoded; OptionError; the error of the file system.
   */
  static async read(
    file: string,
    options: DocumentDatasetOptions & { signal?: AbortSignal },
  ): Promise<DocumentDataset> {
    const op = 'DocumentDataset.read';
    checkObject(op, 'options', options);
    const { signal, ...rest } = options;
    checkSignal(op, signal);
    const resolved = resolveOptions(op, rest);
    const store = new DocumentStore();
    for await (const { value, ...place } of readJsonl(file)) {
      signal?.throwIfAborted();
      const document = documentOf(value);
      if (!document) {
        const shown = JSON.stringify(value); // a line has few brackets in each other
        const got = shown.length > 80 ? `${shown.slice(0, 80)}…` : shown;
        throw lineError(file, place, DOCUMENT_FORMS, got);
      }
      try {
        store.add(encodeDocument(op, document, rest.encoder));
      } catch (error) {
        if (!(error instanceof OptionError)) throw error;
        throw lineError(file, place, 'a document that can be encoded', error.message);
      }
    }
    if (store.pieces(resolved.maxSequenceLength, resolved.longDocuments).length === 0) {
      throw new FormatError(
        `${file}: expected a document with tokens to learn, got ${store.length} documents without`,
        file,
        0,
      );
    }
    return new DocumentDataset(store, resolved);
  }

  /** Epochs that are over. */
  get epoch(): number {
    return this.epochIndex;
  }

  next(): DocumentBatch | null {
    const { epochs } = this.options;
    if (epochs !== null && this.epochIndex >= epochs) return null;
    const order = this.orderOf(this.epochIndex);
    const end = this.endOfBatch(order, this.position);
    const batch = this.batchOf(order.subarray(this.position, end));
    this.position = end;
    if (end === this.pieces.length) {
      this.position = 0;
      this.epochIndex++;
    }
    return batch;
  }

  /** All documents once, as they come, wherever `next` stands. For evaluation. */
  *pass(): IterableIterator<DocumentBatch> {
    const order = Uint32Array.from(this.pieces, (_, i) => i);
    for (let begin = 0; begin < order.length;) {
      const end = this.endOfBatch(order, begin);
      yield this.batchOf(order.subarray(begin, end));
      begin = end;
    }
  }

  /** Batches of the first epochs. It is not the same for each, as packing depends on the order. */
  countBatches(epochs: number): number {
    checkInteger('DocumentDataset.countBatches', 'epochs', epochs, 0, MOST_EPOCHS);
    let count = 0;
    for (let epoch = 0; epoch < epochs; epoch++) {
      const order = this.orderOf(epoch);
      for (let at = 0; at < order.length; at = this.endOfBatch(order, at)) count++;
    }
    return count;
  }

  /**
   * Two datasets of these documents, to train on and to evaluate with. Which documents are in which follows from the seed.
   *
   * @param share of the documents that are in the second, from 0 to 1; rounded, so that it may have none: it is null then.
   * @throws OptionError, also if nothing is left for the first.
   */
  split(share: number): [DocumentDataset, DocumentDataset | null] {
    const op = 'DocumentDataset.split';
    checkRange(op, 'share', share, 0, 1);
    const documents = [...new Set(this.pieces.map(({ document }) => document))];
    const count = Math.round(documents.length * share);
    if (count === documents.length)
      throw new OptionError(`${op}: expected a share that leaves some of ${documents.length} documents, got ${share}`);
    // An epoch that is never reached: its order is no epoch's.
    const order = permutationOf(documents.length, this.options.seed, MOST_EPOCHS);
    const chosen = new Set(Array.from(order.subarray(0, count), (i) => documents[i]));
    const part = (isChosen: boolean): DocumentDataset =>
      new DocumentDataset(
        this.store,
        this.options,
        this.pieces.filter(({ document }) => chosen.has(document) === isChosen),
      );
    return [part(false), count === 0 ? null : part(true)];
  }

  state(): Json {
    return { ...this.identity(), epoch: this.epochIndex, position: this.position };
  }

  /** @throws OptionError if the state is of a dataset with other documents, sizes or order. */
  loadState(state: Json): void {
    const op = 'DocumentDataset.loadState';
    const given = state as Record<string, unknown> | null;
    for (const [name, own] of Object.entries(this.identity())) {
      if (given?.[name] !== own) {
        throw new OptionError(`${op}: expected ${String(own)} for ${name}, got ${describe(given?.[name])}`);
      }
    }
    const { epoch, position } = given as { epoch: number; position: number };
    checkInteger(op, 'epoch', epoch, 0, MOST_EPOCHS);
    this.position = checkInteger(op, 'position', position, 0, this.pieces.length - 1);
    this.epochIndex = epoch;
  }

  /** What has to be the same for a position to mean the same. */
  private identity(): Record<string, string | number> {
    const { maxTokens, maxSequenceLength, order, seed } = this.options;
    return { documents: this.documents, tokens: this.digest, maxTokens, maxSequenceLength, order, seed };
  }

  private orderOf(epoch: number): Uint32Array {
    if (this.permutation?.epoch !== epoch) {
      const { length } = this.pieces;
      const order =
        this.options.order === 'random'
          ? permutationOf(length, this.options.seed, epoch)
          : Uint32Array.from({ length }, (_, i) => i);
      this.permutation = { epoch, order };
    }
    return this.permutation.order;
  }

  /** Behind the last piece that fits into a batch together with those from `begin` on. */
  private endOfBatch(order: Uint32Array, begin: number): number {
    let end = begin;
    for (let tokens = 0; end < order.length; end++) {
      tokens += this.pieces[order[end]].length;
      if (tokens > this.options.maxTokens) break;
    }
    return end;
  }

  private batchOf(chosen: Uint32Array): DocumentBatch {
    const cuSeqlens = new Int32Array(chosen.length + 1);
    chosen.forEach((piece, i) => (cuSeqlens[i + 1] = cuSeqlens[i] + this.pieces[piece].length));
    const sequence = cuSeqlens[chosen.length];
    const [ids, targets] = [new Int32Array(sequence), new Int32Array(sequence)];
    let count = 0;
    chosen.forEach((piece, i) => {
      this.store.write(this.pieces[piece], ids, targets, cuSeqlens[i]);
      count += this.pieces[piece].count;
    });
    return { ids, targets, rows: 1, sequence, cuSeqlens, count };
  }
}

function resolveOptions(op: string, options: DocumentDatasetOptions): Resolved {
  checkOptions(op, options, OPTION_KEYS);
  if (typeof (options.encoder as DocumentEncoder | undefined)?.encode !== 'function')
    throw new OptionError(
      `${op}: expected an object with a function encode for encoder, got ${describe(options.encoder)}`,
    );
  const maxTokens = checkInteger(op, 'maxTokens', options.maxTokens ?? 8192, 1, 2 ** 31 - 1);
  return {
    maxTokens,
    maxSequenceLength: checkInteger(
      op,
      'maxSequenceLength',
      options.maxSequenceLength ?? Math.min(2048, maxTokens),
      1,
      maxTokens,
    ),
    longDocuments: checkOneOf(op, 'longDocuments', options.longDocuments ?? 'split', ['split', 'cut']),
    order: checkOneOf(op, 'order', options.order ?? 'random', ['random', 'sequential']),
    seed: checkSeed(op, options.seed ?? 0),
    epochs: options.epochs === undefined ? null : checkInteger(op, 'epochs', options.epochs, 1, MOST_EPOCHS),
  };
}
