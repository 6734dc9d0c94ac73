// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Where a batch entry lies, which keys a block of queries sees, and what happens to a score on its way to the softmax.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_SCORE_H_
#define TERNFLASH_CUDA_FLASH_ATTENTION_SCORE_H_

#include "../philox.h"
#include "../ptx.h"
#include "arguments.h"

namespace ternflash::cuda {

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// One (batch entry, head): sizes, the diagonal, and the first row of each tensor.
struct Problem {
  int queries;
  int keys;
  int diagonal;  // query i sees keys i + diagonal - window_left .. i + diagonal + window_right
  int64_t q_start;
  int64_t k_start;
  int64_t lse_start;
  int64_t drop_row;  // of query 0, see lib/backend.ts

  __device__ Problem(const AttentionArguments& args, int batch, int head) {
    const int first_query = args.query_starts ? args.query_starts[batch] : 0;
    const int first_key = args.key_starts ? args.key_starts[batch] : 0;
    queries = args.query_starts ? args.query_starts[batch + 1] - first_query : args.queries;
    keys = args.key_starts  ? args.key_starts[batch + 1] - first_key
           : args.held_keys ? max(0, min(args.held_keys[batch] + args.added_keys, args.keys))
                            : args.keys;
    diagonal = args.top_left ? 0 : keys - queries;
    q_start = batch * args.query_batch + int64_t(first_query) * args.query_row + int64_t(head) * args.head_dim;
    k_start = batch * args.key_batch + int64_t(first_key) * args.key_row +
              int64_t(head / args.heads_per_key_head) * args.head_dim;
    lse_start = batch * args.lse_batch + head * args.lse_head + first_query;
    drop_row = lse_start;
  }

  // Keys that some query of rows first..last sees: [begin, end).
  __device__ int keys_begin(const AttentionArguments& args, int first) const {
    return args.window_left < 0 ? 0 : max(0, min(keys, first + diagonal - args.window_left));
  }
  __device__ int keys_end(const AttentionArguments& args, int last) const {
    return args.window_right < 0 ? keys : max(0, min(keys, last + diagonal + args.window_right + 1));
  }
  // Queries that see some key of first..last: [begin, end).
  __device__ int queries_begin(const AttentionArguments& args, int first) const {
    return args.window_right < 0 ? 0 : max(0, min(queries, first - diagonal - args.window_right));
  }
  __device__ int queries_end(const AttentionArguments& args, int last) const {
    return args.window_left < 0 ? queries : max(0, min(queries, last - diagonal + args.window_left + 1));
  }
  // Whether every query of rows first_query..last_query sees every key of first_key..last_key.
  __device__ bool all_seen(const AttentionArguments& args, int first_query, int last_query, int first_key,
                           int last_key) const {
    return last_key < keys && (args.window_right < 0 || last_key <= first_query + diagonal + args.window_right) &&
           (args.window_left < 0 || first_key >= last_query + diagonal - args.window_left);
  }
};

// The slope of ALiBi, in the base-2 exponent.
__device__ __forceinline__ float slope_log2(const AttentionArguments& args, int batch, int head) {
  return args.slopes ? args.slopes[batch * args.slope_batch + head] * LOG2_E : 0.0f;
}

// A product q k -> the exponent of 2 of its softmax weight. distance = i + diagonal - j.
__device__ __forceinline__ float score_log2(const AttentionArguments& args, float product, float slope, int distance) {
  float score = args.softcap > 0.0f ? args.softcap * LOG2_E * tanhf(product * args.to_softcap)
                                    : product * args.scale_log2;
  return score - slope * static_cast<float>(abs(distance));
}

template <class T>
__device__ __forceinline__ float sink_log2(const AttentionArguments& args, int head) {
  const float sink = args.sinks_float32 ? static_cast<const float*>(args.sinks)[head]
                                        : static_cast<float>(static_cast<const T*>(args.sinks)[head]);
  return sink * LOG2_E;
}

// Dropout: the eight numbers a thread needs for the keys it holds of 32 in the layout of mma's accumulator, which are columns
// 8t + 2 pair and the next, t = 0..3. The number of key 8t + 2 pair + e is half e of word t.
__device__ __forceinline__ uint4 drop_numbers(const AttentionArguments& args, int64_t row, int key_group, int pair) {
  return philox(args.drop_offset + static_cast<uint64_t>((row * args.drop_groups + key_group) * 4 + pair),
                args.drop_seed);
}

__device__ __forceinline__ bool dropped(const AttentionArguments& args, uint32_t word, int half) {
  return ((word >> (16 * half)) & 0xffff) < args.drop_threshold;
}

__device__ __forceinline__ uint32_t word_of(const uint4& block, int index) {
  return index == 0 ? block.x : index == 1 ? block.y : index == 2 ? block.z : block.w;
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_SCORE_H_
