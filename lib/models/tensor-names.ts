// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

import type { CausalLMConfig } from './causal-lm.js';

/**
 * How checkpoints name what {@link CausalLM} holds. Ours are the names of `model.state()`; a module's `.weight` and `.bias` follow it everywhere.
 */

/** Of which project the names are: `transformers` in safetensors files, `gguf` in llama.cpp's. */
export type Naming = 'transformers' | 'gguf';

interface Names {
  ours: string;
  /** The first is what is written; the others are read as well. */
  transformers: readonly string[];
  gguf: readonly string[];
}

const MODEL: readonly Names[] = [
  { ours: 'norm', transformers: ['model.norm'], gguf: ['output_norm'] },
  // Tensors of the model itself: the others' modules, whose weight they are.
  { ours: 'embedding', transformers: ['model.embed_tokens'], gguf: ['token_embd'] },
  { ours: 'head', transformers: ['lm_head'], gguf: ['output'] },
];

const LAYER: readonly Names[] = [
  { ours: 'attentionNorm', transformers: ['input_layernorm'], gguf: ['attn_norm'] },
  { ours: 'attention.query', transformers: ['self_attn.q_proj'], gguf: ['attn_q'] },
  { ours: 'attention.key', transformers: ['self_attn.k_proj'], gguf: ['attn_k'] },
  { ours: 'attention.value', transformers: ['self_attn.v_proj'], gguf: ['attn_v'] },
  { ours: 'attention.output', transformers: ['self_attn.o_proj'], gguf: ['attn_output'] },
  { ours: 'attention.queryNorm', transformers: ['self_attn.q_norm'], gguf: ['attn_q_norm'] },
  { ours: 'attention.keyNorm', transformers: ['self_attn.k_norm'], gguf: ['attn_k_norm'] },
  {
    ours: 'attention.subNorm',
    transformers: ['self_attn.attn_sub_norm', 'self_attn.inner_attn_ln'],
    gguf: ['attn_sub_norm'],
  },
  { ours: 'mlpNorm', transformers: ['post_attention_layernorm'], gguf: ['ffn_norm'] },
  { ours: 'mlp.gate', transformers: ['mlp.gate_proj'], gguf: ['ffn_gate'] },
  { ours: 'mlp.up', transformers: ['mlp.up_proj'], gguf: ['ffn_up'] },
  { ours: 'mlp.down', transformers: ['mlp.down_proj'], gguf: ['ffn_down'] },
  { ours: 'mlp.subNorm', transformers: ['mlp.ffn_sub_norm', 'mlp.ffn_layernorm'], gguf: ['ffn_sub_norm'] },
];

const LAYER_PREFIX: Record<Naming, string> = { transformers: 'model.layers.', gguf: 'blk.' };

/**
 * What a tensor of ours is called elsewhere; the first is the usual name.
 *
 * @param ours as in `model.state()`, a ternary weight without `.packed`: `layers.0.mlp.up.weight`.
 */
export function namesElsewhere(ours: string, naming: Naming): string[] {
  const layer = /^layers\.(\d+)\.(.+)$/.exec(ours);
  const path = layer ? layer[2] : ours;
  const row = (layer ? LAYER : MODEL).find((each) => path === each.ours || path.startsWith(`${each.ours}.`));
  if (!row) throw new Error(`no name for ${ours}`);
  const rest = path.slice(row.ours.length) || '.weight';
  const prefix = layer ? `${LAYER_PREFIX[naming]}${layer[1]}.` : '';
  return row[naming].map((name) => `${prefix}${name}${rest}`);
}

/**
 * llama.cpp rotates pairs of neighbours in models of its architecture `llama`, so that the rows of queries and keys are in another order there: row
 * h D + p D/2 + i of ours is row h D + 2 i + p.
 *
 * @param ours the name of a weight or bias.
 * @returns for each row of ours, which it is there; null for other tensors, whose order is the same.
 */
export function llamaRowOrder(
  { heads, keyHeads, headDim }: Pick<CausalLMConfig, 'heads' | 'keyHeads' | 'headDim'>,
  ours: string,
): Int32Array | null {
  const part = /\.attention\.(query|key)\.(weight|bias)$/.exec(ours);
  if (!part) return null;
  return Int32Array.from({ length: (part[1] === 'query' ? heads : keyHeads) * headDim }, (_, row) => {
    const within = row % headDim;
    return row - within + 2 * (within % (headDim / 2)) + Math.floor(within / (headDim / 2));
  });
}
