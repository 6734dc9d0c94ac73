// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { checkInteger, checkPositive } from '../check.js';
import type { Device } from '../device.js';
import type { FloatDType } from '../dtype.js';
import { OptionError } from '../errors.js';
import { add } from '../ops/binary.js';
import { dropout } from '../ops/dropout.js';
import { flashAttention } from '../ops/flash-attention.js';
import { flashAttentionWithKvCache, type KvCache } from '../ops/kv-cache.js';
import { relu2Glu, swiglu } from '../ops/gated-activation.js';
import { reshape } from '../ops/reshape.js';
import { rope } from '../ops/rope.js';
import { dropoutThreshold } from '../random.js';
import { keep, tidy } from '../scope.js';
import { zeros, type Tensor } from '../tensor.js';
import { Linear, TernaryLinear } from './linear.js';
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
  /** Default 1e-5. */
  normEps: number;
  /** Linear layers are {@link TernaryLinear}. Default true. */
  ternary: boolean;
  /** A norm before the output and down projections, as in BitNet b1.58 2B-4T. Default: as `ternary`. */
  subNorm: boolean;
  /** Default swiglu. */
  activation: 'swiglu' | 'relu2Glu';
  /**
   * The probability with which elements of the attention's softmax, and of what the two parts of a layer add to the residual stream, are dropped
   * while the module trains (`train()`, `eval()`). With a cache nothing is. Default 0.
   */
  dropout: number;
  /** Default float32. */
  dtype: FloatDType;
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
  for (const name of ['hidden', 'heads', 'keyHeads', 'headDim', 'intermediate'] as const) {
    checkInteger(op, name, config[name], 1, 2 ** 24);
  }
  checkPositive(op, 'ropeTheta', config.ropeTheta);
  checkPositive(op, 'normEps', config.normEps);
  dropoutThreshold(op, config.dropout);
  if (config.heads % config.keyHeads !== 0) {
    throw new OptionError(`${op}: expected keyHeads that divide ${config.heads} heads, got ${config.keyHeads}`);
  }
  if (config.headDim % 2 !== 0 || config.headDim > 256) {
    throw new OptionError(`${op}: expected an even headDim of at most 256, got ${config.headDim}`);
  }
}

function projection(
  inputs: number,
  outputs: number,
  config: LayerConfig,
  device: Device,
  scale = 1,
): Linear | TernaryLinear {
  const options = { dtype: config.dtype, device, std: scale / Math.sqrt(inputs) };
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
  /** Of the heads' results, before the output projection; null without {@link LayerConfig.subNorm}. */
  subNorm: RMSNorm | null;

  /**
   * Random weights, drawn from the library's generator.
   *
   * @throws OptionError, OutOfMemoryError.
   */
  constructor(
    private readonly _config: LayerConfig,
    { device, residualScale }: Placement,
  ) {
    super();
    checkLayerConfig('Attention', _config);
    const { hidden, heads, keyHeads, headDim } = _config;
    this.query = projection(hidden, heads * headDim, _config, device);
    this.key = projection(hidden, keyHeads * headDim, _config, device);
    this.value = projection(hidden, keyHeads * headDim, _config, device);
    this.subNorm = _config.subNorm ? norm(heads * headDim, _config, device) : null;
    this.output = projection(heads * headDim, hidden, _config, device, residualScale);
  }

  /**
   * With a cache the tokens follow those it holds, are appended to it, and no gradient is recorded through the attention.
   *
   * @param x [B, S, hidden].
   * @returns [B, S, hidden].
   * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor, cache?: KvCache): Tensor {
    return tidy(() => {
      const { heads, keyHeads, headDim, ropeTheta: theta } = this._config;
      const [batch, sequence] = x.shape;
      const positions = cache?.length ?? 0;
      const q = rope(reshape(this.query.forward(x), [batch, sequence, heads, headDim]), { theta, positions });
      const k = rope(reshape(this.key.forward(x), [batch, sequence, keyHeads, headDim]), { theta, positions });
      const v = reshape(this.value.forward(x), [batch, sequence, keyHeads, headDim]);
      const mixed = cache
        ? flashAttentionWithKvCache(q, cache, { newK: k, newV: v })
        : flashAttention(q, k, v, { causal: true, dropout: this.training ? this._config.dropout : 0 });
      const joined = reshape(mixed, [batch, sequence, heads * headDim]);
      return this.output.forward(this.subNorm ? this.subNorm.forward(joined) : joined);
    });
  }
}

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
    { device, residualScale }: Placement,
  ) {
    super();
    checkLayerConfig('MLP', _config);
    const { hidden, intermediate } = _config;
    this.gate = projection(hidden, intermediate, _config, device);
    this.up = projection(hidden, intermediate, _config, device);
    this.subNorm = _config.subNorm ? norm(intermediate, _config, device) : null;
    this.down = projection(intermediate, hidden, _config, device, residualScale);
  }

  /**
   * @param x [..., hidden].
   * @returns [..., hidden].
   * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor): Tensor {
    return tidy(() => {
      const activation = this._config.activation === 'swiglu' ? swiglu : relu2Glu;
      const inner = activation(this.gate.forward(x), this.up.forward(x));
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
    this.attentionNorm = norm(config.hidden, config, placement.device);
    this.attention = new Attention(config, placement);
    this.mlpNorm = norm(config.hidden, config, placement.device);
    this.mlp = new MLP(config, placement);
    this._dropout = config.dropout;
  }

  /**
   * @param x [B, S, hidden].
   * @param cache of this layer: the tokens follow those it holds and are appended to it. Default none.
   * @returns [B, S, hidden].
   * @throws ShapeError, DTypeError, DeviceError, DisposedError, OutOfMemoryError.
   */
  forward(x: Tensor, cache?: KvCache): Tensor {
    return tidy(() => {
      const drop = (part: Tensor): Tensor => (this.training && !cache ? dropout(part, this._dropout) : part);
      const mixed = add(x, drop(this.attention.forward(this.attentionNorm.forward(x), cache)));
      return add(mixed, drop(this.mlp.forward(this.mlpNorm.forward(mixed))));
    });
  }
}

/**
 * The cache of one layer: [B, capacity, G, D] of keys and of values, empty.
 *
 * @param batch B.
 * @param capacity the most tokens it holds.
 * @param config `keyHeads` G, `headDim` D, `dtype`.
 * @param device where it lives.
 * @throws OptionError, OutOfMemoryError.
 */
export function createKvCache(
  batch: number,
  capacity: number,
  config: Pick<LayerConfig, 'keyHeads' | 'headDim' | 'dtype'>,
  device: Device,
): KvCache {
  checkInteger('createKvCache', 'batch', batch, 1, 2 ** 31 - 1);
  checkInteger('createKvCache', 'capacity', capacity, 1, 2 ** 31 - 1);
  const make = (): Tensor =>
    keep(zeros([batch, capacity, config.keyHeads, config.headDim], { dtype: config.dtype, device }));
  return { keys: make(), values: make(), length: 0 };
}
