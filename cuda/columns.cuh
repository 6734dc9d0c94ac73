// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Sums over rows that earlier blocks have left as parts, added in the order of the parts.

#ifndef TERNFLASH_CUDA_COLUMNS_CUH_
#define TERNFLASH_CUDA_COLUMNS_CUH_

#include "vector.h"

namespace ternflash::cuda {

constexpr int COLUMN_LANES =
    32;  // neighbouring columns of a block of add_parts, and rows of threads that share its parts

// out [outer, inner] = factor * the sum over the parts of parts [outer, count, inner]; blocks of 32 x 32 threads, x
// along inner. Integers wrap around and have no factor.
template <class Total, class T>
__global__ void __launch_bounds__(COLUMN_LANES* COLUMN_LANES)
    add_parts_kernel(const Total* parts, T* out, int64_t count, int64_t inner, int64_t tiles, double factor) {
  __shared__ Total sums[COLUMN_LANES][COLUMN_LANES + 1];
  const int64_t outer = blockIdx.x / tiles;
  const int64_t col = blockIdx.x % tiles * COLUMN_LANES + threadIdx.x;
  Total total = 0;
  if (col < inner) {
    const Total* source = parts + outer * count * inner + col;
#pragma unroll 8
    for (int64_t part = threadIdx.y; part < count; part += COLUMN_LANES) total += source[part * inner];
  }
  sums[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y > 0 || col >= inner) return;
#pragma unroll
  for (int lane = 1; lane < COLUMN_LANES; lane++) total += sums[lane][threadIdx.x];
  if constexpr (std::is_integral_v<T>)
    out[outer * inner + col] = static_cast<T>(total);
  else
    out[outer * inner + col] = static_cast<T>(static_cast<float>(static_cast<double>(total) * factor));
}

template <class Total, class T>
void add_parts(const Total* parts, T* out, int64_t outer, int64_t count, int64_t inner, double factor,
               Context& context) {
  const int64_t tiles = ceil_div(inner, COLUMN_LANES);
  add_parts_kernel<Total, T>
      <<<static_cast<unsigned>(outer * tiles), dim3(COLUMN_LANES, COLUMN_LANES), 0, context.stream()>>>(
          parts, out, count, inner, tiles, factor);
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_COLUMNS_CUH_
