// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import {
  checkBoolean,
  checkFloat,
  checkInteger,
  checkObject,
  checkOneOf,
  checkOptions,
  checkPositive,
  checkShape,
} from '../check.js';
import { describe } from '../describe.js';
import { Device } from '../device.js';
import { FLOAT_DTYPES, type FloatDType } from '../dtype.js';
import { OptionError } from '../errors.js';
import { add } from '../ops/binary.js';
import { dropout } from '../ops/dropout.js';
import { flashAttention } from '../ops/flash-attention.js';
import { checkCuSeqlens, flashAttentionVarlen } from '../ops/flash-attention-varlen.js';
import { flashAttentionWithKvCache } from '../ops/kv-cache.js';
import { geglu, relu2Glu, swiglu } from '../ops/gated-activation.js';
import { reshape } from '../ops/reshape.js';
import { rope } from '../ops/rope.js';
import { checkRopeScaling, type RopeScaling } from '../ops/rope-scaling.js';
import { dropoutThreshold } from '../random.js';
import { tidy } from '../scope.js';
import { fromConstant, type Tensor } from '../tensor.js';
import type { LayerCache } from './decoding-cache.js';
import { forwardAll, Linear, TernaryLinear } from './linear.js';
import { Module } from './module.js';
import { RMSNorm } from './rms-norm.js';

/** The shape of a decoder layer. */
export interface LayerConfig {
  /** Features of the residual stream. */
  hidden: number;
  /** Query heads. */
  heads: number;
  /** Key/value heads; divides heads. Default heads. */
  keyHeads: number;
  /** Features of a head, even. Default hidden / heads. */
  headDim: number;
  /** Features inside the gated feed-forward part. */
  intermediate: number;
  /** Base of the rotary frequencies. Default 10000. */
  ropeTheta: number;
  /** Stretches the rotary frequencies over a longer context. Default null. */
  ropeScaling: RopeScaling | null;
  /** A token sees so many tokens, itself among them; null is all before it (Mistral's sliding window). Default null. */
  window: number | null;
  /** Which projections of the attention have a bias: none, those of query, key and value (Qwen2), or the output's too. Default none. */
  attentionBias: 'none' | 'qkv' | 'all';
  /** The projections of the feed-forward part have a bias. Default false. */
  mlpBias: boolean;
  /** A norm over the features of each head of queries and of keys, before the rotation (Qwen3). Default false. */
  queryKeyNorm: boolean;
  /** Default 1e-5. */
  normEps: number;
  /** Linear layers are {@link TernaryLinear}. Default true. */
  ternary: boolean;
  /** A norm before the output and down projections, as in BitNet b1.58 2B-4T. Default: as `ternary`. */
  subNorm: boolean;
  /** geglu is the one with tanh. Default swiglu. */
  activation: 'swiglu' | 'geglu' | 'relu2Glu';
  /**
   * The probability with which elements of the attention's softmax, and of what the two parts of a layer add to the residual stream, are dropped
   * while the module trains (`train()`, `eval()`). With a cache nothing is. Default 0.
   */
  dropout: number;
  /** Default float32. */
  dtype: FloatDType;
}

/**
 * Documents of different lengths, end to end in one row of tokens, without padding. Each is computed as if it were alone: its positions begin at
 * 0, and its tokens see none of another document.
 */
export interface PackedDocuments {
  /**
   * Cumulative lengths: document b is tokens cuSeqlens[b] to cuSeqlens[b + 1] − 1. From 0 to the number of tokens, none below the one before it.
   * On the host, so that the second run of a checkpointed layer finds them too.
   */
  readonly cuSeqlens: readonly number[] | Int32Array;
}

/** Where the parameters of a module are made, and how far residual branches are damped at the start. */
export interface Placement {
  /** Where its parameters live. */
  device: Device;
  /** Factor of the initial weights of the projections that write to the residual stream. */
  residualScale: number;
}

/** @internal */
export function checkLayerConfig(op: string, config: LayerConfig): void {
  checkObject(op, 'config', config);
  for (const name of ['hidden', 'heads', 'keyHeads', 'headDim', 'intermediate'] as const) {
    checkInteger(op, name, config[name], 1, 2 ** 24);
  }
  if (config.window !== null) checkInteger(op, 'window', config.window, 1, 2 ** 31 - 1);
  checkPositive(op, 'ropeTheta', config.ropeTheta);
  checkPositive(op, 'normEps', config.normEps);
  dropoutThreshold(op, config.dropout);
  for (const name of ['mlpBias', 'queryKeyNorm', 'ternary', 'subNorm'] as const) checkBoolean(op, name, config[name]);
  checkOneOf(op, 'attentionBias', config.attentionBias, ['none', 'qkv', 'all']);
  checkOneOf(op, 'activation', config.activation, ['swiglu', 'geglu', 'relu2Glu']);
  checkOneOf(op, 'dtype', config.dtype, FLOAT_DTYPES);
  if (config.heads % config.keyHeads !== 0) {
    throw new OptionError(`${op}: expected keyHeads that divide ${config.heads} heads, got ${config.keyHeads}`);
  }
  if (config.headDim % 2 !== 0 || config.headDim > 256) {
    throw new OptionError(`${op}: expected an even headDim of at most 256, got ${config.headDim}`);
  }
  if (config.ropeScaling !== null) checkRopeScaling(op, config.ropeScaling, config.headDim);
}

