// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// THE CONTRACT between the binding and the kernels: one plain struct per op, the same fields as lib/backend.ts, where
// the semantics are stated. Shapes are in the comments; every tensor is dense and row-major. Sizes are positive unless
// a comment allows zero; everything has been validated in TypeScript.
//
// Letters: B batch, S sequence (Sq queries, Sk keys), H query heads, G key/value heads, D head dim, M tokens, N output
// features, K input features, V vocabulary.

#ifndef TERNFLASH_BINDING_OPS_H_
#define TERNFLASH_BINDING_OPS_H_

#include <stddef.h>
#include <stdint.h>

namespace ternflash {

enum class DType : uint8_t { FLOAT32, FLOAT16, BFLOAT16, INT8, UINT8, INT32 };

constexpr int MAX_RANK = 8;
constexpr int MAX_ROPE_PAIRS = 128;

// data is null for an absent optional tensor.
struct Tensor {
  void* data;
  DType dtype;
  int64_t length;  // elements
};

// See lib/backend.ts.
struct DropoutMask {
  uint32_t threshold;  // 0 (nothing is dropped) to 65535, of 65536
  uint64_t seed;
  uint64_t offset;
};

struct DropoutParams {
  DropoutMask mask;
  Tensor x;
  Tensor out;  // may alias x
};

struct FillParams {
  Tensor out;
  double value;
};

struct CastParams {
  Tensor x;
  Tensor out;  // float to integer truncates and saturates, NaN gives 0
};

struct TransposeParams {
  Tensor x;
  Tensor out;
  int rank;
  int64_t shape[MAX_RANK];    // of out
  int64_t strides[MAX_RANK];  // in x, per axis of out
};

enum class BinaryKind : uint8_t { ADD, MUL };
struct BinaryParams {
  BinaryKind kind;
  Tensor a;
  Tensor b;
  Tensor out;  // [shape]; may alias an operand that is not broadcast
  int rank;
  int64_t shape[MAX_RANK];
  int64_t a_strides[MAX_RANK];  // 0 where broadcast
  int64_t b_strides[MAX_RANK];
};

struct ScaleParams {
  Tensor x;
  Tensor out;  // may alias x
  double factor;
  Tensor factor_tensor;  // float32 [1], optional
};

struct SumParams {
  Tensor x;    // [outer, reduce, inner]
  Tensor out;  // [outer, inner]
  int64_t outer;
  int64_t reduce;  // may be 0
  int64_t inner;
  double factor;
};

struct SoftmaxParams {
  Tensor x;  // [rows, cols]
  Tensor out;
  int64_t rows;
  int64_t cols;
};

struct SoftmaxBackwardParams {
  Tensor out;  // [rows, cols]
  Tensor d_out;
  Tensor d_x;
  int64_t rows;
  int64_t cols;
};

struct ArgmaxParams {
  Tensor x;    // [rows, cols]
  Tensor out;  // int32 [rows]; the first index of the largest value, a NaN counts as the largest
  int64_t rows;
  int64_t cols;
};

struct MatmulParams {
  Tensor a;     // [m, k], or [k, m] if transpose_a
  Tensor b;     // [k, n], or [n, k] if transpose_b
  Tensor bias;  // [n], optional
  Tensor out;   // [m, n]
  int64_t m;
  int64_t n;
  int64_t k;  // may be 0
  bool transpose_a;
  bool transpose_b;
};

struct EmbeddingParams {
  Tensor weight;  // [V, K]
  Tensor ids;     // int32 [M]; out of range: Context::fail
  Tensor out;     // [M, K]
  int64_t rows;
  int64_t cols;
  int64_t vocabulary;
};

struct EmbeddingBackwardParams {
  Tensor d_out;     // [M, K]
  Tensor ids;       // int32 [M]
  Tensor d_weight;  // [V, K], rows no id names get 0
  int64_t rows;
  int64_t cols;
  int64_t vocabulary;
};

struct RmsNormParams {
  Tensor x;         // [M, K]
  Tensor residual;  // [M, K], optional
  Tensor sum;       // [M, K], absent exactly if residual is
  Tensor weight;    // [K], optional
  Tensor out;       // [M, K]
  Tensor rstd;      // float32 [M]
  int64_t rows;
  int64_t cols;
  double eps;
};

struct RmsNormBackwardParams {
  Tensor d_out;     // [M, K]
  Tensor d_sum;     // [M, K], optional
  Tensor x;         // what was normalised: x, or sum if there was a residual
  Tensor weight;    // [K], optional
  Tensor rstd;      // float32 [M]
  Tensor d_x;       // [M, K]
  Tensor d_weight;  // [K], absent exactly if weight is
  int64_t rows;
  int64_t cols;
};

struct LayerNormParams {
  Tensor x;         // [M, K]
  Tensor residual;  // [M, K], optional
  Tensor sum;       // [M, K], absent exactly if residual is
  Tensor weight;    // [K], optional
  Tensor bias;      // [K], optional
  Tensor out;       // [M, K]
  Tensor mean;      // float32 [M]
  Tensor rstd;      // float32 [M]
  int64_t rows;
  int64_t cols;
  double eps;
};

struct LayerNormBackwardParams {
  Tensor d_out;     // [M, K]
  Tensor d_sum;     // [M, K], optional
  Tensor x;         // what was normalised: x, or sum if there was a residual
  Tensor weight;    // [K], optional
  Tensor mean;      // float32 [M]
  Tensor rstd;      // float32 [M]
  Tensor d_x;       // [M, K]
  Tensor d_weight;  // [K], absent exactly if weight is
  Tensor d_bias;    // [K], optional
  int64_t rows;
  int64_t cols;
};

struct RopeParams {
  Tensor x;          // [tokens, heads, head_dim]
  Tensor positions;  // int32 [tokens]
  Tensor out;
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;
  int64_t pairs;  // rotary_dim / 2
  double frequencies[MAX_ROPE_PAIRS];
  bool interleaved;
  bool inverse;
};

enum class GatedActivation : uint8_t { SWIGLU, RELU2_GLU, GEGLU, GEGLU_TANH };
struct GatedActivationParams {
  GatedActivation kind;
  Tensor gate;
  Tensor up;
  Tensor out;
};

struct GatedActivationBackwardParams {
  GatedActivation kind;
  Tensor d_out;
  Tensor gate;
  Tensor up;
  Tensor d_gate;
  Tensor d_up;
};

enum class Reduction : uint8_t { MEAN, SUM, NONE };
struct CrossEntropyRule {
  int32_t ignore_index;
  Reduction reduction;
  double label_smoothing;  // 0 to 1
  double z_loss;           // at least 0
  double softcap;          // at least 0; 0: none
};

struct CrossEntropyParams {
  CrossEntropyRule rule;
  Tensor logits;      // [M, V]
  Tensor targets;     // int32 [M]; out of range and not ignore_index: Context::fail
  Tensor loss;        // float32 [1], [M] without a reduction
  Tensor count;       // float32 [1]
  Tensor statistics;  // float32 [M, 2]
  int64_t rows;
  int64_t cols;
};

struct CrossEntropyBackwardParams {
  CrossEntropyRule rule;
  Tensor logits;
  Tensor targets;
  Tensor count;
  Tensor statistics;
  Tensor d_loss;    // like loss
  Tensor d_logits;  // [M, V]
  int64_t rows;
  int64_t cols;
};

// The logits are met in blocks of block_rows x block_cols.
constexpr int64_t LOSS_ROW_FLOATS = 8;  // that the workspace holds for each row of a block beside its logits
struct LinearCrossEntropyShape {
  int64_t rows;
  int64_t vocabulary;
  int64_t features;
  int64_t block_rows;
  int64_t block_cols;
};

struct LinearCrossEntropyParams {
  CrossEntropyRule rule;
  LinearCrossEntropyShape shape;
  Tensor x;           // [M, K]
  Tensor weight;      // [V, K]
  Tensor bias;        // [V], optional
  Tensor targets;     // int32 [M]
  Tensor loss;        // float32 [1], [M] without a reduction
  Tensor count;       // float32 [1]
  Tensor statistics;  // float32 [M, 2]
  Tensor workspace;   // float32 [block_rows * (block_cols + LOSS_ROW_FLOATS)]
};

struct LinearCrossEntropyBackwardParams {
  CrossEntropyRule rule;
  LinearCrossEntropyShape shape;
  Tensor x;
  Tensor weight;
  Tensor bias;
  Tensor targets;
  Tensor count;
  Tensor statistics;
  Tensor d_loss;        // like loss
  Tensor d_x;           // [M, K], optional
  Tensor d_weight;      // [V, K], optional
  Tensor d_bias;        // [V], optional
  Tensor workspace;     // as for the forward pass
  Tensor d_x_sum;       // float32 [M, K], workspace, optional
  Tensor d_weight_sum;  // float32 [block_cols, K], workspace, optional
  Tensor d_bias_sum;    // float32 [block_cols], workspace, optional
};

enum class TernaryMethod : uint8_t { ABSMEAN, TWN, PERCENTILE, MEAN_STD, THRESHOLD };
struct QuantizeTernaryParams {
  Tensor weight;  // [N, K]
  Tensor packed;  // uint8 [N, ceil(K/4)]
  Tensor scale;   // float32 [1] or [N]
  TernaryMethod method;
  double parameter;
  int64_t rows;
  int64_t cols;
};

struct DequantizeTernaryParams {
  Tensor packed;
  Tensor scale;  // float32 [1] or [N]
  Tensor out;    // [N, K]
  int64_t rows;
  int64_t cols;
};

struct QuantizeActivationsParams {
  Tensor x;       // [M, K]
  Tensor codes;   // int8 [M, K rounded up to 64], in the device's order
  Tensor scales;  // float32 [M]
  int64_t rows;
  int64_t cols;
};

struct TernaryProduct {
  Tensor packed;        // uint8 [N, ceil(K/4)]
  Tensor weight_scale;  // float32 [1] or [N]
  Tensor bias;          // [N], optional
  Tensor out;           // [M, N]
  int64_t n;
};

struct TernaryMatmulInt8Params {
  Tensor codes;              // int8, as of quantize_activations
  Tensor activation_scales;  // float32 [M]
  Tensor packed;             // uint8 [N, ceil(K/4)]
  Tensor weight_scale;       // float32 [1] or [N]
  Tensor bias;               // [N], optional
  Tensor out;                // [M, N]
  int64_t m;
  int64_t n;
  int64_t k;
  // Further products with the same codes, whose outputs have the same dtype.
  const TernaryProduct* also = nullptr;
  size_t also_count = 0;

