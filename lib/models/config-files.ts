// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import { OptionError } from '../errors.js';
import type { GgufValue } from '../formats/gguf-values.js';
import { ropeFrequencies, type RopeScaling } from '../ops/rope-scaling.js';
import type { CausalLMConfig } from './causal-lm.js';

/** Configs as other projects' files have them: the way back of model-config.ts. */

const ACTIVATIONS = { swiglu: 'silu', relu2Glu: 'relu2', geglu: 'gelu_pytorch_tanh' } as const;

/** The architecture of Transformers that computes what this config says. Throws OptionError if there is none. */
function transformersArchitecture(op: string, config: CausalLMConfig): [architecture: string, modelType: string] {
  const { ternary, subNorm, activation, attentionBias, mlpBias, queryKeyNorm, window } = config;
  const refuse = (what: string): never => {
    throw new OptionError(`${op}: expected a model that an architecture of Transformers computes, got ${what}`);
  };
  if (subNorm) {
    if (!ternary || activation !== 'relu2Glu') refuse('sub-norms without ternary layers and squared ReLU');
    if (attentionBias !== 'none' || mlpBias || queryKeyNorm || window) refuse('sub-norms beside other options');
    return ['BitNetForCausalLM', 'bitnet'];
  }
  if (queryKeyNorm) {
    if (attentionBias === 'qkv' || mlpBias || window) refuse('head norms beside other options');
    return ['Qwen3ForCausalLM', 'qwen3'];
  }
  if (attentionBias === 'qkv') {
    if (mlpBias || window) refuse('biases of query, key and value beside other options');
    return ['Qwen2ForCausalLM', 'qwen2'];
  }
  if (window) {
    if (attentionBias !== 'none' || mlpBias) refuse('a sliding window beside biases');
    return ['MistralForCausalLM', 'mistral'];
  }
  return ['LlamaForCausalLM', 'llama'];
}

function ropeParameters(op: string, theta: number, scaling: RopeScaling | null): Record<string, unknown> {
  if (!scaling) return { rope_theta: theta, rope_type: 'default' };
  switch (scaling.type) {
    case 'linear':
      return { rope_theta: theta, rope_type: 'linear', factor: scaling.factor };
    case 'llama3':
      return {
        rope_theta: theta,
        rope_type: 'llama3',
        factor: scaling.factor,
        low_freq_factor: scaling.lowFreqFactor,
        high_freq_factor: scaling.highFreqFactor,
        original_max_position_embeddings: scaling.originalMaxPositions,
      };
    case 'factors':
      throw new OptionError(
        `${op}: expected a scaling of rope that config.json can hold, got a factor for each frequency`,
      );
  }
}

/**
 * The config.json of Transformers.
 *
 * @param packed whether the ternary layers are written as trits whose scale multiplies; else they are masters.
 * @throws OptionError if no architecture there computes the same.
 */
export function transformersConfig(op: string, config: CausalLMConfig, packed: boolean): Record<string, unknown> {
  const [architecture, modelType] = transformersArchitecture(op, config);
  return {
    architectures: [architecture],
    model_type: modelType,
    vocab_size: config.vocabulary,
    hidden_size: config.hidden,
    intermediate_size: config.intermediate,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.keyHeads,
    head_dim: config.headDim,
    hidden_act: ACTIVATIONS[config.activation],
    rms_norm_eps: config.normEps,
    // Transformers 5 reads rope_parameters, its predecessors the other two.
    rope_parameters: ropeParameters(op, config.ropeTheta, config.ropeScaling),
    rope_theta: config.ropeTheta,
    ...(config.ropeScaling && { rope_scaling: ropeParameters(op, config.ropeTheta, config.ropeScaling) }),
    ...(config.window && { sliding_window: config.window }),
    attention_bias: config.attentionBias !== 'none',
    mlp_bias: config.mlpBias,
    tie_word_embeddings: config.tieEmbeddings,
    max_position_embeddings: config.contextLength || 2048,
    dtype: config.dtype,
    torch_dtype: config.dtype,
    use_cache: true,
    ...(config.ternary && {
      quantization_config: {
        quant_method: 'bitnet',
        linear_class: 'autobitlinear',
        quantization_mode: packed ? 'offline' : 'online',
      },
    }),
  };
}

/** The architecture of llama.cpp that computes what a config says. Throws OptionError if there is none. */
export function ggufArchitecture(op: string, config: CausalLMConfig): string {
  const { subNorm, activation, attentionBias, queryKeyNorm, ternary } = config;
  if (subNorm && ternary && attentionBias === 'none' && !queryKeyNorm) {
    if (activation === 'relu2Glu') return 'bitnet-b1.58';
    if (activation === 'swiglu') return 'bitnet';
  }
  if (!subNorm && activation === 'swiglu') {
    if (queryKeyNorm && attentionBias === 'none') return 'qwen3';
    if (!queryKeyNorm && attentionBias === 'qkv') return 'qwen2';
    if (!queryKeyNorm) return 'llama';
  }
  throw new OptionError(`${op}: expected a model that an architecture of GGUF files computes, got one that none does`);
}

/** The metadata of a GGUF file of this model, without its tokenizer. */
export function ggufMetadata(op: string, config: CausalLMConfig): Record<string, GgufValue> {
  const architecture = ggufArchitecture(op, config);
  const u32 = (value: number): GgufValue => ({ type: 'u32', value });
  const f32 = (value: number): GgufValue => ({ type: 'f32', value });
  const own: Record<string, GgufValue> = {
    block_count: u32(config.layers),
    context_length: u32(config.contextLength || 2048),
    embedding_length: u32(config.hidden),
    feed_forward_length: u32(config.intermediate),
    vocab_size: u32(config.vocabulary),
    'attention.head_count': u32(config.heads),
    'attention.head_count_kv': u32(config.keyHeads),
    'attention.key_length': u32(config.headDim),
    'attention.value_length': u32(config.headDim),
    'attention.layer_norm_rms_epsilon': f32(config.normEps),
    'rope.dimension_count': u32(config.headDim),
    'rope.freq_base': f32(config.ropeTheta),
    ...(config.window && { 'attention.sliding_window': u32(config.window) }),
    ...(config.ropeScaling?.type === 'linear' && {
      'rope.scaling.type': 'linear',
      'rope.scaling.factor': f32(config.ropeScaling.factor),
    }),
  };
  return {
    'general.architecture': architecture,
    ...Object.fromEntries(Object.entries(own).map(([name, value]) => [`${architecture}.${name}`, value])),
  };
}

/** By which each rotary frequency is divided, where a GGUF file needs a tensor to say so (`rope_freqs.weight`); else null. */
export function ggufRopeFactors({ headDim, ropeTheta, ropeScaling }: CausalLMConfig): Float32Array | null {
  if (ropeScaling === null || ropeScaling.type === 'linear') return null;
  if (ropeScaling.type === 'factors') return Float32Array.from(ropeScaling.factors);
  const scaled = ropeFrequencies(headDim, ropeTheta, ropeScaling);
  return Float32Array.from(ropeFrequencies(headDim, ropeTheta, null), (each, i) => each / scaled[i]);
}
