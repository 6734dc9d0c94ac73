// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Softmax cross entropy over rows of logits [M, V]; loss_rows.cuh says what a row gives. A block has a row; rows may
// begin anywhere. One more block adds up the rows' losses in float64, in a fixed order.

#include <stdio.h>

#include "failure.cuh"
#include "indices.h"
#include "kernels.h"
#include "loss_rows.cuh"

namespace ternflash::cuda {

namespace {

constexpr int SUM_THREADS = 1024;

template <class T>
struct CrossEntropyArguments {
  LossRule rule;
  const T* logits;
  const int32_t* targets;
  double* losses;  // [M], workspace
  float2* statistics;
  int64_t cols;
};

template <class T, int THREADS, bool CAPPED>
__global__ void __launch_bounds__(THREADS, THREADS > 512 ? 1 : 1024 / THREADS)
    loss_kernel(const __grid_constant__ CrossEntropyArguments<T> args) {
  Group<THREADS> group;
  const int64_t index = blockIdx.x;
  const int32_t target = args.targets[index];
  // A wrong target is found when the losses are added up.
  if (target == args.rule.ignore_index || target < 0 || target >= args.cols) {
    if (threadIdx.x == 0) {
      args.losses[index] = 0.0;
      args.statistics[index] = {0.0f, 0.0f};
    }
    return;
  }
  const T* logits = args.logits + index * args.cols;
  LossRow row;
  for_span<THREADS, 4>(logits, args.cols, threadIdx.x,
                       [&](const auto& x, int64_t, int) { add_logits<CAPPED>(row, x, args.rule); });
  join(row, group);
  if (threadIdx.x > 0) return;
  const float z = capped<CAPPED>(static_cast<float>(logits[target]), args.rule.softcap);
  args.losses[index] = loss_of(row, z, args.cols, args.rule);
  args.statistics[index] = {row.largest, static_cast<float>(row.sum)};
}

__global__ void __launch_bounds__(SUM_THREADS)
    add_losses_kernel(const __grid_constant__ LossRule rule, const double* losses, const int32_t* targets, float* loss,
                      float* count, float2* statistics, int64_t rows, int64_t cols, FailureRecord* failure,
                      uint32_t failure_code) {
  Group<SUM_THREADS> group;
  double total = 0.0;
  int counted = 0;
  __shared__ unsigned long long shared;
  int64_t wrong = INT64_MAX;
  for (int64_t row = threadIdx.x; row < rows; row += SUM_THREADS) {
    const int32_t target = targets[row];
    const bool counts = target != rule.ignore_index;
    if (counts && (target < 0 || target >= cols)) wrong = min(wrong, row);
    counted += counts;
    total += losses[row];
    if (rule.reduction == Reduction::NONE) loss[row] = static_cast<float>(losses[row]);
  }
  if (__syncthreads_or(wrong != INT64_MAX)) {
    for (int64_t row = threadIdx.x; row < rows; row += SUM_THREADS) {
      statistics[row] = {0.0f, 0.0f};
      if (rule.reduction == Reduction::NONE || row == 0) loss[row] = 0.0f;
    }
    wrong = first_position(wrong, &shared);
    if (threadIdx.x > 0) return;
    *count = 0.0f;
    record_failure(failure, failure_code, targets[wrong], wrong);
    return;
  }
  total = group.reduce(total, Sum());
  counted = group.reduce(counted, Sum());
  if (threadIdx.x > 0) return;
  *count = static_cast<float>(counted);
  if (rule.reduction == Reduction::NONE) return;
  const bool mean = rule.reduction == Reduction::MEAN && counted > 0;
  *loss = static_cast<float>(mean ? total / static_cast<double>(counted) : total);
}

template <class T, class Out>
struct CrossEntropyBackwardArguments {
  LossRule rule;
  const T* logits;
  const int32_t* targets;
  const float* count;
  const float2* statistics;
  const float* d_loss;
  Out* d_logits;
  int64_t cols;
  const uint32_t* wrong;
};

template <class T, class Out, int THREADS, bool CAPPED>
__global__ void __launch_bounds__(THREADS, 1024 / THREADS)
    loss_backward_kernel(const __grid_constant__ CrossEntropyBackwardArguments<T, Out> args) {
  __shared__ LossGradient shared;
  const int64_t index = blockIdx.x;
  const int32_t target = args.targets[index];
  const T* logits = args.logits + index * args.cols;
  Out* d_logits = args.d_logits + index * args.cols;
  if (target == args.rule.ignore_index || *args.wrong != 0) {
    clear_span<THREADS>(d_logits, args.cols, threadIdx.x);
    return;
  }
  if (threadIdx.x == 0) {
    double incoming = static_cast<double>(args.d_loss[args.rule.reduction == Reduction::NONE ? index : 0]);
    if (args.rule.reduction == Reduction::MEAN) incoming /= static_cast<double>(*args.count);
    const float2 statistics = args.statistics[index];
    shared = loss_gradient(statistics.x, statistics.y, args.cols, incoming, args.rule);
  }
  __syncthreads();
  const float largest = shared.largest;
  const float softcap = shared.softcap;
  const float each = static_cast<float>(shared.each);
  const float uniform = static_cast<float>(shared.uniform);
  map_span<THREADS, 4>(logits, d_logits, args.cols, threadIdx.x, [&](auto& x) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(x) / sizeof(float)); i++)
      x[i] = gradient_at<CAPPED>(x[i], largest, softcap, each, uniform);
  });
  __syncthreads();  // the target's gradient is written last
  if (threadIdx.x == 0)
    d_logits[target] = static_cast<Out>(gradient_at_target<CAPPED>(static_cast<float>(logits[target]), shared));
}

}  // namespace

