// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What the attention kernels are launched with.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_ARGUMENTS_H_
#define TERNFLASH_CUDA_FLASH_ATTENTION_ARGUMENTS_H_

#include <stdint.h>

namespace ternflash::cuda {

struct AttentionArguments {
  const void* q;  // [B, Sq, H, D], or [total, H, D] with query_starts
  const void* k;  // [B, key_capacity, G, D], or [total, G, D] with key_starts
  const void* v;
  void* out;   // as q
  float* lse;  // [B, H, Sq], or [H, total]

  const int* query_starts;  // [B + 1] or null: batch entry b has rows query_starts[b] .. query_starts[b + 1] - 1
  const int* key_starts;
  const int* held_keys;  // [B] or null: batch entry b has held_keys[b] + added_keys keys, 0 to `keys` of them
  int added_keys;
  int batch;
  int queries;  // the most of a batch entry
  int keys;
  int heads;
  int heads_per_key_head;
  int head_dim;
  int query_row;        // elements from one row of q to the next: H D
  int key_row;          // G D
  int64_t query_batch;  // elements from one batch entry to the next, 0 with query_starts
  int64_t key_batch;
  int64_t lse_head;   // floats from one head to the next in lse
  int64_t lse_batch;  // and from one batch entry to the next, 0 with query_starts

  float scale;
  float scale_log2;  // scale * log2(e)
  int window_left;   // -1: unlimited
  int window_right;
  bool top_left;

  float softcap;        // 0: none
  float to_softcap;     // scale / softcap
  const float* slopes;  // ALiBi, [H] or [B, H], or null
  int64_t slope_batch;  // 0 or H
  const void* sinks;    // [H] or null
  bool sinks_float32;   // else the dtype of q
  uint32_t drop_threshold;
  uint64_t drop_seed;
  uint64_t drop_offset;
  int64_t drop_groups;  // ceil(keys / 32)
};

struct AttentionBackwardArguments : AttentionArguments {
  const void* d_out;  // as out
  const float* delta;  // as lse: sum(out * d_out) of each query, less d_lse on tensor cores
  const float* base;   // as lse: what is subtracted from the exponent of 2, lse * log2(e), Infinity for a query without keys.
                       // Without tensor cores the largest score, with which a probability is exp(score - base) / sum
  const float* sum;   // as lse, without tensor cores only
  const float* d_lse;    // as lse, or null; without tensor cores only
  float* d_q_sums;     // workspace: sums for dQ, see backward.cuh; zero before
  void* d_q;             // as q
  void* d_k;           // as k
  void* d_v;
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_ARGUMENTS_H_
