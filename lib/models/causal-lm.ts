// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkpoint } from '../autograd/checkpoint.js';
import { isGradEnabled } from '../autograd/tape.js';
import { checkBoolean, checkInteger, checkOneOf, checkOptions, checkShape, checkTensor } from '../check.js';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { FormatError, OptionError, ShapeError } from '../errors.js';
import { readSafetensors, writeSafetensors } from '../formats/safetensors.js';
import { TernaryLinear } from '../nn/linear.js';
import { Module, parameter } from '../nn/module.js';
import { RMSNorm } from '../nn/rms-norm.js';
import { checkLayerConfig, createKvCache, TransformerBlock, type LayerConfig } from '../nn/transformer.js';
import { crossEntropy } from '../ops/cross-entropy.js';
import { embedding } from '../ops/embedding.js';
import type { KvCache } from '../ops/flash-attention.js';
import { linear } from '../ops/linear.js';
import { reshape } from '../ops/reshape.js';
import { tidy } from '../scope.js';
import { randn, type Tensor } from '../tensor.js';

/** Which layers are recomputed in the backward pass. */
export interface CheckpointConfig {
  /** Default true. */
  enabled: boolean;
  /** Layers to a checkpointed segment: the inputs of every `every`-th layer are kept. Default 1. */
  every: number;
}

/** The shape of a {@link CausalLM}. */
export interface CausalLMConfig extends LayerConfig {
  /** Number of tokens. */
  vocabulary: number;
  layers: number;
  /** The output projection is the embedding. Default true. */
  tieEmbeddings: boolean;
}

/** What has to be said of a {@link CausalLM}; the rest has the defaults of {@link LayerConfig}. */
export type CausalLMOptions = Partial<CausalLMConfig> &
  Pick<CausalLMConfig, 'vocabulary' | 'layers' | 'hidden' | 'heads' | 'intermediate'>;

const CONFIG_KEYS: readonly (keyof CausalLMConfig)[] = [
  'vocabulary',
  'layers',
  'hidden',
  'heads',
  'keyHeads',
  'headDim',
  'intermediate',
  'ropeTheta',
  'normEps',
  'ternary',
  'subNorm',
  'activation',
  'dtype',
  'tieEmbeddings',
];

function resolveConfig(options: CausalLMOptions): CausalLMConfig {
  const op = 'CausalLM';
  checkOptions(op, options, CONFIG_KEYS);
  const ternary = checkBoolean(op, 'ternary', options.ternary ?? true);
  const config: CausalLMConfig = {
    vocabulary: checkInteger(op, 'vocabulary', options.vocabulary, 1, 2 ** 24),
    layers: checkInteger(op, 'layers', options.layers, 1, 4096),
    hidden: options.hidden,
    heads: options.heads,
    keyHeads: options.keyHeads ?? options.heads,
    headDim: options.headDim ?? options.hidden / options.heads,
    intermediate: options.intermediate,
    ropeTheta: options.ropeTheta ?? 10000,
    normEps: options.normEps ?? 1e-5,
    ternary,
    subNorm: checkBoolean(op, 'subNorm', options.subNorm ?? ternary),
    activation: checkOneOf(op, 'activation', options.activation ?? 'swiglu', ['swiglu', 'relu2Glu']),
    dtype: checkOneOf(op, 'dtype', options.dtype ?? 'float32', FLOAT_DTYPES),
    tieEmbeddings: checkBoolean(op, 'tieEmbeddings', options.tieEmbeddings ?? true),
  };
  checkLayerConfig(op, config);
  return config;
}

/** A decoder-only language model: embedding, transformer blocks, norm, output projection. */
export class CausalLM extends Module {
  readonly config: CausalLMConfig;
  /** Recomputation in the backward pass; may be changed at any time. Default off. */
  checkpointConfig: CheckpointConfig = { enabled: false, every: 1 };

  /** [V, hidden] */
  embedding: Tensor;
  layers: TransformerBlock[];
  norm: RMSNorm;
  /** [V, hidden], or null if it is the embedding */
  head: Tensor | null;

  private readonly _device: Device;

  /**
   * A model with random weights, drawn from the library's generator (see `manualSeed`).
   *
   * @throws OptionError, DeviceError, OutOfMemoryError.
   */
  constructor(options: CausalLMOptions, placement: { device?: DeviceName | Device } = {}) {
    super();
    this.config = resolveConfig(options);
    const { vocabulary, hidden, layers, dtype, tieEmbeddings } = this.config;
    const device = deviceNamed(placement.device ?? 'auto');
    this._device = device;
    // Small, so that a tied output projection starts with nearly equal logits.
    const matrix = (): Tensor => parameter(randn([vocabulary, hidden], { std: 0.02, dtype, device }));
    this.embedding = matrix();
    const residualScale = 1 / Math.sqrt(2 * layers);
    this.layers = Array.from({ length: layers }, () => new TransformerBlock(this.config, { device, residualScale }));
    this.norm = new RMSNorm(hidden, { eps: this.config.normEps, dtype, device });
    this.head = tieEmbeddings ? null : matrix();
  }