void cross_entropy(const CrossEntropyParams& p, Context& context) {
  char message[128];
  snprintf(message, sizeof(message), "expected targets in 0..%lld or ignoreIndex %d, got {value} at row {position}",
           static_cast<long long>(p.cols - 1), p.rule.ignore_index);
  double* losses = static_cast<double*>(context.workspace(static_cast<size_t>(p.rows) * sizeof(double)));
  if (!losses) return;
  const LossRule rule(p.rule);
  const int32_t* targets = data_of<int32_t>(p.targets);
  float2* statistics = target_of<float2>(p.statistics);
  with_float_type(p.logits.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const CrossEntropyArguments<T> args = {rule, data_of<T>(p.logits), targets, losses, statistics, p.cols};
    const unsigned rows = static_cast<unsigned>(p.rows);
    // Few long rows take as many threads as a multiprocessor has room for.
    if (p.rows < 2 * context.device().multiprocessors && p.cols >= 16384)
      rule.softcap > 0.0f ? loss_kernel<T, 1024, true><<<rows, 1024, 0, context.stream()>>>(args)
                          : loss_kernel<T, 1024, false><<<rows, 1024, 0, context.stream()>>>(args);
    else
      rule.softcap > 0.0f ? loss_kernel<T, 256, true><<<rows, 256, 0, context.stream()>>>(args)
                          : loss_kernel<T, 256, false><<<rows, 256, 0, context.stream()>>>(args);
  });
  add_losses_kernel<<<1, SUM_THREADS, 0, context.stream()>>>(rule, losses, targets, target_of<float>(p.loss),
                                                             target_of<float>(p.count), statistics, p.rows, p.cols,
                                                             context.failure_record(), context.failure_code(message));
}

void cross_entropy_backward(const CrossEntropyBackwardParams& p, Context& context) {
  char message[128];
  snprintf(message, sizeof(message), "expected targets in 0..%lld or ignoreIndex %d, got {value} at row {position}",
           static_cast<long long>(p.cols - 1), p.rule.ignore_index);
  const LossRule rule(p.rule);
  const int32_t* targets = data_of<int32_t>(p.targets);
  const uint32_t* wrong = check_indices(targets, p.rows, p.cols, &p.rule.ignore_index, message, context);
  if (!wrong) return;
  const auto go = [&](auto type, auto out_type) {
    using T = typename decltype(type)::type;
    using Out = typename decltype(out_type)::type;
    const CrossEntropyBackwardArguments<T, Out> args = {rule,
                                                        data_of<T>(p.logits),
                                                        targets,
                                                        data_of<float>(p.count),
                                                        data_of<float2>(p.statistics),
                                                        data_of<float>(p.d_loss),
                                                        target_of<Out>(p.d_logits),
                                                        p.cols,
                                                        wrong};
    const unsigned rows = static_cast<unsigned>(p.rows);
    rule.softcap > 0.0f ? loss_backward_kernel<T, Out, 256, true><<<rows, 256, 0, context.stream()>>>(args)
                        : loss_backward_kernel<T, Out, 256, false><<<rows, 256, 0, context.stream()>>>(args);
  };
  with_float_type(p.d_logits.dtype, [&](auto type) {
    // float32 logits may have a gradient of fewer bits (linear_cross_entropy.cu).
    if (p.logits.dtype == DType::FLOAT32)
      go(Type<float>{}, type);
    else
      go(type, type);
  });
}

}  // namespace ternflash::cuda
