// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Products of small matrices that lie in a kernel's scratch memory, blocked for the registers.
//
//   C[m][n] = start + sum over t of A(m, t) * B[t][n]        m < rows, n < LANES * vectors, t < depth
//
// A is read element by element and broadcast, so either of its axes may be the contiguous one; its strides are template
// arguments because BLOCK_ROWS of its rows are walked at once, and constants fold into the addresses. B and C are read
// by whole vectors. Every element of C is one chain of fused multiply-adds in ascending t: the result does not depend
// on how rows, columns or depth are cut into calls.

#ifndef TERNFLASH_CPU_TILE_GEMM_H_
#define TERNFLASH_CPU_TILE_GEMM_H_

#include "simd.h"

namespace {

// BLOCK_ROWS x 2 accumulators, the vectors of B and one broadcast fill 27 of 32 or 15 of 16 registers; with 32 there is
// the choice of 8 x 3 as well, which reads B less often.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int BLOCK_ROWS = 12;
constexpr int MOST_VECTORS = 3;
constexpr int MOST_VECTORS_ROWS = 8;
#else
constexpr int BLOCK_ROWS = 6;
constexpr int MOST_VECTORS = 2;
constexpr int MOST_VECTORS_ROWS = 6;
#endif
constexpr int64_t DEPTH_SECTION = 64;

enum class Start {
  ZERO,
  C,         // adds to C
  SCALED_C,  // adds to C[m][n] * lane_scale[n]
};

struct TileGemm {
  int64_t rows;
  int64_t vectors;
  int64_t depth;
  const float* a;
  const float* b;  // [depth][b_stride]
  int64_t b_stride;
  float* c;  // [rows][c_stride]
  int64_t c_stride;
  Start start;
  const float* lane_scale;  // [LANES * vectors], for SCALED_C
};

// Rows [row, row + ROWS) and vectors [vector, vector + VECTORS) of C.
template <int A_ROW_STRIDE, int A_DEPTH_STRIDE, int ROWS, int VECTORS>
TERNFLASH_INLINE void tile_gemm_block(const TileGemm& g, int64_t row, int64_t vector) {
  const float* a = g.a + row * A_ROW_STRIDE;
  const float* b = g.b + vector * LANES;
  float* c = g.c + row * g.c_stride + vector * LANES;
  Vec sums[ROWS][VECTORS];
  TERNFLASH_UNROLL
  for (int m = 0; m < ROWS; m++) {
    TERNFLASH_UNROLL
    for (int n = 0; n < VECTORS; n++) sums[m][n] = Vec{};
  }
  for (int64_t t = 0; t < g.depth; t++) {
    Vec b_row[VECTORS];
    TERNFLASH_UNROLL
    for (int n = 0; n < VECTORS; n++) b_row[n] = load(b + n * LANES);
    TERNFLASH_UNROLL
    for (int m = 0; m < ROWS; m++) {
      const Vec x = broadcast(a[m * A_ROW_STRIDE]);
      TERNFLASH_UNROLL
      for (int n = 0; n < VECTORS; n++) sums[m][n] += x * b_row[n];
    }
    a += A_DEPTH_STRIDE;
    b += g.b_stride;
  }
  TERNFLASH_UNROLL
  for (int m = 0; m < ROWS; m++) {
    TERNFLASH_UNROLL
    for (int n = 0; n < VECTORS; n++) {
      float* to = c + m * g.c_stride + n * LANES;
      if (g.start == Start::ZERO)
        store(to, sums[m][n]);
      else if (g.start == Start::C)
        store(to, load(to) + sums[m][n]);
      else
        store(to, load(to) * load(g.lane_scale + (vector + n) * LANES) + sums[m][n]);
    }
  }
}

// Not inlined: the constants of a caller's other loops would take registers from the accumulators.
template <int A_ROW_STRIDE, int A_DEPTH_STRIDE, int VECTORS>
static __attribute__((noinline)) void tile_gemm_columns(const TileGemm& g, int64_t vector) {
  constexpr int ROWS = VECTORS == MOST_VECTORS ? MOST_VECTORS_ROWS : BLOCK_ROWS;
  int64_t row = 0;
  for (; row + ROWS <= g.rows; row += ROWS)
    tile_gemm_block<A_ROW_STRIDE, A_DEPTH_STRIDE, ROWS, VECTORS>(g, row, vector);
  if constexpr (ROWS > 8) {
    if (row + 8 <= g.rows) {
      tile_gemm_block<A_ROW_STRIDE, A_DEPTH_STRIDE, 8, VECTORS>(g, row, vector);
      row += 8;
    }
  }
  if constexpr (ROWS > 4) {
    if (row + 4 <= g.rows) {
      tile_gemm_block<A_ROW_STRIDE, A_DEPTH_STRIDE, 4, VECTORS>(g, row, vector);
      row += 4;
    }
  }
  for (; row + 2 <= g.rows; row += 2) tile_gemm_block<A_ROW_STRIDE, A_DEPTH_STRIDE, 2, VECTORS>(g, row, vector);
  if (row < g.rows) tile_gemm_block<A_ROW_STRIDE, A_DEPTH_STRIDE, 1, VECTORS>(g, row, vector);
}

// A(m, t) = a[m * A_ROW_STRIDE + t * A_DEPTH_STRIDE]. Sums are made of sections of `SECTION`; shorter ones err less.
template <int A_ROW_STRIDE, int A_DEPTH_STRIDE, int64_t SECTION = DEPTH_SECTION>
TERNFLASH_INLINE void tile_gemm(const TileGemm& whole) {
  TileGemm g = whole;
  int64_t rest = whole.depth;
  do {
    g.depth = min64(rest, SECTION);
    int64_t vector = 0;
    if constexpr (MOST_VECTORS > 2) {  // threes, unless what is left makes two pairs
      for (; g.vectors - vector >= 3 && g.vectors - vector != 4; vector += 3)
        tile_gemm_columns<A_ROW_STRIDE, A_DEPTH_STRIDE, 3>(g, vector);
    }
    for (; vector + 2 <= g.vectors; vector += 2) tile_gemm_columns<A_ROW_STRIDE, A_DEPTH_STRIDE, 2>(g, vector);
    if (vector < g.vectors) tile_gemm_columns<A_ROW_STRIDE, A_DEPTH_STRIDE, 1>(g, vector);
    g.a += g.depth * A_DEPTH_STRIDE;
    g.b += g.depth * g.b_stride;
    g.start = Start::C;
    rest -= g.depth;
  } while (rest > 0);
}

}  // namespace

#endif  // TERNFLASH_CPU_TILE_GEMM_H_
