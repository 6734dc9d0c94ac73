// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_TABLE_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_TABLE_CUH_

#include "forward.cuh"
#include "variants.h"

namespace ternflash::cuda {

template <class T, int D, int BM, int BN, int WARPS, int BLOCKS_PER_SM, bool GENERAL>
constexpr AttentionVariant<AttentionArguments> forward_variant() {
  return {D, !GENERAL, BM, WARPS * 32, (BM + 2 * BN) * D * 2,
          attention_forward<T, D, BM, BN, WARPS, BLOCKS_PER_SM, GENERAL>};
}

// Tiles tuned on an H100 for head dims 64 and 128 (docs/kernel-log.md); all fit into 99 KB of shared memory.
template <class T>
AttentionTable<AttentionArguments> forward_table() {
  static constexpr AttentionVariant<AttentionArguments> ROWS[] = {
      forward_variant<T, 64, 128, 128, 4, 2, false>(),  //
      forward_variant<T, 128, 128, 32, 4, 2, false>(),  //
      forward_variant<T, 256, 64, 64, 4, 1, false>(),   //
      forward_variant<T, 32, 128, 64, 4, 2, true>(),    //
      forward_variant<T, 64, 128, 64, 4, 2, true>(),    //
      forward_variant<T, 96, 64, 64, 4, 2, true>(),     //
      forward_variant<T, 128, 64, 64, 4, 2, true>(),    //
      forward_variant<T, 192, 64, 32, 4, 2, true>(),    //
      forward_variant<T, 256, 64, 32, 4, 1, true>(),    //
  };
  return {ROWS, sizeof(ROWS) / sizeof(ROWS[0])};
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_TABLE_CUH_
