// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Sums, norms, argmax and softmax. Sums are taken over fixed pieces, each in float64, and the pieces added in order, so
// that the result depends neither on the number of threads nor noticeably on rounding. The rows of softmax and argmax
// are the tasks, in spans.

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
constexpr int64_t SPAN = 2048;      // columns that are added up together; their totals stay in the L1 cache
constexpr int64_t MAX_BLOCKS = 64;  // tasks that a sum over few columns is cut into; bounds the scratch memory

TERNFLASH_INLINE int64_t row_grain(int64_t cols) { return max64(1, PIECE / cols); }

// Sum of elements [start, start + count), or of their squares.
template <bool SQUARES>
TERNFLASH_INLINE double sum_run(const Tensor& tensor, int64_t start, int64_t count) {
  float buffer[CHUNK];
  double lanes[SUM_LANES] = {};
  if (count < SUM_LANES) {
    const float* x = as_floats(tensor, start, count, buffer);
    for (int64_t i = 0; i < count; i++) lanes[0] += SQUARES ? double(x[i]) * double(x[i]) : double(x[i]);
    return lanes[0];
  }
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

TERNFLASH_INLINE void store_totals(const SumParams& p, int64_t start, int64_t count, const double* totals) {
  float values[SPAN];
  for (int64_t i = 0; i < count; i++) values[i] = float(totals[i] * p.factor);
  store_floats(p.out, start, count, values);
}
// Integers wrap; they have no factor.
TERNFLASH_INLINE void store_totals(const SumParams& p, int64_t start, int64_t count, const uint32_t* totals) {
  uint32_t* out = static_cast<uint32_t*>(p.out.data) + start;
  for (int64_t i = 0; i < count; i++) out[i] = totals[i];
}

// Adds rows [begin, end) of columns [first, first + count) of one outer index to totals.
TERNFLASH_INLINE void add_rows(const SumParams& p, int64_t outer, int64_t begin, int64_t end, int64_t first,
                               int64_t count, double* totals) {
  if (p.inner == 1) {
    totals[0] += sum_run<false>(p.x, outer * p.reduce + begin, end - begin);
    return;
  }
  // Narrow rows are converted several at a time.
  float buffer[SPAN];
  const int64_t together = count == p.inner ? SPAN / count : 1;  // count is at most SPAN
  for (int64_t row = begin; row < end; row += together) {
    const int64_t rows = min64(together, end - row);
    const float* x = as_floats(p.x, (outer * p.reduce + row) * p.inner + first, rows * count, buffer);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < count; i++) totals[i] += double(x[r * count + i]);
  }
}
TERNFLASH_INLINE void add_rows(const SumParams& p, int64_t outer, int64_t begin, int64_t end, int64_t first,
                               int64_t count, uint32_t* totals) {
  const uint32_t* x = static_cast<const uint32_t*>(p.x.data) + outer * p.reduce * p.inner + first;
  if (p.inner == 1) {
    uint32_t total = 0;
    for (int64_t row = begin; row < end; row++) total += x[row];
    totals[0] += total;
    return;
  }
  for (int64_t row = begin; row < end; row++)
    for (int64_t i = 0; i < count; i++) totals[i] += x[row * p.inner + i];
}

// Tasks are spans of columns of blocks of rows. The blocks depend on the shape alone; where there is more than one, a
// second pass adds their totals in order.
template <class Total>
TERNFLASH_INLINE void sum_blocks(const SumParams& p, Context& context) {
  const int64_t span = min64(p.inner, SPAN), spans = ceil_div(p.inner, span);
  const int64_t block_rows = max64(PIECE / span, ceil_div(p.reduce, max64(1, MAX_BLOCKS / (p.outer * spans))));
  const int64_t blocks = max64(1, ceil_div(p.reduce, block_rows));
  Total* partial = blocks > 1 ? shared_scratch<Total>(context, p.outer * blocks * p.inner) : nullptr;
  const int64_t task_work = span * max64(1, min64(block_rows, p.reduce));
  parallel_ranges(context, p.outer * blocks * spans, max64(1, PIECE / task_work), [&](int64_t from, int64_t to, int) {
    for (int64_t task = from; task < to; task++) {
      const int64_t first = task % spans * span, count = min64(span, p.inner - first);
      const int64_t block = task / spans % blocks, outer = task / spans / blocks;
      const int64_t begin = block * block_rows;
      Total totals[SPAN];
      for (int64_t i = 0; i < count; i++) totals[i] = 0;
      add_rows(p, outer, begin, min64(begin + block_rows, p.reduce), first, count, totals);
      if (!partial)
        store_totals(p, outer * p.inner + first, count, totals);
      else
        for (int64_t i = 0; i < count; i++) partial[(outer * blocks + block) * p.inner + first + i] = totals[i];
    }
  });
  if (!partial) return;
  parallel_ranges(context, p.outer * spans, max64(1, PIECE / (span * blocks)), [&](int64_t from, int64_t to, int) {
    for (int64_t task = from; task < to; task++) {
      const int64_t first = task % spans * span, count = min64(span, p.inner - first), outer = task / spans;
      Total totals[SPAN];
      for (int64_t i = 0; i < count; i++) totals[i] = 0;
      for (int64_t block = 0; block < blocks; block++)
        for (int64_t i = 0; i < count; i++) totals[i] += partial[(outer * blocks + block) * p.inner + first + i];
      store_totals(p, outer * p.inner + first, count, totals);
    }
  });
}

