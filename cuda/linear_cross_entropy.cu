// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The cross entropy of x W^T + b. The logits are there for a chunk of rows at a time, as float32, and are computed anew for the
// gradient (the idea of Liger-Kernel's fused linear cross entropy, 2024).

#include <stdio.h>

#include "indices.h"
#include "kernels.h"
#include "matmul.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

// Each chunk reads and writes the whole gradient of the weight, so it should not be small; 2^26 logits are 256 MB, and 128 more of their 16-bit
// gradient. Whole tiles of the product.
constexpr int64_t CHUNK_LOGITS = int64_t(1) << 26;
constexpr int64_t CHUNK_ROWS = 128;
constexpr int SUM_THREADS = 1024;

int64_t rows_a_chunk(const LinearCrossEntropyShape& shape) {
  const int64_t rows = CHUNK_LOGITS / shape.vocabulary / CHUNK_ROWS * CHUNK_ROWS;
  return std::min(shape.rows, std::max(CHUNK_ROWS, rows));
}

Tensor rows_of(const Tensor& tensor, int64_t first_row, int64_t rows, int64_t cols) {
  return {static_cast<uint8_t*>(tensor.data) + first_row * cols * element_bytes(tensor.dtype), tensor.dtype, rows * cols};
}

Tensor workspace_of(Context& context, DType dtype, int64_t length) {
  return {context.workspace(static_cast<size_t>(length * element_bytes(dtype))), dtype, length};
}

void multiply_chunk(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& logits, int64_t rows,
                    const LinearCrossEntropyShape& shape, Context& context) {
  matmul_onto({x, weight, bias, {}, rows, shape.vocabulary, shape.features, false, true}, target_of<float>(logits), false,
              context);
}

// The rows' losses added in float64, thread t those of the rows t, t + 1024, ..., then a tree. Zeros after a wrong target.
__global__ void __launch_bounds__(SUM_THREADS)
    add_row_losses(const float* losses, const int32_t* targets, int32_t ignore_index, Reduction reduction, int64_t rows,
                   const uint32_t* wrong, float* loss, float* count, float2* statistics) {
  __shared__ double totals[SUM_THREADS];
  __shared__ double counts[SUM_THREADS];
  const bool failed = *wrong != 0;
  double total = 0.0;
  double counted = 0.0;
  for (int64_t row = threadIdx.x; row < rows; row += SUM_THREADS) {
    total += static_cast<double>(losses[row]);
    counted += targets[row] != ignore_index;
    if (reduction == Reduction::NONE) loss[row] = failed ? 0.0f : losses[row];
    if (failed) statistics[row] = {0.0f, 0.0f};
  }
  totals[threadIdx.x] = total;
  counts[threadIdx.x] = counted;
  for (int half = SUM_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();  // the sums of the round before are there
    if (threadIdx.x < half) {
      totals[threadIdx.x] += totals[threadIdx.x + half];
      counts[threadIdx.x] += counts[threadIdx.x + half];
    }
  }
  if (threadIdx.x > 0) return;
  *count = failed ? 0.0f : static_cast<float>(counts[0]);
  if (reduction == Reduction::NONE) return;
  const bool mean = reduction == Reduction::MEAN && counts[0] > 0.0;
  *loss = failed ? 0.0f : static_cast<float>(mean ? totals[0] / counts[0] : totals[0]);
}

// sums[c] (+)= the sum of column c of d_logits, rows in ascending order.
template <class T>
__global__ void add_columns(const T* d_logits, int64_t rows, int64_t cols, float* sums, bool adds) {
  for (int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; c < cols; c += int64_t(gridDim.x) * blockDim.x) {
    float sum = adds ? sums[c] : 0.0f;
    for (int64_t row = 0; row < rows; row++) sum += static_cast<float>(d_logits[row * cols + c]);
    sums[c] = sum;
  }
}

void format_message(char (&message)[128], int64_t vocabulary, int32_t ignore_index) {
  snprintf(message, sizeof(message), "expected targets in 0..%lld or ignoreIndex %d, got {value} at row {position}",
           static_cast<long long>(vocabulary - 1), ignore_index);
}

}  // namespace

