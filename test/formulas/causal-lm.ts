// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { RopeScaling } from '../../lib/index.js';
import { EXACT, type Arithmetic } from '../arithmetic.js';
import type { Values } from '../op-spec.js';
import { flashAttentionSpec } from './flash-attention.js';
import { gegluTanhSpec, relu2GluSpec, swigluSpec } from './gated-activation.js';
import { product } from './linear.js';
import { rmsNormSpec } from './rms-norm.js';
import { ropeSpec } from './rope.js';
import { int8Of, int8Product, roundHalfEven } from './ternary.js';

/** What the plain model has to know; names as in config.json. */
export interface PlainConfig {
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim?: number;
  rms_norm_eps: number;
  rope_theta: number;
  rope_scaling?: RopeScaling;
  hidden_act: 'silu' | 'relu2' | 'gelu_pytorch_tanh';
  sliding_window?: number;
}

/** Floats, or trits and their scale, by the names of Transformers. */
export type PlainWeights = Map<string, Values | { trits: Values; scale: number }>;

const ACTIVATIONS = { silu: swigluSpec, relu2: relu2GluSpec, gelu_pytorch_tanh: gegluTanhSpec };

/**
 * Logits [S, V] of one sequence, line by line as modeling_llama.py and modeling_bitnet.py of Transformers have it. Biases, sub-norms, head norms and the output
 * projection are used where there are weights of their names.
 *
 * @param round of activations to int8.
 */
export function plainLogits(
  a: Arithmetic,
  config: PlainConfig,
  weights: PlainWeights,
  tokens: readonly number[],
  round = roundHalfEven,
): Values {
  const { hidden_size: hidden, num_attention_heads: heads, num_key_value_heads: keyHeads } = config;
  const headDim = config.head_dim ?? hidden / heads;
  const S = tokens.length;
  const floats = (name: string): Values | undefined => weights.get(name) as Values | undefined;

  const linear = (name: string, x: Values, k: number): Values => {
    const weight = weights.get(`${name}.weight`);
    if (!weight) throw new Error(`no ${name}.weight`);
    const bias = floats(`${name}.bias`);
    if (!('trits' in weight)) return product(a, x, weight, bias, { name, lead: [S], n: weight.length / k, k });
    return int8Product(int8Of(x, k, round), weight, bias, weight.trits.length / k, k).map((y) => a.round(y));
  };
  /** Unchanged without a weight of that name. */
  const norm = (name: string, x: Values, n: number): Values => {
    const weight = floats(`${name}.weight`);
    if (!weight) return x;
    const c = { name, shape: [x.length / n, n], weight: true, eps: config.rms_norm_eps };
    return rmsNormSpec.forward(a, { x, weight }, c).out;
  };
  const rotated = (x: Values, count: number): Values => {
    const scaling = config.rope_scaling;
    const c = {
      name: '',
      batch: 1,
      sequence: S,
      heads: count,
      headDim,
      theta: config.rope_theta,
      ...(scaling && { scaling }),
    };
    return ropeSpec.forward(a, { x }, c).out;
  };
  const add = (x: Values, y: Values): Values => x.map((value, i) => a.round(value + y[i]));

  const table = floats('model.embed_tokens.weight') as Values;
  let x: Values = Float64Array.from(
    { length: S * hidden },
    (_, i) => table[tokens[Math.floor(i / hidden)] * hidden + (i % hidden)],
  );
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`;
    const h = norm(`${at}.input_layernorm`, x, hidden);
    const q = rotated(norm(`${at}.self_attn.q_norm`, linear(`${at}.self_attn.q_proj`, h, hidden), headDim), heads);
    const k = rotated(norm(`${at}.self_attn.k_norm`, linear(`${at}.self_attn.k_proj`, h, hidden), headDim), keyHeads);
    const v = linear(`${at}.self_attn.v_proj`, h, hidden);
    const window = config.sliding_window;
    const c = { name: at, batch: 1, queries: S, keys: S, heads, keyHeads, headDim, causal: true };
    const mixed = flashAttentionSpec.forward(a, { q, k, v }, window ? { ...c, window: [window - 1, -1] } : c).out;
    x = add(
      x,
      linear(`${at}.self_attn.o_proj`, norm(`${at}.self_attn.attn_sub_norm`, mixed, heads * headDim), heads * headDim),
    );

    const m = norm(`${at}.post_attention_layernorm`, x, hidden);
    const [gate, up] = [linear(`${at}.mlp.gate_proj`, m, hidden), linear(`${at}.mlp.up_proj`, m, hidden)];
    const inner = ACTIVATIONS[config.hidden_act].forward(a, { gate, up }, { name: at, shape: [gate.length] }).out;
    const width = config.intermediate_size;
    x = add(x, linear(`${at}.mlp.down_proj`, norm(`${at}.mlp.ffn_sub_norm`, inner, width), width));
  }
  x = norm('model.norm', x, hidden);
  return linear(weights.has('lm_head.weight') ? 'lm_head' : 'model.embed_tokens', x, hidden);
}

/**
 * So near to the middle between two codes an activation may fall on either side: float32 computes its 127ths to about 1e-5, and what follows jumps by what a code
 * stands for.
 */
const NEAR_A_TIE = 2e-5;
const MOST_TIES = 5;

/** The logits for every way in which activations that are that near to a tie may be rounded; the first way is that of exact arithmetic. */
export function plainLogitsOfTies(config: PlainConfig, weights: PlainWeights, tokens: readonly number[]): Values[] {
  const run = (choices: number): { logits: Values; ties: number } => {
    let ties = 0;
    const logits = plainLogits(EXACT, config, weights, tokens, (value) => {
      const nearest = roundHalfEven(value);
      const other = value > nearest ? nearest + 1 : nearest - 1;
      if (Math.abs(value - nearest) < 0.5 - NEAR_A_TIE) return nearest;
      return ((choices >> ties++) & 1) === 1 ? other : nearest;
    });
    return { logits, ties };
  };
  const first = run(0);
  if (first.ties > MOST_TIES) throw new Error(`${first.ties} activations near a tie: choose other tokens`);
  return [first.logits, ...Array.from({ length: 2 ** first.ties - 1 }, (_, i) => run(i + 1).logits)];
}