  TernaryMatmulInt8Params with(const TernaryProduct& other) const {
    return {codes, activation_scales, other.packed, other.weight_scale, other.bias, other.out, m, other.n, k};
  }
};

struct TernaryMatmulParams {
  Tensor x;  // [M, K] float
  Tensor packed;
  Tensor weight_scale;
  Tensor bias;
  Tensor out;  // [M, N]
  int64_t m;
  int64_t n;
  int64_t k;
};

struct TernaryMatmulBackwardParams {
  Tensor d_out;  // [M, N]
  Tensor packed;
  Tensor weight_scale;
  Tensor d_x;  // [M, K]
  int64_t m;
  int64_t n;
  int64_t k;
};

struct BitLinearWeightBackwardParams {
  Tensor d_out;              // [M, N]
  Tensor codes;              // int8, as of quantize_activations
  Tensor activation_scales;  // float32 [M]
  Tensor d_weight;           // [N, K]
  int64_t m;
  int64_t n;
  int64_t k;
};

struct KeyPages {
  Tensor table;  // int32 [B, per_entry], page of tokens [p * size, (p + 1) * size) or -1; null data: there are no pages
  int64_t per_entry;
  int64_t size;  // a multiple of 16
  int64_t count;
};

struct AttentionShape {
  int64_t batch;
  int64_t queries;  // of the longest sequence, as are keys
  int64_t keys;     // may be 0
  int64_t heads;
  int64_t key_heads;
  int64_t head_dim;      // 1..256
  int64_t key_capacity;  // rows of k and v per batch entry, if not packed
  Tensor cu_seqlens;     // int32 [2, B + 1], optional: packed sequences; then [total, ...] instead of [B, S, ...]
  int64_t total_queries;
  int64_t total_keys;
  Tensor held_keys;  // int32 [B], optional: entry b has held_keys[b] + added_keys keys, at most `keys`
  int64_t added_keys;
  KeyPages pages;  // optional: k and v are [count, size, G, D], of which key_capacity = per_entry * size are an entry's
  double scale;
  double softcap;        // 0: none
  Tensor alibi_slopes;   // float32 [H] or [B, H], optional
  bool alibi_per_batch;  // [B, H]
  bool top_left;
  int64_t window_left;  // -1: unlimited
  int64_t window_right;
  Tensor sinks;  // [H], float32 or the dtype of q, optional
  DropoutMask dropout;
};

struct FlashAttentionParams {
  AttentionShape shape;
  Tensor q;             // [B, Sq, H, D]
  Tensor k;             // [B, key_capacity, G, D], of any float dtype or int8
  Tensor v;             // as k
  Tensor key_scales;    // float32 [rows of k, G], exactly if k is int8
  Tensor value_scales;  // float32 [rows of v, G]
  Tensor out;           // [B, Sq, H, D]
  Tensor lse;           // float32 [B, H, Sq], or [H, total_queries]
};

struct FlashAttentionBackwardParams {
  AttentionShape shape;
  Tensor q;
  Tensor k;
  Tensor v;
  Tensor out;
  Tensor lse;
  Tensor d_out;
  Tensor d_lse;  // float32 [B, H, Sq], optional
  Tensor d_q;    // [B, Sq, H, D]
  Tensor d_k;    // [B, Sk, G, D]
  Tensor d_v;
  Tensor d_sinks;  // [H], dtype of sinks; optional like them
  Tensor delta;    // float32 [B, H, Sq], workspace
  bool deterministic;
};

struct MergeAttentionStatesParams {
  Tensor out_a;  // [B, S, H, D]
  Tensor lse_a;  // float32 [B, H, S]
  Tensor out_b;
  Tensor lse_b;
  Tensor out;  // [B, S, H, D]
  Tensor lse;  // float32 [B, H, S]
  int64_t batch;
  int64_t queries;
  int64_t heads;
  int64_t head_dim;
};

struct MergeAttentionStatesBackwardParams {
  Tensor out_a;
  Tensor lse_a;
  Tensor out_b;
  Tensor lse_b;
  Tensor d_out;  // [B, S, H, D]
  Tensor d_lse;  // float32 [B, H, S], optional
  Tensor d_out_a;
  Tensor d_lse_a;
  Tensor d_out_b;
  Tensor d_lse_b;
  int64_t batch;
  int64_t queries;
  int64_t heads;
  int64_t head_dim;
};

struct KvCacheAppendParams {
  Tensor x;       // [B, S, row_size]
  Tensor cache;   // [B, capacity, row_size], or [pages.count, pages.size, row_size]
  Tensor scales;  // float32 [rows of the cache, row_size / head_dim], exactly if the cache is int8 and x is not
  int64_t batch;
  int64_t rows;
  int64_t row_size;
  int64_t head_dim;
  int64_t capacity;
  KeyPages pages;
  int64_t position;
  Tensor positions;  // int32 [B], optional: in place of position
};

struct AdamWParams {
  size_t count;
  const Tensor* parameters;
  const Tensor* masters;         // float32, each optional
  const Tensor* gradients;       // float32 or the dtype of the parameter
  const Tensor* first_moments;   // float32
  const Tensor* second_moments;  // float32
  const double* weight_decays;
  Tensor coefficient;  // float32 [1], optional
  double learning_rate;
  double beta1;
  double beta2;
  double eps;
  int64_t step;  // 1 for the first
};

struct GlobalNormParams {
  size_t count;
  const Tensor* tensors;
  Tensor norm;         // float32 [1]
  Tensor coefficient;  // float32 [1]
  double max_norm;     // may be infinite
  double factor;
};

}  // namespace ternflash

