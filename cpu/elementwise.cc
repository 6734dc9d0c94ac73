// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Ops that treat each element by itself, and the permutation of axes. Memory-bound: tasks are runs of about GRAIN
// elements.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::BinaryKind;
using ternflash::BinaryParams;
using ternflash::CastParams;
using ternflash::FillParams;
using ternflash::MAX_RANK;
using ternflash::ScaleParams;
using ternflash::TransposeParams;

constexpr int64_t GRAIN = 16384;
constexpr int64_t CHUNK = 1024;  // elements converted at a time, in the L1 cache

TERNFLASH_INLINE bool is_float(DType dtype) {
  return dtype == DType::FLOAT32 || dtype == DType::FLOAT16 || dtype == DType::BFLOAT16;
}

// Any integer fits a double, and so does any float.
TERNFLASH_INLINE double integer_at(const Tensor& tensor, int64_t i) {
  if (tensor.dtype == DType::INT8) return static_cast<const int8_t*>(tensor.data)[i];
  if (tensor.dtype == DType::UINT8) return static_cast<const uint8_t*>(tensor.data)[i];
  return static_cast<const int32_t*>(tensor.data)[i];
}

// Truncates and saturates; NaN gives 0.
TERNFLASH_INLINE void store_integer(const Tensor& tensor, int64_t i, double value) {
  const double low = tensor.dtype == DType::INT8 ? -128.0 : tensor.dtype == DType::UINT8 ? 0.0 : -2147483648.0;
  const double high = tensor.dtype == DType::INT8 ? 127.0 : tensor.dtype == DType::UINT8 ? 255.0 : 2147483647.0;
  double clamped = value > low ? value : low;
  clamped = clamped < high ? clamped : high;
  const int32_t integer = value == value ? int32_t(clamped) : 0;
  if (tensor.dtype == DType::INT8)
    static_cast<int8_t*>(tensor.data)[i] = int8_t(integer);
  else if (tensor.dtype == DType::UINT8)
    static_cast<uint8_t*>(tensor.data)[i] = uint8_t(integer);
  else
    static_cast<int32_t*>(tensor.data)[i] = integer;
}

// int32 to a 16-bit float goes through float32 only where that is exact; else the double is rounded to odd first, so
// that the second rounding cannot tie wrongly.
TERNFLASH_INLINE float integer_to_float(double value, DType target) {
  const float nearest = float(value);
  if (target == DType::FLOAT32 || double(nearest) == value) return nearest;
  const uint32_t bits = float_to_bits(nearest);
  const bool away = __builtin_fabs(double(nearest)) > __builtin_fabs(value);
  return bits_to_float((away ? bits - 1 : bits) | 1u);
}

// A permutation of axes whose size is not 1 and of which no two neighbours could be one.
struct Permutation {
  int rank;
  int64_t shape[MAX_RANK];        // of out
  int64_t strides[MAX_RANK];      // in x
  int64_t out_strides[MAX_RANK];  // in out
};

Permutation simplify(const TransposeParams& p) {
  Permutation simple = {};
  for (int axis = 0; axis < p.rank; axis++) {
    if (p.shape[axis] == 1) continue;
    const bool merges = simple.rank > 0 && simple.strides[simple.rank - 1] == p.shape[axis] * p.strides[axis];
    const int at = merges ? simple.rank - 1 : simple.rank++;
    simple.shape[at] = merges ? simple.shape[at] * p.shape[axis] : p.shape[axis];
    simple.strides[at] = p.strides[axis];
  }
  int64_t stride = 1;
  for (int axis = simple.rank - 1; axis >= 0; axis--) {
    simple.out_strides[axis] = stride;
    stride *= simple.shape[axis];
  }
  return simple;
}

// Where the last axis lies in x as in out, whole rows are copied: tasks are spans of the flat out.
template <class T>
TERNFLASH_INLINE void copy_rows(const Permutation& p, const T* x, T* out, int64_t length, Context& context) {
  const int last = p.rank - 1;
  const int64_t inner = p.rank > 0 ? p.shape[last] : length;
  parallel_ranges(context, length, GRAIN, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end;) {
      int64_t rest = i / inner, offset = i % inner;
      const int64_t count = min64(inner - offset, end - i);
      for (int axis = last - 1; axis >= 0; axis--) {
        offset += rest % p.shape[axis] * p.strides[axis];
        rest /= p.shape[axis];
      }
      __builtin_memcpy(out + i, x + offset, size_t(count) * sizeof(T));
      i += count;
    }
  });
}

