// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The permutation of axes. Bits are moved, so only the size of an element counts. Where the last axis lies in x as in
// out, whole pieces of rows are copied, up to 16 bytes a thread. Else tiles of the axis that is dense in x and the one
// that is dense in out pass through shared memory, so that both sides are met in runs.

#include "kernels.h"
#include "strided.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

constexpr int UNROLL = 4;
constexpr int TILE = 64;

template <class V>
__global__ void __launch_bounds__(BLOCK_THREADS)
    copy_rows_kernel(const __grid_constant__ Walk<1> walk, const V* x, V* out, uint32_t steps) {
  const uint32_t first = blockIdx.x * (BLOCK_THREADS * UNROLL) + threadIdx.x;
  V values[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const uint32_t step = first + u * BLOCK_THREADS;
    int64_t place[1];
    walk.places(step, place);
    if (step < steps) values[u] = x[place[0]];
  }
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const uint32_t step = first + u * BLOCK_THREADS;
    if (step < steps) out[step] = values[u];
  }
}

// The tiles and, beside them, the axes that neither is dense in.
struct Tiles {
  int64_t rows;        // the axis that is dense in out
  int64_t cols;        // the axis that is dense in x
  int64_t row_stride;  // in x
  int64_t col_stride;  // in out
  int64_t row_tiles;
  int64_t col_tiles;
  int rank;
  int64_t shape[MAX_RANK];
  int64_t x_strides[MAX_RANK];
  int64_t out_strides[MAX_RANK];
};

template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    copy_tiles_kernel(const __grid_constant__ Tiles tiles, const T* x, T* out, int64_t first_tile) {
  // Rows of an odd number of banks: neither rows nor columns of the tile meet in one.
  constexpr int STRIDE = TILE + (sizeof(T) < 4 ? 4 / static_cast<int>(sizeof(T)) : 1);
  __shared__ T tile[TILE][STRIDE];
  int64_t rest = first_tile + blockIdx.x;
  const int64_t first_row = rest % tiles.row_tiles * TILE;
  rest /= tiles.row_tiles;
  const int64_t first_col = rest % tiles.col_tiles * TILE;
  rest /= tiles.col_tiles;
  x += first_row * tiles.row_stride + first_col;
  out += first_col * tiles.col_stride + first_row;
#pragma unroll 1
  for (int axis = tiles.rank - 1; axis >= 0; axis--) {
    const int64_t index = rest % tiles.shape[axis];
    rest /= tiles.shape[axis];
    x += index * tiles.x_strides[axis];
    out += index * tiles.out_strides[axis];
  }
  const int rows = static_cast<int>(min(int64_t(TILE), tiles.rows - first_row));
  const int cols = static_cast<int>(min(int64_t(TILE), tiles.cols - first_col));
  const int lane = threadIdx.x % 32;
  constexpr int WARPS = BLOCK_THREADS / 32;
  T values[TILE / WARPS][2];
#pragma unroll
  for (int i = 0; i < TILE / WARPS; i++) {
    const int row = i * WARPS + threadIdx.x / 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int col = lane + 32 * half;
      if (row < rows && col < cols) values[i][half] = x[row * tiles.row_stride + col];
    }
  }
#pragma unroll
  for (int i = 0; i < TILE / WARPS; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) tile[i * WARPS + threadIdx.x / 32][lane + 32 * half] = values[i][half];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < TILE / WARPS; i++) {
    const int col = i * WARPS + threadIdx.x / 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = lane + 32 * half;
      if (row < rows && col < cols) out[col * tiles.col_stride + row] = tile[row][col];
    }
  }
}

