// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// a + b or a b, broadcast. Equal shapes are met as one run; else each thread finds the places of its elements by their
// number, a vector of the last axis where that is dense, or one value, in both operands.

#include <float.h>

#include "early_launch.h"
#include "kernels.h"
#include "strided.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

constexpr int UNROLL = 2;

// Floats are computed in float32, which rounding to 16 bits does not show (24 >= 2 * 11 + 2 bits), unless a product of
// bfloat16 numbers is too small for a normal float32. Integers wrap around.
template <class T>
__device__ __forceinline__ T combine(BinaryKind kind, T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    const uint32_t x = static_cast<uint32_t>(a);
    const uint32_t y = static_cast<uint32_t>(b);
    return static_cast<T>(kind == BinaryKind::ADD ? x + y : x * y);
  } else {
    const float x = static_cast<float>(a);
    const float y = static_cast<float>(b);
    const float result = kind == BinaryKind::ADD ? x + y : x * y;
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      if (kind == BinaryKind::MUL && fabsf(result) < FLT_MIN && result != 0.0f)
        return __double2bfloat16(static_cast<double>(x) * static_cast<double>(y));
    }
    return static_cast<T>(result);
  }
}

template <int W, class T>
__device__ __forceinline__ Chunk<T, W> combine(BinaryKind kind, const Chunk<T, W>& a, const Chunk<T, W>& b) {
  Chunk<T, W> out;
#pragma unroll
  for (int i = 0; i < W; i++) out.elements[i] = combine(kind, a.elements[i], b.elements[i]);
  return out;
}

template <int W, class T>
__device__ __forceinline__ Chunk<T, W> load_operand(const T* source, bool dense) {
  if (W == 1 || dense) return load_chunk<W>(source);
  Chunk<T, W> repeated;
  const T value = *source;
#pragma unroll
  for (int i = 0; i < W; i++) repeated.elements[i] = value;
  return repeated;
}

// out may be a or b, so that nothing is read again once a place has been written.
template <class T, int W>
__global__ void __launch_bounds__(BLOCK_THREADS)
    equal_shapes_kernel(BinaryKind kind, const T* a, const T* b, T* out, int64_t length) {
  wait_then_let_next_begin();
  const int64_t vectors = length / W;
  const int64_t first = int64_t(blockIdx.x) * (BLOCK_THREADS * UNROLL) + threadIdx.x;
  Chunk<T, W> left[UNROLL];
  Chunk<T, W> right[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t vector = first + u * BLOCK_THREADS;
    if (vector >= vectors) break;
    left[u] = load_chunk<W>(a + vector * W);
    right[u] = load_chunk<W>(b + vector * W);
  }
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t vector = first + u * BLOCK_THREADS;
    if (vector < vectors) store_chunk(out + vector * W, combine<W>(kind, left[u], right[u]));
  }
  const int64_t last = vectors * W + threadIdx.x;
  if (blockIdx.x == 0 && last < length) out[last] = combine(kind, a[last], b[last]);
}

template <class T, int W>
__global__ void __launch_bounds__(BLOCK_THREADS)
    broadcast_kernel(const __grid_constant__ Walk<2> walk, BinaryKind kind, const T* a, bool a_dense, const T* b,
                     bool b_dense, T* out, uint32_t steps) {
  const uint32_t first = blockIdx.x * (BLOCK_THREADS * UNROLL) + threadIdx.x;
  Chunk<T, W> left[UNROLL];
  Chunk<T, W> right[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const uint32_t step = first + u * BLOCK_THREADS;
    if (step >= steps) break;
    int64_t place[2];
    walk.places(step, place);
    left[u] = load_operand<W>(a + place[0], a_dense);
    right[u] = load_operand<W>(b + place[1], b_dense);
  }
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const uint32_t step = first + u * BLOCK_THREADS;
    if (step < steps) store_chunk(out + int64_t(step) * W, combine<W>(kind, left[u], right[u]));
  }
}

// Elements of a vector. Bytes are taken by fours: a register holds only one of them.
template <class T>
constexpr int WIDTH = sizeof(T) == 1 ? 4 : LANES<T>;

template <class T, int W>
void broadcast(const Axes<2>& axes, const BinaryParams& p, Context& context) {
  const int64_t none[2] = {0, 0};
  const int last = axes.rank - 1;
  in_parts(axes, none, 0, (MAX_STEPS / (BLOCK_THREADS * UNROLL) - 1) * (BLOCK_THREADS * UNROLL) * W,
           [&](const Axes<2>& part, const int64_t(&first)[2], int64_t first_out) {
             const int64_t steps = part.length() / W;
             const unsigned blocks = static_cast<unsigned>(ceil_div(steps, BLOCK_THREADS * UNROLL));
             broadcast_kernel<T, W><<<blocks, BLOCK_THREADS, 0, context.stream()>>>(
                 Walk<2>(part, W), p.kind, data_of<T>(p.a) + first[0], axes.strides[0][last] == 1,
                 data_of<T>(p.b) + first[1], axes.strides[1][last] == 1, target_of<T>(p.out) + first_out,
                 static_cast<uint32_t>(steps));
           });
}

template <class T>
void binary_of(const BinaryParams& p, Context& context) {
  constexpr int W = WIDTH<T>;
  const int64_t* const strides[2] = {p.a_strides, p.b_strides};
  const Axes<2> axes(p.rank, p.shape, strides);
  const int last = axes.rank - 1;
  if (axes.rank == 0 || (axes.rank == 1 && axes.strides[0][0] == 1 && axes.strides[1][0] == 1)) {
    const int64_t blocks = std::max<int64_t>(1, ceil_div(p.out.length / W, BLOCK_THREADS * UNROLL));
    if constexpr (sizeof(T) > 1)
      launch_early(equal_shapes_kernel<T, W>, static_cast<unsigned>(blocks), BLOCK_THREADS, 0, context, p.kind,
                   data_of<T>(p.a), data_of<T>(p.b), target_of<T>(p.out), p.out.length);
    else  // bytes may be packed weights
      equal_shapes_kernel<T, W><<<static_cast<unsigned>(blocks), BLOCK_THREADS, 0, context.stream()>>>(
          p.kind, data_of<T>(p.a), data_of<T>(p.b), target_of<T>(p.out), p.out.length);
    return;
  }
  bool vectors = axes.shape[last] % W == 0;
  for (int n = 0; n < 2; n++) {
    const bool dense = axes.strides[n][last] == 1;
    vectors = vectors && (dense || axes.strides[n][last] == 0);
    for (int axis = 0; axis < last; axis++) vectors = vectors && (!dense || axes.strides[n][axis] % W == 0);
  }
  if (vectors)
    broadcast<T, W>(axes, p, context);
  else
    broadcast<T, 1>(axes, p, context);
}

}  // namespace

void binary(const BinaryParams& p, Context& context) {
  if (p.out.length == 0) return;
  switch (p.out.dtype) {
    case DType::INT8:
    case DType::UINT8:
      return binary_of<uint8_t>(p, context);
    case DType::INT32:
      return binary_of<uint32_t>(p, context);
    default:
      with_float_type(p.out.dtype, [&](auto type) { binary_of<typename decltype(type)::type>(p, context); });
  }
}

}  // namespace ternflash::cuda
