// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_TABLE_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_TABLE_CUH_

#include "forward_hopper.cuh"
#include "forward_hopper.h"

namespace ternflash::cuda {

template <class T, int D, int WARPGROUPS, int KEYS, int STAGES, bool OVERLAPS_TILES, int SIDES, bool SOFTCAP = false>
constexpr HopperForwardVariant hopper_variant(int longest = INT_MAX) {
  using Tiling = HopperTiling<D, WARPGROUPS, KEYS, STAGES, OVERLAPS_TILES>;
  return {SIDES,         SOFTCAP,
          longest,       Tiling::QUERIES,
          KEYS,          Tiling::THREADS,
          Tiling::BYTES, attention_forward_hopper<T, D, WARPGROUPS, KEYS, STAGES, OVERLAPS_TILES, SIDES, SOFTCAP>};
}

template <int COUNT>
HopperForwardTable hopper_table(const HopperForwardVariant (&rows)[COUNT]) {
  return {rows, COUNT};
}

// Tiles tuned on an H100 (docs/kernel-log.md).
template <class T, int D>
HopperForwardTable hopper_forward_table() {
  if constexpr (D == 64) {
    static constexpr HopperForwardVariant ROWS[] = {
        hopper_variant<T, D, 3, 128, 3, true, 0>(),         //
        hopper_variant<T, D, 3, 128, 3, true, 1>(),         //
        hopper_variant<T, D, 2, 128, 6, false, 2>(),        //
        hopper_variant<T, D, 2, 128, 6, false, 2, true>(),  //
    };
    return hopper_table(ROWS);
  } else if constexpr (D == 128) {
    static constexpr HopperForwardVariant ROWS[] = {
        hopper_variant<T, D, 2, 128, 2, true, 0>(3072),     //
        hopper_variant<T, D, 2, 160, 2, true, 0>(),         //
        hopper_variant<T, D, 2, 128, 3, false, 1>(768),     //
        hopper_variant<T, D, 2, 128, 2, true, 1>(),         //
        hopper_variant<T, D, 2, 128, 3, false, 2>(),        //
        hopper_variant<T, D, 2, 128, 3, false, 2, true>(),  //
    };
    return hopper_table(ROWS);
  } else if constexpr (D == 256) {
    static constexpr HopperForwardVariant ROWS[] = {
        hopper_variant<T, D, 2, 80, 2, false, 0>(),        //
        hopper_variant<T, D, 2, 64, 2, false, 1>(768),     //
        hopper_variant<T, D, 2, 80, 2, false, 1>(),        //
        hopper_variant<T, D, 2, 80, 2, false, 2>(),        //
        hopper_variant<T, D, 2, 64, 2, false, 2, true>(),  //
    };
    return hopper_table(ROWS);
  } else if constexpr (D == 96) {
    static constexpr HopperForwardVariant ROWS[] = {
        hopper_variant<T, D, 2, 128, 2, true, 0>(),         //
        hopper_variant<T, D, 2, 128, 3, false, 1>(),        //
        hopper_variant<T, D, 2, 128, 3, false, 2>(),        //
        hopper_variant<T, D, 2, 128, 3, false, 2, true>(),  //
    };
    return hopper_table(ROWS);
  } else {
    static constexpr HopperForwardVariant ROWS[] = {
        hopper_variant<T, D, 2, 112, 2, false, 0>(),        //
        hopper_variant<T, D, 2, 112, 2, false, 1>(),        //
        hopper_variant<T, D, 2, 112, 2, false, 2>(),        //
        hopper_variant<T, D, 2, 112, 2, false, 2, true>(),  //
    };
    return hopper_table(ROWS);
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_HOPPER_TABLE_CUH_
