// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Sums, norms, argmax and softmax. Sums are taken over fixed pieces, each in float64, and the pieces added in order, so
// that the result depends neither on the number of threads nor noticeably on rounding.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::ArgmaxParams;
using ternflash::GlobalNormParams;
using ternflash::SoftmaxBackwardParams;
using ternflash::SoftmaxParams;
using ternflash::SumParams;

constexpr int64_t PIECE = 16384;
constexpr int64_t CHUNK = 1024;
constexpr int SUM_LANES = 16;

TERNFLASH_INLINE int64_t row_grain(int64_t cols) { return max64(1, PIECE / cols); }

// Sum of elements [start, start + count), or of their squares.
template <bool SQUARES>
TERNFLASH_INLINE double sum_run(const Tensor& tensor, int64_t start, int64_t count) {
  float buffer[CHUNK];
  double lanes[SUM_LANES] = {};
  for (int64_t i = 0; i < count; i += CHUNK) {
    const int64_t length = min64(CHUNK, count - i);
    const float* x = as_floats(tensor, start + i, length, buffer);
    int64_t j = 0;
    for (; j + SUM_LANES <= length; j += SUM_LANES)
      for (int lane = 0; lane < SUM_LANES; lane++) {
        const double value = x[j + lane];
        lanes[lane] += SQUARES ? value * value : value;
      }
    for (; j < length; j++) {
      const double value = x[j];
      lanes[0] += SQUARES ? value * value : value;
    }
  }
  double total = 0;
  for (int lane = 0; lane < SUM_LANES; lane++) total += lanes[lane];
  return total;
}

void sum_integers(const SumParams& p, Context& context) {
  const int32_t* x = static_cast<const int32_t*>(p.x.data);
  int32_t* out = static_cast<int32_t*>(p.out.data);
  parallel_ranges(context, p.outer * p.inner, max64(1, PIECE / max64(1, p.reduce)), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int32_t* column = x + i / p.inner * p.reduce * p.inner + i % p.inner;
      uint32_t total = 0;
      for (int64_t r = 0; r < p.reduce; r++) total += uint32_t(column[r * p.inner]);
      out[i] = int32_t(total);
    }
  });
}

// Rows of consecutive elements: each cut into pieces.
void sum_rows(const SumParams& p, Context& context) {
  const int64_t pieces = max64(1, ceil_div(p.reduce, PIECE));
  double* partial = shared_scratch<double>(context, p.outer * pieces);
  parallel_ranges(context, p.outer * pieces, max64(1, PIECE / max64(1, p.reduce)), [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t row = task / pieces, first = task % pieces * PIECE;
      partial[task] = sum_run<false>(p.x, row * p.reduce + first, min64(PIECE, p.reduce - first));
    }
  });
  for (int64_t row = 0; row < p.outer; row++) {
    double total = 0;
    for (int64_t piece = 0; piece < pieces; piece++) total += partial[row * pieces + piece];
    const float value = float(total * p.factor);
    store_floats(p.out, row, 1, &value);
  }
}

