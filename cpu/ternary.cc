// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rounding to ternary weights and int8 activations, and the integer product of the two (BitNet b1.58; Ma et al., 2024).
// Bits are the contract here (binding/ops.h, lib/backend.ts): the order of the absmean's sum, the rounding of each step and
// the epilogue are fixed, so this file is compiled without contraction of multiply-adds.
//
// Product: acc[m, n] = sum over k of codes[m, k] trit[n, k], exactly in int32. A byte of packed weights holds four
// neighbours along K. The activations of a token are therefore dealt into four planes, plane i holding codes 4b + i; then
// acc = sum over i and b of plane_i[b] * ((byte[b] >> 2i) & 3) - sum of codes, with contiguous loads only. Tasks are tiles
// of tokens and weight rows; a tile of MB tokens by NB rows shares each unpacking and each load.

#include "kernels.h"
#include "simd.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using ternflash::DequantizeTernaryParams;
using ternflash::QuantizeActivationsParams;
using ternflash::QuantizeTernaryParams;
using ternflash::TernaryMatmulInt8Params;

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

#if defined(__AVX512BW__)
typedef __m512i Bytes;
constexpr int STEP = 64;  // packed bytes at a time
TERNFLASH_INLINE Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
TERNFLASH_INLINE Bytes zero_bytes() { return _mm512_setzero_si512(); }
// The codes of plane `part` of each byte.
TERNFLASH_INLINE Bytes codes_of(Bytes packed, int part) {
  return _mm512_and_si512(_mm512_srli_epi16(packed, 2 * part), _mm512_set1_epi8(3));
}
// 16-bit sums of neighbouring products, unsigned times signed.
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes plane) {
  return _mm512_add_epi16(acc, _mm512_maddubs_epi16(codes, plane));
}
TERNFLASH_INLINE Bytes widen(Bytes total, Bytes acc) {
  return _mm512_add_epi32(total, _mm512_madd_epi16(acc, _mm512_set1_epi16(1)));
}
TERNFLASH_INLINE int32_t sum_lanes(Bytes total) {
  int32_t lanes[16];
  _mm512_storeu_si512(lanes, total);
  int32_t sum = 0;
  for (int i = 0; i < 16; i++) sum += lanes[i];
  return sum;
}
#elif defined(__AVX2__)
typedef __m256i Bytes;
constexpr int STEP = 32;
TERNFLASH_INLINE Bytes load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
TERNFLASH_INLINE Bytes zero_bytes() { return _mm256_setzero_si256(); }
TERNFLASH_INLINE Bytes codes_of(Bytes packed, int part) {
  return _mm256_and_si256(_mm256_srli_epi16(packed, 2 * part), _mm256_set1_epi8(3));
}
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes plane) {
  return _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, plane));
}
TERNFLASH_INLINE Bytes widen(Bytes total, Bytes acc) {
  return _mm256_add_epi32(total, _mm256_madd_epi16(acc, _mm256_set1_epi16(1)));
}
TERNFLASH_INLINE int32_t sum_lanes(Bytes total) {
  const __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  const __m128i pair = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32(pair, 0xb1)));
}
#else
constexpr int STEP = 16;
#endif

// A product is at most 2 * 128, a pair 512, four planes of a step 2048: fifteen steps stay within int16.
constexpr int64_t STEPS_PER_FLUSH = 15;

