// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include <algorithm>

#include "ternary_rows.h"

namespace ternflash::cuda {

namespace {

constexpr int THREADS = 256;

__global__ void pad_rows(const uint8_t* rows, int64_t count, int64_t row_bytes, int64_t padded_words, uint32_t fill,
                         uint32_t* out) {
  const int64_t words = count * padded_words;
  for (int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x; i < words; i += int64_t(gridDim.x) * THREADS) {
    const int64_t row = i / padded_words;
    const int64_t first = (i - row * padded_words) * 4;
    uint32_t word = 0;
    for (int j = 0; j < 4; j++)
      word |= (first + j < row_bytes ? uint32_t(rows[row * row_bytes + first + j]) : fill) << (8 * j);
    out[i] = word;
  }
}

}  // namespace

const void* padded_rows(const void* rows, int64_t count, int64_t row_bytes, int64_t padded_bytes, uint8_t fill,
                        Context& context) {
  if (row_bytes == padded_bytes) return rows;
  void* out = context.workspace(size_t(count) * padded_bytes);
  if (!out) return nullptr;
  const int64_t words = count * padded_bytes / 4;
  const int64_t blocks = std::min<int64_t>((words + THREADS - 1) / THREADS, 16 * context.device().multiprocessors);
  pad_rows<<<static_cast<unsigned>(blocks), THREADS, 0, context.stream()>>>(
      static_cast<const uint8_t*>(rows), count, row_bytes, padded_bytes / 4, fill, static_cast<uint32_t*>(out));
  return out;
}

}  // namespace ternflash::cuda
