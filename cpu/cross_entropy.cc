// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Softmax cross entropy over rows of logits [M, V]; loss_rows.h says what a row gives. Tasks are spans of rows; the
// rows' losses are added in order in float64.

#include "kernels.h"
#include "loss_rows.h"
#include "simd.h"

namespace {

using ternflash::CrossEntropyBackwardParams;
using ternflash::CrossEntropyParams;

constexpr int64_t GRAIN = 16384;

TERNFLASH_INLINE void zero(const Tensor& tensor) {
  __builtin_memset(tensor.data, 0, size_t(tensor.length) * (tensor.dtype == DType::FLOAT32 ? 4 : 2));
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void cross_entropy(const CrossEntropyParams& p, Context& context) {
  const int32_t* targets = static_cast<const int32_t*>(p.targets.data);
  float* statistics = static_cast<float*>(p.statistics.data);
  if (!check_targets(targets, p.rows, p.cols, p.rule.ignore_index, context)) {
    zero(p.loss);
    zero(p.count);
    zero(p.statistics);
    return;
  }
  double* losses = shared_scratch<double>(context, p.rows);
  const float softcap = softcap_of(p.rule);
  parallel_ranges(context, p.rows, max64(1, GRAIN / p.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const bool counts = targets[row] != p.rule.ignore_index;
      LossRow known = EMPTY_LOSS_ROW;
      if (counts) add_logits(known, p.logits, row * p.cols, p.cols, 0, targets[row], softcap);
      losses[row] = counts ? loss_of(known, p.cols, p.rule) : 0.0;
      statistics[2 * row] = counts ? known.largest : 0.0f;
      statistics[2 * row + 1] = float(known.sum);
    }
  });
  LossSum sum;
  for (int64_t row = 0; row < p.rows; row++)
    sum.add(row, targets[row] != p.rule.ignore_index, losses[row], p.rule, p.loss);
  sum.store(p.rule, p.loss, p.count);
}

void cross_entropy_backward(const CrossEntropyBackwardParams& p, Context& context) {
  const int32_t* targets = static_cast<const int32_t*>(p.targets.data);
  const float* statistics = static_cast<const float*>(p.statistics.data);
  if (!check_targets(targets, p.rows, p.cols, p.rule.ignore_index, context)) return zero(p.d_logits);
  const IncomingGradient incoming(p.d_loss, p.count, p.rule);
  parallel_ranges(context, p.rows, max64(1, GRAIN / p.cols), [&](int64_t begin, int64_t end, int) {
    float logits[LOSS_CHUNK], gradients[LOSS_CHUNK];
    for (int64_t row = begin; row < end; row++) {
      const bool counts = targets[row] != p.rule.ignore_index;
      LossGradient gradient = {};
      if (counts)
        gradient = loss_gradient(statistics[2 * row], statistics[2 * row + 1], p.cols, incoming.of_row(row), p.rule);
      for (int64_t col = 0; col < p.cols; col += LOSS_CHUNK) {
        const int64_t length = min64(LOSS_CHUNK, p.cols - col), start = row * p.cols + col;
        if (counts)
          gradient_of_logits(as_floats(p.logits, start, length, logits), length, col, targets[row], gradient,
                             gradients);
        else
          __builtin_memset(gradients, 0, size_t(length) * sizeof(float));
        store_floats(p.d_logits, start, length, gradients);
      }
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
