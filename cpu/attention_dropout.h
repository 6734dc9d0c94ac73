// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The probabilities that dropout keeps, found again whenever they are asked for: a bit each, 32 keys of a row in a
// word. lib/backend.ts, AttentionShape.dropout, says which number is whose. The rows lie along the lanes, each with the
// counter of its own blocks, so that a row's word is made without moving anything across lanes.

#ifndef TERNFLASH_CPU_ATTENTION_DROPOUT_H_
#define TERNFLASH_CPU_ATTENTION_DROPOUT_H_

#include "attention_rows.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace {

constexpr int KEEP_KEYS = 32;  // of a word; they take 4 blocks of Philox

typedef uint64_t VecUint64 __attribute__((vector_size(VECTOR_BYTES)));
constexpr int LANES64 = VECTOR_BYTES / 8;

// The product of the low halves of the lanes; compilers do not find the instruction by themselves.
TERNFLASH_INLINE VecUint64 multiply_low(VecUint64 a, uint32_t b) {
#if defined(__AVX512F__)
  return VecUint64(_mm512_maskz_mul_epu32(0xff, __m512i(a), _mm512_set1_epi64(b)));
#elif defined(__AVX2__)
  return VecUint64(_mm256_mul_epu32(__m256i(a), _mm256_set1_epi64x(b)));
#elif defined(__x86_64__) || defined(_M_X64)
  return VecUint64(_mm_mul_epu32(__m128i(a), _mm_set1_epi64x(b)));
#else
  return (a & 0xffffffffu) * b;
#endif
}

// Philox 4x32-10 of one counter a lane (lib/random.ts). The words are in the low halves; the high halves hold anything.
TERNFLASH_INLINE void philox_lanes(VecUint64 counter, uint64_t seed, VecUint64 words[4]) {
  constexpr uint32_t MULTIPLIER_0 = 0xd2511f53;
  constexpr uint32_t MULTIPLIER_1 = 0xcd9e8d57;
  constexpr uint32_t WEYL_0 = 0x9e3779b9;
  constexpr uint32_t WEYL_1 = 0xbb67ae85;
  constexpr int ROUNDS = 10;
  VecUint64 c0 = counter, c1 = counter >> 32, c2 = {}, c3 = {};
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  TERNFLASH_UNROLL
  for (int round = 0; round < ROUNDS; round++) {
    const VecUint64 product0 = multiply_low(c0, MULTIPLIER_0);
    const VecUint64 product1 = multiply_low(c2, MULTIPLIER_1);
    c0 = (product1 >> 32) ^ c1 ^ uint64_t(k0);
    c1 = product1;
    c2 = (product0 >> 32) ^ c3 ^ uint64_t(k1);
    c3 = product0;
    k0 += WEYL_0;
    k1 += WEYL_1;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// What the kept probabilities are multiplied by.
TERNFLASH_INLINE float keep_scale(const ternflash::AttentionShape& shape) {
  return float(65536.0 / (65536.0 - shape.dropout.threshold));
}

// keep[i] for packed rows row_begin + i, i < round_up(count, LANES): bit j tells of key KEEP_KEYS * key_word + j. Lanes
// past the last row do as it does.
static __attribute__((noinline)) void keep_words(const AttentionRows& rows, int64_t row_begin, int64_t count,
                                                 int64_t key_word, uint32_t* keep) {
  const ternflash::DropoutMask& mask = rows.shape.dropout;
  const uint64_t words_per_row = uint64_t(ceil_div(rows.shape.keys, KEEP_KEYS));
  const VecUint64 threshold = VecUint64{} + mask.threshold;
  for (int64_t i = 0; i < round_up(count, LANES); i += LANES64) {
    VecUint64 counter;
    for (int lane = 0; lane < LANES64; lane++) {
      const uint64_t row = uint64_t(rows.statistic(row_begin + min64(i + lane, count - 1)));
      counter[lane] = mask.offset + (row * words_per_row + uint64_t(key_word)) * 4;
    }
    VecUint64 bits = {};
    for (uint64_t block = 0; block < 4; block++) {
      VecUint64 words[4];
      philox_lanes(counter + block, mask.seed, words);
      TERNFLASH_UNROLL
      for (int word = 0; word < 4; word++) {
        const VecUint64 low = words[word] & 0xffffu;
        const VecUint64 high = (words[word] >> 16) & 0xffffu;
        // number - threshold is negative, its top bit set, where the number is below.
        const VecUint64 first = ~(low - threshold) >> 63;
        const VecUint64 second = ~(high - threshold) >> 63;
        bits |= (first | second << 1) << (8 * uint64_t(word) + 2 * block);
      }
    }
    for (int lane = 0; lane < LANES64; lane++) keep[i + lane] = uint32_t(bits[lane]);
  }
}

// Lanes whose bit is set stay, the others become 0.
TERNFLASH_INLINE Vec keep_lanes(Vec x, VecInt words, VecInt bit) { return (words & bit) != 0 ? x : Vec{}; }

}  // namespace

#endif  // TERNFLASH_CPU_ATTENTION_DROPOUT_H_
