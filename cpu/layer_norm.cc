// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// y = (x - m) r w + b with m = mean(x), r = 1 / sqrt(mean((x - m)^2) + eps) for each row (Ba, Kiros and Hinton, 2016).
// x, y [M, K], w and b [K], m and r float32 [M]. With a residual x + residual takes the place of x; each row is added,
// kept and normalised while it is in cache. Tasks are spans of rows. Gradients of w and b are summed within fixed spans
// of rows and then over the spans in order.

#include "kernels.h"
#include "norm_rows.h"

namespace {

using ternflash::LayerNormBackwardParams;
using ternflash::LayerNormParams;

struct Moments {
  double mean;
  double variance;
};

// The sum of x - pivot.
TERNFLASH_INLINE float sum_about(const float* x, int64_t count, float pivot) {
  Vec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES)
    for (int u = 0; u < 4; u++) sums[u] += load(x + i + u * LANES) - pivot;
  for (; i + LANES <= count; i += LANES) sums[0] += load(x + i) - pivot;
  float total = vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; i++) total += x[i] - pivot;
  return total;
}

// The sums of x - pivot and of its square.
TERNFLASH_INLINE void sums_about(const float* x, int64_t count, float pivot, float* sum, float* squares) {
  Vec sums[4] = {}, squared[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES)
    for (int u = 0; u < 4; u++) {
      const Vec d = load(x + i + u * LANES) - pivot;
      sums[u] += d;
      squared[u] += d * d;
    }
  for (; i + LANES <= count; i += LANES) {
    const Vec d = load(x + i) - pivot;
    sums[0] += d;
    squared[0] += d * d;
  }
  *sum = vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  *squares = vec_sum((squared[0] + squared[1]) + (squared[2] + squared[3]));
  for (; i < count; i++) {
    const float d = x[i] - pivot;
    *sum += d;
    *squares += d * d;
  }
}

// Numbers are summed as their distances from the first one, which are as small as the row's spread however large its
// mean is; and the variance about the float nearest to that mean, corrected for what the float leaves.
TERNFLASH_INLINE Moments moments_of(const float* x, int64_t cols) {
  const double count = double(cols);
  const float pivot = float(double(x[0]) + double(sum_about(x, cols, x[0])) / count);
  float sum, squares;
  sums_about(x, cols, pivot, &sum, &squares);
  if (safe_squares(squares)) {
    const double offset = double(sum) / count;
    const double variance = double(squares) / count - offset * offset;
    return {double(pivot) + offset, variance > 0.0 ? variance : 0.0};
  }
  const double mean = wide_sum(cols, [&](int64_t i) { return double(x[i]); }) / count;
  const double wide = wide_sum(cols, [&](int64_t i) { return (double(x[i]) - mean) * (double(x[i]) - mean); });
  return {mean, wide / count};
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void layer_norm(const LayerNormParams& p, Context& context) {
  float* means = static_cast<float*>(p.mean.data);
  float* rstd = static_cast<float*>(p.rstd.data);
  float* shared = shared_scratch<float>(context, 2 * p.cols);
  const float* w = weight_or(p.weight, 1.0f, p.cols, shared);
  const float* b = weight_or(p.bias, 0.0f, p.cols, shared + p.cols);
  parallel_ranges(context, p.rows, max64(1, NORM_GRAIN / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 4 * p.cols);
    for (int64_t row = begin; row < end; row++) {
      const int64_t start = row * p.cols;
      const float* x = input_row(p.x, p.residual, p.sum, start, p.cols, buffer);
      float* y = row_target(p.out, start, buffer + 3 * p.cols);
      const Moments moments = moments_of(x, p.cols);
      const float mean = float(moments.mean);
      const float r = float(1.0 / __builtin_sqrt(moments.variance + p.eps));
      means[row] = mean;
      rstd[row] = r;
      for (int64_t col = 0; col < p.cols; col++) y[col] = (x[col] - mean) * r * w[col] + b[col];
      finish_row(p.out, start, p.cols, y);
    }
  });
}

// With n = (x - m) r and g = w d_y: d_x = r (g - mean(g) - n mean(n g)) + d_sum; d_w = sum over rows of d_y n; d_b =
// sum over rows of d_y.
void layer_norm_backward(const LayerNormBackwardParams& p, Context& context) {
  const float* means = static_cast<const float*>(p.mean.data);
  const float* rstd = static_cast<const float*>(p.rstd.data);
  const int64_t block_rows = norm_block_rows(p.rows, p.cols);
  const int64_t blocks = ceil_div(p.rows, block_rows);
  float* shared = shared_scratch<float>(context, (1 + 2 * blocks) * p.cols);
  const float* w = weight_or(p.weight, 1.0f, p.cols, shared);
  float* shares = shared + p.cols;
  parallel_for(context, blocks, [&](int64_t block, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 4 * p.cols);
    float* weighted = buffer + 2 * p.cols;
    float* normalised = buffer + 3 * p.cols;
    float* d_w = shares + block * 2 * p.cols;
    float* d_b = d_w + p.cols;
    for (int64_t col = 0; col < 2 * p.cols; col++) d_w[col] = 0.0f;
    const int64_t end = min64(p.rows, (block + 1) * block_rows);
    for (int64_t row = block * block_rows; row < end; row++) {
      const int64_t start = row * p.cols;
      const float* x = as_floats(p.x, start, p.cols, buffer);
      const float* d_y = as_floats(p.d_out, start, p.cols, buffer + p.cols);
      const float m = means[row], r = rstd[row];
      for (int64_t col = 0; col < p.cols; col++) {
        normalised[col] = (x[col] - m) * r;
        weighted[col] = w[col] * d_y[col];
      }
      const float mean = sum_about(weighted, p.cols, 0.0f) / float(p.cols);
      const float mean_product = dot(normalised, weighted, p.cols) / float(p.cols);
      for (int64_t col = 0; col < p.cols; col++) {
        d_w[col] += d_y[col] * normalised[col];
        d_b[col] += d_y[col];
        weighted[col] = r * (weighted[col] - mean - normalised[col] * mean_product);
      }
      store_gradient(p.d_x, p.d_sum, start, p.cols, weighted, buffer);
    }
  });
  store_weight_gradient(p.d_weight, shares, 2 * p.cols, blocks, p.cols);
  store_weight_gradient(p.d_bias, shares + p.cols, 2 * p.cols, blocks, p.cols);
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
