// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What rms_norm.cc and layer_norm.cc do alike: rows of [M, K], their sums, and weights whose gradient is a sum over
// rows.

#ifndef TERNFLASH_CPU_NORM_ROWS_H_
#define TERNFLASH_CPU_NORM_ROWS_H_

#include "simd.h"

namespace {

constexpr int64_t NORM_GRAIN = 16384;    // elements of a task
constexpr int64_t MAX_NORM_BLOCKS = 64;  // spans of rows whose share of a weight's gradient is summed apart

TERNFLASH_INLINE float dot(const float* a, const float* b, int64_t count) {
  Vec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES)
    for (int u = 0; u < 4; u++) sums[u] += load(a + i + u * LANES) * load(b + i + u * LANES);
  for (; i + LANES <= count; i += LANES) sums[0] += load(a + i) * load(b + i);
  float total = vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; i++) total += a[i] * b[i];
  return total;
}

// Sums of float32 numbers that leave no doubt: inside this range no partial sum of squares overflowed, and what
// underflowed is too small to be seen. A NaN is outside.
TERNFLASH_INLINE bool safe_squares(float squares) { return squares > 1e-25f && squares < 1e37f; }

// The sum of term(i) in float64, for rows whose squares float32 cannot hold.
template <class Term>
TERNFLASH_INLINE double wide_sum(int64_t count, const Term& term) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int u = 0; u < 8; u++) sums[u] += term(i + u);
  for (; i < count; i++) sums[0] += term(i);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// The weight in float32, or `value` everywhere if there is none.
TERNFLASH_INLINE const float* weight_or(const Tensor& weight, float value, int64_t cols, float* buffer) {
  if (weight.data) return as_floats(weight, 0, cols, buffer);
  for (int64_t col = 0; col < cols; col++) buffer[col] = value;
  return buffer;
}

// Where a row's result is computed: the tensor's own memory if it is float32, else `buffer`, which `finish_row` stores.
TERNFLASH_INLINE float* row_target(const Tensor& tensor, int64_t start, float* buffer) {
  return tensor.dtype == DType::FLOAT32 ? static_cast<float*>(tensor.data) + start : buffer;
}
TERNFLASH_INLINE void finish_row(const Tensor& tensor, int64_t start, int64_t count, const float* target) {
  if (tensor.dtype != DType::FLOAT32) store_floats(tensor, start, count, target);
}

// The row that is normalised: x, or x + residual, which goes to `sum` and is taken from there as it was rounded.
// `buffer` has room for three rows.
TERNFLASH_INLINE const float* input_row(const Tensor& x, const Tensor& residual, const Tensor& sum, int64_t start,
                                        int64_t count, float* buffer) {
  const float* a = as_floats(x, start, count, buffer);
  if (!residual.data) return a;
  const float* b = as_floats(residual, start, count, buffer + count);
  float* target = row_target(sum, start, buffer + 2 * count);
  for (int64_t i = 0; i < count; i++) target[i] = a[i] + b[i];
  finish_row(sum, start, count, target);
  return as_floats(sum, start, count, buffer);
}

// d_x = row, plus d_sum if there is one. `row` is not d_x's memory; `buffer` has room for a row.
TERNFLASH_INLINE void store_gradient(const Tensor& d_x, const Tensor& d_sum, int64_t start, int64_t count, float* row,
                                     float* buffer) {
  if (d_sum.data) {
    const float* more = as_floats(d_sum, start, count, buffer);
    for (int64_t i = 0; i < count; i++) row[i] += more[i];
  }
  store_floats(d_x, start, count, row);
}

TERNFLASH_INLINE int64_t norm_block_rows(int64_t rows, int64_t cols) {
  return max64(max64(1, NORM_GRAIN / cols), ceil_div(rows, MAX_NORM_BLOCKS));
}

// d_weight = the sum of the blocks' shares, in order; share b is the `cols` floats at shares + b * stride.
TERNFLASH_INLINE void store_weight_gradient(const Tensor& d_weight, float* shares, int64_t stride, int64_t blocks,
                                            int64_t cols) {
  if (!d_weight.data) return;
  for (int64_t block = 1; block < blocks; block++)
    for (int64_t col = 0; col < cols; col++) shares[col] += shares[block * stride + col];
  store_floats(d_weight, 0, cols, shares);
}

}  // namespace

#endif  // TERNFLASH_CPU_NORM_ROWS_H_
