// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { FloatDType } from '../dtype.js';
import { describe } from '../describe.js';
import { FormatError } from '../errors.js';
import type { RopeScaling } from '../ops/rope-scaling.js';
import type { CausalLMOptions } from './causal-lm.js';

/** How the linear layers of a checkpoint are stored. */
export type LinearWeights =
  /** Floats that are used as they are. */
  | 'float'
  /** Floats that are rounded to trits on every use ("online"). */
  | 'masters'
  /** Trits, four to a byte, and a scale that they are multiplied by (`autobitlinear`). */
  | 'packed, scale multiplies'
  /** The same with the inverse of that scale (`bitlinear`). */
  | 'packed, scale divides'
  /** Trits in blocks that carry their scales, as in GGUF files. */
  | 'ternary blocks';

/** What a checkpoint says of its model. */
export interface ModelConfig {
  /** As the checkpoint names it: `LlamaForCausalLM`, `bitnet-b1.58`. */
  architecture: string;
  options: CausalLMOptions;
  linear: LinearWeights;
  /** Of the weights that are not packed, or null if it does not say. */
  dtype: FloatDType | null;
}

type Json = Record<string, unknown>;

/** Fields of a JSON object or of a file's metadata, each checked as it is read. */
export class Fields {
  constructor(
    private readonly file: string,
    private readonly values: Json,
    /** Before the names, in messages and in the values. */
    private readonly prefix = '',
  ) {}

  fail(name: string, expected: string, got: unknown): never {
    const shown = got === undefined ? 'none' : describe(got);
    throw new FormatError(`${this.file}: expected ${expected} for ${this.prefix}${name}, got ${shown}`, this.file, 0);
  }

  /** Null counts as absent, as in Python's configs. */
  get(name: string): unknown {
    const key = this.prefix + name;
    return (Object.hasOwn(this.values, key) ? this.values[key] : undefined) ?? undefined;
  }

  integer(name: string, fallback?: number): number {
    const value = this.get(name) ?? fallback;
    if (!Number.isSafeInteger(value) || (value as number) < 0) return this.fail(name, 'a whole number', value);
    return value as number;
  }

  number(name: string, fallback?: number): number {
    const value = this.get(name) ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value)) return this.fail(name, 'a number', value);
    return value;
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.get(name) ?? fallback;
    if (typeof value !== 'boolean') return this.fail(name, 'true or false', value);
    return value;
  }

  text(name: string, fallback?: string): string {
    const value = this.get(name) ?? fallback;
    if (typeof value !== 'string') return this.fail(name, 'a string', value);
    return value;
  }

  /** One of the keys of a table; what stands there. */
  oneOf<T>(name: string, table: Record<string, T>, fallback?: string): T {
    const value = this.text(name, fallback);
    if (!Object.hasOwn(table, value)) return this.fail(name, `one of ${Object.keys(table).join(', ')}`, value);
    return table[value];
  }

  object(name: string): Fields | null {
    const value = this.get(name);
    if (value === undefined) return null;
    if (typeof value !== 'object' || Array.isArray(value)) return this.fail(name, 'an object', value);
    return new Fields(this.file, value as Json);
  }
}

const DTYPES: Record<string, FloatDType> = { float32: 'float32', float16: 'float16', bfloat16: 'bfloat16' };

const ACTIVATIONS = {
  silu: 'swiglu',
  relu2: 'relu2Glu',
  gelu_pytorch_tanh: 'geglu',
  gelu_new: 'geglu',
} as const;

/** What architectures of Transformers differ in; the rest is in their config.json. */
const ARCHITECTURES: Record<string, Partial<CausalLMOptions> & { masters?: boolean }> = {
  LlamaForCausalLM: {},
  MistralForCausalLM: {},
  Qwen2ForCausalLM: { attentionBias: 'qkv' },
  Qwen3ForCausalLM: { queryKeyNorm: true },
  BitNetForCausalLM: { subNorm: true, masters: true }, // what is not packed is rounded on every use
  BitnetForCausalLM: { subNorm: true, masters: true }, // 1bitLLM's own code, before Transformers had any
};

/**
 * Reads what a config.json of Transformers says.
 *
 * @param file for messages.
 * @throws FormatError if a field is missing or makes no sense, or if the model is one that cannot be run: it is named.
 */
