// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = 0 where the element's 16-bit number is below the threshold, else x times the inverse of the share that is kept
// (Srivastava et al., 2014). A thread has the 8 elements of a block of Philox.

#include "kernels.h"
#include "philox.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

constexpr int NUMBERS = 8;  // of a block of Philox
constexpr int UNROLL = 2;

template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    dropout_kernel(const T* x, T* out, int64_t length, DropoutMask mask, float factor) {
  constexpr int W = LANES<T>;
  constexpr int VECTORS = NUMBERS / W;
  const int64_t first = int64_t(blockIdx.x) * (BLOCK_THREADS * UNROLL) + threadIdx.x;
  Chunk<T, W> chunks[UNROLL][VECTORS];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t element = (first + u * BLOCK_THREADS) * NUMBERS;
    if (element + NUMBERS <= length)
#pragma unroll
      for (int v = 0; v < VECTORS; v++) chunks[u][v] = load_chunk<W>(x + element + v * W);
  }
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t block = first + u * BLOCK_THREADS;
    const int64_t element = block * NUMBERS;
    if (element >= length) break;
    const uint4 words = philox(mask.offset + static_cast<uint64_t>(block), mask.seed);
    const auto dropped = [&](int number) {
      const uint32_t word = number < 2 ? words.x : number < 4 ? words.y : number < 6 ? words.z : words.w;
      return ((number & 1) ? word >> 16 : word & 0xffffu) < mask.threshold;
    };
    if (element + NUMBERS <= length) {
#pragma unroll
      for (int v = 0; v < VECTORS; v++) {
        float values[W];
        to_floats(chunks[u][v], values);
#pragma unroll
        for (int i = 0; i < W; i++) values[i] = dropped(v * W + i) ? 0.0f : values[i] * factor;
        store_floats<W>(out + element + v * W, values);
      }
    } else {
#pragma unroll
      for (int i = 0; i < NUMBERS; i++)
        if (element + i < length)
          out[element + i] =
              dropped(i) ? static_cast<T>(0.0f) : static_cast<T>(static_cast<float>(x[element + i]) * factor);
    }
  }
}

}  // namespace

void dropout(const DropoutParams& p, Context& context) {
  if (p.x.length == 0) return;
  const float factor = static_cast<float>(65536.0 / static_cast<double>(65536 - p.mask.threshold));
  const int64_t blocks = ceil_div(p.x.length, BLOCK_THREADS * UNROLL * NUMBERS);
  with_float_type(p.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dropout_kernel<T><<<static_cast<unsigned>(blocks), BLOCK_THREADS, 0, context.stream()>>>(
        data_of<T>(p.x), target_of<T>(p.out), p.x.length, p.mask, factor);
  });
}

}  // namespace ternflash::cuda
