// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// y = x r w with r = 1 / sqrt(mean(x^2) + eps) for each row (Zhang and Sennrich, 2019). x, y [M, K], w [K], r float32
// [M]. Tasks are spans of rows. The weight's gradient is summed within at most MAX_BLOCKS fixed spans of rows and then
// over the spans in order.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::RmsNormBackwardParams;
using ternflash::RmsNormParams;

constexpr int64_t GRAIN = 16384;
constexpr int64_t MAX_BLOCKS = 64;

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

// The weight in float32, ones if there is none.
TERNFLASH_INLINE const float* weight_or_ones(const Tensor& weight, int64_t cols, float* buffer) {
  if (weight.data) return as_floats(weight, 0, cols, buffer);
  for (int64_t col = 0; col < cols; col++) buffer[col] = 1.0f;
  return buffer;
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void rms_norm(const RmsNormParams& p, Context& context) {
  float* rstd = static_cast<float*>(p.rstd.data);
  const float* w = weight_or_ones(p.weight, p.cols, shared_scratch<float>(context, p.cols));
  parallel_ranges(context, p.rows, max64(1, GRAIN / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 2 * p.cols);
    float* y = buffer + p.cols;
    for (int64_t row = begin; row < end; row++) {
      const float* x = as_floats(p.x, row * p.cols, p.cols, buffer);
      const float r = float(1.0 / __builtin_sqrt(double(dot(x, x, p.cols)) / double(p.cols) + p.eps));
      rstd[row] = r;
      for (int64_t col = 0; col < p.cols; col++) y[col] = x[col] * r * w[col];
      store_floats(p.out, row * p.cols, p.cols, y);
    }
  });
}

// With n = x r: d_x = r (w d_y - n mean(n w d_y)); d_w = sum over rows of d_y n. n comes first: the product of x and
// d_y could overflow.
void rms_norm_backward(const RmsNormBackwardParams& p, Context& context) {
  const float* rstd = static_cast<const float*>(p.rstd.data);
  const int64_t block_rows = max64(max64(1, GRAIN / p.cols), ceil_div(p.rows, MAX_BLOCKS));
  const int64_t blocks = ceil_div(p.rows, block_rows);
  float* shared = shared_scratch<float>(context, (1 + blocks) * p.cols);
  const float* w = weight_or_ones(p.weight, p.cols, shared);
  float* partial = shared + p.cols;
  parallel_for(context, blocks, [&](int64_t block, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 4 * p.cols);
    float* weighted = buffer + 2 * p.cols;
    float* normalised = buffer + 3 * p.cols;
    float* d_w = partial + block * p.cols;
    for (int64_t col = 0; col < p.cols; col++) d_w[col] = 0.0f;
    const int64_t end = min64(p.rows, (block + 1) * block_rows);
    for (int64_t row = block * block_rows; row < end; row++) {
      const float* x = as_floats(p.x, row * p.cols, p.cols, buffer);
      const float* d_y = as_floats(p.d_out, row * p.cols, p.cols, buffer + p.cols);
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
      store_floats(p.d_x, row * p.cols, p.cols, weighted);
    }
  });
  if (!p.d_weight.data) return;
  for (int64_t block = 1; block < blocks; block++)
    for (int64_t col = 0; col < p.cols; col++) partial[col] += partial[block * p.cols + col];
  store_floats(p.d_weight, 0, p.cols, partial);
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
