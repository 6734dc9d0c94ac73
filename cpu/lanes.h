// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Work across the 32-bit lanes of vectors: transposing squares of them in registers, sums of the lanes. Compiled once
// per instruction set, like those who include it.

#ifndef TERNFLASH_CPU_LANES_H_
#define TERNFLASH_CPU_LANES_H_

#include "simd.h"

namespace {

// 0, 1, ... as template arguments, for shuffles whose lanes are computed.
template <int... LANE>
struct LaneList {};
template <int COUNT, int... LANE>
struct MakeLaneList : MakeLaneList<COUNT - 1, COUNT - 1, LANE...> {};
template <int... LANE>
struct MakeLaneList<0, LANE...> {
  typedef LaneList<LANE...> List;
};
typedef MakeLaneList<LANES>::List AllLanes;

// a0 b0 a1 b1 ..., of the first halves or of the second.
template <bool SECOND, int... LANE>
TERNFLASH_INLINE Vec interleave(Vec a, Vec b, LaneList<LANE...>) {
  return TERNFLASH_SHUFFLE(a, b, (SECOND ? LANES / 2 : 0) + LANE / 2 + (LANE % 2) * LANES...);
}

// rows[i][j] to rows[j][i]: each round interleaves the first half of the rows with the second.
TERNFLASH_INLINE void transpose(Vec (&rows)[LANES]) {
  TERNFLASH_UNROLL
  for (int round = 1; round < LANES; round *= 2) {
    Vec mixed[LANES];
    TERNFLASH_UNROLL
    for (int i = 0; i < LANES / 2; i++) {
      mixed[2 * i] = interleave<false>(rows[i], rows[i + LANES / 2], AllLanes());
      mixed[2 * i + 1] = interleave<true>(rows[i], rows[i + LANES / 2], AllLanes());
    }
    TERNFLASH_UNROLL
    for (int i = 0; i < LANES; i++) rows[i] = mixed[i];
  }
}

// Lanes of a and b of which one half, counted in segments of WIDTH, is added to the other.
template <int WIDTH, class Vector, int... LANE>
TERNFLASH_INLINE Vector fold_halves(Vector a, Vector b, LaneList<LANE...>) {
  constexpr int HALF = WIDTH / 2;
  return TERNFLASH_SHUFFLE(a, b, LANE / HALF * WIDTH + LANE % HALF...) +
         TERNFLASH_SHUFFLE(a, b, LANE / HALF * WIDTH + LANE % HALF + HALF...);
}

// Sums of the lanes of COUNT vectors, a power of two and at most LANES, in the first COUNT lanes. Each level adds the
// halves of all segments of WIDTH lanes of a pair of vectors, which leaves twice as many segments, half as wide, in
// order, in one vector.
template <int COUNT, int WIDTH = LANES, class Vector>
TERNFLASH_INLINE Vector lane_sums(Vector* vectors) {
  if constexpr (WIDTH == 1) {
    return vectors[0];
  } else if constexpr (COUNT == 1) {
    vectors[0] = fold_halves<WIDTH>(vectors[0], vectors[0], AllLanes());
    return lane_sums<1, WIDTH / 2>(vectors);
  } else {
    TERNFLASH_UNROLL
    for (int i = 0; i < COUNT / 2; i++) vectors[i] = fold_halves<WIDTH>(vectors[2 * i], vectors[2 * i + 1], AllLanes());
    return lane_sums<COUNT / 2, WIDTH / 2>(vectors);
  }
}

// The same of any number of vectors, which are overwritten.
template <int COUNT>
TERNFLASH_INLINE void store_lane_sums(Vec* vectors, float* out) {
  constexpr int FIRST = COUNT >= LANES ? LANES : COUNT >= 8 ? 8 : COUNT >= 4 ? 4 : COUNT >= 2 ? 2 : 1;
  const Vec sums = lane_sums<FIRST>(vectors);
  __builtin_memcpy(out, &sums, FIRST * sizeof(float));
  if constexpr (COUNT > FIRST) store_lane_sums<COUNT - FIRST>(vectors + FIRST, out + FIRST);
}

}  // namespace

#endif  // TERNFLASH_CPU_LANES_H_