// Else tiles of the axis that is dense in x and the one that is dense in out. A tile passes through a buffer, so that
// on both sides whole cache lines are touched once, whatever the strides.
template <class T>
TERNFLASH_INLINE void copy_tiles(const Permutation& p, const T* x, T* out, Context& context) {
  constexpr int64_t TILE = 32;
  const int last = p.rank - 1;
  int dense = 0;
  while (p.strides[dense] != 1) dense++;
  const int64_t dense_tiles = ceil_div(p.shape[dense], TILE), last_tiles = ceil_div(p.shape[last], TILE);
  int64_t tiles = dense_tiles * last_tiles;
  for (int axis = 0; axis < last; axis++)
    if (axis != dense) tiles *= p.shape[axis];
  const int64_t tile_work = min64(TILE, p.shape[dense]) * min64(TILE, p.shape[last]);
  parallel_ranges(context, tiles, max64(1, GRAIN / tile_work), [&](int64_t begin, int64_t end, int) {
    T buffer[TILE * TILE];
    for (int64_t tile = begin; tile < end; tile++) {
      const int64_t last_first = tile % last_tiles * TILE, dense_first = tile / last_tiles % dense_tiles * TILE;
      const int64_t rows = min64(TILE, p.shape[last] - last_first), cols = min64(TILE, p.shape[dense] - dense_first);
      int64_t rest = tile / last_tiles / dense_tiles;
      int64_t from = last_first * p.strides[last] + dense_first;
      int64_t to = last_first + dense_first * p.out_strides[dense];
      for (int axis = last - 1; axis >= 0; axis--) {
        if (axis == dense) continue;
        from += rest % p.shape[axis] * p.strides[axis];
        to += rest % p.shape[axis] * p.out_strides[axis];
        rest /= p.shape[axis];
      }
      for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < cols; col++) buffer[row * TILE + col] = x[from + row * p.strides[last] + col];
      for (int64_t col = 0; col < cols; col++)
        for (int64_t row = 0; row < rows; row++) out[to + col * p.out_strides[dense] + row] = buffer[row * TILE + col];
    }
  });
}

template <class T>
TERNFLASH_INLINE void permute(const TransposeParams& p, Context& context) {
  const Permutation simple = simplify(p);
  const T* x = static_cast<const T*>(p.x.data);
  T* out = static_cast<T*>(p.out.data);
  if (simple.rank == 0 || simple.strides[simple.rank - 1] == 1)
    copy_rows(simple, x, out, p.out.length, context);
  else
    copy_tiles(simple, x, out, context);
}

TERNFLASH_INLINE Vec combine(BinaryKind kind, Vec a, Vec b) { return kind == BinaryKind::ADD ? a + b : a * b; }

// a and b are runs of floats, or one value each where their step is 0.
TERNFLASH_INLINE void combine_run(BinaryKind kind, const float* a, int64_t a_step, const float* b, int64_t b_step,
                                  float* out, int64_t count) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    const Vec left = a_step ? load(a + i) : broadcast(a[0]);
    const Vec right = b_step ? load(b + i) : broadcast(b[0]);
    store(out + i, combine(kind, left, right));
  }
  for (; i < count; i++) {
    const float left = a[a_step ? i : 0], right = b[b_step ? i : 0];
    out[i] = kind == BinaryKind::ADD ? left + right : left * right;
  }
}

template <class T>
TERNFLASH_INLINE void combine_integers(BinaryKind kind, const Tensor& a, int64_t a_start, int64_t a_step,
                                       const Tensor& b, int64_t b_start, int64_t b_step, const Tensor& out,
                                       int64_t start, int64_t count) {
  const T* left = static_cast<const T*>(a.data) + a_start;
  const T* right = static_cast<const T*>(b.data) + b_start;
  T* target = static_cast<T*>(out.data) + start;
  for (int64_t i = 0; i < count; i++) {
    const uint32_t x = uint32_t(left[i * a_step]), y = uint32_t(right[i * b_step]);
    target[i] = T(kind == BinaryKind::ADD ? x + y : x * y);
  }
}