// Every op of the contract, once: X(name_in_cpp, nameInTypeScript, ParamsStruct). The dispatch table of the CPU kernels
// and the table of exported names are made from this list, so neither can miss one.
#define TERNFLASH_OPS(X)                                                                                 \
  X(fill, "fill", FillParams)                                                                            \
  X(cast, "cast", CastParams)                                                                            \
  X(transpose, "transpose", TransposeParams)                                                             \
  X(binary, "binary", BinaryParams)                                                                      \
  X(scale, "scale", ScaleParams)                                                                         \
  X(sum, "sum", SumParams)                                                                               \
  X(softmax, "softmax", SoftmaxParams)                                                                   \
  X(softmax_backward, "softmaxBackward", SoftmaxBackwardParams)                                          \
  X(argmax, "argmax", ArgmaxParams)                                                                      \
  X(matmul, "matmul", MatmulParams)                                                                      \
  X(embedding, "embedding", EmbeddingParams)                                                             \
  X(embedding_backward, "embeddingBackward", EmbeddingBackwardParams)                                    \
  X(rms_norm, "rmsNorm", RmsNormParams)                                                                  \
  X(rms_norm_backward, "rmsNormBackward", RmsNormBackwardParams)                                         \
  X(layer_norm, "layerNorm", LayerNormParams)                                                            \
  X(layer_norm_backward, "layerNormBackward", LayerNormBackwardParams)                                   \
  X(dropout, "dropout", DropoutParams)                                                                   \
  X(rope, "rope", RopeParams)                                                                            \
  X(gated_activation, "gatedActivation", GatedActivationParams)                                          \
  X(gated_activation_backward, "gatedActivationBackward", GatedActivationBackwardParams)                 \
  X(cross_entropy, "crossEntropy", CrossEntropyParams)                                                   \
  X(cross_entropy_backward, "crossEntropyBackward", CrossEntropyBackwardParams)                          \
  X(quantize_ternary, "quantizeTernary", QuantizeTernaryParams)                                          \
  X(dequantize_ternary, "dequantizeTernary", DequantizeTernaryParams)                                    \
  X(quantize_activations, "quantizeActivations", QuantizeActivationsParams)                              \
  X(ternary_matmul_int8, "ternaryMatmulInt8", TernaryMatmulInt8Params)                                   \
  X(ternary_matmul, "ternaryMatmul", TernaryMatmulParams)                                                \
  X(ternary_matmul_backward, "ternaryMatmulBackward", TernaryMatmulBackwardParams)                       \
  X(bit_linear_weight_backward, "bitLinearWeightBackward", BitLinearWeightBackwardParams)                \
  X(flash_attention, "flashAttention", FlashAttentionParams)                                             \
  X(flash_attention_backward, "flashAttentionBackward", FlashAttentionBackwardParams)                    \
  X(kv_cache_append, "kvCacheAppend", KvCacheAppendParams)                                               \
  X(adamw, "adamw", AdamWParams)                                                                         \
  X(linear_cross_entropy, "linearCrossEntropy", LinearCrossEntropyParams)                                \
  X(linear_cross_entropy_backward, "linearCrossEntropyBackward", LinearCrossEntropyBackwardParams)       \
  X(merge_attention_states, "mergeAttentionStates", MergeAttentionStatesParams)                          \
  X(merge_attention_states_backward, "mergeAttentionStatesBackward", MergeAttentionStatesBackwardParams) \
  X(global_norm, "globalNorm", GlobalNormParams)

#endif  // TERNFLASH_BINDING_OPS_H_
