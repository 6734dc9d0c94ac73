// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rows of a table, out[i] = weight[ids[i]], and the gradient, d_weight[v] = sum of d_out[i] over the i with ids[i] = v.
// weight [V, K], ids [M], out [M, K]. For the gradient the places of each id are listed first; tasks are spans of the
// table's rows and columns, which add up the listed rows in ascending order in float64.

#include <stdio.h>

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::EmbeddingBackwardParams;
using ternflash::EmbeddingParams;

constexpr int64_t GRAIN = 16384;

TERNFLASH_INLINE size_t float_bytes(DType dtype) { return dtype == DType::FLOAT32 ? 4 : 2; }

// Whether each id names a row of the table; else the op has failed.
bool check_ids(const int32_t* ids, int64_t rows, int64_t vocabulary, Context& context) {
  for (int64_t row = 0; row < rows; row++) {
    if (ids[row] >= 0 && ids[row] < vocabulary) continue;
    char message[160];
    snprintf(message, sizeof(message), "expected ids in 0..%lld, got %d at position %lld",
             static_cast<long long>(vocabulary - 1), ids[row], static_cast<long long>(row));
    context.fail(message);
    return false;
  }
  return true;
}

// The rows of each id, in ascending order: those of id v are order[starts[v]] to order[starts[v + 1] - 1].
void list_rows(const int32_t* ids, int64_t rows, int64_t vocabulary, int64_t* starts, int64_t* order) {
  for (int64_t v = 0; v <= vocabulary; v++) starts[v] = 0;
  for (int64_t row = 0; row < rows; row++) starts[ids[row] + 1]++;
  for (int64_t v = 0; v < vocabulary; v++) starts[v + 1] += starts[v];
  // starts[v] serves as the next place of v and so ends as starts[v + 1].
  for (int64_t row = 0; row < rows; row++) order[starts[ids[row]]++] = row;
  for (int64_t v = vocabulary; v > 0; v--) starts[v] = starts[v - 1];
  starts[0] = 0;
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void embedding(const EmbeddingParams& p, Context& context) {
  const int32_t* ids = static_cast<const int32_t*>(p.ids.data);
  const size_t row_bytes = size_t(p.cols) * float_bytes(p.weight.dtype);
  uint8_t* out = static_cast<uint8_t*>(p.out.data);
  if (!check_ids(ids, p.rows, p.vocabulary, context)) {
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
  constexpr int64_t SPAN = 256;  // columns of a task: an id that fills the batch is still shared by several threads
  const int32_t* ids = static_cast<const int32_t*>(p.ids.data);
  const size_t bytes = float_bytes(p.d_weight.dtype);
  uint8_t* d_weight = static_cast<uint8_t*>(p.d_weight.data);
  if (!check_ids(ids, p.rows, p.vocabulary, context)) {
    __builtin_memset(d_weight, 0, size_t(p.vocabulary * p.cols) * bytes);
    return;
  }
  int64_t* starts = shared_scratch<int64_t>(context, p.vocabulary + 1 + p.rows);
  int64_t* order = starts + p.vocabulary + 1;
  list_rows(ids, p.rows, p.vocabulary, starts, order);

  const int64_t spans = ceil_div(p.cols, SPAN);
  const int64_t block = max64(1, GRAIN / min64(SPAN, p.cols));
  parallel_for(context, ceil_div(p.vocabulary, block) * spans, [&](int64_t task, int) {
    const int64_t first = task % spans * SPAN, count = min64(SPAN, p.cols - first);
    const int64_t begin = task / spans * block, end = min64(begin + block, p.vocabulary);
    float values[SPAN];
    double totals[SPAN];
    for (int64_t v = begin; v < end; v++) {
      if (starts[v] == starts[v + 1]) {
        __builtin_memset(d_weight + size_t(v * p.cols + first) * bytes, 0, size_t(count) * bytes);
        continue;
      }
      for (int64_t i = 0; i < count; i++) totals[i] = 0;
      for (int64_t place = starts[v]; place < starts[v + 1]; place++) {
        const float* d_out = as_floats(p.d_out, order[place] * p.cols + first, count, values);
        for (int64_t i = 0; i < count; i++) totals[i] += double(d_out[i]);
      }
      for (int64_t i = 0; i < count; i++) values[i] = float(totals[i]);
      store_floats(p.d_weight, v * p.cols + first, count, values);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
