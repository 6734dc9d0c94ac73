// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_TABLE_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_TABLE_CUH_

#include <algorithm>

#include "../early_launch.h"
#include "decode.cuh"

namespace ternflash::cuda {

template <class T, int D, int WARPS, int STAGES, int BLOCKS_PER_SM>
constexpr DecodeVariant decode_variant() {
  using Layout = DecodeLayout<D, WARPS, STAGES>;
  return {D,
          Layout::CHUNK_KEYS,
          Layout::THREADS,
          Layout::SHARED_BYTES,
          Layout::SHARED_BYTES + Layout::STATIC_BYTES,
          BLOCKS_PER_SM,
          attention_decode<T, D, WARPS, STAGES, BLOCKS_PER_SM>};
}

// For each head dim, the fastest on an H100 (docs/kernel-log.md), then one that fits into 99 KB of shared memory.
template <class T>
const DecodeVariant* choose_decode_of(const AttentionArguments& args, const DeviceProperties& device) {
  static constexpr DecodeVariant ROWS[] = {
      decode_variant<T, 64, 8, 6, 1>(),   //
      decode_variant<T, 64, 4, 6, 2>(),   //
      decode_variant<T, 96, 4, 3, 2>(),   //
      decode_variant<T, 128, 8, 3, 1>(),  //
      decode_variant<T, 128, 4, 3, 2>(),  //
      decode_variant<T, 192, 2, 3, 2>(),  //
      decode_variant<T, 256, 4, 3, 1>(),  //
      decode_variant<T, 256, 2, 2, 3>(),  //
  };
  const int rows = args.queries * args.heads_per_key_head;
  const bool takes = args.queries <= MAX_DECODE_QUERIES && rows <= MAX_DECODE_ROWS && args.batch <= MAX_DECODE_BATCH &&
                     args.drop_threshold == 0;
  if (!takes) return nullptr;
  for (const DecodeVariant& row : ROWS) {
    if (args.head_dim != row.head_dim || static_cast<size_t>(row.block_bytes) > device.shared_bytes_per_block) continue;
    // Products of chunks and blocks are 32-bit numbers in the kernel.
    const int64_t chunks = decode_chunks(row, args);
    if (chunks > 0 && (chunks + 1) * (MAX_TICKETS + 1) <= UINT32_MAX) return &row;
  }
  return nullptr;
}

template <class T>
void launch_decode_of(const DecodeVariant& variant, const AttentionArguments& attention, uint32_t failure_code,
                      Context& context) {
  DecodeArguments args{};
  static_cast<AttentionArguments&>(args) = attention;
  args.rows = args.queries * args.heads_per_key_head;
  args.row_tiles = (args.rows + DECODE_ROWS - 1) / DECODE_ROWS;
  args.units_per_entry = args.heads / args.heads_per_key_head * args.row_tiles;
  const auto check = [&](cudaError_t status) {
    if (status != cudaSuccess) context.fail(cudaGetErrorString(status));
    return status == cudaSuccess;
  };
  if (!check(cudaFuncSetAttribute(variant.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, variant.shared_bytes)))
    return;
  int resident = 0;
  if (!check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, variant.kernel, variant.threads,
                                                           variant.shared_bytes)))
    return;
  // As many as run at once, so that all have the same share; the same number whether or not the host knows the lengths,
  // and so the same sums.
  int64_t most = std::min<int64_t>(int64_t(context.device().multiprocessors) * std::max(resident, 1), MAX_TICKETS);
  // Blocks that go through the same rows of memory at the same time find them open; unless too many blocks were left
  // over.
  const int64_t rounded = most / args.units_per_entry * args.units_per_entry;
  args.lanes = rounded * 20 >= most * 19 ? args.units_per_entry : 1;
  if (args.lanes > 1) most = rounded;
  const int64_t blocks = std::min(most, decode_chunks(variant, args));
  args.part_states = static_cast<RowState*>(context.workspace(size_t(blocks) * 2 * DECODE_ROWS * sizeof(RowState)));
  args.part_sums =
      static_cast<float*>(context.workspace(size_t(blocks) * 2 * DECODE_ROWS * variant.head_dim * sizeof(float)));
  if (!args.part_states || !args.part_sums) return;
  args.tickets = context.tickets();
  args.failure = context.failure_record();
  args.failure_code = failure_code;
  launch_early(variant.kernel, static_cast<unsigned>(blocks), variant.threads, variant.shared_bytes, context, args);
  check(cudaGetLastError());
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_DECODE_TABLE_CUH_
