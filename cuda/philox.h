// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Philox 4x32-10 (Salmon et al., SC 2011): the numbers of lib/random.ts.

#ifndef TERNFLASH_CUDA_PHILOX_H_
#define TERNFLASH_CUDA_PHILOX_H_

#include <stdint.h>

namespace ternflash::cuda {

__device__ __forceinline__ uint4 philox(uint64_t counter, uint64_t seed) {
  constexpr uint32_t MULTIPLIER_0 = 0xd2511f53;
  constexpr uint32_t MULTIPLIER_1 = 0xcd9e8d57;
  uint4 c = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  uint32_t k0 = static_cast<uint32_t>(seed);
  uint32_t k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint32_t high0 = __umulhi(MULTIPLIER_0, c.x);
    const uint32_t low0 = MULTIPLIER_0 * c.x;
    const uint32_t high1 = __umulhi(MULTIPLIER_1, c.z);
    const uint32_t low1 = MULTIPLIER_1 * c.z;
    c = {high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0};
    k0 += 0x9e3779b9;
    k1 += 0xbb67ae85;
  }
  return c;
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_PHILOX_H_
