// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What the memory-bound kernels share: loads and stores of 16 bytes, their elements as floats, sums over the threads of
// a group in a fixed order, and sizes of grids.

#ifndef TERNFLASH_CUDA_VECTOR_H_
#define TERNFLASH_CUDA_VECTOR_H_

#include <string.h>

#include <algorithm>
#include <type_traits>

#include "../binding/ops.h"
#include "context.h"
#include "ptx.h"

namespace ternflash::cuda {

constexpr int BLOCK_THREADS = 256;  // of kernels without a reason for another number

template <class T>
struct Type {
  using type = T;
};

// body(Type<T>) with the type of a float dtype.
template <class Body>
void with_float_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::FLOAT16:
      return body(Type<__half>{});
    case DType::BFLOAT16:
      return body(Type<__nv_bfloat16>{});
    default:
      return body(Type<float>{});
  }
}

inline int64_t element_bytes(DType dtype) {
  if (dtype == DType::FLOAT32 || dtype == DType::INT32) return 4;
  return dtype == DType::FLOAT16 || dtype == DType::BFLOAT16 ? 2 : 1;
}

template <class T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.data);
}
template <class T>
T* target_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.data);
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// At most `per_multiprocessor` blocks for each multiprocessor; kernels that get fewer than they need go round.
inline unsigned grid_size(int64_t needed, const Context& context, int per_multiprocessor) {
  return static_cast<unsigned>(
      std::max<int64_t>(1, std::min<int64_t>(needed, int64_t(per_multiprocessor) * context.device().multiprocessors)));
}

// Elements in 16 bytes.
template <class T>
constexpr int LANES = 16 / static_cast<int>(sizeof(T));

template <int BYTES>
struct WordOf;
template <>
struct WordOf<16> {
  using type = uint4;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<1> {
  using type = uint8_t;
};
template <int BYTES>
using Word = typename WordOf<BYTES>::type;

// W elements that are loaded and stored at once, at an address that is a multiple of their size.
template <class T, int W>
struct Chunk {
  T elements[W];
};

template <int W, class T>
__device__ __forceinline__ Chunk<T, W> load_chunk(const T* source) {
  const auto word = *reinterpret_cast<const Word<W * sizeof(T)>*>(source);
  Chunk<T, W> chunk;
  memcpy(&chunk, &word, sizeof(word));
  return chunk;
}

template <class T, int W>
__device__ __forceinline__ void store_chunk(T* target, const Chunk<T, W>& chunk) {
  Word<W * sizeof(T)> word;
  memcpy(&word, &chunk, sizeof(word));
  *reinterpret_cast<Word<W * sizeof(T)>*>(target) = word;
}

template <class T, int W>
__device__ __forceinline__ void to_floats(const Chunk<T, W>& chunk, float (&values)[W]) {
  if constexpr (std::is_same_v<T, float> || W == 1) {
#pragma unroll
    for (int i = 0; i < W; i++) values[i] = static_cast<float>(chunk.elements[i]);
  } else {
    uint32_t words[W / 2];
    memcpy(words, &chunk, sizeof(words));
#pragma unroll
    for (int i = 0; i < W / 2; i++) {
      if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        values[2 * i] = __uint_as_float(words[i] << 16);
        values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
      } else {
        __half2 pair;
        memcpy(&pair, &words[i], 4);
        const float2 both = __half22float2(pair);
        values[2 * i] = both.x;
        values[2 * i + 1] = both.y;
      }
    }
  }
}

// Rounds to nearest, ties to even.
template <class T, int W>
__device__ __forceinline__ Chunk<T, W> from_floats(const float (&values)[W]) {
  Chunk<T, W> chunk;
  if constexpr (std::is_same_v<T, float> || W == 1) {
#pragma unroll
    for (int i = 0; i < W; i++) chunk.elements[i] = static_cast<T>(values[i]);
  } else {
    uint32_t words[W / 2];
#pragma unroll
    for (int i = 0; i < W / 2; i++) words[i] = pack<T>(values[2 * i], values[2 * i + 1]);
    memcpy(&chunk, words, sizeof(words));
  }
  return chunk;
}

template <int W, class T>
__device__ __forceinline__ void load_floats(const T* source, float (&values)[W]) {
  to_floats(load_chunk<W>(source), values);
}
template <int W, class T>
__device__ __forceinline__ void store_floats(T* target, const float (&values)[W]) {
  store_chunk(target, from_floats<T, W>(values));
}

struct Sum {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a + b;
  }
};
struct Largest {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a > b ? a : b;
  }
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// SIZE neighbouring threads that work on one thing: a part of a warp, or a whole block. `reduce` gives all of them the
// same result, which depends on nothing but the values.
template <int SIZE>
class Group {
 public:
  static constexpr int THREADS = SIZE > BLOCK_THREADS ? SIZE : SIZE > 32 ? SIZE : BLOCK_THREADS;  // of a block
  static constexpr int IN_BLOCK = THREADS / SIZE;
  static_assert((SIZE & (SIZE - 1)) == 0 && SIZE >= 2 && SIZE <= 1024);

  __device__ __forceinline__ int index() const { return IN_BLOCK == 1 ? 0 : threadIdx.x / SIZE; }
  __device__ __forceinline__ int lane() const { return IN_BLOCK == 1 ? threadIdx.x : threadIdx.x % SIZE; }

  // Combines each of the N values with `op`, which must be commutative.
  template <int N, class V, class Op>
  __device__ __forceinline__ void reduce(V (&values)[N], Op op) {
    constexpr int IN_WARP = SIZE < 32 ? SIZE : 32;
    const int lane_of_warp = threadIdx.x % 32;
    const uint32_t mask = SIZE < 32 ? ((1u << (SIZE % 32)) - 1u) << (lane_of_warp & ~(IN_WARP - 1)) : 0xffffffffu;
#pragma unroll
    for (int offset = IN_WARP / 2; offset > 0; offset /= 2)
#pragma unroll
      for (int n = 0; n < N; n++) values[n] = op(values[n], __shfl_xor_sync(mask, values[n], offset));
    if constexpr (SIZE > 32) {
      // Two sets of slots take turns: whoever writes a set again has passed a barrier behind which all had read it.
      constexpr int WARPS = SIZE / 32;
      __shared__ V slots[2][N][WARPS];
      if (lane_of_warp == 0)
#pragma unroll
        for (int n = 0; n < N; n++) slots[turn_][n][threadIdx.x / 32] = values[n];
      __syncthreads();
#pragma unroll
      for (int n = 0; n < N; n++) values[n] = slots[turn_][n][lane_of_warp % WARPS];
#pragma unroll
      for (int offset = WARPS / 2; offset > 0; offset /= 2)
#pragma unroll
        for (int n = 0; n < N; n++) values[n] = op(values[n], __shfl_xor_sync(0xffffffffu, values[n], offset));
      turn_ ^= 1;
    }
  }

  template <class V, class Op>
  __device__ __forceinline__ V reduce(V value, Op op) {
    V values[1] = {value};
    reduce(values, op);
    return values[0];
  }

 private:
  int turn_ = 0;
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_VECTOR_H_
