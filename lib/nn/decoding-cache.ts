// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { isCapturing, refuseInCapture } from '../capturing.js';
import { checkInteger, checkObject, checkOneOf, checkOptions } from '../check.js';
import { describe } from '../describe.js';
import { Device } from '../device.js';
import { FLOAT_DTYPES, type DType, type FloatDType } from '../dtype.js';
import { DisposedError, OptionError, OutOfMemoryError, ShapeError } from '../errors.js';
import { PAGE_STEP, type KvCache } from '../ops/kv-cache.js';
import { reshape } from '../ops/reshape.js';
import { keep } from '../scope.js';
import { tensor, zeros, type Tensor } from '../tensor.js';
import { PageTable } from './page-table.js';
import type { LayerConfig } from './transformer.js';

/** The cache of one layer, as a forward pass uses it. */
export interface LayerCache extends KvCache {
  /** int32 [B, S]: where the new tokens are. Default: `length` and on. */
  readonly positions?: Tensor;
}

/** How a {@link DecodingCache} stores keys and values. */
export interface CacheOptions {
  /**
   * Default: the dtype of the model. A number is rounded to it when it is appended; int8 takes half of what 16 bits take, and for each token, layer and key head a float32
   * scale for keys and one for values, see {@link KvCache}.
   */
  dtype?: FloatDType | 'int8';
  /**
   * Tokens of a page, a multiple of 16: sequences then share a pool of pages, and each has as many as its tokens need. Default none: every sequence has memory for
   * `capacity` tokens.
   */
  pageSize?: number;
  /** Pages of the pool. Default: as many as it takes to fill every sequence. */
  pages?: number;
}

/** What the cache of a layer consists of. */
type Stored = Pick<KvCache, 'keys' | 'values' | 'keyScales' | 'valueScales'>;

/**
 * The keys and values of all layers of a model, for decoding: batch entries grow by themselves, each with as many tokens as it holds. Made by
 * `model.createCache`; `forward` appends to it.
 */
export class DecodingCache {
  private readonly layers: readonly Stored[];
  private readonly held: Int32Array;
  private readonly onDevice: Tensor;
  private readonly table: PageTable | null = null;
  private readonly tableOnDevice: Tensor | null = null;
  private readonly made: Tensor[] = [];

