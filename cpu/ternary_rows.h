// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What the ways of ternary_matmul.cc share: which rows and blocks of features of a packed weight are zero, the sums of
// the codes, and the float epilogue.

#ifndef TERNFLASH_CPU_TERNARY_ROWS_H_
#define TERNFLASH_CPU_TERNARY_ROWS_H_

#include "byte_vectors.h"
#include "simd.h"

namespace {

using ternflash::TernaryMatmulInt8Params;

// Packed bytes that are skipped together if all their trits are 0, in one weight row or in all that share a register
// tile: 256 features.
constexpr int64_t BLOCK = 64;

constexpr uint64_t ZEROS = 0x5555555555555555u;  // 32 codes of trit 0

__attribute__((noinline)) bool all_bytes_zero(const uint8_t* bytes, int64_t count) {
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    uint64_t words[8];
    __builtin_memcpy(words, bytes + i, sizeof(words));
    uint64_t others = 0;
    for (int j = 0; j < 8; j++) others |= words[j] ^ ZEROS;
    if (others != 0) return false;
  }
  for (; i < count; i++)
    if (bytes[i] != uint8_t(ZEROS)) return false;
  return true;
}

// Almost always decided by the first bytes.
TERNFLASH_INLINE bool all_zero(const uint8_t* bytes, int64_t count) {
  if (count >= 8) {
    uint64_t word;
    __builtin_memcpy(&word, bytes, sizeof(word));
    if (word != ZEROS) return false;
  }
  return all_bytes_zero(bytes, count);
}

TERNFLASH_INLINE bool is_zero_row(const uint8_t* row, int64_t row_bytes, float scale) {
  return scale == 0.0f || all_zero(row, row_bytes);
}

// sums[b] = the sum of the codes before block b; sums[blocks] is that of all.
TERNFLASH_INLINE void sum_codes(const int8_t* codes, int64_t count, int32_t* sums) {
  int32_t sum = 0;
  sums[0] = 0;
  for (int64_t begin = 0; begin < count; begin += 4 * BLOCK) {
    const int64_t end = min64(begin + 4 * BLOCK, count);
    int32_t block = 0;
    for (int64_t i = begin; i < end; i++) block += codes[i];
    *++sums = sum += block;
  }
}

// ---- the float epilogue

// values[j] of one token, of which code_sum is yet to be taken off, and `count` weight rows; scales and bias are
// theirs, of one scale for all only the first.
TERNFLASH_INLINE void finish(const TernaryMatmulInt8Params& p, int64_t token, int64_t count, const int32_t* sums,
                             int32_t code_sum, const float* scales, const float* bias, float* values) {
  const float token_scale = static_cast<const float*>(p.activation_scales.data)[token];
  if (p.weight_scale.length == 1) {
    const float factor = scales[0] / token_scale;
    for (int64_t j = 0; j < count; j++) values[j] = float(sums[j] - code_sum) * factor;
  } else {
    for (int64_t j = 0; j < count; j++) values[j] = float(sums[j] - code_sum) * (scales[j] / token_scale);
  }
  if (bias)
    for (int64_t j = 0; j < count; j++) values[j] = values[j] + bias[j];
}

const float* scales_from(const TernaryMatmulInt8Params& p, int64_t row) {
  return static_cast<const float*>(p.weight_scale.data) + (p.weight_scale.length == 1 ? 0 : row);
}

}  // namespace

#endif  // TERNFLASH_CPU_TERNARY_ROWS_H_
