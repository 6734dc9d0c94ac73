// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Tiles of 16-bit elements in shared memory: rows of D elements, of which 16-byte chunk c of row r lies at chunk c ^ swizzle(r), so
// that the eight rows an ldmatrix phase reads, and the eight chunks a row is written in, fall into different banks.

#ifndef TERNFLASH_CUDA_TILE_H_
#define TERNFLASH_CUDA_TILE_H_

#include "ptx.h"

namespace ternflash::cuda {

template <int D>
struct Tile {
  static constexpr int CHUNKS = D / 8;
  static constexpr int ROW_BYTES = D * 2;
  static constexpr int SWIZZLED = CHUNKS % 8 == 0 ? 7 : 3;  // bits of the chunk's number that are swizzled
  static_assert(D % 32 == 0, "rows of whole 64-byte units");

  static __device__ __forceinline__ int swizzle(int row) { return (CHUNKS % 8 == 0 ? row : row >> 1) & SWIZZLED; }
  static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
    return static_cast<uint32_t>(row * ROW_BYTES + ((chunk ^ swizzle(row)) << 4));
  }
  // From the address of chunk 0 or 1 of a row to that of the even chunk `chunk` more. Tiles begin at multiples of 128 bytes.
  static __device__ __forceinline__ uint32_t advance(uint32_t address, int chunk) {
    return (address ^ static_cast<uint32_t>((chunk & SWIZZLED) << 4)) + static_cast<uint32_t>((chunk & ~SWIZZLED) << 4);
  }
};

// Begins the copy of ROWS rows to a tile; rows from valid_rows on, and columns from valid_columns on, become 0. EXACT: valid_columns is at
// least D and `aligned` holds. Not aligned (rows do not begin at multiples of 16 bytes) the copy is by element and done on return.
template <int ROWS, int D, int THREADS, bool EXACT, class T>
__device__ __forceinline__ void load_tile(uint32_t tile_smem, const T* rows_gmem, int row_stride, int valid_rows,
                                          int valid_columns, bool aligned, int thread) {
  constexpr int CHUNKS = Tile<D>::CHUNKS;
  if (EXACT || aligned) {
    if constexpr (THREADS % CHUNKS == 0) {
      constexpr int ROWS_A_PASS = THREADS / CHUNKS;
      static_assert(ROWS % ROWS_A_PASS == 0);
      const int row_0 = thread / CHUNKS;
      const int chunk = thread % CHUNKS;
      const bool chunk_valid = EXACT || chunk * 8 < valid_columns;
      const T* source = rows_gmem + row_0 * row_stride + chunk * 8;
#pragma unroll
      for (int i = 0; i < ROWS / ROWS_A_PASS; i++) {
        const int row = row_0 + i * ROWS_A_PASS;
        const bool valid = row < valid_rows && chunk_valid;
        cp_async_16(tile_smem + Tile<D>::offset(row, chunk), valid ? source : rows_gmem, valid);
        source += ROWS_A_PASS * row_stride;
      }
    } else {
#pragma unroll
      for (int i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        const int row = (i * THREADS + thread) / CHUNKS;
        const int chunk = (i * THREADS + thread) % CHUNKS;
        const bool valid = row < valid_rows && (EXACT || chunk * 8 < valid_columns);
        cp_async_16(tile_smem + Tile<D>::offset(row, chunk), rows_gmem + (valid ? row * row_stride + chunk * 8 : 0),
                    valid);
      }
      static_assert(ROWS * CHUNKS % THREADS == 0);
    }
  } else {
#pragma unroll 1
    for (int index = thread; index < ROWS * CHUNKS; index += THREADS) {
      const int row = index / CHUNKS;
      const int chunk = index % CHUNKS;
      uint32_t words[4] = {0, 0, 0, 0};
      for (int e = 0; e < 8; e++) {
        const int feature = chunk * 8 + e;
        if (row < valid_rows && feature < valid_columns) {
          const uint32_t bits = reinterpret_cast<const uint16_t*>(rows_gmem)[row * row_stride + feature];
          words[e / 2] |= bits << (16 * (e & 1));
        }
      }
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(tile_smem + Tile<D>::offset(row, chunk)),
                   "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                   : "memory");
    }
  }
}

// Operands of mma_m16n8k16 come out of a tile by ldmatrix. Each lane has one address for the corner of the tile; `advance` and whole
// multiples of 8 rows lead from there to every other fragment.

// A: rows 0..15, columns 0..15.
template <int D>
__device__ __forceinline__ uint32_t corner_a(uint32_t tile_smem, int lane) {
  return tile_smem + Tile<D>::offset(lane & 15, lane >> 4);
}

// B of two neighbouring n8 tiles, from a tile whose rows are n: rows 0..15, columns 0..15. Registers 0 and 1 belong to the first eight rows.
template <int D>
__device__ __forceinline__ uint32_t corner_b(uint32_t tile_smem, int lane) {
  return tile_smem + Tile<D>::offset((lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
}

// The same with ldmatrix_x4_trans from a tile whose rows are k.
template <int D>
__device__ __forceinline__ uint32_t corner_b_trans(uint32_t tile_smem, int lane) {
  return corner_a<D>(tile_smem, lane);
}

// A of the transpose of a tile, with ldmatrix_x4_trans: the tile's rows 0..15 are the operand's columns.
template <int D>
__device__ __forceinline__ uint32_t corner_a_trans(uint32_t tile_smem, int lane) {
  return corner_b<D>(tile_smem, lane);
}

// Tiles are numbered so that neighbours share rows or columns: in bands of 8 row tiles, down each column tile of the band.
__device__ __forceinline__ void tile_position(int index, int row_tiles, int column_tiles, int& row, int& column) {
  constexpr int BAND = 8;
  const int band = index / (BAND * column_tiles);
  const int rows = min(BAND, row_tiles - band * BAND);
  const int within = index - band * BAND * column_tiles;
  row = band * BAND + within % rows;
  column = within / rows;
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TILE_H_
