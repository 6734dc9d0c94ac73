// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rounding to ternary weights and int8 activations (BitNet b1.58; Ma et al., 2024). Bits are the contract here
// (lib/backend.ts): the order of the absmean's sum and the rounding of each step are fixed, so this file is compiled without
// contraction of multiply-adds. Tasks are chunks of the sum and spans of rows.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::DequantizeTernaryParams;
using ternflash::QuantizeActivationsParams;
using ternflash::QuantizeTernaryParams;

constexpr int64_t ABSMEAN_CHUNK = 4096;
constexpr int ABSMEAN_LANES = 16;
constexpr float SMALLEST = 1e-5f;

// To the nearest integer, ties to even, for |x| < 2^22; larger values come out large, NaN as 0 after clamping.
TERNFLASH_INLINE float round_half_even(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23
  return (x + magic) - magic;
}

// Clamped before it is rounded, so that every finite or infinite value is in range; NaN gives 0.
TERNFLASH_INLINE int round_clamped(float x, float low, float high) {
  float clamped = x > high ? high : x;
  clamped = clamped < low ? low : clamped;
  clamped = x == x ? clamped : 0.0f;
  return int(round_half_even(clamped));
}

TERNFLASH_INLINE int trit_at(const uint8_t* row, int64_t col) { return ((row[col >> 2] >> (2 * (col & 3))) & 3) - 1; }

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void quantize_ternary(const QuantizeTernaryParams& p, Context& context) {
  const int64_t count = p.rows * p.cols, chunks = ceil_div(count, ABSMEAN_CHUNK);
  double* sums = shared_scratch<double>(context, chunks);
  parallel_for(context, chunks, [&](int64_t chunk, int thread) {
    float* buffer = thread_scratch<float>(context, thread, max64(ABSMEAN_CHUNK, p.cols));
    const int64_t begin = chunk * ABSMEAN_CHUNK, length = min64(ABSMEAN_CHUNK, count - begin);
    const float* w = as_floats(p.weight, begin, length, buffer);
    double lanes[ABSMEAN_LANES] = {};
    int64_t i = 0;
    for (; i + ABSMEAN_LANES <= length; i += ABSMEAN_LANES)
      for (int lane = 0; lane < ABSMEAN_LANES; lane++) lanes[lane] += double(__builtin_fabsf(w[i + lane]));
    for (int lane = 0; i < length; i++, lane++) lanes[lane] += double(__builtin_fabsf(w[i]));
    double sum = 0;
    for (int lane = 0; lane < ABSMEAN_LANES; lane++) sum += lanes[lane];
    sums[chunk] = sum;
  });
  double total = 0;
  for (int64_t chunk = 0; chunk < chunks; chunk++) total += sums[chunk];
  const float mean = float(total / double(count));
  const float gamma = mean > SMALLEST ? mean : mean == mean ? SMALLEST : mean;
  *static_cast<float*>(p.scale.data) = gamma;
  const float inverse = 1.0f / gamma;
  const int64_t row_bytes = ceil_div(p.cols, 4);
  uint8_t* packed = static_cast<uint8_t*>(p.packed.data);
  parallel_ranges(context, p.rows, max64(1, 16384 / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, max64(ABSMEAN_CHUNK, p.cols));
    for (int64_t row = begin; row < end; row++) {
      const float* w = as_floats(p.weight, row * p.cols, p.cols, buffer);
      uint8_t* out = packed + row * row_bytes;
      const int64_t whole = p.cols / 4;
      for (int64_t b = 0; b < whole; b++) {
        int byte = 0;
        for (int part = 0; part < 4; part++)
          byte |= (round_clamped(w[4 * b + part] * inverse, -1.0f, 1.0f) + 1) << (2 * part);
        out[b] = uint8_t(byte);
      }
      if (whole < row_bytes) {
        int byte = 0x55;  // code 1 beyond the row
        for (int part = 0; 4 * whole + part < p.cols; part++) {
          const int code = round_clamped(w[4 * whole + part] * inverse, -1.0f, 1.0f) + 1;
          byte = (byte & ~(3 << (2 * part))) | (code << (2 * part));
        }
        out[whole] = uint8_t(byte);
      }
    }
  });
}

void dequantize_ternary(const DequantizeTernaryParams& p, Context& context) {
  const int64_t row_bytes = ceil_div(p.cols, 4);
  const uint8_t* packed = static_cast<const uint8_t*>(p.packed.data);
  const float* scales = static_cast<const float*>(p.scale.data);
  parallel_ranges(context, p.rows, max64(1, 16384 / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* values = thread_scratch<float>(context, thread, p.cols);
    for (int64_t row = begin; row < end; row++) {
      const float scale = scales[p.scale.length == 1 ? 0 : row];
      for (int64_t col = 0; col < p.cols; col++) values[col] = float(trit_at(packed + row * row_bytes, col)) * scale;
      store_floats(p.out, row * p.cols, p.cols, values);
    }
  });
}

void quantize_activations(const QuantizeActivationsParams& p, Context& context) {
  int8_t* codes = static_cast<int8_t*>(p.codes.data);
  float* scales = static_cast<float*>(p.scales.data);
  parallel_ranges(context, p.rows, max64(1, 16384 / p.cols), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, p.cols);
    for (int64_t row = begin; row < end; row++) {
      const float* x = as_floats(p.x, row * p.cols, p.cols, buffer);
      Vec best = broadcast(SMALLEST);
      int64_t col = 0;
      for (; col + LANES <= p.cols; col += LANES) {
        const Vec v = load(x + col);
        best = vec_max(best, vec_max(v, -v));
      }
      float largest = vec_max_lane(best);
      for (; col < p.cols; col++) {
        const float magnitude = __builtin_fabsf(x[col]);
        largest = magnitude > largest ? magnitude : largest;
      }
      const float scale = 127.0f / largest;
      scales[row] = scale;
      for (col = 0; col < p.cols; col++) codes[row * p.cols + col] = int8_t(round_clamped(x[col] * scale, -128.0f, 127.0f));
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
