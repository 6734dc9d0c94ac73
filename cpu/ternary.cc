// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rounding to ternary weights and int8 activations (BitNet b1.58; Ma et al., 2024).
//
//   quantize_ternary      g = max(mean |W|, 1e-5), trit = clip(round(W * (1 / g)), -1, 1)              W [N, K]
//   quantize_activations  s = 127 / max(max |x|, 1e-5), code = clip(round(x * s), -128, 127)           x [M, K]
//
// Every backend gives these bits: operations and their order are those of lib/backend.ts, and this source must be
// compiled without contraction of a product and a sum (-ffp-contract=off). NaN gives code 0 and a scale of NaN,
// infinity codes 0 and a scale that makes the product NaN. Tasks are chunks of the absolute sum and spans of rows.

#include "kernels.h"
#include "simd.h"

namespace {

using namespace ternflash;

typedef int8_t ByteVec __attribute__((vector_size(LANES)));
typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef float HalfVec __attribute__((vector_size(VECTOR_BYTES / 2)));

constexpr int64_t RUN = 1024;  // elements converted to float32 at a time

// The nearest integer, ties to even, clipped; 0 for NaN.
TERNFLASH_INLINE VecInt quantize(Vec x, float low, float high) {
  const Vec number = x == x ? x : Vec{};
  const Vec clipped = vec_min(vec_max(number, broadcast(low)), broadcast(high));
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  return as_int(clipped + magic) - as_int(magic);
}

// codes[i] = quantize(x[i] * factor) + offset; both have room for a whole last vector.
TERNFLASH_INLINE void quantize_run(const float* x, int64_t count, float factor, float low, float high, int offset,
                                   int8_t* codes) {
  for (int64_t i = 0; i < count; i += LANES) {
    const Vec values = i + LANES <= count ? load(x + i) : load_partial(x + i, int(count - i), 0.0f);
    const ByteVec bytes = __builtin_convertvector(quantize(values * factor, low, high) + offset, ByteVec);
    __builtin_memcpy(codes + i, &bytes, sizeof(bytes));
  }
}

// The sum of |x| in the order that all backends share: lane l adds elements l, l + 16, ..., then the lanes in turn.
double absolute_sum(const float* x, int64_t count) {
  constexpr int SUM_LANES = 16;
  constexpr int WIDTH = VECTOR_BYTES / 8;
  double lanes[SUM_LANES];
  Doubles sums[SUM_LANES / WIDTH] = {};
  int64_t i = 0;
  for (; i + SUM_LANES <= count; i += SUM_LANES) {
    TERNFLASH_UNROLL
    for (int v = 0; v < SUM_LANES / WIDTH; v++) {
      HalfVec floats;
      __builtin_memcpy(&floats, x + i + v * WIDTH, sizeof(floats));
      const Doubles values = __builtin_convertvector(floats, Doubles);
      sums[v] += values < 0.0 ? -values : values;
    }
  }
  __builtin_memcpy(lanes, sums, sizeof(lanes));
  for (int l = 0; i + l < count; l++) lanes[l] += double(__builtin_fabsf(x[i + l]));
  double sum = 0.0;
  for (int l = 0; l < SUM_LANES; l++) sum += lanes[l];
  return sum;
}

float absolute_mean_scale(const Tensor& weight, Context& context) {
  constexpr int64_t CHUNK = 4096;
  const int64_t chunks = ceil_div(weight.length, CHUNK);
  double* sums = shared_scratch<double>(context, chunks);
  parallel_ranges(context, chunks, 16, [&](int64_t begin, int64_t end, int) {
    float buffer[CHUNK];
    for (int64_t chunk = begin; chunk < end; chunk++) {
      const int64_t start = chunk * CHUNK;
      const int64_t count = min64(CHUNK, weight.length - start);
      sums[chunk] = absolute_sum(as_floats(weight, start, count, buffer), count);
    }
  });
  double total = 0.0;
  for (int64_t chunk = 0; chunk < chunks; chunk++) total += sums[chunk];
  const double mean = total / double(weight.length);
  return float(mean < 1e-5 ? 1e-5 : mean);  // NaN stays NaN
}

// Four codes of a byte each to a byte; count is in bytes of the result, room for whole vectors on both sides.
TERNFLASH_INLINE void pack_codes(const int8_t* codes, int64_t count, int8_t* packed) {
  for (int64_t i = 0; i < count; i += LANES) {
    VecUint words;
    __builtin_memcpy(&words, codes + 4 * i, sizeof(words));
    const VecUint bytes = (words | words >> 6 | words >> 12 | words >> 18) & 0xffu;
    const ByteVec result = __builtin_convertvector(bytes, ByteVec);
    __builtin_memcpy(packed + i, &result, sizeof(result));
  }
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void quantize_ternary(const QuantizeTernaryParams& p, Context& context) {
  const float scale = absolute_mean_scale(p.weight, context);
  const float reciprocal = 1.0f / scale;
  *static_cast<float*>(p.scale.data) = scale;
  const int64_t row_bytes = ceil_div(p.cols, 4);
  uint8_t* packed = static_cast<uint8_t*>(p.packed.data);
  parallel_ranges(context, p.rows, max64(65536 / p.cols, 1), [&](int64_t begin, int64_t end, int) {
    float buffer[RUN];
    alignas(64) int8_t codes[RUN + VECTOR_BYTES];
    int8_t bytes[RUN / 4 + LANES];
    for (int64_t row = begin; row < end; row++) {
      for (int64_t col = 0; col < p.cols; col += RUN) {
        const int64_t count = min64(RUN, p.cols - col);
        const float* x = as_floats(p.weight, row * p.cols + col, count, buffer);
        quantize_run(x, count, reciprocal, -1.0f, 1.0f, 1, codes);
        for (int64_t i = count; i < round_up(count, 4); i++) codes[i] = 1;  // the last byte's unused bits: trit 0
        pack_codes(codes, ceil_div(count, 4), bytes);
        __builtin_memcpy(packed + row * row_bytes + col / 4, bytes, size_t(ceil_div(count, 4)));
      }
    }
  });
}

void dequantize_ternary(const DequantizeTernaryParams& p, Context& context) {
  const int64_t row_bytes = ceil_div(p.cols, 4);
  const uint8_t* packed = static_cast<const uint8_t*>(p.packed.data);
  const float* scales = static_cast<const float*>(p.scale.data);
  parallel_ranges(context, p.rows, max64(65536 / p.cols, 1), [&](int64_t begin, int64_t end, int) {
    float buffer[RUN];
    for (int64_t row = begin; row < end; row++) {
      const float scale = scales[p.scale.length == 1 ? 0 : row];
      for (int64_t col = 0; col < p.cols; col += RUN) {
        const int64_t count = min64(RUN, p.cols - col);
        const uint8_t* bytes = packed + row * row_bytes + col / 4;
        for (int64_t i = 0; i < ceil_div(count, 4); i++)
          for (int j = 0; j < 4; j++) buffer[4 * i + j] = float((bytes[i] >> (2 * j) & 3) - 1) * scale;
        store_floats(p.out, row * p.cols + col, count, buffer);
      }
    }
  });
}

void quantize_activations(const QuantizeActivationsParams& p, Context& context) {
  float* scales = static_cast<float*>(p.scales.data);
  int8_t* codes = static_cast<int8_t*>(p.codes.data);
  parallel_ranges(context, p.rows, max64(32768 / p.cols, 1), [&](int64_t begin, int64_t end, int) {
    float buffer[RUN];
    int8_t run_codes[RUN];
    for (int64_t row = begin; row < end; row++) {
      // Compared as integers, magnitudes order as floats do and NaN is above infinity, so that it is not lost.
      VecInt largest = as_int(broadcast(1e-5f));
      for (int64_t col = 0; col < p.cols; col += RUN) {
        const int64_t count = min64(RUN, p.cols - col);
        const float* x = as_floats(p.x, row * p.cols + col, count, buffer);
        for (int64_t i = 0; i < count; i += LANES) {
          const Vec values = i + LANES <= count ? load(x + i) : load_partial(x + i, int(count - i), 0.0f);
          const VecInt magnitude = as_int(values) & 0x7fffffff;
          largest = magnitude > largest ? magnitude : largest;
        }
      }
      int32_t bits = largest[0];
      for (int i = 1; i < LANES; i++) bits = largest[i] > bits ? largest[i] : bits;
      const float scale = 127.0f / bits_to_float(uint32_t(bits));
      scales[row] = scale;
      for (int64_t col = 0; col < p.cols; col += RUN) {
        const int64_t count = min64(RUN, p.cols - col);
        const float* x = as_floats(p.x, row * p.cols + col, count, buffer);
        quantize_run(x, count, scale, -128.0f, 127.0f, 0, run_codes);
        __builtin_memcpy(codes + row * p.cols + col, run_codes, size_t(count));
      }
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
