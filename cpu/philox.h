// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the numbers of lib/random.ts.

#ifndef TERNFLASH_CPU_PHILOX_H_
#define TERNFLASH_CPU_PHILOX_H_

#include <stdint.h>

namespace {

// The `count` blocks that begin at `counter`, four words each.
void philox(uint32_t* words, uint64_t counter, int64_t count, uint64_t seed) {
  constexpr uint64_t MULTIPLIER_0 = 0xd2511f53;
  constexpr uint64_t MULTIPLIER_1 = 0xcd9e8d57;
  constexpr uint32_t WEYL_0 = 0x9e3779b9;
  constexpr uint32_t WEYL_1 = 0xbb67ae85;
  constexpr int ROUNDS = 10;
  for (int64_t block = 0; block < count; block++) {
    uint32_t c0 = static_cast<uint32_t>(counter + static_cast<uint64_t>(block));
    uint32_t c1 = static_cast<uint32_t>((counter + static_cast<uint64_t>(block)) >> 32);
    uint32_t c2 = 0;
    uint32_t c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed);
    uint32_t k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
      const uint64_t product0 = MULTIPLIER_0 * c0;
      const uint64_t product1 = MULTIPLIER_1 * c2;
      c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
      c1 = static_cast<uint32_t>(product1);
      c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
      c3 = static_cast<uint32_t>(product0);
      k0 += WEYL_0;
      k1 += WEYL_1;
    }
    words[4 * block] = c0;
    words[4 * block + 1] = c1;
    words[4 * block + 2] = c2;
    words[4 * block + 3] = c3;
  }
}

}  // namespace

#endif  // TERNFLASH_CPU_PHILOX_H_
