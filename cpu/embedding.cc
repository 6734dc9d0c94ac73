// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rows of a table, out[i] = weight[ids[i]], and the gradient, d_weight[v] = sum of d_out[i] over the i with ids[i] = v. The
// gradient's tasks are spans of columns, each adding up the rows in their order.

#include <stdio.h>

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::EmbeddingBackwardParams;
using ternflash::EmbeddingParams;

constexpr int64_t GRAIN = 16384;

TERNFLASH_INLINE int64_t find_bad_id(const int32_t* ids, int64_t rows, int64_t vocabulary) {
  for (int64_t row = 0; row < rows; row++)
    if (ids[row] < 0 || ids[row] >= vocabulary) return row;
  return -1;
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void embedding(const EmbeddingParams& p, Context& context) {
  const int32_t* ids = static_cast<const int32_t*>(p.ids.data);
  const size_t row_bytes = size_t(p.cols) * (p.weight.dtype == DType::FLOAT32 ? 4 : 2);
  uint8_t* out = static_cast<uint8_t*>(p.out.data);
  const int64_t bad = find_bad_id(ids, p.rows, p.vocabulary);
  if (bad >= 0) {
    char message[160];
    snprintf(message, sizeof(message), "expected ids in 0..%lld, got %d at position %lld",
             static_cast<long long>(p.vocabulary - 1), ids[bad], static_cast<long long>(bad));
    context.fail(message);
    __builtin_memset(out, 0, size_t(p.rows) * row_bytes);
    return;
  }
  const uint8_t* weight = static_cast<const uint8_t*>(p.weight.data);
  parallel_ranges(context, p.rows, max64(1, GRAIN / p.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++)
      __builtin_memcpy(out + size_t(row) * row_bytes, weight + size_t(ids[row]) * row_bytes, row_bytes);
  });
}

void embedding_backward(const EmbeddingBackwardParams& p, Context& context) {
  constexpr int64_t SPAN = 64;  // columns of a task
  const int32_t* ids = static_cast<const int32_t*>(p.ids.data);
  const bool direct = p.d_weight.dtype == DType::FLOAT32;
  parallel_for(context, ceil_div(p.cols, SPAN), [&](int64_t task, int thread) {
    const int64_t first = task * SPAN, count = min64(SPAN, p.cols - first);
    // 16-bit gradients are added up in float32.
    const int64_t stride = direct ? p.cols : count;
    float* sums = direct ? static_cast<float*>(p.d_weight.data) + first
                         : thread_scratch<float>(context, thread, p.vocabulary * SPAN);
    for (int64_t v = 0; v < p.vocabulary; v++)
      for (int64_t i = 0; i < count; i++) sums[v * stride + i] = 0.0f;
    float buffer[SPAN];
    for (int64_t row = 0; row < p.rows; row++) {
      if (ids[row] < 0 || ids[row] >= p.vocabulary) continue;
      const float* d_out = as_floats(p.d_out, row * p.cols + first, count, buffer);
      float* target = sums + ids[row] * stride;
      for (int64_t i = 0; i < count; i++) target[i] += d_out[i];
    }
    if (direct) return;
    for (int64_t v = 0; v < p.vocabulary; v++) store_floats(p.d_weight, v * p.cols + first, count, sums + v * stride);
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
