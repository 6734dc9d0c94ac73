// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { noGrad } from '../autograd/tape.js';
import { isCapturing } from '../capturing.js';
import { checkArray, checkBoolean, checkInteger, checkOptions, checkPath, checkShape, checkTensor } from '../check.js';
import { describe } from '../describe.js';
import { device as deviceNamed, type Device, type DeviceName } from '../device.js';
import { createDryDevice } from '../dry-device.js';
import { isFloat, type FloatDType } from '../dtype.js';
import { DTypeError, FormatError, OptionError, ShapeError } from '../errors.js';
import { parseJsonText } from '../formats/json.js';
import { readSafetensors, writeSafetensors } from '../formats/safetensors.js';
import { resolveCheckpointConfig, runLayers, type CheckpointConfig } from '../nn/checkpoint-config.js';
import { TernaryLinear } from '../nn/linear.js';
import { hasLora } from '../nn/lora.js';
import { Module, parameter } from '../nn/module.js';
import { placeWeights, weightsOf } from '../nn/place-weights.js';
import { RMSNorm } from '../nn/rms-norm.js';
import { DecodingCache, type CacheOptions } from '../nn/decoding-cache.js';
import { checkLayerConfig, TransformerBlock, type LayerConfig, type PackedDocuments } from '../nn/transformer.js';
import { crossEntropy } from '../ops/cross-entropy.js';
import { embedding } from '../ops/embedding.js';
import { checkCuSeqlens } from '../ops/flash-attention-varlen.js';
import { linear } from '../ops/linear.js';
import { linearCrossEntropy } from '../ops/linear-cross-entropy.js';
import { reshape } from '../ops/reshape.js';
import { defaultGenerator } from '../random.js';
import { outsideScopes, tidy } from '../scope.js';
import { randn, tensor, type Tensor } from '../tensor.js';

/** The shape of a {@link CausalLM}. */
export interface CausalLMConfig extends LayerConfig {
  /** Number of tokens. */
  vocabulary: number;
  /** Number of transformer blocks. */
  layers: number;
  /** The output projection is the embedding. Default true. */
  tieEmbeddings: boolean;
  /** The longest sequence that the model was trained for, in tokens; 0 if that is not known. Not enforced. Default 0. */
  contextLength: number;
}

/** What has to be said of a {@link CausalLM}; the rest has the defaults of {@link LayerConfig}. */
export type CausalLMOptions = Partial<CausalLMConfig> &
  Pick<CausalLMConfig, 'vocabulary' | 'layers' | 'hidden' | 'heads' | 'intermediate'>;

/**
 * Up to so many logits `loss` holds them. Beyond, computing them a second time, a third more work for the output projection, is less to pay
 * than their memory, twice 64 MB and more.
 */
const MOST_LOGITS = 2 ** 24;

/** @internal How a file of {@link CausalLM.save} calls itself. */
export const CAUSAL_LM_FORMAT = 'ternflash-causal-lm';

const CONFIG_KEYS: readonly (keyof CausalLMConfig)[] = [
  'vocabulary',
  'layers',
  'hidden',
  'heads',
  'keyHeads',
  'headDim',
  'intermediate',
  'ropeTheta',
  'ropeScaling',
  'window',
  'attentionBias',
  'mlpBias',
  'queryKeyNorm',
  'normEps',
  'ternary',
  'subNorm',
  'activation',
  'dropout',
  'dtype',
  'tieEmbeddings',
  'contextLength',
];

function resolveConfig(options: CausalLMOptions): CausalLMConfig {
  const op = 'CausalLM';
  checkOptions(op, options, CONFIG_KEYS);
  const ternary = options.ternary ?? true;
  const [hidden, heads] = (['hidden', 'heads'] as const).map((name) =>
    checkInteger(op, name, options[name], 1, 2 ** 24),
  );
  const config: CausalLMConfig = {
    vocabulary: checkInteger(op, 'vocabulary', options.vocabulary, 1, 2 ** 24),
    layers: checkInteger(op, 'layers', options.layers, 1, 4096),
    hidden,
    heads,
    keyHeads: options.keyHeads ?? heads,
    headDim: options.headDim ?? hidden / heads,
    intermediate: options.intermediate,
    ropeTheta: options.ropeTheta ?? 10000,
    ropeScaling: options.ropeScaling ?? null,
    window: options.window ?? null,
    attentionBias: options.attentionBias ?? 'none',
    mlpBias: options.mlpBias ?? false,
    queryKeyNorm: options.queryKeyNorm ?? false,
    normEps: options.normEps ?? 1e-5,
    ternary,
    subNorm: options.subNorm ?? ternary,
    activation: options.activation ?? 'swiglu',
    dropout: options.dropout ?? 0,
    dtype: options.dtype ?? 'float32',
    tieEmbeddings: checkBoolean(op, 'tieEmbeddings', options.tieEmbeddings ?? true),
    contextLength: checkInteger(op, 'contextLength', options.contextLength ?? 0, 0, 2 ** 31 - 1),
  };
  checkLayerConfig(op, config);
  return config;
}