function checkPlacement(op: string, placement: Placement): void {
  checkOptions(op, placement, ['device', 'residualScale']);
  if (!(placement.device instanceof Device))
    throw new OptionError(`${op}: expected a Device for device, got ${describe(placement.device)}`);
  checkPositive(op, 'residualScale', placement.residualScale);
}

function projection(
  inputs: number,
  outputs: number,
  config: LayerConfig,
  device: Device,
  { bias = false, scale = 1 } = {},
): Linear | TernaryLinear {
  const options = { dtype: config.dtype, device, bias, std: scale / Math.sqrt(inputs) };
  return config.ternary ? new TernaryLinear(inputs, outputs, options) : new Linear(inputs, outputs, options);
}

function norm(features: number, config: LayerConfig, device: Device): RMSNorm {
  return new RMSNorm(features, { eps: config.normEps, dtype: config.dtype, device });
}

/** Causal self-attention with rotary positions and grouped key/value heads. */
export class Attention extends Module {
  /** hidden → heads · headDim */
  query: Linear | TernaryLinear;
  /** hidden → keyHeads · headDim */
  key: Linear | TernaryLinear;
  /** hidden → keyHeads · headDim */
  value: Linear | TernaryLinear;
  /** heads · headDim → hidden */
  output: Linear | TernaryLinear;
  /** Over the features of each head of queries; null without {@link LayerConfig.queryKeyNorm}. */
  queryNorm: RMSNorm | null;
  /** The same of keys. */
  keyNorm: RMSNorm | null;
  /** Of the heads' results, before the output projection; null without {@link LayerConfig.subNorm}. */
  subNorm: RMSNorm | null;

  /**
   * Random weights, drawn from the library's generator.
   *
   * @throws OptionError, OutOfMemoryError.
   */
  constructor(
    private readonly _config: LayerConfig,
    placement: Placement,
  ) {
    super();
    checkLayerConfig('Attention', _config);
    checkPlacement('Attention', placement);
    const { device, residualScale } = placement;
    const { hidden, heads, keyHeads, headDim } = _config;
    const bias = _config.attentionBias !== 'none';
    this.query = projection(hidden, heads * headDim, _config, device, { bias });
    this.key = projection(hidden, keyHeads * headDim, _config, device, { bias });
    this.value = projection(hidden, keyHeads * headDim, _config, device, { bias });
    this.queryNorm = _config.queryKeyNorm ? norm(headDim, _config, device) : null;
    this.keyNorm = _config.queryKeyNorm ? norm(headDim, _config, device) : null;
    this.subNorm = _config.subNorm ? norm(heads * headDim, _config, device) : null;
    this.output = projection(heads * headDim, hidden, _config, device, {
      bias: _config.attentionBias === 'all',
      scale: residualScale,
    });
  }

