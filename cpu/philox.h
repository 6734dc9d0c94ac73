// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the numbers of lib/random.ts.
// A vector holds one word of several blocks, each in the low half of a 64-bit lane: the widening multiplication of
// every processor reads the low halves and fills whole lanes, so that high and low words of a product need no shuffle.

#ifndef TERNFLASH_CPU_PHILOX_H_
#define TERNFLASH_CPU_PHILOX_H_

#include <stdint.h>

#include "simd.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace {

typedef uint64_t VecWide __attribute__((vector_size(VECTOR_BYTES)));
constexpr int64_t PHILOX_BLOCKS = VECTOR_BYTES / 8;  // of a vector

// The low halves' product. What the high halves hold is of no account.
TERNFLASH_INLINE VecWide multiply_low_halves(VecWide a, uint64_t b) {
#if defined(__AVX512F__)
  // The zeroing form: the plain one names a register that nobody has set, of which GCC warns.
  return VecWide(_mm512_maskz_mul_epu32(0xff, __m512i(a), _mm512_set1_epi64(int64_t(b))));
#elif defined(__AVX2__)
  return VecWide(_mm256_mul_epu32(__m256i(a), _mm256_set1_epi64x(int64_t(b))));
#elif defined(__x86_64__) || defined(_M_X64)
  return VecWide(_mm_mul_epu32(__m128i(a), _mm_set1_epi64x(int64_t(b))));
#else
  return (a & 0xffffffffu) * b;
#endif
}

// The `count` blocks that begin at `counter`, four words each.
TERNFLASH_INLINE void philox(uint32_t* words, uint64_t counter, int64_t count, uint64_t seed) {
  constexpr uint64_t MULTIPLIER_0 = 0xd2511f53;
  constexpr uint64_t MULTIPLIER_1 = 0xcd9e8d57;
  constexpr uint32_t WEYL_0 = 0x9e3779b9;
  constexpr uint32_t WEYL_1 = 0xbb67ae85;
  constexpr int ROUNDS = 10;
  for (int64_t block = 0; block < count; block += PHILOX_BLOCKS) {
    VecWide c0;
    for (int64_t lane = 0; lane < PHILOX_BLOCKS; lane++) c0[lane] = counter + uint64_t(block + lane);
    // c0 and c2 are only multiplied, and c1 and c3 only added to them: nobody reads a high half before the end.
    VecWide c1 = c0 >> 32, c2 = {}, c3 = {};
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    TERNFLASH_UNROLL
    for (int round = 0; round < ROUNDS; round++) {
      const VecWide product0 = multiply_low_halves(c0, MULTIPLIER_0);
      const VecWide product1 = multiply_low_halves(c2, MULTIPLIER_1);
      c0 = (product1 >> 32) ^ c1 ^ uint64_t(k0);
      c1 = product1;
      c2 = (product0 >> 32) ^ c3 ^ uint64_t(k1);
      c3 = product0;
      k0 += WEYL_0;
      k1 += WEYL_1;
    }
    const VecWide first = (c0 & 0xffffffffu) | (c1 << 32), second = (c2 & 0xffffffffu) | (c3 << 32);
    uint64_t pairs[2 * PHILOX_BLOCKS];
    for (int64_t lane = 0; lane < PHILOX_BLOCKS; lane++) {
      pairs[2 * lane] = first[lane];
      pairs[2 * lane + 1] = second[lane];
    }
    __builtin_memcpy(words + 4 * block, pairs, size_t(16 * min64(PHILOX_BLOCKS, count - block)));
  }
}

}  // namespace

#endif  // TERNFLASH_CPU_PHILOX_H_
