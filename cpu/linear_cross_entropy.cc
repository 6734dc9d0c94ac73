// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Cross entropy of logits = x W^T + bias that are never there whole (Hsu et al., "Liger Kernel", 2024; Wijmans et al.,
// "Cut Your Losses in Large-Vocabulary Language Models", 2024). A block of them at a time is multiplied into the
// workspace, at the full speed of matmul.cc, and used up there:
//
//   forward    For each block of rows, the blocks of columns go into what is known of the rows (loss_rows.h).
//   backward   The blocks are multiplied again; each becomes the gradient of its logits in place, G, from which
//              d_x += G W, d_weight += G^T x and d_bias += the sum of G's rows. Columns are the outer loop, so the sums
//              that have to be float32 while the result is not are d_x and one block of d_weight.
//
// Blocks are given by lib/ops and depend on the shape alone, as do all orders of addition.

#include "kernels.h"
#include "loss_rows.h"
#include "matmul.h"
#include "simd.h"

namespace {

using namespace ternflash;

constexpr int64_t GRAIN = 16384;  // logits a task
constexpr int64_t COLUMNS = 256;  // of d_bias a task

static_assert(sizeof(LossRow) <= LOSS_ROW_FLOATS * sizeof(float), "what is known of a row has to fit the workspace");

TERNFLASH_INLINE int64_t element_bytes(const Tensor& tensor) { return tensor.dtype == DType::FLOAT32 ? 4 : 2; }

TERNFLASH_INLINE void zero(const Tensor& tensor) {
  if (tensor.data) __builtin_memset(tensor.data, 0, size_t(tensor.length * element_bytes(tensor)));
}

// Elements [start, start + length); absent if the tensor is.
TERNFLASH_INLINE Tensor slice(const Tensor& tensor, int64_t start, int64_t length) {
  if (!tensor.data) return tensor;
  return {static_cast<char*>(tensor.data) + start * element_bytes(tensor), tensor.dtype, length};
}

// Rows and columns of a block, and its logits [rows, cols].
struct Block {
  int64_t row;
  int64_t rows;
  int64_t col;
  int64_t cols;
  Tensor logits;
};

Block block_at(const LinearCrossEntropyShape& s, const Tensor& workspace, int64_t row, int64_t col) {
  const int64_t rows = min64(s.block_rows, s.rows - row), cols = min64(s.block_cols, s.vocabulary - col);
  return {row, rows, col, cols, slice(workspace, s.block_rows * LOSS_ROW_FLOATS, rows * cols)};
}

// out [cols] = the sums over the rows of block [rows, cols], added to what it holds if `add`.
void sum_rows(const float* block, int64_t rows, int64_t cols, bool add, const Tensor& out, Context& context) {
  parallel_ranges(context, cols, COLUMNS, [&](int64_t begin, int64_t end, int) {
    double totals[COLUMNS] = {};
    float values[COLUMNS];
    if (add) {
      load_floats(out, begin, end - begin, values);
      for (int64_t i = 0; i < end - begin; i++) totals[i] = double(values[i]);
    }
    for (int64_t row = 0; row < rows; row++)
      for (int64_t i = 0; i < end - begin; i++) totals[i] += double(block[row * cols + begin + i]);
    for (int64_t i = 0; i < end - begin; i++) values[i] = float(totals[i]);
    store_floats(out, begin, end - begin, values);
  });
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

namespace {

void multiply_block(const LinearCrossEntropyShape& s, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const Block& b, Context& context) {
  const Tensor x_rows = slice(x, b.row * s.features, b.rows * s.features);
  const Tensor weight_rows = slice(weight, b.col * s.features, b.cols * s.features);
  matmul_onto({x_rows, weight_rows, slice(bias, b.col, b.cols), b.logits, b.rows, b.cols, s.features, false, true},
              false, context);
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropyParams& p, Context& context) {
  const LinearCrossEntropyShape& s = p.shape;
  const int32_t* targets = static_cast<const int32_t*>(p.targets.data);
  float* statistics = static_cast<float*>(p.statistics.data);
  if (!check_targets(targets, s.rows, s.vocabulary, p.rule.ignore_index, context)) {
    zero(p.loss);
    zero(p.count);
    zero(p.statistics);
    return;
  }
  const float softcap = softcap_of(p.rule);
  LossSum sum;
  LossRow* known = static_cast<LossRow*>(p.workspace.data);
  for (int64_t row = 0; row < s.rows; row += s.block_rows) {
    const int64_t rows = min64(s.block_rows, s.rows - row);
    for (int64_t i = 0; i < rows; i++) known[i] = EMPTY_LOSS_ROW;
    for (int64_t col = 0; col < s.vocabulary; col += s.block_cols) {
      const Block b = block_at(s, p.workspace, row, col);
      multiply_block(s, p.x, p.weight, p.bias, b, context);
      parallel_ranges(context, rows, max64(1, GRAIN / b.cols), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; i++)
          if (targets[row + i] != p.rule.ignore_index)
            add_logits(known[i], b.logits, i * b.cols, b.cols, col, targets[row + i], softcap);
      });
    }
    for (int64_t i = 0; i < rows; i++) {
      const bool counts = targets[row + i] != p.rule.ignore_index;
      const double loss = counts ? loss_of(known[i], s.vocabulary, p.rule) : 0.0;
      sum.add(row + i, counts, loss, p.rule, p.loss);
      statistics[2 * (row + i)] = counts ? known[i].largest : 0.0f;
      statistics[2 * (row + i) + 1] = float(known[i].sum);
    }
  }
  sum.store(p.rule, p.loss, p.count);
}

void linear_cross_entropy_backward(const LinearCrossEntropyBackwardParams& p, Context& context) {
  const LinearCrossEntropyShape& s = p.shape;
  const int32_t* targets = static_cast<const int32_t*>(p.targets.data);
  const float* statistics = static_cast<const float*>(p.statistics.data);
  if (!check_targets(targets, s.rows, s.vocabulary, p.rule.ignore_index, context)) {
    zero(p.d_x);
    zero(p.d_weight);
    zero(p.d_bias);
    return;
  }
  const IncomingGradient incoming(p.d_loss, p.count, p.rule);
  const Tensor d_x = p.d_x_sum.data ? p.d_x_sum : p.d_x;
  for (int64_t col = 0; col < s.vocabulary; col += s.block_cols) {
    const int64_t cols = min64(s.block_cols, s.vocabulary - col);
    const Tensor d_weight_rows = slice(p.d_weight, col * s.features, cols * s.features);
    const Tensor d_bias_part = slice(p.d_bias, col, cols);
    const Tensor d_weight = p.d_weight_sum.data ? slice(p.d_weight_sum, 0, cols * s.features) : d_weight_rows;
    const Tensor d_bias = p.d_bias_sum.data ? slice(p.d_bias_sum, 0, cols) : d_bias_part;
    for (int64_t row = 0; row < s.rows; row += s.block_rows) {
      const Block b = block_at(s, p.workspace, row, col);
      multiply_block(s, p.x, p.weight, p.bias, b, context);
      float* block = static_cast<float*>(b.logits.data);
      parallel_ranges(context, b.rows, max64(1, GRAIN / cols), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; i++) {
          const int64_t m = row + i;
          float* logits = block + i * cols;
          if (targets[m] == p.rule.ignore_index) {
            __builtin_memset(logits, 0, size_t(cols) * sizeof(float));
            continue;
          }
          const LossGradient gradient =
              loss_gradient(statistics[2 * m], statistics[2 * m + 1], s.vocabulary, incoming.of_row(m), p.rule);
          gradient_of_logits(logits, cols, col, targets[m], gradient, logits);
        }
      });
      const Tensor x_rows = slice(p.x, row * s.features, b.rows * s.features);
      const Tensor weight_rows = slice(p.weight, col * s.features, cols * s.features);
      if (d_x.data)
        matmul_onto({b.logits, weight_rows, Tensor{}, slice(d_x, row * s.features, b.rows * s.features), b.rows,
                     s.features, cols, false, false},
                    col > 0, context);
      if (d_weight.data)
        matmul_onto({b.logits, x_rows, Tensor{}, d_weight, cols, s.features, b.rows, true, false}, row > 0, context);
      if (d_bias.data) sum_rows(block, b.rows, cols, row > 0, d_bias, context);
    }
    if (p.d_weight_sum.data) cast({d_weight, d_weight_rows}, context);
    if (p.d_bias_sum.data) cast({d_bias, d_bias_part}, context);
  }
  if (p.d_x_sum.data) cast({p.d_x_sum, p.d_x}, context);
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