export function readTransformersConfig(file: string, json: Json): ModelConfig {
  const fields = new Fields(file, json);
  const architectures = fields.get('architectures');
  const architecture: unknown = Array.isArray(architectures) ? architectures[0] : undefined;
  const named =
    typeof architecture === 'string'
      ? architecture
      : fields.oneOf('model_type', {
          llama: 'LlamaForCausalLM',
          mistral: 'MistralForCausalLM',
          qwen2: 'Qwen2ForCausalLM',
          qwen3: 'Qwen3ForCausalLM',
          bitnet: 'BitNetForCausalLM',
        });
  if (!Object.hasOwn(ARCHITECTURES, named))
    return fields.fail('architectures', `one of ${Object.keys(ARCHITECTURES).join(', ')}`, architectures);
  const { masters, ...special } = ARCHITECTURES[named];
  const hidden = fields.integer('hidden_size');
  const heads = fields.integer('num_attention_heads');
  const linear = linearWeights(fields, masters ?? false);
  const context = fields.integer('max_position_embeddings', 0);
  const bias = fields.boolean('attention_bias', false);
  const options: CausalLMOptions = {
    vocabulary: fields.integer('vocab_size'),
    layers: fields.integer('num_hidden_layers'),
    hidden,
    heads,
    keyHeads: fields.integer('num_key_value_heads', heads),
    headDim: fields.integer('head_dim', hidden / heads),
    intermediate: fields.integer('intermediate_size'),
    ...ropeOf(fields),
    window: slidingWindow(fields, context),
    attentionBias: bias ? 'all' : 'none',
    mlpBias: fields.boolean('mlp_bias', false),
    normEps: fields.number('rms_norm_eps', 1e-6),
    ternary: linear !== 'float',
    subNorm: false,
    activation: fields.oneOf('hidden_act', ACTIVATIONS, 'silu'),
    tieEmbeddings: fields.boolean('tie_word_embeddings', false),
    contextLength: context,
    ...special,
  };
  const dtype = fields.get('dtype') ?? fields.get('torch_dtype');
  return {
    architecture: named,
    options,
    linear,
    dtype: typeof dtype === 'string' && Object.hasOwn(DTYPES, dtype) ? DTYPES[dtype] : null,
  };
}

function linearWeights(fields: Fields, masters: boolean): LinearWeights {
  const quantization = fields.object('quantization_config');
  if (!quantization) return masters ? 'masters' : 'float';
  if (quantization.text('quant_method') !== 'bitnet')
    return quantization.fail('quant_method', 'bitnet', quantization.get('quant_method'));
  if (quantization.boolean('use_rms_norm', false))
    return quantization.fail('use_rms_norm', 'no norm inside linear layers', true);
  if (quantization.oneOf('quantization_mode', { offline: false, online: true }, 'offline')) return 'masters';
  return quantization.oneOf(
    'linear_class',
    { bitlinear: 'packed, scale divides', autobitlinear: 'packed, scale multiplies' } as const,
    'bitlinear',
  );
}

/** Transformers 5 has `rope_parameters`; before, theta stood by itself and the rest in `rope_scaling`. */
function ropeOf(fields: Fields): Pick<CausalLMOptions, 'ropeTheta' | 'ropeScaling'> {
  const parameters = fields.object('rope_parameters');
  const ropeTheta = parameters?.get('rope_theta') ?? fields.get('rope_theta') ?? 10000;
  if (typeof ropeTheta !== 'number') return fields.fail('rope_theta', 'a number', ropeTheta);
  const scaling = parameters ?? fields.object('rope_scaling');
  if (!scaling) return { ropeTheta, ropeScaling: null };
  const key = scaling.get('rope_type') === undefined && scaling.get('type') !== undefined ? 'type' : 'rope_type';
  const type = scaling.oneOf(key, { default: 'default', linear: 'linear', llama3: 'llama3' } as const, 'default');
  if (type === 'default') return { ropeTheta, ropeScaling: null };
  const factor = scaling.number('factor');
  if (type === 'linear') return { ropeTheta, ropeScaling: { type, factor } };
  const ropeScaling: RopeScaling = {
    type,
    factor,
    lowFreqFactor: scaling.number('low_freq_factor'),
    highFreqFactor: scaling.number('high_freq_factor'),
    originalMaxPositions: scaling.integer('original_max_position_embeddings'),
  };
  return { ropeTheta, ropeScaling };
}