// Rows of one piece each: many sums are stored at a time.
void sum_short_rows(const SumParams& p, Context& context) {
  parallel_ranges(context, p.outer, max64(1, PIECE / max64(1, p.reduce)), [&](int64_t begin, int64_t end, int) {
    double totals[CHUNK];
    for (int64_t first = begin; first < end; first += CHUNK) {
      const int64_t count = min64(CHUNK, end - first);
      for (int64_t i = 0; i < count; i++) totals[i] = sum_run<false>(p.x, (first + i) * p.reduce, p.reduce);
      store_totals(p, first, count, totals);
    }
  });
}

// The index of the largest of `count` values and of the first NaN: a NaN counts as the largest.
TERNFLASH_INLINE int64_t largest_index(const float* x, int64_t count) {
  // The block that holds it is found with vectors, and then searched.
  constexpr int64_t BLOCK = 256;
  int64_t best_block = 0;
  float best = -__builtin_inff();
  bool found_nan = false;
  for (int64_t first = 0; first < count && !found_nan; first += BLOCK) {
    const int64_t last = min64(first + BLOCK, count);
    Vec largest = broadcast(-__builtin_inff());
    VecInt nan = {};
    int64_t i = first;
    for (; i + LANES <= last; i += LANES) {
      const Vec v = load(x + i);
      largest = vec_max(v, largest);
      nan |= v != v;
    }
    float block_best = vec_max_lane(largest);
    for (int lane = 0; lane < LANES; lane++) found_nan |= nan[lane] != 0;
    for (; i < last; i++) {
      block_best = x[i] > block_best ? x[i] : block_best;
      found_nan |= x[i] != x[i];
    }
    if (block_best > best || found_nan) {
      best = block_best;
      best_block = first;
    }
  }
  int64_t i = best_block;
  while (found_nan ? x[i] == x[i] : x[i] != best) i++;
  return i;
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void sum(const SumParams& p, Context& context) {
  if (p.x.dtype == DType::INT32)
    sum_blocks<uint32_t>(p, context);
  else if (p.inner == 1 && p.reduce <= PIECE)
    sum_short_rows(p, context);
  else
    sum_blocks<double>(p, context);
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
  const double norm = p.factor * __builtin_sqrt(total);
  const double coefficient = p.max_norm / (norm + 1e-6);
  // As the float32 that the caller gets to see.
  const bool finite = float(norm) - float(norm) == 0.0f;
  *static_cast<float*>(p.norm.data) = float(norm);
  *static_cast<float*>(p.coefficient.data) =
      finite ? float(p.factor * (coefficient < 1.0 ? coefficient : 1.0)) : __builtin_nanf("");
}

void argmax(const ArgmaxParams& p, Context& context) {
  int32_t* out = static_cast<int32_t*>(p.out.data);
  parallel_ranges(context, p.rows, row_grain(p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, p.cols);
    for (int64_t row = begin; row < end; row++) {
      const float* x = as_floats(p.x, row * p.cols, p.cols, buffer);
      out[row] = int32_t(largest_index(x, p.cols));
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
      double total = 0;
      for (int64_t first = 0; first < padded; first += CHUNK) {
        Vec sum = {};
        const int64_t last = min64(first + CHUNK, padded);
        for (int64_t col = first; col < last; col += LANES) {
          const Vec e = vec_exp(load(row_values + col) - shift);
          store(row_values + col, e);
          sum += e;
        }
        total += double(vec_sum(sum));
      }
      const float inverse = total == 0.0 ? 0.0f : float(1.0 / total);
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
      double lanes[SUM_LANES] = {};
      int64_t i = 0;
      for (; i + SUM_LANES <= p.cols; i += SUM_LANES)
        for (int lane = 0; lane < SUM_LANES; lane++) lanes[lane] += double(y[i + lane]) * double(d_y[i + lane]);
      for (; i < p.cols; i++) lanes[0] += double(y[i]) * double(d_y[i]);
      double dot = 0;
      for (int lane = 0; lane < SUM_LANES; lane++) dot += lanes[lane];
      const float shared = float(dot);
      for (int64_t col = 0; col < p.cols; col++) d_x[col] = y[col] * (d_y[col] - shared);
      store_floats(p.d_x, row * p.cols, p.cols, d_x);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