  /**
   * An empty cache.
   *
   * @param batch B, sequences.
   * @param capacity the most tokens of a sequence.
   * @param config of the model: `layers` of them, each [B, capacity, keyHeads, headDim] for keys and for values, or with pages [pages, pageSize, keyHeads, headDim].
   * @throws OptionError, OutOfMemoryError.
   */
  constructor(
    readonly batch: number,
    readonly capacity: number,
    config: Pick<LayerConfig, 'keyHeads' | 'headDim' | 'dtype'> & { layers: number },
    /** Where it is. */
    readonly device: Device,
    options: CacheOptions = {},
  ) {
    const op = 'createCache';
    checkInteger(op, 'batch', batch, 1, 2 ** 31 - 1);
    checkInteger(op, 'capacity', capacity, 1, 2 ** 31 - 1);
    checkObject(op, 'config', config);
    for (const name of ['layers', 'keyHeads', 'headDim'] as const) checkInteger(op, name, config[name], 1, 2 ** 24);
    checkOneOf(op, 'dtype', config.dtype, FLOAT_DTYPES);
    if (!(device instanceof Device))
      throw new OptionError(`${op}: expected a Device for device, got ${describe(device)}`);
    checkOptions(op, options, ['dtype', 'pageSize', 'pages']);
    const { keyHeads, headDim } = config;
    const dtype = checkOneOf(op, 'dtype', options.dtype ?? config.dtype, [...FLOAT_DTYPES, 'int8' as const]);
    const { pageSize } = options;
    if (options.pages !== undefined && pageSize === undefined)
      throw new OptionError(`${op}: expected pageSize with pages, got none`);
    if (pageSize !== undefined) {
      checkInteger(op, 'pageSize', pageSize, PAGE_STEP, 2 ** 20);
      if (pageSize % PAGE_STEP !== 0)
        throw new OptionError(`${op}: expected a multiple of ${PAGE_STEP} for pageSize, got ${pageSize}`);
      const perEntry = Math.ceil(capacity / pageSize);
      const pages = checkInteger(op, 'pages', options.pages ?? batch * perEntry, 1, 2 ** 31 - 1);
      this.table = new PageTable(batch, perEntry, pageSize, pages);
    }
    const make = (shape: readonly number[], type: DType): Tensor => {
      const tensor = keep(zeros(shape, { dtype: type, device }));
      this.made.push(tensor);
      return tensor;
    };
    try {
      const { table } = this;
      const rows = table ? [table.total, table.size, keyHeads] : [batch, capacity, keyHeads];
      const numbers = (): Tensor => make([...rows, headDim], dtype);
      const scales = (): Tensor => make(rows, 'float32');
      const layer = (): Stored => ({
        ...{ keys: numbers(), values: numbers() },
        ...(dtype === 'int8' && { keyScales: scales(), valueScales: scales() }),
      });
      this.layers = Array.from({ length: config.layers }, layer);
      this.onDevice = make([batch], 'int32');
      if (table) {
        this.tableOnDevice = make([batch, table.pages.length / batch], 'int32');
        this.tableOnDevice.write(table.pages);
      }
    } catch (error) {
      this.made.forEach((each) => each.dispose());
      throw error;
    }
    this.held = new Int32Array(batch);
  }

  /** Tokens that each sequence holds. */
  get lengths(): number[] {
    return [...this.held];
  }

  /** The same on the device, int32 [B]: what a captured step reads. It follows {@link setLengths} and {@link advance}. */
  get lengthsTensor(): Tensor {
    return this.onDevice;
  }

