// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Elements in another dtype. A thread's loads and stores have the same number of elements: 16 bytes of the wider dtype,
// 4 if both are of one byte.

#include "kernels.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

template <class T>
constexpr bool IS_INTEGER = std::is_integral_v<T>;

// Floats truncate and saturate, NaN gives 0.
template <class To, class From>
__device__ __forceinline__ To convert(From value) {
  if constexpr (!IS_INTEGER<From> && !IS_INTEGER<To>) {
    return static_cast<To>(static_cast<float>(value));
  } else if constexpr (IS_INTEGER<To>) {
    int32_t integer;
    if constexpr (IS_INTEGER<From>)
      integer = value;
    else
      integer = __float2int_rz(static_cast<float>(value));  // saturates; 0 for NaN
    if constexpr (std::is_same_v<To, int8_t>) integer = min(max(integer, -128), 127);
    if constexpr (std::is_same_v<To, uint8_t>) integer = min(max(integer, 0), 255);
    return static_cast<To>(integer);
  } else if constexpr (std::is_same_v<To, float>) {
    return __int2float_rn(value);
  } else {
    // Through the float rounded to odd, so that the second rounding cannot tie wrongly.
    const float truncated = __int2float_rz(value);
    const uint32_t inexact = __float2int_rz(truncated) != value;
    return static_cast<To>(__uint_as_float(__float_as_uint(truncated) | inexact));
  }
}

constexpr int UNROLL = 4;

// Elements of a vector.
template <class From, class To>
constexpr int WIDTH = sizeof(From) * sizeof(To) == 1 || sizeof(From) == 4 || sizeof(To) == 4 ? 4 : 8;

template <class From, class To>
__global__ void __launch_bounds__(BLOCK_THREADS, 4) cast_kernel(const From* x, To* out, int64_t length) {
  constexpr int W = WIDTH<From, To>;
  const int64_t vectors = length / W;
  const int64_t first = int64_t(blockIdx.x) * (BLOCK_THREADS * UNROLL) + threadIdx.x;
  Chunk<From, W> input[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t vector = first + u * BLOCK_THREADS;
    if (vector < vectors) input[u] = load_chunk<W>(x + vector * W);
  }
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t vector = first + u * BLOCK_THREADS;
    if (vector >= vectors) break;
    Chunk<To, W> output;
    if constexpr (IS_INTEGER<From> || IS_INTEGER<To>) {
#pragma unroll
      for (int i = 0; i < W; i++) output.elements[i] = convert<To>(input[u].elements[i]);
    } else {
      float values[W];
      to_floats(input[u], values);
      output = from_floats<To, W>(values);
    }
    store_chunk(out + vector * W, output);
  }
  const int64_t last = vectors * W + threadIdx.x;
  if (blockIdx.x == 0 && last < length) out[last] = convert<To>(x[last]);
}

template <class Body>
void with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::INT8:
      return body(Type<int8_t>{});
    case DType::UINT8:
      return body(Type<uint8_t>{});
    case DType::INT32:
      return body(Type<int32_t>{});
    default:
      return with_float_type(dtype, body);
  }
}

}  // namespace

void cast(const CastParams& p, Context& context) {
  if (p.x.length == 0) return;
  if (p.x.dtype == p.out.dtype) {
    cudaMemcpyAsync(p.out.data, p.x.data, static_cast<size_t>(p.x.length * element_bytes(p.x.dtype)),
                    cudaMemcpyDeviceToDevice, context.stream());
    return;
  }
  with_type(p.x.dtype, [&](auto from) {
    with_type(p.out.dtype, [&](auto to) {
      using From = typename decltype(from)::type;
      using To = typename decltype(to)::type;
      if constexpr (!std::is_same_v<From, To>) {
        const int64_t blocks = ceil_div(p.x.length, BLOCK_THREADS * UNROLL * WIDTH<From, To>);
        cast_kernel<From, To><<<static_cast<unsigned>(blocks), BLOCK_THREADS, 0, context.stream()>>>(
            data_of<From>(p.x), target_of<To>(p.out), p.x.length);
      }
    });
  });
}

}  // namespace ternflash::cuda
