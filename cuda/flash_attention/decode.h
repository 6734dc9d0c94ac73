// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention of few queries over many keys, see decode.cuh.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_H_
#define TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_H_

#include "../context.h"
#include "arguments.h"

namespace ternflash::cuda {

// What the kernel takes. More queries are work enough for the kernels that have a tile of them, more rows would read
// the keys too often.
constexpr int MAX_DECODE_BATCH = 512;
constexpr int MAX_DECODE_QUERIES = 16;
constexpr int MAX_DECODE_ROWS = 128;

struct RowState;

struct DecodeArguments : AttentionArguments {
  int rows;             // of a key head: queries * heads_per_key_head
  int row_tiles;        // units of a key head
  int units_per_entry;  // and of a batch entry
  int lanes;  // units of an entry that blocks beside each other take at the same time; divides units_per_entry
  // [2 * blocks, 16] and [2 * blocks, 16, D]: what blocks leave of units that they share with others
  RowState* part_states;
  float* part_sums;
  int* tickets;  // [blocks] zeros, which the kernel leaves zeros: how many parts of a unit are there, by the block that
                 // begins it
  FailureRecord* failure;
  uint32_t failure_code;  // of lengths that do not fit
};

struct DecodeVariant {
  int head_dim;
  int chunk_keys;
  int threads;
  int shared_bytes;  // dynamic
  int block_bytes;   // all shared memory
  int blocks_per_multiprocessor;
  void (*kernel)(DecodeArguments);
};

// The most chunks that the keys of all units can be.
inline int64_t decode_chunks(const DecodeVariant& variant, const AttentionArguments& args) {
  const int64_t row_tiles = (int64_t(args.queries) * args.heads_per_key_head + 15) / 16;
  const int64_t chunks = args.keys > 0 ? (int64_t(args.keys) + variant.chunk_keys - 1) / variant.chunk_keys : 1;
  return args.batch * (args.heads / args.heads_per_key_head) * row_tiles * chunks;
}

// The kernel for such a call on 16-bit floats, sequences not packed, or null if there is none.
template <class T>
const DecodeVariant* choose_decode(const AttentionArguments& args, const DeviceProperties& device);
// Reports lengths that do not fit as it goes.
template <class T>
void launch_decode(const DecodeVariant& variant, const AttentionArguments& args, uint32_t failure_code,
                   Context& context);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_H_
