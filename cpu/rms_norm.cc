// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// y = x r w with r = 1 / sqrt(mean(x^2) + eps) for each row (Zhang and Sennrich, 2019). x, y [M, K], w [K], r float32
// [M]. With a residual x + residual takes the place of x; each row is added, kept and normalised while it is in cache.
// Tasks are spans of rows. The weight's gradient is summed within fixed spans of rows and then over the spans in order.

#include "kernels.h"
#include "norm_rows.h"

namespace {

using ternflash::RmsNormBackwardParams;
using ternflash::RmsNormParams;

TERNFLASH_INLINE double mean_square(const float* x, int64_t cols) {
  const float squares = dot(x, x, cols);
  if (safe_squares(squares)) return double(squares) / double(cols);
  return wide_sum(cols, [&](int64_t i) { return double(x[i]) * double(x[i]); }) / double(cols);
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void rms_norm(const RmsNormParams& p, Context& context) {
  float* rstd = static_cast<float*>(p.rstd.data);
  const float* w = weight_or(p.weight, 1.0f, p.cols, shared_scratch<float>(context, p.cols));
  parallel_ranges(context, p.rows, max64(1, NORM_GRAIN / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 4 * p.cols);
    for (int64_t row = begin; row < end; row++) {
      const int64_t start = row * p.cols;
      const float* x = input_row(p.x, p.residual, p.sum, start, p.cols, buffer);
      float* y = row_target(p.out, start, buffer + 3 * p.cols);
      const float r = float(1.0 / __builtin_sqrt(mean_square(x, p.cols) + p.eps));
      rstd[row] = r;
      for (int64_t col = 0; col < p.cols; col++) y[col] = x[col] * r * w[col];
      finish_row(p.out, start, p.cols, y);
    }
  });
}

// With n = x r: d_x = r (w d_y - n mean(n w d_y)) + d_sum; d_w = sum over rows of d_y n. n comes first: the product of
// x and d_y could overflow.
void rms_norm_backward(const RmsNormBackwardParams& p, Context& context) {
  const float* rstd = static_cast<const float*>(p.rstd.data);
  const int64_t block_rows = norm_block_rows(p.rows, p.cols);
  const int64_t blocks = ceil_div(p.rows, block_rows);
  float* shared = shared_scratch<float>(context, (1 + blocks) * p.cols);
  const float* w = weight_or(p.weight, 1.0f, p.cols, shared);
  float* shares = shared + p.cols;
  parallel_for(context, blocks, [&](int64_t block, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 4 * p.cols);
    float* weighted = buffer + 2 * p.cols;
    float* normalised = buffer + 3 * p.cols;
    float* d_w = shares + block * p.cols;
    for (int64_t col = 0; col < p.cols; col++) d_w[col] = 0.0f;
    const int64_t end = min64(p.rows, (block + 1) * block_rows);
    for (int64_t row = block * block_rows; row < end; row++) {
      const int64_t start = row * p.cols;
      const float* x = as_floats(p.x, start, p.cols, buffer);
      const float* d_y = as_floats(p.d_out, start, p.cols, buffer + p.cols);
      const float r = rstd[row];
      for (int64_t col = 0; col < p.cols; col++) {
        normalised[col] = x[col] * r;
        weighted[col] = w[col] * d_y[col];
      }
      const float mean = dot(normalised, weighted, p.cols) / float(p.cols);
      for (int64_t col = 0; col < p.cols; col++) {
        d_w[col] += d_y[col] * normalised[col];
        weighted[col] = r * (weighted[col] - normalised[col] * mean);
      }
      store_gradient(p.d_x, p.d_sum, start, p.cols, weighted, buffer);
    }
  });
  store_weight_gradient(p.d_weight, shares, p.cols, blocks, p.cols);
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