// acc of TOKENS tokens and ROWS weight rows. planes: per token four planes of `plane_bytes` (a multiple of STEP, zero
// beyond the row); rows: packed rows of `row_bytes`. The last, partial step reads from `tail`: per row, its last bytes
// padded with zeros (code 0 meets plane values 0).
template <int TOKENS, int ROWS>
TERNFLASH_INLINE void product_tile(const int8_t* planes, int64_t plane_bytes, const uint8_t* const* rows,
                                   const uint8_t* const* tails, int64_t row_bytes, int32_t acc[TOKENS][ROWS]) {
#if defined(__AVX2__)
  Bytes total[TOKENS][ROWS];
  for (int i = 0; i < TOKENS; i++)
    for (int j = 0; j < ROWS; j++) total[i][j] = zero_bytes();
  const int64_t whole = row_bytes / STEP, steps = ceil_div(row_bytes, STEP);
  for (int64_t first = 0; first < steps; first += STEPS_PER_FLUSH) {
    const int64_t end = min64(first + STEPS_PER_FLUSH, steps);
    Bytes sums[TOKENS][ROWS];
    TERNFLASH_UNROLL
    for (int i = 0; i < TOKENS; i++) {
      TERNFLASH_UNROLL
      for (int j = 0; j < ROWS; j++) sums[i][j] = zero_bytes();
    }
    for (int64_t step = first; step < end; step++) {
      Bytes packed[ROWS];
      TERNFLASH_UNROLL
      for (int j = 0; j < ROWS; j++) packed[j] = load_bytes(step < whole ? rows[j] + step * STEP : tails[j]);
      TERNFLASH_UNROLL
      for (int part = 0; part < 4; part++) {
        Bytes codes[ROWS];
        TERNFLASH_UNROLL
        for (int j = 0; j < ROWS; j++) codes[j] = codes_of(packed[j], part);
        TERNFLASH_UNROLL
        for (int i = 0; i < TOKENS; i++) {
          const Bytes values = load_bytes(planes + (i * 4 + part) * plane_bytes + step * STEP);
          TERNFLASH_UNROLL
          for (int j = 0; j < ROWS; j++) sums[i][j] = add_products(sums[i][j], codes[j], values);
        }
      }
    }
    TERNFLASH_UNROLL
    for (int i = 0; i < TOKENS; i++) {
      TERNFLASH_UNROLL
      for (int j = 0; j < ROWS; j++) total[i][j] = widen(total[i][j], sums[i][j]);
    }
  }
  for (int i = 0; i < TOKENS; i++)
    for (int j = 0; j < ROWS; j++) acc[i][j] = sum_lanes(total[i][j]);
#else
  (void)tails;
  for (int i = 0; i < TOKENS; i++) {
    for (int j = 0; j < ROWS; j++) {
      int32_t sum = 0;
      for (int part = 0; part < 4; part++) {
        const int8_t* plane = planes + (i * 4 + part) * plane_bytes;
        const uint8_t* row = rows[j];
        int32_t part_sum = 0;
        for (int64_t b = 0; b < row_bytes; b++) part_sum += int32_t(plane[b]) * int32_t((row[b] >> (2 * part)) & 3);
        sum += part_sum;
      }
      acc[i][j] = sum;
    }
  }
#endif
}

constexpr int MB = 4;           // tokens of a register tile
constexpr int NB = 4;           // weight rows of a register tile
constexpr int64_t TILE_N = 64;  // weight rows of a task
constexpr int64_t TILE_M = 64;  // tokens of a task

struct Product {
  const TernaryMatmulInt8Params& p;
  const int8_t* planes;     // [m][4][plane_bytes]
  const int32_t* code_sums;  // [m]
  int64_t plane_bytes;
  int64_t row_bytes;
};

// The results of COUNT tokens for weight rows [col, col + cols), cols <= NB, to out[token * TILE_N + column].
template <int COUNT>
TERNFLASH_INLINE void product_rows(const Product& product, int64_t token, int64_t col, int64_t cols,
                                   uint8_t tail_bytes[NB][STEP], int32_t* out) {
  const uint8_t* packed = static_cast<const uint8_t*>(product.p.packed.data);
  const uint8_t* rows[NB];
  const uint8_t* tails[NB];
  for (int j = 0; j < NB; j++) {
    rows[j] = packed + (col + min64(j, cols - 1)) * product.row_bytes;
    tails[j] = tail_bytes[j];
  }
  int32_t acc[COUNT][NB];
  product_tile<COUNT, NB>(product.planes + token * 4 * product.plane_bytes, product.plane_bytes, rows, tails,
                          product.row_bytes, acc);
  for (int i = 0; i < COUNT; i++)
    for (int j = 0; j < cols; j++) out[i * TILE_N + j] = acc[i][j] - product.code_sums[token + i];
}

