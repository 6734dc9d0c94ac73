// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Softmax cross entropy over rows of logits [M, V]: loss of a row = lse - logits[target], lse = log(sum(exp(logits))); gradient
// (softmax - onehot) d_loss, divided by the number of rows that count for the mean. Tasks are spans of rows; the rows'
// losses are added in order in float64.

#include <stdio.h>

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::CrossEntropyBackwardParams;
using ternflash::CrossEntropyParams;

constexpr int64_t GRAIN = 16384;

// The first target that is neither a column nor ignored, or -1.
TERNFLASH_INLINE int64_t find_bad_target(const int32_t* targets, int64_t rows, int64_t cols, int32_t ignore_index) {
  for (int64_t row = 0; row < rows; row++)
    if (targets[row] != ignore_index && (targets[row] < 0 || targets[row] >= cols)) return row;
  return -1;
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void cross_entropy(const CrossEntropyParams& p, Context& context) {
  const int32_t* targets = static_cast<const int32_t*>(p.targets.data);
  float* lse = static_cast<float*>(p.lse.data);
  float* loss = static_cast<float*>(p.loss.data);
  float* count = static_cast<float*>(p.count.data);
  const int64_t bad = find_bad_target(targets, p.rows, p.cols, p.ignore_index);
  if (bad >= 0) {
    char message[160];
    snprintf(message, sizeof(message), "expected targets in 0..%lld or ignoreIndex %d, got %d at row %lld",
             static_cast<long long>(p.cols - 1), p.ignore_index, targets[bad], static_cast<long long>(bad));
    context.fail(message);
    for (int64_t row = 0; row < p.rows; row++) lse[row] = 0.0f;
    *loss = 0.0f;
    *count = 0.0f;
    return;
  }
  double* losses = shared_scratch<double>(context, p.rows);
  const int64_t padded = round_up(p.cols, LANES);
  parallel_ranges(context, p.rows, max64(1, GRAIN / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* x = thread_scratch<float>(context, thread, padded);
    for (int64_t row = begin; row < end; row++) {
      load_floats(p.logits, row * p.cols, p.cols, x);
      for (int64_t col = p.cols; col < padded; col++) x[col] = -__builtin_inff();
      Vec best = broadcast(-__builtin_inff());
      for (int64_t col = 0; col < padded; col += LANES) best = vec_max(load(x + col), best);
      const float largest = vec_max_lane(best);
      Vec sum = {};
      for (int64_t col = 0; col < padded; col += LANES) sum += vec_exp(load(x + col) - largest);
      const double row_lse = double(largest) + __builtin_log(double(vec_sum(sum)));
      lse[row] = float(row_lse);
      losses[row] = targets[row] == p.ignore_index ? 0.0 : row_lse - double(x[targets[row]]);
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
  const float* lse = static_cast<const float*>(p.lse.data);
  const float counted = *static_cast<const float*>(p.count.data);
  const float factor = *static_cast<const float*>(p.d_loss.data) / (p.mean && counted > 0.0f ? counted : 1.0f);
  const int64_t padded = round_up(p.cols, LANES);
  parallel_ranges(context, p.rows, max64(1, GRAIN / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* x = thread_scratch<float>(context, thread, padded);
    for (int64_t row = begin; row < end; row++) {
      // No row counts after a failed forward pass either.
      if (targets[row] == p.ignore_index || counted == 0.0f) {
        for (int64_t col = 0; col < p.cols; col++) x[col] = 0.0f;
      } else {
        load_floats(p.logits, row * p.cols, p.cols, x);
        for (int64_t col = p.cols; col < padded; col++) x[col] = 0.0f;
        const Vec shift = broadcast(lse[row]);
        for (int64_t col = 0; col < padded; col += LANES) store(x + col, vec_exp(load(x + col) - shift));
        x[targets[row]] -= 1.0f;
        for (int64_t col = 0; col < p.cols; col++) x[col] *= factor;
      }
      store_floats(p.d_logits, row * p.cols, p.cols, x);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
