// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkBoolean, checkInteger, checkOneOf, checkOptions, checkShape, checkTensor } from '../check.js';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { FormatError, OptionError, ShapeError } from '../errors.js';
import { readSafetensors, writeSafetensors } from '../formats/safetensors.js';
import { resolveCheckpointConfig, runLayers, type CheckpointConfig } from '../nn/checkpoint-config.js';
import { TernaryLinear } from '../nn/linear.js';
import { hasLora } from '../nn/lora.js';
import { Module, parameter } from '../nn/module.js';
import { preparePacked } from '../nn/quantize-model.js';
import { RMSNorm } from '../nn/rms-norm.js';
import { checkLayerConfig, createKvCache, TransformerBlock, type LayerConfig } from '../nn/transformer.js';
import { crossEntropy } from '../ops/cross-entropy.js';
import { embedding } from '../ops/embedding.js';
import type { KvCache } from '../ops/kv-cache.js';
import { linear } from '../ops/linear.js';
import { linearCrossEntropy } from '../ops/linear-cross-entropy.js';
import { reshape } from '../ops/reshape.js';
import { tidy } from '../scope.js';
import { randn, tensor, type Tensor } from '../tensor.js';

/** The shape of a {@link CausalLM}. */
export interface CausalLMConfig extends LayerConfig {
  /** Number of tokens. */
  vocabulary: number;
  /** Number of transformer blocks. */
  layers: number;
  /** The output projection is the embedding. Default true. */
  tieEmbeddings: boolean;
}

/** What has to be said of a {@link CausalLM}; the rest has the defaults of {@link LayerConfig}. */
export type CausalLMOptions = Partial<CausalLMConfig> &
  Pick<CausalLMConfig, 'vocabulary' | 'layers' | 'hidden' | 'heads' | 'intermediate'>;

/**
 * Up to so many logits `loss` holds them. Beyond, computing them a second time, a third more work for the output projection, is less to pay
 * than their memory, twice 64 MB and more.
 */
const MOST_LOGITS = 2 ** 24;

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
  'dropout',
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
    dropout: options.dropout ?? 0,
    dtype: checkOneOf(op, 'dtype', options.dtype ?? 'float32', FLOAT_DTYPES),
    tieEmbeddings: checkBoolean(op, 'tieEmbeddings', options.tieEmbeddings ?? true),
  };
  checkLayerConfig(op, config);
  return config;
}

/** A decoder-only language model: embedding, transformer blocks, norm, output projection. */
export class CausalLM extends Module {
  /** Its shape, with every default filled in. */
  readonly config: CausalLMConfig;
  /** [V, hidden] */
  embedding: Tensor;
  /** In the order they are run. */
  layers: TransformerBlock[];
  /** After the last layer. */
  norm: RMSNorm;
  /** [V, hidden], or null if it is the embedding */
  head: Tensor | null;

  private readonly _device: Device;
  private _checkpointConfig = resolveCheckpointConfig({ enabled: false });

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

  /** The device of its parameters. */
  get device(): Device {
    return this._device;
  }

  /**
   * What is kept for the backward pass and what is computed again; may be changed at any time. Default off. Of what is assigned, an absent key
   * takes its default: `{ every: 2 }` is enabled.
   *
   * @throws OptionError when set, or used after a field was changed, if it makes no sense.
   */
  get checkpointConfig(): CheckpointConfig {
    return this._checkpointConfig;
  }

  /** What is absent takes its default. */
  set checkpointConfig(config: Partial<CheckpointConfig>) {
    this._checkpointConfig = resolveCheckpointConfig(config);
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
    return tidy(() => linear(this.features(ids, cache), this.head ?? this.embedding));
  }

  /**
   * Logits of the token after the last one: the last row of what {@link forward} gives, without the others, which for a prompt are most of the
   * work of the output projection and V numbers a token.
   *
   * @param ids int32 [B, S].
   * @param cache as of {@link forward}.
   * @returns [B, V].
   */
  nextLogits(ids: Tensor, cache?: readonly KvCache[]): Tensor {
    return tidy(() => {
      const features = this.features(ids, cache);
      const [batch, length, hidden] = features.shape;
      const last = Int32Array.from({ length: batch }, (_, b) => (b + 1) * length - 1);
      const rows =
        length === 1
          ? reshape(features, [batch, hidden])
          : embedding(reshape(features, [batch * length, hidden]), tensor(last, { device: this._device }));
      return linear(rows, this.head ?? this.embedding);
    });
  }

  /**
   * The mean cross entropy of the next token, in nats. More than 2^24 logits (64 MB in float32) are never held at once, see
   * {@link linearCrossEntropy}.
   *
   * @param ids int32 [B, S].
   * @param targets int32 [B, S]: the token after each; -100 counts for nothing.
   * @returns a float32 scalar.
   */
  loss(ids: Tensor, targets: Tensor): Tensor {
    return tidy(() => {
      const { vocabulary, hidden } = this.config;
      const head = this.head ?? this.embedding;
      const features = this.features(ids);
      const rows = features.size / hidden;
      const flat = reshape(targets, [rows]);
      if (rows * vocabulary > MOST_LOGITS) return linearCrossEntropy(reshape(features, [rows, hidden]), head, flat);
      return crossEntropy(reshape(linear(features, head), [rows, vocabulary]), flat);
    });
  }

  /** What the output projection is applied to, [B, S, hidden]. */
  private features(ids: Tensor, cache?: readonly KvCache[]): Tensor {
    checkTensor('CausalLM.forward', 'ids', ids, ['int32']);
    checkShape('CausalLM.forward', 'ids', ids, ['B', 'S']);
    if (cache && cache.length !== this.layers.length) {
      throw new ShapeError(`CausalLM.forward: expected ${this.layers.length} caches, one a layer, got ${cache.length}`);
    }
    const tokens = embedding(this.embedding, ids);
    const mixed = cache
      ? this.layers.reduce((x, layer, i) => layer.forward(x, cache[i]), tokens)
      : runLayers(this.layers, tokens, this._checkpointConfig);
    return this.norm.forward(mixed);
  }

  /** See {@link Module.to}; `config.dtype` follows, and so do caches made afterwards. */
  override to(options: { dtype: FloatDType }): void {
    super.to(options);
    this.config.dtype = options.dtype;
  }

  /** Packs the weights of all ternary layers and makes every tensor constant: the model can only be run from now on, without dropout. */
  freeze(): void {
    const visit = (value: unknown): void => {
      if (value instanceof TernaryLinear) value.freeze();
      else if (value instanceof Module) Object.values(value).forEach(visit);
      else if (Array.isArray(value)) value.forEach(visit);
    };
    this.eval();
    visit(this);
    for (const tensor of this.state().values()) {
      tensor.clearGrad();
      tensor.requiresGrad = false;
    }
  }

  /**
   * Writes config and weights to one safetensors file; packed weights stay packed. The file appears whole or not at all.
   *
   * @throws OptionError if the model carries LoRA adapters: merge them, or save them alone.
   */
  async save(file: string): Promise<void> {
    if (hasLora(this))
      throw new OptionError('CausalLM.save: expected a model without LoRA adapters, got one with some');
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
      preparePacked(model, tensors);
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
}
