// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// y[m, n] = (sum over k of codes[m, k] trit[n, k]) * weight_scale / activation_scale[m] + bias[n], the sum exactly in
// int32 for any K, the epilogue to the bit as lib/backend.ts states it (this file is compiled without contraction).
//
// A packed byte holds four neighbours along K as codes 0..2 = trit + 1, so sum codes * trit = sum codes * code - sum
// codes.
// - Many tokens: bytes are spread to one code each and packed in panels of NR weight rows, [K/4][NR][4], so that a lane
// of
//   a vector belongs to one weight row and four activations are broadcast to all lanes. A register tile is MR tokens by
//   NR rows; tasks are tiles of the result.
// - Few tokens: the packed bytes are streamed. Each token's codes are dealt into four planes, plane i holding codes
//   4b + i, so that plane_i[b] meets (byte[b] >> 2i) & 3 with contiguous loads only.
// With AVX-512 VNNI products of four go straight into int32. Without it they are added in pairs in int16, which holds
// STEPS_PER_FLUSH of them.

#include "kernels.h"
#include "simd.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace {

using ternflash::TernaryMatmulInt8Params;

#if defined(__AVX512BW__)
typedef __m512i Bytes;
constexpr int STEP = 64;
TERNFLASH_INLINE Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
TERNFLASH_INLINE void store_bytes(void* p, Bytes v) { _mm512_storeu_si512(p, v); }
TERNFLASH_INLINE Bytes zero_bytes() { return _mm512_setzero_si512(); }
TERNFLASH_INLINE Bytes broadcast_four(int32_t four) { return _mm512_set1_epi32(four); }
TERNFLASH_INLINE Bytes codes_of(Bytes packed, int part) {
  return _mm512_and_si512(_mm512_srli_epi16(packed, 2 * part), _mm512_set1_epi8(3));
}
TERNFLASH_INLINE Bytes add_int32(Bytes a, Bytes b) { return _mm512_add_epi32(a, b); }
#if defined(__AVX512VNNI__)
// As assembly: around the intrinsic gcc 12 copies the accumulators from register to register and spills them.
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(values));
  return acc;
}
TERNFLASH_INLINE Bytes to_int32(Bytes acc) { return acc; }
#else
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  return _mm512_add_epi16(acc, _mm512_maddubs_epi16(codes, values));
}
TERNFLASH_INLINE Bytes to_int32(Bytes acc) { return _mm512_madd_epi16(acc, _mm512_set1_epi16(1)); }
#endif
constexpr int MR = 12;
#elif defined(__AVX2__)
typedef __m256i Bytes;
constexpr int STEP = 32;
TERNFLASH_INLINE Bytes load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
TERNFLASH_INLINE void store_bytes(void* p, Bytes v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
TERNFLASH_INLINE Bytes zero_bytes() { return _mm256_setzero_si256(); }
TERNFLASH_INLINE Bytes broadcast_four(int32_t four) { return _mm256_set1_epi32(four); }
TERNFLASH_INLINE Bytes codes_of(Bytes packed, int part) {
  return _mm256_and_si256(_mm256_srli_epi16(packed, 2 * part), _mm256_set1_epi8(3));
}
TERNFLASH_INLINE Bytes add_int32(Bytes a, Bytes b) { return _mm256_add_epi32(a, b); }
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  return _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, values));
}
TERNFLASH_INLINE Bytes to_int32(Bytes acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
constexpr int MR = 5;
#else
// Portable: the accumulator of a lane is an int32 from the start.
typedef int8_t Bytes __attribute__((vector_size(16)));
typedef int32_t Lanes __attribute__((vector_size(16)));
constexpr int STEP = 16;
TERNFLASH_INLINE Bytes load_bytes(const void* p) {
  Bytes v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
TERNFLASH_INLINE void store_bytes(void* p, Bytes v) { __builtin_memcpy(p, &v, sizeof(v)); }
TERNFLASH_INLINE Bytes zero_bytes() { return Bytes{}; }
TERNFLASH_INLINE Bytes broadcast_four(int32_t four) {
  const Lanes lanes = {four, four, four, four};
  return reinterpret_cast<Bytes>(lanes);
}
TERNFLASH_INLINE Bytes codes_of(Bytes packed, int part) {
  return reinterpret_cast<Bytes>(reinterpret_cast<Lanes>(packed) >> (2 * part)) & 3;
}
TERNFLASH_INLINE Bytes add_int32(Bytes a, Bytes b) {
  return reinterpret_cast<Bytes>(reinterpret_cast<Lanes>(a) + reinterpret_cast<Lanes>(b));
}
#if defined(__SSE2__)
// The even and the odd bytes as 16-bit numbers; each multiply-add joins two of a lane's four products.
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  const __m128i c = reinterpret_cast<__m128i>(codes), v = reinterpret_cast<__m128i>(values);
  const __m128i even = _mm_madd_epi16(_mm_and_si128(c, _mm_set1_epi16(255)), _mm_srai_epi16(_mm_slli_epi16(v, 8), 8));
  const __m128i odd = _mm_madd_epi16(_mm_srli_epi16(c, 8), _mm_srai_epi16(v, 8));
  return reinterpret_cast<Bytes>(_mm_add_epi32(reinterpret_cast<__m128i>(acc), _mm_add_epi32(even, odd)));
}
#else
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  // Byte i of each lane, sign-extended; codes are never negative.
  const Lanes c = reinterpret_cast<Lanes>(codes), v = reinterpret_cast<Lanes>(values);
  Lanes sum = reinterpret_cast<Lanes>(acc);
  for (int i = 0; i < 4; i++) sum += (c << (24 - 8 * i) >> 24) * (v << (24 - 8 * i) >> 24);
  return reinterpret_cast<Bytes>(sum);
}
#endif
TERNFLASH_INLINE Bytes to_int32(Bytes acc) { return acc; }
constexpr int MR = 4;
#endif

