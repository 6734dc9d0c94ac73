// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Every element the same number: its bits are made here, repeated in 4 bytes, and stored 16 bytes a thread.

#include <math.h>

#include "kernels.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

__global__ void __launch_bounds__(BLOCK_THREADS) fill_kernel(uint8_t* out, int64_t bytes, uint32_t pattern) {
  constexpr int UNROLL = 4;
  const int64_t vectors = bytes / 16;
  const int64_t first = int64_t(blockIdx.x) * (BLOCK_THREADS * UNROLL) + threadIdx.x;
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t vector = first + u * BLOCK_THREADS;
    if (vector < vectors) reinterpret_cast<uint4*>(out)[vector] = make_uint4(pattern, pattern, pattern, pattern);
  }
  const int64_t last = vectors * 16 + threadIdx.x;
  if (blockIdx.x == 0 && last < bytes) out[last] = static_cast<uint8_t>(pattern >> (8 * (threadIdx.x % 4)));
}

// The float that rounds to a 16-bit float as the number itself would: rounded to odd, so that the second rounding
// cannot tie wrongly.
float rounded_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (isnan(value) || static_cast<double>(nearest) == value) return nearest;
  uint32_t bits;
  memcpy(&bits, &nearest, 4);
  const bool away = fabs(static_cast<double>(nearest)) > fabs(value);
  bits = (away ? bits - 1 : bits) | 1u;
  float odd;
  memcpy(&odd, &bits, 4);
  return odd;
}

template <class T>
uint32_t bits_of(T value) {
  Word<sizeof(T)> bits;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}

// Truncates and saturates; NaN gives 0.
int32_t to_integer(double value, double low, double high) {
  if (isnan(value)) return 0;
  return static_cast<int32_t>(fmin(fmax(value, low), high));
}

uint32_t pattern_of(double value, DType dtype) {
  switch (dtype) {
    case DType::FLOAT32:
      return bits_of(static_cast<float>(value));
    case DType::FLOAT16:
      return bits_of(__float2half_rn(rounded_to_odd(value))) * 0x10001u;
    case DType::BFLOAT16:
      return bits_of(__float2bfloat16_rn(rounded_to_odd(value))) * 0x10001u;
    case DType::INT8:
      return static_cast<uint8_t>(to_integer(value, -128.0, 127.0)) * 0x1010101u;
    case DType::UINT8:
      return static_cast<uint8_t>(to_integer(value, 0.0, 255.0)) * 0x1010101u;
    default:
      return static_cast<uint32_t>(to_integer(value, -2147483648.0, 2147483647.0));
  }
}

}  // namespace

void fill(const FillParams& p, Context& context) {
  const int64_t bytes = p.out.length * element_bytes(p.out.dtype);
  if (bytes == 0) return;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(bytes / 16, BLOCK_THREADS * 4));
  fill_kernel<<<static_cast<unsigned>(blocks), BLOCK_THREADS, 0, context.stream()>>>(target_of<uint8_t>(p.out), bytes,
                                                                                     pattern_of(p.value, p.out.dtype));
}

}  // namespace ternflash::cuda