// The elements of a run for combine_run, converted to float32 where needed; a step other than 0 and 1 is gathered.
TERNFLASH_INLINE const float* operand_run(const Tensor& tensor, int64_t start, int64_t step, int64_t count,
                                          float* buffer) {
  if (step == 1) return as_floats(tensor, start, count, buffer);
  if (step == 0) return as_floats(tensor, start, 1, buffer);
  for (int64_t i = 0; i < count; i++) load_floats(tensor, start + i * step, 1, buffer + i);
  return buffer;
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void fill(const FillParams& p, Context& context) {
  parallel_ranges(context, p.out.length, GRAIN, [&](int64_t begin, int64_t end, int) {
    if (!is_float(p.out.dtype)) {
      for (int64_t i = begin; i < end; i++) store_integer(p.out, i, p.value);
      return;
    }
    float values[CHUNK];
    for (int64_t i = 0; i < CHUNK; i++) values[i] = integer_to_float(p.value, p.out.dtype);
    for (int64_t i = begin; i < end; i += CHUNK) store_floats(p.out, i, min64(CHUNK, end - i), values);
  });
}

void cast(const CastParams& p, Context& context) {
  parallel_ranges(context, p.out.length, GRAIN, [&](int64_t begin, int64_t end, int) {
    float values[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
      const int64_t count = min64(CHUNK, end - i);
      if (is_float(p.x.dtype)) {
        if (p.x.dtype == p.out.dtype) {
          const int64_t bytes = element_bytes(p.x.dtype);
          __builtin_memcpy(static_cast<uint8_t*>(p.out.data) + i * bytes,
                           static_cast<const uint8_t*>(p.x.data) + i * bytes, size_t(count * bytes));
          continue;
        }
        load_floats(p.x, i, count, values);
        if (is_float(p.out.dtype))
          store_floats(p.out, i, count, values);
        else
          for (int64_t j = 0; j < count; j++) store_integer(p.out, i + j, values[j]);
      } else if (is_float(p.out.dtype)) {
        for (int64_t j = 0; j < count; j++) values[j] = integer_to_float(integer_at(p.x, i + j), p.out.dtype);
        store_floats(p.out, i, count, values);
      } else {
        for (int64_t j = 0; j < count; j++) store_integer(p.out, i + j, integer_at(p.x, i + j));
      }
    }
  });
}

void transpose(const TransposeParams& p, Context& context) {
  const int64_t bytes = element_bytes(p.x.dtype);
  if (bytes == 4)
    permute<uint32_t>(p, context);
  else if (bytes == 2)
    permute<uint16_t>(p, context);
  else
    permute<uint8_t>(p, context);
}

void binary(const BinaryParams& p, Context& context) {
  // Merge axes that are laid out as one in both operands, so that common cases become one or two axes.
  int64_t shape[MAX_RANK] = {1}, a_strides[MAX_RANK] = {0}, b_strides[MAX_RANK] = {0};
  int rank = 0;
  for (int axis = 0; axis < p.rank; axis++) {
    if (p.shape[axis] == 1) continue;
    const bool merges = rank > 0 && a_strides[rank - 1] == p.shape[axis] * p.a_strides[axis] &&
                        b_strides[rank - 1] == p.shape[axis] * p.b_strides[axis];
    const int at = merges ? rank - 1 : rank++;
    shape[at] = merges ? shape[at] * p.shape[axis] : p.shape[axis];
    a_strides[at] = p.a_strides[axis];
    b_strides[at] = p.b_strides[axis];
  }
  if (rank == 0) rank = 1;
  const int64_t inner = shape[rank - 1], a_step = a_strides[rank - 1], b_step = b_strides[rank - 1];
  int64_t rows = 1;
  for (int axis = 0; axis < rank - 1; axis++) rows *= shape[axis];

  const int64_t pieces = ceil_div(inner, GRAIN);
  parallel_ranges(context, rows * pieces, max64(1, GRAIN / inner), [&](int64_t begin, int64_t end, int) {
    float a_buffer[CHUNK], b_buffer[CHUNK], out_buffer[CHUNK];
    for (int64_t task = begin; task < end; task++) {
      const int64_t row = task / pieces;
      int64_t rest = row, a_row = 0, b_row = 0;
      for (int axis = rank - 2; axis >= 0; axis--) {
        a_row += rest % shape[axis] * a_strides[axis];
        b_row += rest % shape[axis] * b_strides[axis];
        rest /= shape[axis];
      }
      const int64_t first = task % pieces * GRAIN, last = min64(first + GRAIN, inner);
      for (int64_t i = first; i < last; i += CHUNK) {
        const int64_t count = min64(CHUNK, last - i), start = row * inner + i;
        const int64_t a_start = a_row + i * a_step, b_start = b_row + i * b_step;
        if (p.out.dtype == DType::INT32) {
          combine_integers<int32_t>(p.kind, p.a, a_start, a_step, p.b, b_start, b_step, p.out, start, count);
        } else if (p.out.dtype == DType::INT8) {
          combine_integers<int8_t>(p.kind, p.a, a_start, a_step, p.b, b_start, b_step, p.out, start, count);
        } else if (p.out.dtype == DType::UINT8) {
          combine_integers<uint8_t>(p.kind, p.a, a_start, a_step, p.b, b_start, b_step, p.out, start, count);
        } else {
          const float* left = operand_run(p.a, a_start, a_step, count, a_buffer);
          const float* right = operand_run(p.b, b_start, b_step, count, b_buffer);
          const bool direct = p.out.dtype == DType::FLOAT32;
          float* target = direct ? static_cast<float*>(p.out.data) + start : out_buffer;
          combine_run(p.kind, left, a_step, right, b_step, target, count);
          if (!direct) store_floats(p.out, start, count, out_buffer);
        }
      }
    }
  });
}

void scale(const ScaleParams& p, Context& context) {
  const double tensor_factor = p.factor_tensor.data ? double(*static_cast<const float*>(p.factor_tensor.data)) : 1.0;
  const float factor = float(p.factor * tensor_factor);
  parallel_ranges(context, p.x.length, GRAIN, [&](int64_t begin, int64_t end, int) {
    float buffer[CHUNK], out_buffer[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
      const int64_t count = min64(CHUNK, end - i);
      const float* x = as_floats(p.x, i, count, buffer);
      for (int64_t j = 0; j < count; j++) out_buffer[j] = x[j] * factor;
      store_floats(p.out, i, count, out_buffer);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