#if defined(__AVX512VNNI__)
constexpr int64_t STEPS_PER_FLUSH = 256;  // a panel's part of that depth fits the L1 cache
#else
// A product is at most 2 * 128, a pair in an int16 512: sixty of them stay below 2^15.
constexpr int64_t STEPS_PER_FLUSH = 60;
#endif
constexpr int ROWS_PER_VECTOR = STEP / 4;
constexpr int NV = 2;
constexpr int NR = NV * ROWS_PER_VECTOR;           // weight rows of a panel
constexpr int64_t TILE_M = MR * 8;                 // tokens of a task
constexpr int64_t TILE_N = NR * 4;                 // weight rows of a task
constexpr int64_t PANEL_BYTES = int64_t(8) << 20;  // most bytes of spread codes at a time

// Spreading the weights pays with many tokens, and early where rows are short: then the other way spends its time
// adding up lanes. Against Zen 4, 2026-11-22.
constexpr int64_t FEW_TOKENS = 24;
constexpr int64_t SOME_TOKENS = 384;
constexpr int64_t LONG_ROW = 1024;

// The float epilogue of one token and weight rows [col, col + count).
TERNFLASH_INLINE void store_results(const TernaryMatmulInt8Params& p, int64_t token, int64_t col, int64_t count,
                                    const int32_t* sums, int32_t code_sum, const float* bias, float* values) {
  const float* weight_scales = static_cast<const float*>(p.weight_scale.data);
  const float token_scale = static_cast<const float*>(p.activation_scales.data)[token];
  if (p.weight_scale.length == 1) {
    const float factor = weight_scales[0] / token_scale;
    for (int64_t j = 0; j < count; j++) values[j] = float(sums[j] - code_sum) * factor;
  } else {
    for (int64_t j = 0; j < count; j++) values[j] = float(sums[j] - code_sum) * (weight_scales[col + j] / token_scale);
  }
  if (bias)
    for (int64_t j = 0; j < count; j++) values[j] = values[j] + bias[j];
  store_floats(p.out, token * p.n + col, count, values);
}

TERNFLASH_INLINE int32_t sum_codes(const int8_t* codes, int64_t count) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; i++) sum += codes[i];
  return sum;
}

// ---- many tokens

// Four codes of a byte to a byte each.
TERNFLASH_INLINE uint32_t spread(uint32_t byte) {
  const uint32_t pairs = (byte | byte << 12) & 0x000f000fu;
  return (pairs | pairs << 6) & 0x03030303u;
}

