// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Ops that treat each element by itself, and the permutation of axes. Memory-bound: tasks are runs of about GRAIN elements.

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

TERNFLASH_INLINE int64_t element_bytes(DType dtype) {
  if (dtype == DType::FLOAT32 || dtype == DType::INT32) return 4;
  return dtype == DType::FLOAT16 || dtype == DType::BFLOAT16 ? 2 : 1;
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

// int32 to a 16-bit float goes through float32 only where that is exact; else the double is rounded to odd first, so that
// the second rounding cannot tie wrongly.
TERNFLASH_INLINE float integer_to_float(double value, DType target) {
  const float nearest = float(value);
  if (target == DType::FLOAT32 || double(nearest) == value) return nearest;
  const uint32_t bits = float_to_bits(nearest);
  const bool away = __builtin_fabs(double(nearest)) > __builtin_fabs(value);
  return bits_to_float((away ? bits - 1 : bits) | 1u);
}

template <class T>
TERNFLASH_INLINE void permute(const TransposeParams& p, Context& context) {
  const T* x = static_cast<const T*>(p.x.data);
  T* out = static_cast<T*>(p.out.data);
  const int last = p.rank - 1;
  const int64_t inner = p.rank > 0 ? p.shape[last] : 1, stride = p.rank > 0 ? p.strides[last] : 1;
  int64_t rows = 1;
  for (int axis = 0; axis < last; axis++) rows *= p.shape[axis];
  // Where the rows before last are neighbours in x, walk both axes in blocks so that both sides use whole cache lines.
  constexpr int64_t BLOCK = 32;
  const bool blocked = p.rank >= 2 && p.strides[last - 1] == 1 && stride != 1;
  const int64_t outer = blocked ? rows / p.shape[last - 1] : rows;
  const int64_t group = blocked ? p.shape[last - 1] : 1;
  const int64_t blocks = blocked ? ceil_div(group, BLOCK) : 1;
  parallel_ranges(context, outer * blocks, max64(1, GRAIN / (inner * min64(group, BLOCK))),
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t task = begin; task < end; task++) {
                      const int64_t first = task % blocks * BLOCK;
                      int64_t rest = task / blocks, offset = 0;
                      for (int axis = blocked ? last - 2 : last - 1; axis >= 0; axis--) {
                        offset += rest % p.shape[axis] * p.strides[axis];
                        rest /= p.shape[axis];
                      }
                      T* target = out + (task / blocks) * group * inner;
                      const int64_t count = blocked ? min64(BLOCK, group - first) : 1;
                      for (int64_t col = 0; col < inner; col++)
                        for (int64_t row = first; row < first + count; row++)
                          target[row * inner + col] = x[offset + row + col * stride];
                    }
                  });
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
TERNFLASH_INLINE void combine_integers(BinaryKind kind, const Tensor& a, int64_t a_start, int64_t a_step, const Tensor& b,
                                       int64_t b_start, int64_t b_step, const Tensor& out, int64_t start, int64_t count) {
  const T* left = static_cast<const T*>(a.data) + a_start;
  const T* right = static_cast<const T*>(b.data) + b_start;
  T* target = static_cast<T*>(out.data) + start;
  for (int64_t i = 0; i < count; i++) {
    const uint32_t x = uint32_t(left[i * a_step]), y = uint32_t(right[i * b_step]);
    target[i] = T(kind == BinaryKind::ADD ? x + y : x * y);
  }
}

// The elements of a run for combine_run, converted to float32 where needed; a step other than 0 and 1 is gathered.
TERNFLASH_INLINE const float* operand_run(const Tensor& tensor, int64_t start, int64_t step, int64_t count, float* buffer) {
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
