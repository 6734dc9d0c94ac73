// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The first index of the largest element of each row; a NaN counts as the largest. A warp, or a block, has a row.

#include <limits.h>
#include <math.h>

#include "kernels.h"
#include "span.cuh"

namespace ternflash::cuda {

namespace {

// Ordered as (value, index counted backwards), a NaN behind all numbers.
__device__ __forceinline__ unsigned long long rank_of(float value, int index) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes 0
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  const uint32_t high = value != value ? 0xffffffffu : ordered;
  return static_cast<unsigned long long>(high) << 32 | ~static_cast<uint32_t>(index);
}

template <class T, int SIZE>
__global__ void __launch_bounds__(Group<SIZE>::THREADS)
    argmax_kernel(const T* x, int32_t* out, int64_t rows, int64_t cols) {
  Group<SIZE> group;
  const int64_t row = int64_t(blockIdx.x) * group.IN_BLOCK + group.index();
  if (row >= rows) return;
  float best = -INFINITY;
  int at = INT_MAX;
  for_span<SIZE, 4>(x + row * cols, cols, group.lane(), [&](const auto& values, int64_t first, int stride) {
    constexpr int COUNT = sizeof(values) / sizeof(float);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (!(values[i] <= best) && best == best) {
        best = values[i];
        at = static_cast<int>(first) + i / LANES<T> * stride + i % LANES<T>;
      }
    }
  });
  const unsigned long long highest = group.reduce(rank_of(best, at), Largest());
  const int index = static_cast<int>(~static_cast<uint32_t>(highest));
  // Nothing above -Infinity: then all are that.
  if (group.lane() == 0) out[row] = index == INT_MAX ? 0 : index;
}

template <class T, int SIZE>
void launch(const ArgmaxParams& p, Context& context) {
  const int64_t blocks = ceil_div(p.rows, Group<SIZE>::IN_BLOCK);
  argmax_kernel<T, SIZE><<<static_cast<unsigned>(blocks), Group<SIZE>::THREADS, 0, context.stream()>>>(
      data_of<T>(p.x), target_of<int32_t>(p.out), p.rows, p.cols);
}

}  // namespace

void argmax(const ArgmaxParams& p, Context& context) {
  if (p.rows == 0) return;
  with_float_type(p.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (p.cols <= 1024)
      launch<T, 32>(p, context);
    else if (p.rows >= 2 * context.device().multiprocessors || p.cols <= 16384)
      launch<T, 256>(p, context);
    else
      launch<T, 1024>(p, context);
  });
}

}  // namespace ternflash::cuda
