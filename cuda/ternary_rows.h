// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_TERNARY_ROWS_H_
#define TERNFLASH_CUDA_TERNARY_ROWS_H_

#include "context.h"

namespace ternflash::cuda {

// Kernels take rows of whole units of 64 features: packed rows are then whole units of 16 bytes, as loads want them.
constexpr int64_t FEATURE_UNIT = 64;

__host__ __device__ constexpr int64_t padded_features(int64_t features) {
  return (features + FEATURE_UNIT - 1) / FEATURE_UNIT * FEATURE_UNIT;
}

// Rows of `row_bytes`, or if they are not yet `padded_bytes` long (a multiple of 4) a copy in workspace whose rows are,
// filled up with the byte `fill`. Null, and a recorded failure, without memory.
const void* padded_rows(const void* rows, int64_t count, int64_t row_bytes, int64_t padded_bytes, uint8_t fill,
                        Context& context);

// Packed trits [rows, features] with rows of padded_features(features), filled up with trits 0.
inline const uint8_t* padded_trits(const void* packed, int64_t rows, int64_t features, Context& context) {
  return static_cast<const uint8_t*>(
      padded_rows(packed, rows, (features + 3) / 4, padded_features(features) / 4, 0x55, context));
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TERNARY_ROWS_H_
