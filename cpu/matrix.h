// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// A matrix of any element type as the float32 that a product needs: runs and vectors along a row. For matmul.cc,
// compiled once per instruction set like it.

#ifndef TERNFLASH_CPU_MATRIX_H_
#define TERNFLASH_CPU_MATRIX_H_

#include "sixteen_bits.h"

namespace {

// PAIRS: bfloat16, of which two that are neighbours along k share a lane, for processors that multiply them so.
enum class Kind : uint8_t { FLOAT32, FLOAT16, BFLOAT16, TERNARY, CODES, PAIRS };

// An operand as it lies in memory, row-major.
struct Matrix {
  Kind kind;
  const uint8_t* data;
  int64_t row_bytes;
  const float* scales;  // TERNARY: trit * scales[row * scale_step]; CODES: code / scales[row * scale_step]
  int64_t scale_step;

  // Of a row, for its first `cols` columns.
  int64_t bytes_before(int64_t cols) const {
    return kind == Kind::FLOAT32 ? 4 * cols : kind == Kind::TERNARY ? cols / 4 : kind == Kind::CODES ? cols : 2 * cols;
  }
};

Matrix float_matrix(const Tensor& tensor, int64_t cols) {
  const uint8_t* data = static_cast<const uint8_t*>(tensor.data);
  if (tensor.dtype == DType::FLOAT32) return {Kind::FLOAT32, data, cols * 4, nullptr, 0};
  return {tensor.dtype == DType::FLOAT16 ? Kind::FLOAT16 : Kind::BFLOAT16, data, cols * 2, nullptr, 0};
}

Matrix ternary_matrix(const Tensor& packed, const Tensor& scale, int64_t cols) {
  const uint8_t* data = static_cast<const uint8_t*>(packed.data);
  return {Kind::TERNARY, data, ceil_div(cols, 4), static_cast<const float*>(scale.data), scale.length == 1 ? 0 : 1};
}

Matrix codes_matrix(const Tensor& codes, const Tensor& scales, int64_t cols) {
  return {Kind::CODES, static_cast<const uint8_t*>(codes.data), cols, static_cast<const float*>(scales.data), 1};
}

// Columns [col, col + LANES) of a row, without the scale; col is a multiple of 4.
template <Kind KIND>
TERNFLASH_INLINE Vec load_vector(const uint8_t* row, int64_t col) {
  if constexpr (KIND == Kind::FLOAT32) {
    return load(reinterpret_cast<const float*>(row) + col);
  } else if constexpr (KIND == Kind::FLOAT16) {
    return load_float16(row + 2 * col);
  } else if constexpr (KIND == Kind::BFLOAT16) {
    return load_bfloat16(row + 2 * col);
  } else if constexpr (KIND == Kind::PAIRS) {
    return load(reinterpret_cast<const float*>(row) + col);
  } else if constexpr (KIND == Kind::TERNARY) {
    VecUint shifts;
    for (int i = 0; i < LANES; i++) shifts[i] = 2 * i;
    uint32_t word = 0;
    __builtin_memcpy(&word, row + col / 4, LANES / 4);
    const VecUint codes = ((VecUint{} + word) >> shifts) & 3u;
    return __builtin_convertvector(reinterpret_cast<VecInt>(codes) - 1, Vec);
  } else {
    return load_int8(reinterpret_cast<const int8_t*>(row) + col);
  }
}

template <Kind KIND>
TERNFLASH_INLINE float load_element(const uint8_t* row, int64_t col) {
  if constexpr (KIND == Kind::FLOAT32) {
    return reinterpret_cast<const float*>(row)[col];
  } else if constexpr (KIND == Kind::FLOAT16) {
    return float16_to_float(reinterpret_cast<const uint16_t*>(row)[col]);
  } else if constexpr (KIND == Kind::BFLOAT16 || KIND == Kind::PAIRS) {
    return bfloat16_to_float(reinterpret_cast<const uint16_t*>(row)[col]);
  } else if constexpr (KIND == Kind::TERNARY) {
    return float(int(row[col >> 2] >> (2 * (col & 3)) & 3) - 1);
  } else {
    return float(reinterpret_cast<const int8_t*>(row)[col]);
  }
}

template <Kind KIND, class Value>
TERNFLASH_INLINE Value scaled(Value value, float scale) {
  if constexpr (KIND == Kind::TERNARY) return value * scale;
  if constexpr (KIND == Kind::CODES) return value / scale;
  return value;
}

template <Kind KIND>
void load_run_of(const Matrix& x, int64_t row, int64_t col, int64_t count, float* out) {
  const uint8_t* p = x.data + row * x.row_bytes;
  const float scale = x.scales ? x.scales[row * x.scale_step] : 1.0f;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(out + i, scaled<KIND>(load_vector<KIND>(p, col + i), scale));
  for (; i < count; i++) out[i] = scaled<KIND>(load_element<KIND>(p, col + i), scale);
}

// Columns [col, col + count) of a row as floats; col is a multiple of 4.
void load_run(const Matrix& x, int64_t row, int64_t col, int64_t count, float* out) {
  switch (x.kind) {
    case Kind::FLOAT32:
      return load_run_of<Kind::FLOAT32>(x, row, col, count, out);
    case Kind::FLOAT16:
      return load_run_of<Kind::FLOAT16>(x, row, col, count, out);
    case Kind::BFLOAT16:
      return load_run_of<Kind::BFLOAT16>(x, row, col, count, out);
    case Kind::TERNARY:
      return load_run_of<Kind::TERNARY>(x, row, col, count, out);
    case Kind::CODES:
      return load_run_of<Kind::CODES>(x, row, col, count, out);
    case Kind::PAIRS:
      return;  // of no operand as it lies in memory
  }
}

// The same without a copy if the operand is float32.
const float* view_run(const Matrix& x, int64_t row, int64_t col, int64_t count, float* buffer) {
  if (x.kind == Kind::FLOAT32) return reinterpret_cast<const float*>(x.data + row * x.row_bytes) + col;
  load_run(x, row, col, count, buffer);
  return buffer;
}

}  // namespace

#endif  // TERNFLASH_CPU_MATRIX_H_