void product_task(const Product& product, int64_t row, int64_t rows, int64_t col, int64_t cols, float* results,
                  float* bias_buffer) {
  const TernaryMatmulInt8Params& p = product.p;
  int32_t* sums = reinterpret_cast<int32_t*>(results);
  const uint8_t* packed = static_cast<const uint8_t*>(p.packed.data);
  for (int64_t j = 0; j < cols; j += NB) {
    const int64_t present = min64(NB, cols - j);
    uint8_t tail_bytes[NB][STEP] = {};
    const int64_t whole = product.row_bytes / STEP * STEP;
    for (int64_t line = 0; line < present; line++)
      for (int64_t b = whole; b < product.row_bytes; b++)
        tail_bytes[line][b - whole] = packed[(col + j + line) * product.row_bytes + b];
    int64_t i = 0;
    for (; i + MB <= rows; i += MB) product_rows<MB>(product, row + i, col + j, present, tail_bytes, sums + i * TILE_N + j);
    for (; i < rows; i++) product_rows<1>(product, row + i, col + j, present, tail_bytes, sums + i * TILE_N + j);
  }
  const float* weight_scales = static_cast<const float*>(p.weight_scale.data);
  const float* token_scales = static_cast<const float*>(p.activation_scales.data);
  const float* bias = p.bias.data ? as_floats(p.bias, col, cols, bias_buffer) : nullptr;
  for (int64_t i = 0; i < rows; i++) {
    float values[TILE_N];
    const int32_t* line = sums + i * TILE_N;
    const float token_scale = token_scales[row + i];
    if (p.weight_scale.length == 1) {
      const float factor = weight_scales[0] / token_scale;
      for (int64_t j = 0; j < cols; j++) values[j] = float(line[j]) * factor;
    } else {
      for (int64_t j = 0; j < cols; j++) values[j] = float(line[j]) * (weight_scales[col + j] / token_scale);
    }
    if (bias)
      for (int64_t j = 0; j < cols; j++) values[j] = values[j] + bias[j];
    store_floats(p.out, (row + i) * p.n + col, cols, values);
  }
}

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

void ternary_matmul_int8(const TernaryMatmulInt8Params& p, Context& context) {
  const int64_t row_bytes = ceil_div(p.k, 4), plane_bytes = round_up(row_bytes, STEP);
  const int64_t sums_bytes = round_up(p.m * int64_t(sizeof(int32_t)), 64);
  uint8_t* shared = shared_scratch<uint8_t>(context, sums_bytes + p.m * 4 * plane_bytes);
  int32_t* code_sums = reinterpret_cast<int32_t*>(shared);
  int8_t* planes = reinterpret_cast<int8_t*>(shared + sums_bytes);
  const int8_t* codes = static_cast<const int8_t*>(p.codes.data);
  parallel_ranges(context, p.m, max64(1, 16384 / p.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const int8_t* x = codes + row * p.k;
      int8_t* target = planes + row * 4 * plane_bytes;
      int32_t sum = 0;
      for (int64_t col = 0; col < p.k; col++) sum += x[col];
      code_sums[row] = sum;
      for (int part = 0; part < 4; part++) {
        int8_t* plane = target + part * plane_bytes;
        const int64_t whole = p.k / 4;
        for (int64_t b = 0; b < whole; b++) plane[b] = x[4 * b + part];
        for (int64_t b = whole; b < plane_bytes; b++) plane[b] = 4 * b + part < p.k ? x[4 * b + part] : int8_t(0);
      }
    }
  });

  const Product product = {p, planes, code_sums, plane_bytes, row_bytes};
  const int64_t col_tiles = ceil_div(p.n, TILE_N), row_tiles = ceil_div(p.m, TILE_M);
  parallel_for(context, col_tiles * row_tiles, [&](int64_t task, int thread) {
    float* results = thread_scratch<float>(context, thread, TILE_M * TILE_N + TILE_N);
    const int64_t col = task % col_tiles * TILE_N, row = task / col_tiles * TILE_M;
    product_task(product, row, min64(TILE_M, p.m - row), col, min64(TILE_N, p.n - col), results,
                 results + TILE_M * TILE_N);
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
