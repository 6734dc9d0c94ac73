// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Softmax cross entropy over rows of logits [M, V]: loss of a row = lse - logits[target], lse = log(sum(exp(logits)));
// gradient (softmax - onehot) d_loss, divided by the number of rows that count for the mean. Tasks are spans of rows;
// the rows' losses are added in order in float64.

#include <stdio.h>

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::CrossEntropyBackwardParams;
using ternflash::CrossEntropyParams;

constexpr int64_t GRAIN = 16384;
constexpr int64_t CHUNK = 1024;  // exponentials added in float32 before they join the float64 sum of a row

// Whether each target is a column or ignored; else the op has failed.
bool check_targets(const int32_t* targets, int64_t rows, int64_t cols, int32_t ignore_index, Context& context) {
  for (int64_t row = 0; row < rows; row++) {
    if (targets[row] == ignore_index || (targets[row] >= 0 && targets[row] < cols)) continue;
    char message[160];
    snprintf(message, sizeof(message), "expected targets in 0..%lld or ignoreIndex %d, got %d at row %lld",
             static_cast<long long>(cols - 1), ignore_index, targets[row], static_cast<long long>(row));
    context.fail(message);
    return false;
  }
  return true;
}

struct Exponentials {
  float largest;
  double sum;
};

TERNFLASH_INLINE float logit_at(const Tensor& logits, int64_t i) {
  float value;
  load_floats(logits, i, 1, &value);
  return value;
}

// exp(logit - largest) of a row to x, which has room for whole vectors, and their sum.
TERNFLASH_INLINE Exponentials exponentials(const Tensor& logits, int64_t row, int64_t cols, float* x) {
  const int64_t padded = round_up(cols, LANES);
  load_floats(logits, row * cols, cols, x);
  for (int64_t col = cols; col < padded; col++) x[col] = -__builtin_inff();
  Vec best = broadcast(-__builtin_inff());
  for (int64_t col = 0; col < padded; col += LANES) best = vec_max(load(x + col), best);
  const float largest = vec_max_lane(best);
  double total = 0;
  for (int64_t chunk = 0; chunk < padded; chunk += CHUNK) {
    Vec sum = {};
    for (int64_t col = chunk; col < min64(chunk + CHUNK, padded); col += LANES) {
      const Vec e = vec_exp(load(x + col) - largest);
      store(x + col, e);
      sum += e;
    }
    total += double(vec_sum(sum));
  }
  return {largest, total};
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void cross_entropy(const CrossEntropyParams& p, Context& context) {
  const int32_t* targets = static_cast<const int32_t*>(p.targets.data);
  float* loss = static_cast<float*>(p.loss.data);
  float* count = static_cast<float*>(p.count.data);
  if (!check_targets(targets, p.rows, p.cols, p.ignore_index, context)) {
    *loss = 0.0f;
    *count = 0.0f;
    return;
  }
  double* losses = shared_scratch<double>(context, p.rows);
  const int64_t padded = round_up(p.cols, LANES);
  parallel_ranges(context, p.rows, max64(1, GRAIN / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* x = thread_scratch<float>(context, thread, padded);
    for (int64_t row = begin; row < end; row++) {
      const Exponentials row_sum = exponentials(p.logits, row, p.cols, x);
      const double row_lse = double(row_sum.largest) + __builtin_log(row_sum.sum);
      losses[row] =
          targets[row] == p.ignore_index ? 0.0 : row_lse - double(logit_at(p.logits, row * p.cols + targets[row]));
    }
  });
  double total = 0;
  int64_t counted = 0;
  for (int64_t row = 0; row < p.rows; row++) {
    if (targets[row] == p.ignore_index) continue;
    total += losses[row];
    counted++;
  }
  *count = float(counted);
  *loss = float(p.mean && counted > 0 ? total / double(counted) : total);
}

void cross_entropy_backward(const CrossEntropyBackwardParams& p, Context& context) {
  const int32_t* targets = static_cast<const int32_t*>(p.targets.data);
  if (!check_targets(targets, p.rows, p.cols, p.ignore_index, context)) {
    __builtin_memset(p.d_logits.data, 0, size_t(p.rows * p.cols) * (p.d_logits.dtype == DType::FLOAT32 ? 4 : 2));
    return;
  }
  const float counted = *static_cast<const float*>(p.count.data);
  const float factor = *static_cast<const float*>(p.d_loss.data) / (p.mean && counted > 0.0f ? counted : 1.0f);
  const int64_t padded = round_up(p.cols, LANES);
  parallel_ranges(context, p.rows, max64(1, GRAIN / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* x = thread_scratch<float>(context, thread, padded);
    for (int64_t row = begin; row < end; row++) {
      // After a failed forward pass no row counts either.
      if (targets[row] == p.ignore_index || counted == 0.0f) {
        for (int64_t col = 0; col < p.cols; col++) x[col] = 0.0f;
      } else {
        const double sum = exponentials(p.logits, row, p.cols, x).sum;
        const float target = float((double(x[targets[row]]) - sum) / sum * double(factor));
        const float each = float(double(factor) / sum);
        for (int64_t col = 0; col < p.cols; col++) x[col] *= each;
        x[targets[row]] = target;
      }
      store_floats(p.d_logits, row * p.cols, p.cols, x);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
