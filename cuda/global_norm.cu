// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The norm of many tensors together, and the coefficient that clips them to a largest norm. A block adds up the squares
// of a piece in float64; one more block adds up the pieces, in a fixed order.

#include <math.h>

#include "kernels.h"
#include "pieces.cuh"

namespace ternflash::cuda {

namespace {

constexpr int FINISH_THREADS = 1024;

struct Entry {
  const void* data;
  int64_t length;
  int64_t first_piece;
  DType dtype;
};

template <class T>
__device__ __forceinline__ double sum_of_squares(const T* x, int64_t count) {
  constexpr int W = LANES<T>;
  const int vectors = static_cast<int>(count / W);
  double total = 0.0;
#pragma unroll 4
  for (int vector = threadIdx.x; vector < vectors; vector += BLOCK_THREADS) {
    float values[W];
    load_floats(x + vector * W, values);
#pragma unroll
    for (int i = 0; i < W; i++) {
      const double value = static_cast<double>(values[i]);
      total = fma(value, value, total);
    }
  }
  const int64_t last = int64_t(vectors) * W + threadIdx.x;
  if (last < count) {
    const double value = static_cast<double>(static_cast<float>(x[last]));
    total = fma(value, value, total);
  }
  return total;
}

__global__ void __launch_bounds__(BLOCK_THREADS) squares_kernel(const Entry* entries, int count, double* parts) {
  Group<BLOCK_THREADS> group;
  const int64_t piece = blockIdx.x;
  const Entry entry = entries[entry_of(entries, count, piece)];
  const int64_t start = (piece - entry.first_piece) * PIECE;
  const int64_t length = min(PIECE, entry.length - start);
  double total;
  if (entry.dtype == DType::FLOAT32)
    total = sum_of_squares(static_cast<const float*>(entry.data) + start, length);
  else if (entry.dtype == DType::FLOAT16)
    total = sum_of_squares(static_cast<const __half*>(entry.data) + start, length);
  else
    total = sum_of_squares(static_cast<const __nv_bfloat16*>(entry.data) + start, length);
  total = group.reduce(total, Sum());
  if (threadIdx.x == 0) parts[piece] = total;
}

__global__ void __launch_bounds__(FINISH_THREADS)
    norm_kernel(const double* parts, int64_t pieces, double factor, double max_norm, float* norm, float* coefficient) {
  Group<FINISH_THREADS> group;
  double total = 0.0;
#pragma unroll 4
  for (int64_t piece = threadIdx.x; piece < pieces; piece += FINISH_THREADS) total += parts[piece];
  total = group.reduce(total, Sum());
  if (threadIdx.x > 0) return;
  const double result = factor * sqrt(total);
  const double clip = max_norm / (result + 1e-6);
  *norm = static_cast<float>(result);
  // As the float32 that the caller gets to see.
  *coefficient = isfinite(*norm) ? static_cast<float>(factor * (clip < 1.0 ? clip : 1.0)) : NAN;
}

}  // namespace

void global_norm(const GlobalNormParams& p, Context& context) {
  std::vector<Entry> entries;
  int64_t pieces = 0;
  for (size_t i = 0; i < p.count; i++) {
    entries.push_back({p.tensors[i].data, p.tensors[i].length, pieces, p.tensors[i].dtype});
    pieces += ceil_div(p.tensors[i].length, PIECE);
  }
  double* parts = nullptr;
  if (pieces > 0) {
    const Entry* list = upload(entries, context);
    parts = static_cast<double*>(context.workspace(static_cast<size_t>(pieces) * sizeof(double)));
    if (!list || !parts) return;
    squares_kernel<<<static_cast<unsigned>(pieces), BLOCK_THREADS, 0, context.stream()>>>(
        list, static_cast<int>(p.count), parts);
  }
  norm_kernel<<<1, FINISH_THREADS, 0, context.stream()>>>(parts, pieces, p.factor, p.max_norm, target_of<float>(p.norm),
                                                          target_of<float>(p.coefficient));
}

}  // namespace ternflash::cuda