template <class V>
void copy_rows(const Axes<1>& axes, const TransposeParams& p, Context& context) {
  const int64_t none[1] = {0};
  in_parts(axes, none, 0, MAX_STEPS / (BLOCK_THREADS * UNROLL) * (BLOCK_THREADS * UNROLL),
           [&](const Axes<1>& part, const int64_t(&first)[1], int64_t first_out) {
             const int64_t steps = part.length();
             const unsigned blocks = static_cast<unsigned>(ceil_div(steps, BLOCK_THREADS * UNROLL));
             copy_rows_kernel<V><<<blocks, BLOCK_THREADS, 0, context.stream()>>>(
                 Walk<1>(part, 1), data_of<V>(p.x) + first[0], target_of<V>(p.out) + first_out,
                 static_cast<uint32_t>(steps));
           });
}

// The same with the elements of the last axis joined to the largest words that all its rows are made of.
void copy_rows(Axes<1> axes, int64_t bytes, const TransposeParams& p, Context& context) {
  int64_t joined = 16 / bytes;
  const auto fits = [&](int64_t size) {
    for (int axis = 0; axis < axes.rank - 1; axis++)
      if (axes.strides[0][axis] % size != 0) return false;
    return axes.shape[axes.rank - 1] % size == 0;
  };
  while (!fits(joined)) joined /= 2;
  axes.shape[axes.rank - 1] /= joined;
  for (int axis = 0; axis < axes.rank - 1; axis++) axes.strides[0][axis] /= joined;
  switch (joined * bytes) {
    case 16:
      return copy_rows<uint4>(axes, p, context);
    case 8:
      return copy_rows<uint2>(axes, p, context);
    case 4:
      return copy_rows<uint32_t>(axes, p, context);
    case 2:
      return copy_rows<uint16_t>(axes, p, context);
    default:
      return copy_rows<uint8_t>(axes, p, context);
  }
}

template <class T>
void copy_tiles(const Axes<1>& axes, const TransposeParams& p, Context& context) {
  const int last = axes.rank - 1;
  int dense = 0;
  while (axes.strides[0][dense] != 1) dense++;
  Tiles tiles = {};
  int64_t stride = 1;  // in out
  int64_t count = 1;
  for (int axis = last; axis >= 0; axis--) {
    if (axis == dense) {
      tiles.cols = axes.shape[axis];
      tiles.col_stride = stride;
    } else if (axis == last) {
      tiles.rows = axes.shape[axis];
      tiles.row_stride = axes.strides[0][axis];
    } else {
      tiles.shape[tiles.rank] = axes.shape[axis];
      tiles.x_strides[tiles.rank] = axes.strides[0][axis];
      tiles.out_strides[tiles.rank] = stride;
      tiles.rank++;
      count *= axes.shape[axis];
    }
    stride *= axes.shape[axis];
  }
  tiles.row_tiles = ceil_div(tiles.rows, TILE);
  tiles.col_tiles = ceil_div(tiles.cols, TILE);
  count *= tiles.row_tiles * tiles.col_tiles;
  for (int64_t first = 0; first < count; first += MAX_STEPS)
    copy_tiles_kernel<T>
        <<<static_cast<unsigned>(std::min(MAX_STEPS, count - first)), BLOCK_THREADS, 0, context.stream()>>>(
            tiles, data_of<T>(p.x), target_of<T>(p.out), first);
}

}  // namespace

void transpose(const TransposeParams& p, Context& context) {
  if (p.out.length == 0) return;
  const int64_t bytes = element_bytes(p.x.dtype);
  const int64_t* const strides[1] = {p.strides};
  const Axes<1> axes(p.rank, p.shape, strides);
  if (axes.rank == 0 || (axes.rank == 1 && axes.strides[0][0] == 1)) {
    cudaMemcpyAsync(p.out.data, p.x.data, static_cast<size_t>(p.out.length * bytes), cudaMemcpyDeviceToDevice,
                    context.stream());
  } else if (axes.strides[0][axes.rank - 1] == 1) {
    copy_rows(axes, bytes, p, context);
  } else if (bytes == 4) {
    copy_tiles<uint32_t>(axes, p, context);
  } else if (bytes == 2) {
    copy_tiles<uint16_t>(axes, p, context);
  } else {
    copy_tiles<uint8_t>(axes, p, context);
  }
}

}  // namespace ternflash::cuda