  /** Bytes of keys and values, with their scales. */
  get bytes(): number {
    const all = this.layers.flatMap((layer) => Object.values(layer));
    return all.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Pages that no sequence has; null without pages. */
  get freePages(): number | null {
    return this.table && this.table.freePages;
  }

  /** Whether its memory was given up. */
  get isDisposed(): boolean {
    return this.onDevice.isDisposed;
  }

  /**
   * Says how many tokens each sequence holds: fewer, to go back to a common beginning, or more, after a captured step that has appended them. Pages that a shorter
   * sequence no longer needs become free.
   *
   * @param lengths one for all or one for each.
   * @throws ShapeError, OptionError, also if there are no pages for more tokens: see {@link reserve}; CaptureError inside a capture of its device; DisposedError.
   */
  setLengths(lengths: number | readonly number[]): void {
    const op = 'setLengths';
    const each = this.forEach(op, 'lengths', lengths);
    const { table } = this;
    each.forEach((length, b) => {
      checkInteger(op, 'lengths', length, 0, this.capacity);
      if (table && length > table.room(b))
        throw new OptionError(
          `${op}: expected at most ${table.room(b)} tokens of sequence ${b}, for which it has pages, got ${length}; reserve() takes more before a step is replayed`,
        );
    });
    this.onDevice.write(Int32Array.from(each));
    const shrunk = each.filter((length, b) => length < this.held[b] && table?.shrink(b, length));
    this.held.set(each);
    if (shrunk.length > 0) this.writeTable();
  }

  /** {@link setLengths} to so many more. `forward` does it, but not in a capture: call this after every replay. */
  advance(tokens: number | readonly number[] = 1): void {
    const more = this.forEach('advance', 'numbers', tokens);
    this.setLengths(more.map((count, b) => this.held[b] + count));
  }

  /**
   * Takes pages so that sequences can hold so many tokens more. `forward` does it, but not in a capture: call this before every replay. What there is no page for is
   * not kept. Without pages it only looks whether there is room.
   *
   * @param tokens one number for all or one for each.
   * @throws OutOfMemoryError, which says how many pages, if too few are free; ShapeError; OptionError; CaptureError; DisposedError. Nothing has changed then.
   */
  reserve(tokens: number | readonly number[] = 1): void {
    this.reserveFor('reserve', this.forEach('reserve', 'numbers', tokens));
  }

  private reserveFor(op: string, tokens: readonly number[]): void {
    if (this.isDisposed) throw new DisposedError(`${op}: expected a live cache, got a disposed one`);
    const wanted = tokens.map((count, b) => this.held[b] + count);
    const most = Math.max(...wanted);
    if (most > this.capacity)
      throw new ShapeError(`${op}: expected at most ${this.capacity} tokens in the cache, got ${most}`);
    const { table } = this;
    if (!table) return;
    const [missing, free] = [table.missing(wanted), table.freePages];
    if (missing > free) {
      const bytes = this.bytes / table.total;
      throw new OutOfMemoryError(
        `${op}: expected ${missing} free pages of ${table.size} tokens in the cache, got ${free} of ${table.total}`,
        missing * bytes,
        free * bytes,
      );
    }
    if (missing === 0) return;
    refuseInCapture(op, 'upload', this.device);
    table.grow(wanted);
    this.writeTable();
  }

  private writeTable(): void {
    if (this.table && this.tableOnDevice) this.tableOnDevice.write(this.table.pages);
  }

  private forEach(op: string, name: string, given: number | readonly number[]): readonly number[] {
    const each = typeof given === 'number' ? new Array<number>(this.batch).fill(given) : given;
    const isList = Array.isArray(each);
    if (isList && each.length !== this.batch)
      throw new ShapeError(`${op}: expected ${this.batch} ${name}, got ${each.length}`);
    if (!isList || !Array.from(each).every((count) => typeof count === 'number'))
      throw new OptionError(`${op}: expected a number or an array of numbers for ${name}, got ${describe(given)}`);
    return each;
  }

  /**
   * @internal The layers' caches for `tokens` more tokens in each sequence, of which it keeps `counts`. Where all sequences are as long as the first, that length,
   * so that kernels know it; else, and in a capture, the lengths on the device.
   */
  step(op: string, tokens: number, counts?: readonly number[]): LayerCache[] {
    if (this.isDisposed) throw new DisposedError(`${op}: expected a live cache, got a disposed one`);
    const most = Math.max(...this.held) + tokens;
    if (most > this.capacity)
      throw new ShapeError(`${op}: expected at most ${this.capacity} tokens in the cache, got ${most}`);
    const capturing = isCapturing(this.device);
    if (capturing && tokens !== 1)
      throw new OptionError(`${op}: expected one token for each sequence in a capture with a cache, got ${tokens}`);
    if (!capturing) this.reserveFor(op, counts ?? this.forEach(op, 'numbers', tokens));
    const stored = this.layers.map((layer) => ({ ...layer, ...(this.tableOnDevice && { pages: this.tableOnDevice }) }));
    if (!capturing && this.held.every((length) => length === this.held[0])) {
      return stored.map((layer) => ({ ...layer, length: this.held[0] }));
    }
    const positions = (): Tensor => {
      if (tokens === 1) return reshape(this.onDevice, [this.batch, 1]);
      const values = Int32Array.from(
        { length: this.batch * tokens },
        (_, i) => this.held[Math.floor(i / tokens)] + (i % tokens),
      );
      return tensor(values, { shape: [this.batch, tokens], device: this.device });
    };
    const shared = { length: 0, lengths: this.onDevice, positions: positions() };
    return stored.map((layer) => ({ ...layer, ...shared }));
  }

  /** Frees keys and values. Safe to call twice. */
  dispose(): void {
    this.made.forEach((each) => each.dispose());
  }

  /** Called at the end of a `using` block: see {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
