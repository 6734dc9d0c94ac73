// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Cross entropy of one row of logits, met piece by piece: what crossEntropy and linearCrossEntropy share. A row's
// logits x become z = softcap * tanh(x / softcap), or stay as they are; its loss is
//
//   (1 - smoothing) (lse - z[target]) + smoothing (lse - mean z) + z_loss lse^2,   lse = log(sum(exp(z)))
//
// Softmax is taken online (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018): when a piece
// raises the largest z, the sum of exponentials so far is scaled down. So a row is read once, and never needs to be
// there whole.

#ifndef TERNFLASH_CPU_LOSS_ROWS_H_
#define TERNFLASH_CPU_LOSS_ROWS_H_

#include <stdio.h>

#include "simd.h"

namespace {

using ternflash::CrossEntropyRule;
using ternflash::Reduction;

constexpr int64_t LOSS_CHUNK = 1024;  // logits added up in float32 before they join a row's float64 sums
constexpr float LOSS_INFINITE = __builtin_inff();

// tanh to about 1 unit in the last place: a polynomial near 0 (Cephes tanhf), else 1 - 2 / (e^2|x| + 1).
TERNFLASH_INLINE Vec vec_tanh(Vec x) {
  const Vec square = x * x;
  Vec p = broadcast(-5.70498872745e-3f);
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const Vec near = p * square * x + x;
  const Vec magnitude = x < 0.0f ? -x : x;
  const Vec outer = 1.0f - 2.0f / (vec_exp(magnitude + magnitude) + 1.0f);
  const Vec far = x < 0.0f ? -outer : outer;
  return magnitude < 0.625f ? near : far;
}

// 0 for no cap. Within the range of normal floats; a cap beyond it changes no float32 logit by more than rounding, one
// below it leaves no logit that differs from 0.
TERNFLASH_INLINE float softcap_of(const CrossEntropyRule& rule) {
  if (rule.softcap == 0.0) return 0.0f;
  return rule.softcap < 1e-30 ? 1e-30f : rule.softcap > 1e38 ? 1e38f : float(rule.softcap);
}

// Whether each target is a column or ignored; else the op has failed.
TERNFLASH_INLINE bool check_targets(const int32_t* targets, int64_t rows, int64_t cols, int32_t ignore_index,
                                    Context& context) {
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

// What is known of a row after some of its logits.
struct LossRow {
  float largest;  // of the z
  float target;   // z of the target, once it has been met
  double sum;     // of exp(z - largest)
  double total;   // of the z
};

constexpr LossRow EMPTY_LOSS_ROW = {-LOSS_INFINITE, 0.0f, 0.0, 0.0};

// Adds `count` logits, the first of them being that of column `col`.
static __attribute__((noinline, unused)) void add_logits(LossRow& row, const Tensor& logits, int64_t start,
                                                         int64_t count, int64_t col, int64_t target, float softcap) {
  float buffer[LOSS_CHUNK];
  for (int64_t first = 0; first < count; first += LOSS_CHUNK) {
    const int64_t length = min64(LOSS_CHUNK, count - first);
    const int64_t padded = round_up(length, LANES);
    const float* z = as_floats(logits, start + first, length, buffer);
    if (softcap > 0.0f || (padded > length && z != buffer)) {
      int64_t i = 0;
      for (; i + LANES <= length; i += LANES) store(buffer + i, load(z + i));
      for (; i < length; i++) buffer[i] = z[i];
      z = buffer;
    }
    for (int64_t i = length; i < padded; i++) buffer[i] = 0.0f;
    if (softcap > 0.0f)
      for (int64_t i = 0; i < padded; i += LANES) store(buffer + i, vec_tanh(load(buffer + i) / softcap) * softcap);

    Vec best = broadcast(-LOSS_INFINITE), totals = {};
    int64_t i = 0;
    for (; i + LANES <= length; i += LANES) {
      best = vec_max(load(z + i), best);
      totals += load(z + i);
    }
    float largest = vec_max_lane(best);
    row.total += double(vec_sum(totals));
    for (; i < length; i++) {
      largest = z[i] > largest ? z[i] : largest;
      row.total += double(z[i]);
    }
    for (i = length; i < padded; i++) buffer[i] = -LOSS_INFINITE;

    if (largest > row.largest) {
      row.sum *= __builtin_exp(double(row.largest) - double(largest));
      row.largest = largest;
    }
    // Where all logits so far are -Infinity, subtracting 0 makes every exponential 0.
    const Vec shift = broadcast(row.largest == -LOSS_INFINITE ? 0.0f : row.largest);
    Vec sums = {};
    for (i = 0; i < padded; i += LANES) sums += vec_exp(load(z + i) - shift);
    row.sum += double(vec_sum(sums));
    const int64_t place = target - col - first;
    if (place >= 0 && place < length) row.target = z[place];
  }
}

TERNFLASH_INLINE double loss_of(const LossRow& row, int64_t cols, const CrossEntropyRule& rule) {
  // lse is largest + log_sum. The largest is subtracted first: it may be so large that the sum would round.
  const double log_sum = __builtin_log(row.sum), largest = double(row.largest);
  double loss = 0;
  if (rule.label_smoothing < 1) loss = (1.0 - rule.label_smoothing) * (largest - double(row.target) + log_sum);
  if (rule.label_smoothing > 0) loss += rule.label_smoothing * (largest - row.total / double(cols) + log_sum);
  if (rule.z_loss > 0) loss += rule.z_loss * (largest + log_sum) * (largest + log_sum);
  return loss;
}

// The rows' losses as `loss` and `count` hold them: added up in order, or each stored.
struct LossSum {
  double total = 0;
  int64_t counted = 0;

  void add(int64_t row, bool counts, double loss, const CrossEntropyRule& rule, const Tensor& out) {
    if (rule.reduction == Reduction::NONE) static_cast<float*>(out.data)[row] = float(loss);
    total += loss;
    counted += counts;
  }
  void store(const CrossEntropyRule& rule, const Tensor& out, const Tensor& count) const {
    *static_cast<float*>(count.data) = float(counted);
    if (rule.reduction == Reduction::NONE) return;
    *static_cast<float*>(out.data) =
        float(rule.reduction == Reduction::MEAN && counted > 0 ? total / double(counted) : total);
  }
};

// The gradient of a row: with t = tanh(x / softcap), or 0 without one,
//   d_x[i] = (exp(z[i] - largest) * each - uniform - (i == target ? at_target : 0)) * (1 - t^2).
struct LossGradient {
  float largest;
  float softcap;
  double each;
  double uniform;
  double at_target;
};

TERNFLASH_INLINE double within_float(double value) {
  constexpr double MOST = 3.4028234663852886e38;
  return value > MOST ? MOST : value < -MOST ? -MOST : value;
}

// `incoming` is the gradient of the row's loss.
TERNFLASH_INLINE LossGradient loss_gradient(float largest, float sum, int64_t cols, double incoming,
                                            const CrossEntropyRule& rule) {
  const double lse = double(largest) + __builtin_log(double(sum));
  const double weight = rule.z_loss > 0 ? 1.0 + 2.0 * rule.z_loss * lse : 1.0;
  // Clamped: infinity would turn exponentials that are 0 into NaN.
  return {largest, softcap_of(rule), within_float(weight * incoming / double(sum)),
          rule.label_smoothing / double(cols) * incoming, (1.0 - rule.label_smoothing) * incoming};
}

template <bool CAPPED>
TERNFLASH_INLINE Vec gradient_vector(Vec x, const LossGradient& g) {
  const float each = float(g.each), uniform = float(g.uniform);
  if (!CAPPED) return vec_exp(x - g.largest) * each - uniform;
  const Vec t = vec_tanh(x / g.softcap);
  return (vec_exp(t * g.softcap - g.largest) * each - uniform) * (1.0f - t * t);
}

// d_x of `count` logits x, which may be the same memory, the first of them being that of column `col`.
template <bool CAPPED>
TERNFLASH_INLINE void gradient_run(const float* x, int64_t count, int64_t col, int64_t target, const LossGradient& g,
                                   float* d_x) {
  const int64_t place = target - col;
  const bool meets = place >= 0 && place < count;
  const float target_logit = meets ? x[place] : 0.0f;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(d_x + i, gradient_vector<CAPPED>(load(x + i), g));
  const int rest = int(count - i);
  if (rest > 0) store_partial(d_x + i, gradient_vector<CAPPED>(load_partial(x + i, rest, 0.0f), g), rest);
  if (!meets) return;
  // In float64, because where the target is likely, the difference is small.
  const Vec t = CAPPED ? vec_tanh(broadcast(target_logit) / g.softcap) : Vec{};
  const float z = CAPPED ? t[0] * g.softcap : target_logit;
  const double p = double(vec_exp(broadcast(z - g.largest))[0]) * g.each;
  d_x[place] = float((p - g.uniform - g.at_target) * (1.0 - double(t[0]) * double(t[0])));
}

static __attribute__((noinline, unused)) void gradient_of_logits(const float* x, int64_t count, int64_t col,
                                                                 int64_t target, const LossGradient& g, float* d_x) {
  if (g.softcap > 0.0f)
    gradient_run<true>(x, count, col, target, g, d_x);
  else
    gradient_run<false>(x, count, col, target, g, d_x);
}

// The gradients of the rows' losses, from that of the reduced loss.
struct IncomingGradient {
  const float* d_loss;
  Reduction reduction;
  double divisor;

  IncomingGradient(const Tensor& d_loss, const Tensor& count, const CrossEntropyRule& rule)
      : d_loss(static_cast<const float*>(d_loss.data)),
        reduction(rule.reduction),
        divisor(rule.reduction == Reduction::MEAN ? double(*static_cast<const float*>(count.data)) : 1.0) {}

  double of_row(int64_t row) const {
    return reduction == Reduction::NONE ? double(d_loss[row]) : double(*d_loss) / divisor;
  }
};

}  // namespace

#endif  // TERNFLASH_CPU_LOSS_ROWS_H_