// Columns: tasks are spans of columns, added row by row.
void sum_columns(const SumParams& p, Context& context) {
  constexpr int64_t SPAN = 64;
  const int64_t spans = ceil_div(p.inner, SPAN);
  parallel_for(context, p.outer * spans, [&](int64_t task, int) {
    const int64_t outer = task / spans, first = task % spans * SPAN, count = min64(SPAN, p.inner - first);
    float buffer[SPAN];
    double totals[SPAN] = {};
    for (int64_t r = 0; r < p.reduce; r++) {
      const float* x = as_floats(p.x, (outer * p.reduce + r) * p.inner + first, count, buffer);
      for (int64_t i = 0; i < count; i++) totals[i] += double(x[i]);
    }
    for (int64_t i = 0; i < count; i++) buffer[i] = float(totals[i] * p.factor);
    store_floats(p.out, outer * p.inner + first, count, buffer);
  });
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void sum(const SumParams& p, Context& context) {
  if (p.x.dtype == DType::INT32)
    sum_integers(p, context);
  else if (p.inner == 1)
    sum_rows(p, context);
  else
    sum_columns(p, context);
}

void global_norm(const GlobalNormParams& p, Context& context) {
  int64_t pieces = 0;
  for (size_t t = 0; t < p.count; t++) pieces += ceil_div(p.tensors[t].length, PIECE);
  double* partial = shared_scratch<double>(context, max64(1, pieces));
  parallel_for(context, pieces, [&](int64_t task, int) {
    int64_t piece = task;
    size_t t = 0;
    for (; piece >= ceil_div(p.tensors[t].length, PIECE); t++) piece -= ceil_div(p.tensors[t].length, PIECE);
    const int64_t first = piece * PIECE;
    partial[task] = sum_run<true>(p.tensors[t], first, min64(PIECE, p.tensors[t].length - first));
  });
  double total = 0;
  for (int64_t piece = 0; piece < pieces; piece++) total += partial[piece];
  const double norm = __builtin_sqrt(total);
  const double coefficient = p.max_norm / (norm + 1e-6);
  const bool finite = norm - norm == 0.0;
  *static_cast<float*>(p.norm.data) = float(norm);
  *static_cast<float*>(p.coefficient.data) = finite ? float(coefficient < 1.0 ? coefficient : 1.0) : __builtin_nanf("");
}

void argmax(const ArgmaxParams& p, Context& context) {
  int32_t* out = static_cast<int32_t*>(p.out.data);
  parallel_ranges(context, p.rows, row_grain(p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, p.cols);
    for (int64_t row = begin; row < end; row++) {
      const float* x = as_floats(p.x, row * p.cols, p.cols, buffer);
      int64_t best = 0;
      for (int64_t col = 1; col < p.cols && x[best] == x[best]; col++)
        if (x[col] > x[best] || x[col] != x[col]) best = col;
      out[row] = int32_t(best);
    }
  });
}

void softmax(const SoftmaxParams& p, Context& context) {
  const int64_t padded = round_up(p.cols, LANES);
  parallel_ranges(context, p.rows, row_grain(p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* row_values = thread_scratch<float>(context, thread, padded);
    for (int64_t row = begin; row < end; row++) {
      load_floats(p.x, row * p.cols, p.cols, row_values);
      for (int64_t col = p.cols; col < padded; col++) row_values[col] = -__builtin_inff();
      Vec best = broadcast(-__builtin_inff());
      for (int64_t col = 0; col < padded; col += LANES) best = vec_max(load(row_values + col), best);
      const float largest = vec_max_lane(best);
      // A row of -Infinity alone: subtracting 0 makes every exponential 0, and the result 0.
      const Vec shift = broadcast(largest == -__builtin_inff() ? 0.0f : largest);
      Vec sum = {};
      for (int64_t col = 0; col < padded; col += LANES) {
        const Vec e = vec_exp(load(row_values + col) - shift);
        store(row_values + col, e);
        sum += e;
      }
      const float total = vec_sum(sum);
      const float inverse = total == 0.0f ? 0.0f : 1.0f / total;
      for (int64_t col = 0; col < padded; col += LANES) store(row_values + col, load(row_values + col) * inverse);
      store_floats(p.out, row * p.cols, p.cols, row_values);
    }
  });
}

// d_x = y * (d_y - sum(y * d_y))
void softmax_backward(const SoftmaxBackwardParams& p, Context& context) {
  parallel_ranges(context, p.rows, row_grain(p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 3 * p.cols);
    for (int64_t row = begin; row < end; row++) {
      const float* y = as_floats(p.out, row * p.cols, p.cols, buffer);
      const float* d_y = as_floats(p.d_out, row * p.cols, p.cols, buffer + p.cols);
      float* d_x = buffer + 2 * p.cols;
      double dot = 0;
      for (int64_t col = 0; col < p.cols; col++) dot += double(y[col]) * double(d_y[col]);
      const float shared = float(dot);
      for (int64_t col = 0; col < p.cols; col++) d_x[col] = y[col] * (d_y[col] - shared);
      store_floats(p.d_x, row * p.cols, p.cols, d_x);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
