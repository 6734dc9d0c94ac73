// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rows of a [rows, cols] tensor that a group of threads meets more than once: kept in registers where they fit.

#ifndef TERNFLASH_CUDA_ROWS_CUH_
#define TERNFLASH_CUDA_ROWS_CUH_

#include "vector.h"

namespace ternflash::cuda {

// SIZE threads have a row of chunks of W elements, each thread CHUNKS of them in registers; with CHUNKS 0 a row may
// have any length and is read again each time.
template <class T, int WIDTH, int SIZE, int CHUNKS>
struct RowShape {
  using Element = T;
  using Threads = Group<SIZE>;
  static constexpr int W = WIDTH;
  static constexpr int STEP = SIZE;
  static constexpr int KEPT = CHUNKS;
  static constexpr int SLOTS = CHUNKS > 0 ? CHUNKS : 1;
  // Chunks are numbered from the row's begin.
  using Index = std::conditional_t<(CHUNKS > 0), int, int64_t>;
};

// body(RowShape) with a shape that has room for rows of `cols`.
template <class T, class Body>
void with_row_shape(int64_t cols, const Body& body) {
  constexpr int W = LANES<T>;
  const int64_t chunks = cols / W;
  if (cols % W != 0) {
    if (cols <= 128) return body(RowShape<T, 1, 32, 4>{});
    return body(RowShape<T, 1, 512, 0>{});
  }
  if (chunks <= 16) return body(RowShape<T, W, 8, 2>{});
  if (chunks <= 64) return body(RowShape<T, W, 32, 2>{});
  if (chunks <= 256) return body(RowShape<T, W, 128, 2>{});
  if (chunks <= 512) return body(RowShape<T, W, 256, 2>{});
  if (chunks <= 1024) return body(RowShape<T, W, 512, 2>{});
  return body(RowShape<T, W, 512, 0>{});
}

// Blocks of a multiprocessor: 1024 threads, which leaves each of them 64 registers, or another number.
template <class Shape, int THREADS = 1024>
constexpr int ROW_BLOCKS = THREADS / Shape::Threads::THREADS;

// body(slot, chunk) for each chunk of the row that is this thread's; slots number them if they are kept.
template <class Shape, class Body>
__device__ __forceinline__ void for_chunks(int64_t cols, int lane, const Body& body) {
  using Index = typename Shape::Index;
  const Index count = static_cast<Index>(cols / Shape::W);
  if constexpr (Shape::KEPT > 0) {
#pragma unroll
    for (int slot = 0; slot < Shape::KEPT; slot++) {
      const Index chunk = lane + slot * Shape::STEP;
      if (chunk < count) body(slot, chunk);
    }
  } else {
#pragma unroll 4
    for (Index chunk = lane; chunk < count; chunk += Shape::STEP) body(0, chunk);
  }
}

// A thread's share of a row.
template <class Shape>
class Row {
 public:
  using T = typename Shape::Element;
  using Index = typename Shape::Index;
  static constexpr int W = Shape::W;

  __device__ __forceinline__ void load(const T* row, int64_t cols, int lane) {
    row_ = row;
    if constexpr (Shape::KEPT > 0)
      for_chunks<Shape>(cols, lane, [&](int slot, Index chunk) { kept_[slot] = load_chunk<W>(row + chunk * W); });
  }

  __device__ __forceinline__ void get(int slot, Index chunk, float (&values)[W]) const {
    if constexpr (Shape::KEPT > 0)
      to_floats(kept_[slot], values);
    else
      load_floats(row_ + chunk * W, values);
  }

  // In place of what was loaded.
  __device__ __forceinline__ void keep(int slot, const Chunk<T, W>& chunk) { kept_[slot] = chunk; }

 private:
  const T* row_;
  Chunk<T, W> kept_[Shape::SLOTS];
};

// The sum of term(i), added in pairs.
template <int COUNT, class Term>
__device__ __forceinline__ float sum_of_pairs(const Term& term) {
  if constexpr (COUNT == 1) {
    return term(0);
  } else {
    constexpr int HALF = COUNT / 2;
    return sum_of_pairs<HALF>(term) + sum_of_pairs<COUNT - HALF>([&](int i) { return term(HALF + i); });
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_ROWS_CUH_