void linear_cross_entropy(const LinearCrossEntropyParams& p, Context& context) {
  const LinearCrossEntropyShape& shape = p.shape;
  char message[128];
  format_message(message, shape.vocabulary, p.rule.ignore_index);
  const int32_t* targets = data_of<int32_t>(p.targets);
  const uint32_t* wrong =
      check_indices(targets, shape.rows, shape.vocabulary, &p.rule.ignore_index, message, context);
  const int64_t chunk = rows_a_chunk(shape);
  const Tensor logits = workspace_of(context, DType::FLOAT32, chunk * shape.vocabulary);
  const Tensor losses = workspace_of(context, DType::FLOAT32, shape.rows);
  const Tensor count = workspace_of(context, DType::FLOAT32, 1);
  if (!wrong || !logits.data || !losses.data || !count.data) return;
  CrossEntropyRule each = p.rule;
  each.reduction = Reduction::NONE;
  for (int64_t first = 0; first < shape.rows; first += chunk) {
    const int64_t rows = std::min(chunk, shape.rows - first);
    multiply_chunk(rows_of(p.x, first, rows, shape.features), p.weight, p.bias, logits, rows, shape, context);
    cross_entropy({each, logits, rows_of(p.targets, first, rows, 1), rows_of(losses, first, rows, 1), count,
                   rows_of(p.statistics, first, rows, 2), rows, shape.vocabulary},
                  context);
  }
  add_row_losses<<<1, SUM_THREADS, 0, context.stream()>>>(data_of<float>(losses), targets, p.rule.ignore_index,
                                                          p.rule.reduction, shape.rows, wrong, target_of<float>(p.loss),
                                                          target_of<float>(p.count), target_of<float2>(p.statistics));
}

void linear_cross_entropy_backward(const LinearCrossEntropyBackwardParams& p, Context& context) {
  const LinearCrossEntropyShape& shape = p.shape;
  const int64_t chunk = rows_a_chunk(shape);
  const DType dtype = p.x.dtype;
  const Tensor logits = workspace_of(context, DType::FLOAT32, chunk * shape.vocabulary);
  const Tensor d_logits = workspace_of(context, dtype, chunk * shape.vocabulary);
  // float32 gradients are summed where they belong.
  const auto sums_of = [&](const Tensor& gradient) {
    if (!gradient.data || gradient.dtype == DType::FLOAT32) return gradient;
    return workspace_of(context, DType::FLOAT32, gradient.length);
  };
  const Tensor weight_sums = sums_of(p.d_weight);
  const Tensor bias_sums = sums_of(p.d_bias);
  if (!logits.data || !d_logits.data || (p.d_weight.data && !weight_sums.data) || (p.d_bias.data && !bias_sums.data)) return;
  for (int64_t first = 0; first < shape.rows; first += chunk) {
    const int64_t rows = std::min(chunk, shape.rows - first);
    const Tensor x = rows_of(p.x, first, rows, shape.features);
    multiply_chunk(x, p.weight, p.bias, logits, rows, shape, context);
    const Tensor d_loss = p.rule.reduction == Reduction::NONE ? rows_of(p.d_loss, first, rows, 1) : p.d_loss;
    cross_entropy_backward({p.rule, logits, rows_of(p.targets, first, rows, 1), p.count,
                            rows_of(p.statistics, first, rows, 2), d_loss, d_logits, rows, shape.vocabulary},
                           context);
    if (p.d_x.data) {
      const Tensor d_x = rows_of(p.d_x, first, rows, shape.features);
      matmul({d_logits, p.weight, {}, d_x, rows, shape.features, shape.vocabulary, false, false}, context);
    }
    if (p.d_weight.data)
      matmul_onto({d_logits, x, {}, {}, shape.vocabulary, shape.features, rows, true, false},
                  target_of<float>(weight_sums), first > 0, context);
    if (p.d_bias.data) {
      with_float_type(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const unsigned blocks = grid_size(ceil_div(shape.vocabulary, BLOCK_THREADS), context, 8);
        add_columns<T><<<blocks, BLOCK_THREADS, 0, context.stream()>>>(data_of<T>(d_logits), rows, shape.vocabulary,
                                                                       target_of<float>(bias_sums), first > 0);
      });
    }
  }
  if (weight_sums.data != p.d_weight.data) cast({weight_sums, p.d_weight}, context);
  if (bias_sums.data != p.d_bias.data) cast({bias_sums, p.d_bias}, context);
}

}  // namespace ternflash::cuda