function slidingWindow(fields: Fields, context: number): number | null {
  if (!fields.boolean('use_sliding_window', true)) return null;
  const window = fields.get('sliding_window');
  if (window === undefined) return null;
  const size = fields.integer('sliding_window');
  if (fields.get('layer_types') !== undefined || fields.get('max_window_layers') !== undefined) {
    return fields.fail('sliding_window', 'the same window in all layers', size);
  }
  return context > 0 && size >= context ? null : size;
}

/** Types of GGUF files that are float dtypes here. */
const GGUF_DTYPES: Record<string, FloatDType> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' };

/** Whether a type of GGUF files holds trits. */
export const isTernaryType = (type: string | undefined): boolean =>
  type === 'TQ1_0' || type === 'TQ2_0' || type === 'I2_S';

const GGUF_ARCHITECTURES: Record<string, Partial<CausalLMOptions>> = {
  llama: {},
  qwen2: { attentionBias: 'qkv' },
  qwen3: { queryKeyNorm: true },
  bitnet: { subNorm: true },
  'bitnet-25': { subNorm: true, activation: 'relu2Glu' },
  'bitnet-b1.58': { subNorm: true, activation: 'relu2Glu' },
};

/** What {@link readGgufConfig} has to know of a file's tensors. */
export interface GgufTensors {
  has(name: string): boolean;
  shapeOf(name: string): readonly number[] | undefined;
  typeOf(name: string): string | undefined;
}

/**
 * Reads what the metadata of a GGUF file says; what it leaves out (bias, tied embeddings) follows from its tensors.
 *
 * @throws FormatError as {@link readTransformersConfig}.
 */
export function readGgufConfig(file: string, metadata: Json, tensors: GgufTensors): ModelConfig {
  const general = new Fields(file, metadata);
  const architecture = general.text('general.architecture');
  const special = general.oneOf('general.architecture', GGUF_ARCHITECTURES);
  const fields = new Fields(file, metadata, `${architecture}.`);
  const hidden = fields.integer('embedding_length');
  const heads = fields.integer('attention.head_count');
  const headDim = fields.integer('attention.key_length', hidden / heads);
  for (const name of ['attention.value_length', 'rope.dimension_count']) {
    if (fields.integer(name, headDim) !== headDim) fields.fail(name, String(headDim), fields.get(name));
  }
  const vocabulary = tensors.shapeOf('token_embd.weight')?.[0];
  if (vocabulary === undefined) return general.fail('token_embd.weight', 'a tensor', undefined);
  const dtype = GGUF_DTYPES[tensors.typeOf('token_embd.weight') ?? ''] ?? null;
  const ternary = isTernaryType(tensors.typeOf('blk.0.attn_q.weight'));
  const scaling = fields.oneOf('rope.scaling.type', { none: null, linear: 'linear' } as const, 'none');
  const window = fields.integer('attention.sliding_window', 0);
  const options: CausalLMOptions = {
    vocabulary,
    layers: fields.integer('block_count'),
    hidden,
    heads,
    keyHeads: fields.integer('attention.head_count_kv', heads),
    headDim,
    intermediate: fields.integer('feed_forward_length'),
    ropeTheta: fields.number('rope.freq_base', 10000),
    ropeScaling: scaling && { type: scaling, factor: fields.number('rope.scaling.factor') },
    window: window === 0 ? null : window,
    attentionBias: tensors.has('blk.0.attn_output.bias') ? 'all' : tensors.has('blk.0.attn_q.bias') ? 'qkv' : 'none',
    mlpBias: tensors.has('blk.0.ffn_up.bias'),
    normEps: fields.number('attention.layer_norm_rms_epsilon'),
    ternary,
    subNorm: false,
    activation: 'swiglu',
    tieEmbeddings: !tensors.has('output.weight'),
    contextLength: fields.integer('context_length', 0),
    ...special,
  };
  return { architecture, options, linear: ternary ? 'ternary blocks' : 'float', dtype };
}