// Weight rows [first, first + NR) as [quads][NR][4]; code 0 for rows beyond n.
TERNFLASH_INLINE void pack_panel(const TernaryMatmulInt8Params& p, int64_t first, int64_t quads, uint8_t* out) {
  uint32_t* target = reinterpret_cast<uint32_t*>(out);
  const int64_t present = min64(NR, p.n - first);
  for (int64_t line = 0; line < NR; line++) {
    if (line >= present) {
      for (int64_t quad = 0; quad < quads; quad++) target[quad * NR + line] = 0;
      continue;
    }
    const uint8_t* row = static_cast<const uint8_t*>(p.packed.data) + (first + line) * quads;
    for (int64_t quad = 0; quad < quads; quad++) target[quad * NR + line] = spread(row[quad]);
  }
}

// tile[ROWS][TILE_N] (+)= ROWS tokens times a panel over `quads` quads; codes: ROWS rows, `stride` bytes apart.
// Not inlined, so that its accumulators have all registers to themselves.
template <int ROWS>
__attribute__((noinline)) void micro_kernel(int64_t quads, const int8_t* codes, int64_t stride, const uint8_t* panel,
                                            int32_t* tile, bool first) {
  Bytes acc[ROWS][NV];
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) acc[i][j] = zero_bytes();
  }
  for (int64_t quad = 0; quad < quads; quad++) {
    Bytes weights[NV];
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) weights[j] = load_bytes(panel + quad * NR * 4 + j * STEP);
    TERNFLASH_UNROLL
    for (int i = 0; i < ROWS; i++) {
      int32_t four;
      __builtin_memcpy(&four, codes + i * stride + quad * 4, 4);
      const Bytes values = broadcast_four(four);
      TERNFLASH_UNROLL
      for (int j = 0; j < NV; j++) acc[i][j] = add_products(acc[i][j], weights[j], values);
    }
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < ROWS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NV; j++) {
      int32_t* at = tile + i * TILE_N + j * ROWS_PER_VECTOR;
      const Bytes sums = to_int32(acc[i][j]);
      store_bytes(at, first ? sums : add_int32(load_bytes(at), sums));
    }
  }
}

void multiply_panels(const TernaryMatmulInt8Params& p, Context& context) {
  const int64_t quads = ceil_div(p.k, 4), stride = quads * 4;
  const int64_t span = max64(TILE_N, PANEL_BYTES / stride / TILE_N * TILE_N);
  const int64_t span_now = min64(span, round_up(p.n, NR));
  // Rows of K not divisible by four are copied to rows that are, padded with zeros.
  const bool padded = stride != p.k;
  const int64_t sums_bytes = round_up(p.m * int64_t(sizeof(int32_t)), 64);
  const int64_t codes_bytes = padded ? round_up(p.m * stride, 64) : 0;
  uint8_t* shared = shared_scratch<uint8_t>(context, sums_bytes + codes_bytes + span_now * stride);
  int32_t* code_sums = reinterpret_cast<int32_t*>(shared);
  int8_t* copy = reinterpret_cast<int8_t*>(shared + sums_bytes);
  uint8_t* panels = shared + sums_bytes + codes_bytes;
  const int8_t* given = static_cast<const int8_t*>(p.codes.data);
  const int8_t* codes = padded ? copy : given;
  parallel_ranges(context, p.m, max64(1, 65536 / p.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      code_sums[row] = sum_codes(given + row * p.k, p.k);
      if (!padded) continue;
      for (int64_t k = 0; k < stride; k++) copy[row * stride + k] = k < p.k ? given[row * p.k + k] : int8_t(0);
    }
  });

  for (int64_t first_col = 0; first_col < p.n; first_col += span) {
    const int64_t cols = min64(span, p.n - first_col);
    parallel_for(context, ceil_div(cols, NR), [&](int64_t panel, int) {
      pack_panel(p, first_col + panel * NR, quads, panels + panel * NR * stride);
    });
    const int64_t col_tiles = ceil_div(cols, TILE_N), row_tiles = ceil_div(p.m, TILE_M);
    parallel_for(context, row_tiles * col_tiles, [&](int64_t task, int thread) {
      const int64_t row = task / col_tiles * TILE_M, col = task % col_tiles * TILE_N;
      const int64_t rows = min64(TILE_M, p.m - row), width = min64(TILE_N, cols - col);
      int32_t* tile = thread_scratch<int32_t>(context, thread, TILE_M * TILE_N + 2 * TILE_N);
      float* values = reinterpret_cast<float*>(tile + TILE_M * TILE_N);
      for (int64_t quad = 0; quad < quads; quad += STEPS_PER_FLUSH) {
        const int64_t depth = min64(STEPS_PER_FLUSH, quads - quad);
        for (int64_t j = 0; j < width; j += NR) {
          const uint8_t* panel = panels + (col + j) * stride + quad * NR * 4;
          int64_t i = 0;
          for (; i + MR <= rows; i += MR)
            micro_kernel<MR>(depth, codes + (row + i) * stride + quad * 4, stride, panel, tile + i * TILE_N + j,
                             quad == 0);
          for (; i < rows; i++)
            micro_kernel<1>(depth, codes + (row + i) * stride + quad * 4, stride, panel, tile + i * TILE_N + j,
                            quad == 0);
        }
      }
      const float* bias = p.bias.data ? as_floats(p.bias, first_col + col, width, values + TILE_N) : nullptr;
      for (int64_t i = 0; i < rows; i++)
        store_results(p, row + i, first_col + col, width, tile + i * TILE_N, code_sums[row + i], bias, values);
    });
  }
}