/** The documents that ids are packed of, their own copy; undefined if they are not. */
function packedIn(op: string, ids: Tensor, options: Partial<PackedDocuments>): PackedDocuments | undefined {
  checkOptions(op, options, ['cuSeqlens']);
  const { cuSeqlens } = options;
  const isPacked = cuSeqlens !== undefined;
  checkShape(op, 'ids', ids, [isPacked ? 1 : 'B', 'S'], isPacked ? 'of packed documents' : '');
  return isPacked ? { cuSeqlens: checkCuSeqlens(op, 'cuSeqlens', cuSeqlens, ids.shape[1]).cumulative } : undefined;
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

  private _device: Device;
  private _checkpointConfig = resolveCheckpointConfig({ enabled: false });

  /**
   * A model with random weights, drawn from the library's generator (see `manualSeed`).
   *
   * @throws OptionError, DeviceError, OutOfMemoryError.
   */
  constructor(options: CausalLMOptions, placement: { device?: DeviceName | Device } = {}) {
    super();
    this.config = resolveConfig(options);
    checkOptions('CausalLM', placement, ['device']);
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

  /**
   * An empty key/value cache for all layers.
   *
   * @param batch B, sequences.
   * @param capacity the most tokens of a sequence.
   * @param options `dtype`: of keys and values, int8 too; `pageSize`, `pages`: sequences share a pool of pages. Default: the model's dtype, and room for `capacity` tokens of
   * every sequence.
   * @throws OptionError, OutOfMemoryError.
   */
  createCache(batch: number, capacity: number, options: CacheOptions = {}): DecodingCache {
    return new DecodingCache(batch, capacity, { ...this.config, layers: this.layers.length }, this._device, options);
  }

  /**
   * Logits of the next token after each token.
   *
   * @param ids int32 [B, S]; of packed documents [1, S].
   * @param context what is known of the tokens besides. A cache of B sequences: the tokens follow those it holds and are appended to it. Inside
   * {@link capture}, where S has to be 1, the lengths of the cache stay: call its `advance` after every replay. With a cache no gradient is
   * recorded. Or `{ cuSeqlens }`: the row is packed of documents, see {@link PackedDocuments}. Default: each row is one sequence.
   * @returns [B, S, V].
   * @throws ShapeError, also if the cache has no room; OptionError if the cumulative lengths do not rise from 0 to S; DTypeError, DeviceError,
   * DisposedError, OutOfMemoryError.
   */
  forward(ids: Tensor, context?: DecodingCache | Partial<PackedDocuments>): Tensor {
    const run = (): Tensor => tidy(() => linear(this.features(ids, context), this.head ?? this.embedding));
    return context instanceof DecodingCache ? noGrad(run) : run();
  }

  /**
   * Logits of the token after the last one: one row of what {@link forward} gives, without the others, which for a prompt are most of the
   * work of the output projection and V numbers a token.
   *
   * @param ids int32 [B, S].
   * @param cache as of {@link forward}.
   * @param counts how many of its S tokens each sequence has; the others, at the end, are ignored, and the cache does not hold them
   * afterwards. Default S for all.
   * @returns [B, V].
   */
  nextLogits(ids: Tensor, cache?: DecodingCache, counts?: readonly number[]): Tensor {
    const op = 'CausalLM.nextLogits';
    checkTensor(op, 'ids', ids, ['int32']);
    checkShape(op, 'ids', ids, ['B', 'S']);
    if (cache !== undefined && !(cache instanceof DecodingCache))
      throw new OptionError(`${op}: expected a DecodingCache for cache, got ${describe(cache)}`);
    if (counts !== undefined) checkArray(op, 'counts', counts);
    const run = (): Tensor => {
      if (counts && counts.length !== ids.shape[0])
        throw new ShapeError(`${op}: expected ${ids.shape[0]} counts, got ${counts.length}`);
      for (const count of counts ?? []) checkInteger(op, 'counts', count, 1, ids.shape[1]);
      const features = this.features(ids, cache, counts);
      const [batch, length, hidden] = features.shape;
      const last = Int32Array.from({ length: batch }, (_, b) => b * length + (counts?.[b] ?? length) - 1);
      const rows =
        length === 1
          ? reshape(features, [batch, hidden])
          : embedding(reshape(features, [batch * length, hidden]), tensor(last, { device: this._device }));
      return linear(rows, this.head ?? this.embedding);
    };
    return tidy(() => (cache ? noGrad(run) : run()));
  }

  /**
   * The mean cross entropy of the next token, in nats. More than 2^24 logits (64 MB in float32) are never held at once, see
   * {@link linearCrossEntropy}.
   *
   * @param ids int32 [B, S]; of packed documents [1, S].
   * @param targets int32, of the shape of ids: the token after each; -100 counts for nothing. The last token of a packed document has none.
   * @param options `cuSeqlens`: the row is packed of documents, see {@link PackedDocuments}. Default: each row is one sequence.
   * @returns a float32 scalar.
   * @throws as {@link forward}.
   */
  loss(ids: Tensor, targets: Tensor, options: Partial<PackedDocuments> = {}): Tensor {
    checkTensor('CausalLM.loss', 'ids', ids, ['int32']);
    checkTensor('CausalLM.loss', 'targets', targets, ['int32']);
    checkShape('CausalLM.loss', 'targets', targets, ids.shape, 'to match ids');
    return tidy(() => {
      const { vocabulary, hidden } = this.config;
      const head = this.head ?? this.embedding;
      const features = this.features(ids, options);
      const rows = features.size / hidden;
      const flat = reshape(targets, [rows]);
      if (rows * vocabulary > MOST_LOGITS) return linearCrossEntropy(reshape(features, [rows, hidden]), head, flat);
      return crossEntropy(reshape(linear(features, head), [rows, vocabulary]), flat);
    });
  }

  /** What the output projection is applied to, [B, S, hidden]. */
  private features(
    ids: Tensor,
    context: DecodingCache | Partial<PackedDocuments> = {},
    counts?: readonly number[],
  ): Tensor {
    const op = 'CausalLM.forward';
    checkTensor(op, 'ids', ids, ['int32']);
    if (!(context instanceof DecodingCache)) {
      const documents = packedIn(op, ids, context);
      const tokens = embedding(this.embedding, ids);
      return this.norm.forward(runLayers(this.layers, tokens, this._checkpointConfig, documents));
    }
    const cache = context;
    checkShape(op, 'ids', ids, [cache.batch, 'S'], 'to match the cache');
    const features = tidy(() => {
      const caches = cache.step(op, ids.shape[1], counts);
      const tokens = embedding(this.embedding, ids);
      return this.norm.forward(this.layers.reduce((x, layer, i) => layer.forward(x, caches[i]), tokens));
    });
    if (!isCapturing(this._device)) cache.advance(counts ?? ids.shape[1]);
    return features;
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
    checkPath('CausalLM.save', 'file', file);
    if (hasLora(this))
      throw new OptionError('CausalLM.save: expected a model without LoRA adapters, got one with some');
    const frozen = this.parameters().length === 0;
    const config = JSON.stringify({ ...this.config, frozen });
    await writeSafetensors(file, this.state(), { format: CAUSAL_LM_FORMAT, config });
  }

  /**
   * Reads a model that {@link save} wrote.
   *
   * @throws FormatError if the file is not one.
   */
  static async load(file: string, placement: { device?: DeviceName | Device } = {}): Promise<CausalLM> {
    checkOptions('CausalLM.load', placement, ['device']);
    const { tensors, metadata } = await readSafetensors(file, placement);
    try {
      if (metadata.format !== CAUSAL_LM_FORMAT) {
        throw new FormatError(`load: expected a model saved by CausalLM.save, got format ${metadata.format}`, file, 8);
      }
      const { frozen, ...config } = parseJsonText(file, 8, metadata.config) as unknown as CausalLMOptions & {
        frozen: boolean;
      };
      for (const [name, tensor] of tensors) {
        const ofTrits = name.endsWith('.scale') && tensors.has(name.replace(/scale$/, 'packed'));
        tensor.requiresGrad = !frozen && isFloat(tensor.dtype) && !ofTrits;
      }
      return CausalLM.fromState('load', config, tensors, deviceNamed(placement.device ?? 'auto'));
    } catch (error) {
      for (const tensor of tensors.values()) tensor.dispose();
      if ([OptionError, ShapeError, DTypeError].some((type) => error instanceof type)) {
        throw new FormatError(`load: expected a whole model, got ${(error as Error).message}`, file, 8);
      }
      throw error;
    }
  }

  /**
   * @internal A model of these weights, which are its own from then on; those that require no gradient stay constant.
   *
   * @param state by the names of {@link Module.state}.
   * @throws OptionError, ShapeError, DTypeError.
   */
  static fromState(op: string, config: CausalLMOptions, state: ReadonlyMap<string, Tensor>, device: Device): CausalLM {
    // Made where nothing takes memory or time, random numbers least of all.
    const random = defaultGenerator().state;
    const model = outsideScopes(() => new CausalLM(config, { device: createDryDevice() }));
    defaultGenerator().state = random;
    const shapes = model.state();
    try {
      placeWeights(
        op,
        model,
        weightsOf(state, (name) => shapes.get(name)?.shape),
      );
    } finally {
      for (const each of shapes.values()) each.dispose();
    }
    model._device = device;
    return model;
  }
}
