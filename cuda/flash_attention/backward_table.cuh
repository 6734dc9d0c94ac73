// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_TABLE_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_TABLE_CUH_

#include "backward.cuh"
#include "backward_queries.cuh"
#include "variants.h"

namespace ternflash::cuda {

template <class T, int D, int BM, int BN, int SIDES, int STAGES, int BLOCKS_PER_SM, bool WRITES_DQ, bool GENERAL>
constexpr AttentionVariant<AttentionBackwardArguments> backward_variant() {
  return {D, !GENERAL, BN, BN * SIDES, attention_backward_shared_bytes<D, BM, BN, STAGES>(),
          attention_backward<T, D, BM, BN, SIDES, STAGES, BLOCKS_PER_SM, WRITES_DQ, GENERAL>};
}

// Tiles tuned on an H100 for head dims 64 and 128 (docs/kernel-log.md). Rows for head dims above 128 need more shared memory than GPUs of compute
// capability 8.6 and 8.9 have; these go without tensor cores there.
template <class T, bool WRITES_DQ>
AttentionTable<AttentionBackwardArguments> backward_table() {
  static constexpr AttentionVariant<AttentionBackwardArguments> ROWS[] = {
      backward_variant<T, 64, 64, 64, 2, 2, 3, WRITES_DQ, false>(),    //
      backward_variant<T, 128, 64, 128, 2, 2, 1, WRITES_DQ, false>(),  //
      backward_variant<T, 128, 64, 128, 2, 1, 1, WRITES_DQ, false>(),  // with less shared memory
      backward_variant<T, 32, 64, 128, 2, 1, 1, WRITES_DQ, true>(),    //
      backward_variant<T, 64, 64, 64, 2, 1, 2, WRITES_DQ, true>(),     //
      backward_variant<T, 96, 32, 64, 2, 1, 2, WRITES_DQ, true>(),     //
      backward_variant<T, 128, 64, 64, 4, 1, 1, WRITES_DQ, true>(),    //
      backward_variant<T, 192, 64, 64, 4, 1, 1, WRITES_DQ, true>(),    //
      backward_variant<T, 256, 64, 64, 4, 1, 1, WRITES_DQ, true>(),    //
  };
  return {ROWS, sizeof(ROWS) / sizeof(ROWS[0])};
}

template <class T, int D, int STAGES, int BLOCKS_PER_SM, bool GENERAL>
constexpr AttentionVariant<AttentionBackwardArguments> backward_queries_variant() {
  constexpr int BN = 32;
  constexpr int WARPS = 4;
  return {D, !GENERAL, 16 * WARPS, 32 * WARPS, attention_backward_queries_shared_bytes<D, BN, WARPS, STAGES>(),
          attention_backward_queries<T, D, BN, WARPS, STAGES, BLOCKS_PER_SM, GENERAL>};
}

template <class T>
AttentionTable<AttentionBackwardArguments> backward_queries_table() {
  static constexpr AttentionVariant<AttentionBackwardArguments> ROWS[] = {
      backward_queries_variant<T, 64, 2, 3, false>(),   //
      backward_queries_variant<T, 128, 2, 2, false>(),  //
      backward_queries_variant<T, 32, 2, 3, true>(),    //
      backward_queries_variant<T, 64, 2, 3, true>(),    //
      backward_queries_variant<T, 96, 2, 2, true>(),    //
      backward_queries_variant<T, 128, 2, 2, true>(),   //
      backward_queries_variant<T, 192, 1, 1, true>(),   //
      backward_queries_variant<T, 256, 1, 1, true>(),   //
  };
  return {ROWS, sizeof(ROWS) / sizeof(ROWS[0])};
}

template <class T>
cudaError_t launch_backward_finish(const AttentionBackwardArguments& args, int width, cudaStream_t stream) {
  const auto go = [&](auto kernel) {
    const dim3 grid(((args.queries + 15) / 16 * (width / 8) + 7) / 8, args.heads, args.batch);
    kernel<<<grid, 256, 0, stream>>>(args);
    return cudaGetLastError();
  };
  switch (width) {
    case 32:
      return go(attention_backward_finish<T, 32>);
    case 64:
      return go(attention_backward_finish<T, 64>);
    case 96:
      return go(attention_backward_finish<T, 96>);
    case 128:
      return go(attention_backward_finish<T, 128>);
    case 192:
      return go(attention_backward_finish<T, 192>);
    default:
      return go(attention_backward_finish<T, 256>);
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_TABLE_CUH_