  /**
   * With a cache the tokens follow those it holds, are appended to it, and no gradient is recorded through the attention.
   *
   * @param x [B, S, hidden]; of packed documents [1, S, hidden].
   * @param context a cache, or where the documents are that x is packed of. Default neither: each row is one sequence.
   * @returns [B, S, hidden].
   * @throws ShapeError, OptionError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor, context?: LayerCache | PackedDocuments): Tensor {
    const op = 'Attention';
    checkFloat(op, 'x', x);
    checkShape(op, 'x', x, ['B', 'S', this._config.hidden]);
    const { cache, documents } = partsOf(op, context);
    return tidy(() => {
      const { heads, keyHeads, headDim, ropeTheta: theta, ropeScaling, window: seen } = this._config;
      const [batch, sequence] = x.shape;
      if (documents) {
        checkShape(op, 'x', x, [1, 'S', 'hidden'], 'of packed documents');
        checkCuSeqlens(op, 'cuSeqlens', documents.cuSeqlens, sequence);
      }
      const positions = documents ? positionsIn(documents, x) : (cache?.positions ?? cache?.length ?? 0);
      const rotation = { theta, positions, ...(ropeScaling && { scaling: ropeScaling }) };
      const headsOf = (part: Tensor, count: number): Tensor => reshape(part, [batch, sequence, count, headDim]);
      const [query, key, value] = forwardAll([this.query, this.key, this.value], x);
      const turned = (part: Tensor, each: RMSNorm | null): Tensor => rope(each ? each.forward(part) : part, rotation);
      const q = turned(headsOf(query, heads), this.queryNorm);
      const k = turned(headsOf(key, keyHeads), this.keyNorm);
      const v = headsOf(value, keyHeads);
      const window = [seen === null ? -1 : seen - 1, -1] as const;
      const options = { causal: true, window, dropout: this.training ? this._config.dropout : 0 };
      const packed = (part: Tensor): Tensor => reshape(part, part.shape.slice(1));
      const mixed = cache
        ? flashAttentionWithKvCache(q, cache, { newK: k, newV: v, window })
        : documents
          ? flashAttentionVarlen(packed(q), packed(k), packed(v), { ...options, cuSeqlensQ: documents.cuSeqlens })
          : flashAttention(q, k, v, options);
      const joined = reshape(mixed, [batch, sequence, heads * headDim]);
      return this.output.forward(this.subNorm ? this.subNorm.forward(joined) : joined);
    });
  }
}

function partsOf(
  op: string,
  context: LayerCache | PackedDocuments | undefined,
): { cache?: LayerCache; documents?: PackedDocuments } {
  if (context === undefined) return {};
  checkObject(op, 'context', context);
  return 'cuSeqlens' in context ? { documents: context } : { cache: context };
}

/** int32 [1, S]: 0, 1, … in each document. Made for each layer, as a tensor of the first run might be gone in the second. */
function positionsIn({ cuSeqlens }: PackedDocuments, { shape, device }: Tensor): Tensor {
  const positions = new Int32Array(shape[1]);
  for (let document = 1; document < cuSeqlens.length; document++) {
    const begin = cuSeqlens[document - 1];
    for (let i = begin; i < cuSeqlens[document]; i++) positions[i] = i - begin;
  }
  return fromConstant('Attention', new Uint8Array(positions.buffer), [1, shape[1]], 'int32', device, false);
}

const ACTIVATIONS = {
  swiglu,
  geglu: (gate: Tensor, up: Tensor): Tensor => geglu(gate, up, { approximate: 'tanh' }),
  relu2Glu,
};

/** The gated feed-forward part: down(activation(gate(x), up(x))). */
export class MLP extends Module {
  /** hidden → intermediate */
  gate: Linear | TernaryLinear;
  /** hidden → intermediate */
  up: Linear | TernaryLinear;
  /** intermediate → hidden */
  down: Linear | TernaryLinear;
  /** Before the down projection; null without {@link LayerConfig.subNorm}. */
  subNorm: RMSNorm | null;

  /**
   * Random weights, drawn from the library's generator.
   *
   * @throws OptionError, OutOfMemoryError.
   */
  constructor(
    private readonly _config: LayerConfig,
    placement: Placement,
  ) {
    super();
    checkLayerConfig('MLP', _config);
    checkPlacement('MLP', placement);
    const { device, residualScale } = placement;
    const { hidden, intermediate, mlpBias: bias } = _config;
    this.gate = projection(hidden, intermediate, _config, device, { bias });
    this.up = projection(hidden, intermediate, _config, device, { bias });
    this.subNorm = _config.subNorm ? norm(intermediate, _config, device) : null;
    this.down = projection(intermediate, hidden, _config, device, { bias, scale: residualScale });
  }

  /**
   * @param x [..., hidden].
   * @returns [..., hidden].
   * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor): Tensor {
    return tidy(() => {
      const [gate, up] = forwardAll([this.gate, this.up], x);
      const inner = ACTIVATIONS[this._config.activation](gate, up);
      return this.down.forward(this.subNorm ? this.subNorm.forward(inner) : inner);
    });
  }
}

/** A decoder layer: x + attention(norm(x)), then x + mlp(norm(x)). */
export class TransformerBlock extends Module {
  /** Before the attention. */
  attentionNorm: RMSNorm;
  /** The first residual branch. */
  attention: Attention;
  /** Before the feed-forward part. */
  mlpNorm: RMSNorm;
  /** The second residual branch. */
  mlp: MLP;

  private readonly _dropout: number;

  /**
   * Random weights, drawn from the library's generator.
   *
   * @throws OptionError, OutOfMemoryError.
   */
  constructor(config: LayerConfig, placement: Placement) {
    super();
    checkLayerConfig('TransformerBlock', config);
    checkPlacement('TransformerBlock', placement);
    this.attentionNorm = norm(config.hidden, config, placement.device);
    this.attention = new Attention(config, placement);
    this.mlpNorm = norm(config.hidden, config, placement.device);
    this.mlp = new MLP(config, placement);
    this._dropout = config.dropout;
  }

  /**
   * @param x [B, S, hidden]; of packed documents [1, S, hidden].
   * @param context a cache of this layer: the tokens follow those it holds and are appended to it; or where the documents are that x is packed of.
   * Default neither: each row is one sequence.
   * @returns [B, S, hidden].
   * @throws ShapeError, OptionError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor, context?: LayerCache | PackedDocuments): Tensor {
    const { cache } = partsOf('TransformerBlock', context);
    return tidy(() => {
      const drop = (part: Tensor): Tensor => (this.training && !cache ? dropout(part, this._dropout) : part);
      const mixed = drop(this.attention.forward(this.attentionNorm.forward(x), context));
      const { out, sum } = this.mlpNorm.forwardSum(x, mixed);
      return add(sum, drop(this.mlp.forward(out)));
    });
  }
}