// ---- few tokens

constexpr int MB = 4;                                            // tokens at a time
constexpr int NB = 4;                                            // weight rows at a time
constexpr int64_t STREAM_N = 64;                                 // weight rows of a task
constexpr int64_t STREAM_M = 64;                                 // tokens of a task
constexpr int64_t STEPS_PER_STREAM_FLUSH = STEPS_PER_FLUSH / 4;  // a step adds four planes

TERNFLASH_INLINE int32_t sum_lanes(Bytes total) {
  int32_t lanes[STEP / 4];
  store_bytes(lanes, total);
  int32_t sum = 0;
  for (int i = 0; i < STEP / 4; i++) sum += lanes[i];
  return sum;
}

// sums[TOKENS][NB] of TOKENS tokens, whose four planes are plane_bytes long (a multiple of STEP, zero beyond the row),
// and NB packed rows. The last, partial step of a row reads its copy in `tails`, whose padding meets zeros of the
// planes.
template <int TOKENS>
__attribute__((noinline)) void stream_rows(const int8_t* planes, int64_t plane_bytes, const uint8_t* const* rows,
                                           const uint8_t (*tails)[STEP], int64_t row_bytes, int32_t sums[TOKENS][NB]) {
  Bytes total[TOKENS][NB];
  TERNFLASH_UNROLL
  for (int i = 0; i < TOKENS; i++) {
    TERNFLASH_UNROLL
    for (int j = 0; j < NB; j++) total[i][j] = zero_bytes();
  }
  const int64_t whole = row_bytes / STEP, steps = ceil_div(row_bytes, STEP);
  for (int64_t first = 0; first < steps; first += STEPS_PER_STREAM_FLUSH) {
    const int64_t end = min64(first + STEPS_PER_STREAM_FLUSH, steps);
    Bytes acc[TOKENS][NB];
    TERNFLASH_UNROLL
    for (int i = 0; i < TOKENS; i++) {
      TERNFLASH_UNROLL
      for (int j = 0; j < NB; j++) acc[i][j] = zero_bytes();
    }
    for (int64_t step = first; step < end; step++) {
      Bytes packed[NB];
      TERNFLASH_UNROLL
      for (int j = 0; j < NB; j++) packed[j] = load_bytes(step < whole ? rows[j] + step * STEP : tails[j]);
      TERNFLASH_UNROLL
      for (int part = 0; part < 4; part++) {
        Bytes codes[NB];
        TERNFLASH_UNROLL
        for (int j = 0; j < NB; j++) codes[j] = codes_of(packed[j], part);
        TERNFLASH_UNROLL
        for (int i = 0; i < TOKENS; i++) {
          const Bytes values = load_bytes(planes + (i * 4 + part) * plane_bytes + step * STEP);
          TERNFLASH_UNROLL
          for (int j = 0; j < NB; j++) acc[i][j] = add_products(acc[i][j], codes[j], values);
        }
      }
    }
    TERNFLASH_UNROLL
    for (int i = 0; i < TOKENS; i++) {
      TERNFLASH_UNROLL
      for (int j = 0; j < NB; j++) total[i][j] = add_int32(total[i][j], to_int32(acc[i][j]));
    }
  }
  for (int i = 0; i < TOKENS; i++)
    for (int j = 0; j < NB; j++) sums[i][j] = sum_lanes(total[i][j]);
}

