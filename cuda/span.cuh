// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Runs of elements that begin anywhere: vectors from the first multiple of 16 bytes on, single elements before and
// behind.

#ifndef TERNFLASH_CUDA_SPAN_CUH_
#define TERNFLASH_CUDA_SPAN_CUH_

#include "vector.h"

namespace ternflash::cuda {

// Elements before the first multiple of 16 bytes.
template <class T>
__device__ __forceinline__ int head_of(const T* run, int64_t count) {
  const int into = static_cast<int>(reinterpret_cast<uintptr_t>(run) % 16) / static_cast<int>(sizeof(T));
  return static_cast<int>(min(int64_t((LANES<T> - into) % LANES<T>), count));
}

// body(values, first, stride) until all `count` elements have been met, each by one of the THREADS threads, and by each
// thread in ascending order. values[i] is element first + i / LANES * stride + i % LANES. UNROLL vectors are loaded at
// once.
template <int THREADS, int UNROLL, class T, class Body>
__device__ __forceinline__ void for_span(const T* run, int64_t count, int thread, const Body& body) {
  constexpr int W = LANES<T>;
  constexpr int STRIDE = THREADS * W;
  const int head = head_of(run, count);
  if (thread < head) {
    float value[1] = {static_cast<float>(run[thread])};
    body(value, int64_t(thread), STRIDE);
  }
  const int64_t vectors = (count - head) / W;
  const T* aligned = run + head;
  int64_t vector = thread;
#pragma unroll 1
  for (; vector + (UNROLL - 1) * THREADS < vectors; vector += UNROLL * THREADS) {
    Chunk<T, W> chunks[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) chunks[u] = load_chunk<W>(aligned + (vector + u * THREADS) * W);
    float values[UNROLL * W];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) to_floats(chunks[u], *reinterpret_cast<float(*)[W]>(values + u * W));
    body(values, head + vector * W, STRIDE);
  }
#pragma unroll 1
  for (; vector < vectors; vector += THREADS) {
    float values[W];
    load_floats(aligned + vector * W, values);
    body(values, head + vector * W, STRIDE);
  }
  const int64_t last = head + vectors * W + thread;
  if (last < count) {
    float value[1] = {static_cast<float>(run[last])};
    body(value, last, STRIDE);
  }
}

// out = what body(values) makes of elements of x, by THREADS threads; out lies as x does to multiples of LANES<T> elements.
template <int THREADS, int UNROLL, class T, class Out, class Body>
__device__ __forceinline__ void map_span(const T* x, Out* out, int64_t count, int thread, const Body& body) {
  constexpr int W = LANES<T>;
  const int head = head_of(x, count);
  const auto single = [&](int64_t index) {
    float value[1] = {static_cast<float>(x[index])};
    body(value);
    out[index] = static_cast<Out>(value[0]);
  };
  if (thread < head) single(thread);
  const int64_t vectors = (count - head) / W;
#pragma unroll 1
  for (int64_t first = thread; first < vectors; first += UNROLL * THREADS) {
    Chunk<T, W> chunks[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
      if (first + u * THREADS < vectors) chunks[u] = load_chunk<W>(x + head + (first + u * THREADS) * W);
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const int64_t vector = first + u * THREADS;
      if (vector >= vectors) break;
      float values[W];
      to_floats(chunks[u], values);
      body(values);
      store_floats<W>(out + head + vector * W, values);
    }
  }
  const int64_t last = head + vectors * W + thread;
  if (last < count) single(last);
}

// out = 0.
template <int THREADS, class T>
__device__ __forceinline__ void clear_span(T* out, int64_t count, int thread) {
  constexpr int W = LANES<T>;
  const int head = head_of(out, count);
  if (thread < head) out[thread] = static_cast<T>(0.0f);
  const int64_t vectors = (count - head) / W;
  for (int64_t vector = thread; vector < vectors; vector += THREADS)
    reinterpret_cast<uint4*>(out + head)[vector] = make_uint4(0, 0, 0, 0);
  const int64_t last = head + vectors * W + thread;
  if (last < count) out[last] = static_cast<T>(0.0f);
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_SPAN_CUH_
