// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Cross entropy of one row of logits by a block of threads. A row's logits x become z = softcap * tanh(x / softcap), or
// stay as they are; its loss is
//
//   (1 - smoothing) (lse - z[target]) + smoothing (lse - mean z) + z_loss lse^2,   lse = log(sum(exp(z)))
//
// Softmax is taken online (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018): when some logits
// raise the largest z, the sum of exponentials so far is scaled down. So a row is read once. Exponentials are float32,
// sums of many of them float64.

#ifndef TERNFLASH_CUDA_LOSS_ROWS_CUH_
#define TERNFLASH_CUDA_LOSS_ROWS_CUH_

#include <float.h>
#include <math.h>

#include "rows.cuh"
#include "span.cuh"

namespace ternflash::cuda {

// The rule as kernels take it.
struct LossRule {
  int32_t ignore_index;
  Reduction reduction;
  float softcap;  // 0: none
  double label_smoothing;
  double z_loss;

  explicit LossRule(const CrossEntropyRule& rule)
      : ignore_index(rule.ignore_index),
        reduction(rule.reduction),
        softcap(0.0f),
        label_smoothing(rule.label_smoothing),
        z_loss(rule.z_loss) {
    // Within the range of normal floats: a cap beyond it changes no float32 logit by more than rounding, one below it
    // leaves no logit that differs from 0.
    if (rule.softcap > 0.0) softcap = static_cast<float>(std::min(std::max(rule.softcap, 1e-30), 1e38));
  }
};

template <bool CAPPED>
__device__ __forceinline__ float capped(float x, float softcap) {
  return CAPPED ? tanhf(x / softcap) * softcap : x;
}

// What is known of a row after some of its logits.
struct LossRow {
  float largest = -INFINITY;  // of the z
  double sum = 0.0;           // of exp(z - largest)
  double total = 0.0;         // of the z, with label smoothing
};

template <bool CAPPED, int COUNT>
__device__ __forceinline__ void add_logits(LossRow& row, const float (&x)[COUNT], const LossRule& rule) {
  float z[COUNT];
  float most = row.largest;
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    z[i] = capped<CAPPED>(x[i], rule.softcap);
    most = fmaxf(most, z[i]);
  }
  if (rule.label_smoothing > 0.0) row.total += static_cast<double>(sum_of_pairs<COUNT>([&](int i) { return z[i]; }));
  if (most > row.largest) {
    row.sum *= static_cast<double>(expf(row.largest - most));
    row.largest = most;
  }
  // Where all logits so far are -Infinity, subtracting 0 makes every exponential 0.
  const float shift = most == -INFINITY ? 0.0f : most;
  row.sum += static_cast<double>(sum_of_pairs<COUNT>([&](int i) { return expf(z[i] - shift); }));
}

// What the threads of a group know together.
template <int SIZE>
__device__ __forceinline__ void join(LossRow& row, Group<SIZE>& group) {
  const float largest = group.reduce(row.largest, Largest());
  const float shift = largest == -INFINITY ? 0.0f : largest;
  double sums[2] = {row.sum * static_cast<double>(expf(row.largest - shift)), row.total};
  group.reduce(sums, Sum());
  row = {largest, sums[0], sums[1]};
}

// `target` is the z of the target.
__device__ __forceinline__ double loss_of(const LossRow& row, float target, int64_t cols, const LossRule& rule) {
  // lse is largest + log_sum. The largest is subtracted first: it may be so large that the sum would round.
  const double log_sum = log(row.sum);
  const double largest = static_cast<double>(row.largest);
  double loss = 0.0;
  if (rule.label_smoothing < 1.0)
    loss = (1.0 - rule.label_smoothing) * (largest - static_cast<double>(target) + log_sum);
  if (rule.label_smoothing > 0.0)
    loss += rule.label_smoothing * (largest - row.total / static_cast<double>(cols) + log_sum);
  if (rule.z_loss > 0.0) loss += rule.z_loss * (largest + log_sum) * (largest + log_sum);
  return loss;
}

// The gradient of a row: with t = tanh(x / softcap), or 0 without one,
//   d_x[i] = (exp(z[i] - largest) * each - uniform - (i == target ? at_target : 0)) * (1 - t^2).
struct LossGradient {
  float largest;
  float softcap;
  double each;
  double uniform;
  double at_target;
};

// `incoming` is the gradient of the row's loss.
__device__ __forceinline__ LossGradient loss_gradient(float largest, float sum, int64_t cols, double incoming,
                                                      const LossRule& rule) {
  double weight = 1.0;
  if (rule.z_loss > 0.0) weight += 2.0 * rule.z_loss * (static_cast<double>(largest) + log(static_cast<double>(sum)));
  const double each = weight * incoming / static_cast<double>(sum);
  // Clamped: infinity would turn exponentials that are 0 into NaN.
  constexpr double MOST = FLT_MAX;
  return {largest, rule.softcap,
          each > MOST    ? MOST
          : each < -MOST ? -MOST
                         : each,
          rule.label_smoothing / static_cast<double>(cols) * incoming, (1.0 - rule.label_smoothing) * incoming};
}

template <bool CAPPED>
__device__ __forceinline__ float gradient_at(float x, float largest, float softcap, float each, float uniform) {
  if (!CAPPED) return expf(x - largest) * each - uniform;
  const float t = tanhf(x / softcap);
  return (expf(t * softcap - largest) * each - uniform) * (1.0f - t * t);
}

// In float64, because where the target is likely, the difference is small.
template <bool CAPPED>
__device__ __forceinline__ float gradient_at_target(float x, const LossGradient& g) {
  const float t = CAPPED ? tanhf(x / g.softcap) : 0.0f;
  const float z = CAPPED ? t * g.softcap : x;
  const double p = static_cast<double>(expf(z - g.largest)) * g.each;
  return static_cast<float>((p - g.uniform - g.at_target) * (1.0 - static_cast<double>(t) * static_cast<double>(t)));
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_LOSS_ROWS_CUH_