  get device(): Device {
    return this._device;
  }

  /** An empty key/value cache for each layer. */
  createCache(batch: number, capacity: number): KvCache[] {
    return this.layers.map(() => createKvCache(batch, capacity, this.config, this._device));
  }

  /**
   * Logits of the next token after each token.
   *
   * @param ids int32 [B, S].
   * @param cache one cache for each layer: the tokens follow those it holds and are appended to it. Default none.
   * @returns [B, S, V].
   */
  forward(ids: Tensor, cache?: readonly KvCache[]): Tensor {
    checkTensor('CausalLM.forward', 'ids', ids, ['int32']);
    checkShape('CausalLM.forward', 'ids', ids, ['B', 'S']);
    if (cache && cache.length !== this.layers.length) {
      throw new ShapeError(`CausalLM.forward: expected ${this.layers.length} caches, one a layer, got ${cache.length}`);
    }
    return tidy(() => {
      const tokens = embedding(this.embedding, ids);
      const mixed = cache
        ? this.layers.reduce((x, layer, i) => layer.forward(x, cache[i]), tokens)
        : this.runLayers(tokens);
      return linear(this.norm.forward(mixed), this.head ?? this.embedding);
    });
  }

  /**
   * The mean cross entropy of the next token, in nats.
   *
   * @param ids int32 [B, S].
   * @param targets int32 [B, S]: the token after each; -100 counts for nothing.
   * @returns a float32 scalar.
   */
  loss(ids: Tensor, targets: Tensor): Tensor {
    return tidy(() => {
      const logits = this.forward(ids);
      const rows = logits.size / this.config.vocabulary;
      return crossEntropy(reshape(logits, [rows, this.config.vocabulary]), reshape(targets, [rows]));
    });
  }

  /** See {@link Module.to}; `config.dtype` follows, and so do caches made afterwards. */
  override to(options: { dtype: FloatDType }): void {
    super.to(options);
    this.config.dtype = options.dtype;
  }

  /** Packs the weights of all ternary layers and makes every tensor constant: the model can only be run from now on. */
  freeze(): void {
    const visit = (value: unknown): void => {
      if (value instanceof TernaryLinear) value.freeze();
      else if (value instanceof Module) Object.values(value).forEach(visit);
      else if (Array.isArray(value)) value.forEach(visit);
    };
    visit(this);
    for (const tensor of this.state().values()) {
      tensor.clearGrad();
      tensor.requiresGrad = false;
    }
  }

  /** Writes config and weights to one safetensors file; packed weights stay packed. The file appears whole or not at all. */
  async save(file: string): Promise<void> {
    const frozen = this.parameters().length === 0;
    const config = JSON.stringify({ ...this.config, frozen });
    await writeSafetensors(file, this.state(), { format: 'ternflash-causal-lm', config });
  }

  /**
   * Reads a model that {@link save} wrote.
   *
   * @throws FormatError if the file is not one.
   */
  static async load(file: string, placement: { device?: DeviceName | Device } = {}): Promise<CausalLM> {
    const { tensors, metadata } = await readSafetensors(file, placement);
    try {
      if (metadata.format !== 'ternflash-causal-lm') {
        throw new FormatError(`load: expected a model saved by CausalLM.save, got format ${metadata.format}`, file, 8);
      }
      const { frozen, ...config } = JSON.parse(metadata.config) as CausalLMOptions & { frozen: boolean };
      const model = new CausalLM(config, placement);
      if (frozen) model.freeze();
      await model.loadState(tensors);
      return model;
    } catch (error) {
      if (error instanceof SyntaxError || error instanceof OptionError) {
        throw new FormatError(`load: expected a whole model, got ${error.message}`, file, 8);
      }
      throw error;
    } finally {
      for (const tensor of tensors.values()) tensor.dispose();
    }
  }

  private runLayers(x: Tensor): Tensor {
    const { enabled, every } = this.checkpointConfig;
    if (!enabled || !isGradEnabled()) return this.layers.reduce((h, layer) => layer.forward(h), x);
    checkInteger('CheckpointConfig', 'every', every, 1, 2 ** 31 - 1);
    let h = x;
    for (let start = 0; start < this.layers.length; start += every) {
      const segment = this.layers.slice(start, start + every);
      h = checkpoint((input: Tensor) => segment.reduce((value, layer) => layer.forward(value), input), h);
    }
    return h;
  }
}