template <int TOKENS>
TERNFLASH_INLINE void stream_block(const int8_t* planes, int64_t plane_bytes, const uint8_t* const* rows,
                                   const uint8_t (*tails)[STEP], int64_t row_bytes, int64_t present, int32_t* out) {
  int32_t sums[TOKENS][NB];
  stream_rows<TOKENS>(planes, plane_bytes, rows, tails, row_bytes, sums);
  for (int i = 0; i < TOKENS; i++)
    for (int64_t j = 0; j < present; j++) out[i * STREAM_N + j] = sums[i][j];
}

void multiply_streaming(const TernaryMatmulInt8Params& p, Context& context) {
  const int64_t row_bytes = ceil_div(p.k, 4), plane_bytes = round_up(row_bytes, STEP);
  const uint8_t* packed = static_cast<const uint8_t*>(p.packed.data);
  const int8_t* codes = static_cast<const int8_t*>(p.codes.data);
  const int64_t sums_bytes = round_up(p.m * int64_t(sizeof(int32_t)), 64);
  uint8_t* shared = shared_scratch<uint8_t>(context, sums_bytes + p.m * 4 * plane_bytes);
  int32_t* code_sums = reinterpret_cast<int32_t*>(shared);
  int8_t* planes = reinterpret_cast<int8_t*>(shared + sums_bytes);
  parallel_ranges(context, p.m, max64(1, 65536 / p.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; token++) {
      const int8_t* x = codes + token * p.k;
      code_sums[token] = sum_codes(x, p.k);
      for (int part = 0; part < 4; part++) {
        int8_t* plane = planes + (token * 4 + part) * plane_bytes;
        const int64_t whole = p.k / 4;
        for (int64_t b = 0; b < whole; b++) plane[b] = x[4 * b + part];
        for (int64_t b = whole; b < plane_bytes; b++) plane[b] = 4 * b + part < p.k ? x[4 * b + part] : int8_t(0);
      }
    }
  });
  const int64_t col_tiles = ceil_div(p.n, STREAM_N);
  parallel_for(context, col_tiles * ceil_div(p.m, STREAM_M), [&](int64_t task, int thread) {
    const int64_t col = task % col_tiles * STREAM_N, cols = min64(STREAM_N, p.n - col);
    const int64_t token = task / col_tiles * STREAM_M, tokens = min64(STREAM_M, p.m - token);
    int32_t* sums = thread_scratch<int32_t>(context, thread, STREAM_M * STREAM_N + 2 * STREAM_N);
    float* values = reinterpret_cast<float*>(sums + STREAM_M * STREAM_N);
    const int64_t whole = row_bytes / STEP * STEP;
    for (int64_t j = 0; j < cols; j += NB) {
      const int64_t present = min64(NB, cols - j);
      const uint8_t* rows[NB];
      uint8_t tails[NB][STEP] = {};
      for (int64_t line = 0; line < NB; line++) {
        rows[line] = packed + (col + j + min64(line, present - 1)) * row_bytes;
        for (int64_t b = whole; b < row_bytes; b++) tails[line][b - whole] = rows[line][b];
      }
      for (int64_t i = 0; i < tokens;) {
        const int8_t* first = planes + (token + i) * 4 * plane_bytes;
        int32_t* out = sums + i * STREAM_N + j;
        if (i + MB <= tokens) {
          stream_block<MB>(first, plane_bytes, rows, tails, row_bytes, present, out);
          i += MB;
        } else {
          stream_block<1>(first, plane_bytes, rows, tails, row_bytes, present, out);
          i++;
        }
      }
    }
    const float* bias = p.bias.data ? as_floats(p.bias, col, cols, values + STREAM_N) : nullptr;
    for (int64_t i = 0; i < tokens; i++)
      store_results(p, token + i, col, cols, sums + i * STREAM_N, code_sums[token + i], bias, values);
  });
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void ternary_matmul_int8(const TernaryMatmulInt8Params& p, Context& context) {
  if (p.m < FEW_TOKENS || (p.m < SOME_TOKENS && p.k >= LONG_ROW))
    multiply_streaming(p, context);
  else
    multiply_panels(p, context);
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
