// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { isCapturing } from '../capturing.js';
import { checkInteger } from '../check.js';
import type { Device } from '../device.js';
import { DisposedError, OptionError, ShapeError } from '../errors.js';
import type { KvCache } from '../ops/kv-cache.js';
import { reshape } from '../ops/reshape.js';
import { keep } from '../scope.js';
import { tensor, zeros, type Tensor } from '../tensor.js';
import type { LayerConfig } from './transformer.js';

/** The cache of one layer, as a forward pass uses it. */
export interface LayerCache extends KvCache {
  /** int32 [B, S]: where the new tokens are. Default: `length` and on. */
  readonly positions?: Tensor;
}

/**
 * The keys and values of all layers of a model, for decoding: batch entries grow by themselves, each with as many tokens as it holds. Made by
 * `model.createCache`; `forward` appends to it.
 */
export class DecodingCache {
  private readonly layers: readonly { keys: Tensor; values: Tensor }[];
  private readonly held: Int32Array;
  private readonly onDevice: Tensor;

  /**
   * An empty cache.
   *
   * @param batch B, sequences.
   * @param capacity the most tokens of a sequence.
   * @param config of the model: `layers` of them, each [B, capacity, keyHeads, headDim] of `dtype` for keys and for values.
   * @throws OptionError, OutOfMemoryError.
   */
  constructor(
    readonly batch: number,
    readonly capacity: number,
    config: Pick<LayerConfig, 'keyHeads' | 'headDim' | 'dtype'> & { layers: number },
    /** Where it is. */
    readonly device: Device,
  ) {
    checkInteger('createCache', 'batch', batch, 1, 2 ** 31 - 1);
    checkInteger('createCache', 'capacity', capacity, 1, 2 ** 31 - 1);
    const { keyHeads, headDim, dtype } = config;
    const made: Tensor[] = [];
    const make = (shape: readonly number[], type: LayerConfig['dtype'] | 'int32'): Tensor => {
      made.push(keep(zeros(shape, { dtype: type, device })));
      return made[made.length - 1];
    };
    try {
      const rows = (): Tensor => make([batch, capacity, keyHeads, headDim], dtype);
      this.layers = Array.from({ length: config.layers }, () => ({ keys: rows(), values: rows() }));
      this.onDevice = make([batch], 'int32');
    } catch (error) {
      for (const each of made) each.dispose();
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

  /** Bytes of keys and values. */
  get bytes(): number {
    return this.layers.reduce((sum, { keys, values }) => sum + keys.bytes + values.bytes, 0);
  }

  /** Whether its memory was given up. */
  get isDisposed(): boolean {
    return this.onDevice.isDisposed;
  }

  /**
   * Says how many tokens each sequence holds: fewer, to go back to a common beginning, or more, after a captured step that has appended them.
   *
   * @param lengths one for all or one for each.
   * @throws ShapeError, OptionError; CaptureError inside a capture of its device; DisposedError.
   */
  setLengths(lengths: number | readonly number[]): void {
    const op = 'setLengths';
    const each = typeof lengths === 'number' ? new Array<number>(this.batch).fill(lengths) : lengths;
    if (each.length !== this.batch) throw new ShapeError(`${op}: expected ${this.batch} lengths, got ${each.length}`);
    for (const length of each) checkInteger(op, 'lengths', length, 0, this.capacity);
    this.onDevice.write(Int32Array.from(each));
    this.held.set(each);
  }

  /** {@link setLengths} to so many more. `forward` does it, but not in a capture: call this after every replay. */
  advance(tokens: number | readonly number[] = 1): void {
    this.setLengths(Array.from(this.held, (held, b) => held + (typeof tokens === 'number' ? tokens : tokens[b])));
  }

  /**
   * @internal The layers' caches for `tokens` more tokens in each sequence. Where all sequences are as long as the first, that length, so that
   * kernels know it; else, and in a capture, the lengths on the device.
   */
  step(op: string, tokens: number): LayerCache[] {
    if (this.isDisposed) throw new DisposedError(`${op}: expected a live cache, got a disposed one`);
    const most = Math.max(...this.held) + tokens;
    if (most > this.capacity)
      throw new ShapeError(`${op}: expected at most ${this.capacity} tokens in the cache, got ${most}`);
    const capturing = isCapturing(this.device);
    if (capturing && tokens !== 1)
      throw new OptionError(`${op}: expected one token for each sequence in a capture with a cache, got ${tokens}`);
    if (!capturing && this.held.every((length) => length === this.held[0])) {
      return this.layers.map((layer) => ({ ...layer, length: this.held[0] }));
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
    return this.layers.map((layer) => ({ ...layer, ...shared }));
  }

  /** Frees keys and values. Safe to call twice. */
  dispose(): void {
    for (const { keys, values } of this.layers) {
      keys.dispose();
      values.dispose();
    }
    this.onDevice.dispose();
  }

  /** Called at the end of a `using` block: see {@link dispose}. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
