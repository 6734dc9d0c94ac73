// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention over two disjoint sets of keys made that over all (Flash-Decoding; FlashInfer's merge_state):
//   lse = log(exp(lse_a) + exp(lse_b)), out = share_a out_a + share_b out_b, share = exp(its lse - lse).
// A side without keys, lse -infinity, is not looked at. A power of 2 of neighbouring threads, at most a warp, has a row
// [B, S, H].

#include <math.h>

#include "kernels.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

struct Shares {
  float a;
  float b;
  float lse;
};

__device__ __forceinline__ Shares shares_of(float lse_a, float lse_b) {
  if (lse_a == -INFINITY && lse_b == -INFINITY) return {0.0f, 0.0f, -INFINITY};
  const float difference = lse_a - lse_b;
  return {1.0f / (1.0f + expf(-difference)), 1.0f / (1.0f + expf(difference)),
          fmaxf(lse_a, lse_b) + log1pf(expf(-fabsf(difference)))};
}

struct RowShape {
  int64_t rows;  // B S H
  int64_t queries;
  int64_t heads;
  int64_t head_dim;

  // The place in lse [B, H, S] of row (b, s, h).
  __device__ __forceinline__ int64_t lse_place(int64_t row) const {
    const int64_t head = row % heads;
    const int64_t query = row / heads % queries;
    return (row / heads / queries * heads + head) * queries + query;
  }
};

template <int W, class T>
__device__ __forceinline__ void load_seen(const T* source, float lse, float (&values)[W]) {
  if (lse != -INFINITY) return load_floats(source, values);
#pragma unroll
  for (int i = 0; i < W; i++) values[i] = 0.0f;
}

template <class T>
struct MergeArguments {
  RowShape shape;
  const T* out_a;
  const float* lse_a;
  const T* out_b;
  const float* lse_b;
  T* out;
  float* lse;
};

// blockDim is (threads of a row, rows).
template <class T, int W>
__global__ void __launch_bounds__(BLOCK_THREADS, 4) merge_kernel(const __grid_constant__ MergeArguments<T> args) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= args.shape.rows) return;
  const int64_t at = args.shape.lse_place(row);
  const float lse_a = args.lse_a[at];
  const float lse_b = args.lse_b[at];
  const Shares shares = shares_of(lse_a, lse_b);
  if (threadIdx.x == 0) args.lse[at] = shares.lse;
  const int64_t start = row * args.shape.head_dim;
  for (int64_t first = threadIdx.x * W; first < args.shape.head_dim; first += blockDim.x * W) {
    float a[W];
    float b[W];
    load_seen(args.out_a + start + first, lse_a, a);
    load_seen(args.out_b + start + first, lse_b, b);
#pragma unroll
    for (int i = 0; i < W; i++) a[i] = fmaf(shares.a, a[i], shares.b * b[i]);
    store_floats<W>(args.out + start + first, a);
  }
}

template <class T>
struct MergeBackwardArguments {
  RowShape shape;
  const T* out_a;
  const float* lse_a;
  const T* out_b;
  const float* lse_b;
  const T* d_out;
  const float* d_lse;  // or null
  T* d_out_a;
  float* d_lse_a;
  T* d_out_b;
  float* d_lse_b;
};

// d_out_a = share_a d_out, d_lse_a = share_a share_b (d_out . (out_a - out_b)) + share_a d_lse; the same for b.
template <class T, int W>
__global__ void __launch_bounds__(BLOCK_THREADS, 4)
    merge_backward_kernel(const __grid_constant__ MergeBackwardArguments<T> args) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool inside = row < args.shape.rows;
  const int64_t at = inside ? args.shape.lse_place(row) : 0;
  const float lse_a = args.lse_a[at];
  const float lse_b = args.lse_b[at];
  const Shares shares = shares_of(lse_a, lse_b);
  const int64_t start = row * args.shape.head_dim;
  float difference = 0.0f;
  if (inside) {
    for (int64_t first = threadIdx.x * W; first < args.shape.head_dim; first += blockDim.x * W) {
      float a[W];
      float b[W];
      float d[W];
      load_seen(args.out_a + start + first, lse_a, a);
      load_seen(args.out_b + start + first, lse_b, b);
      load_floats(args.d_out + start + first, d);
#pragma unroll
      for (int i = 0; i < W; i++) {
        difference = fmaf(d[i], a[i] - b[i], difference);
        a[i] = shares.a * d[i];
        b[i] = shares.b * d[i];
      }
      store_floats<W>(args.d_out_a + start + first, a);
      store_floats<W>(args.d_out_b + start + first, b);
    }
  }
  for (unsigned offset = blockDim.x / 2; offset > 0; offset /= 2)
    difference += __shfl_xor_sync(0xffffffffu, difference, offset);
  if (!inside || threadIdx.x > 0) return;
  const float from_out = shares.a * shares.b * difference;
  const float from_lse = args.d_lse ? args.d_lse[at] : 0.0f;
  args.d_lse_a[at] = fmaf(shares.a, from_lse, from_out);
  args.d_lse_b[at] = fmaf(shares.b, from_lse, -from_out);
}

// body(blocks, threads of a block) for rows of `chunks`.
template <class Body>
void with_row_grid(int64_t rows, int64_t chunks, const Body& body) {
  unsigned across = 1;
  while (across < 32 && across < chunks) across *= 2;
  const dim3 threads(across, BLOCK_THREADS / across);
  body(static_cast<unsigned>(ceil_div(rows, threads.y)), threads);
}

}  // namespace

void merge_attention_states(const MergeAttentionStatesParams& p, Context& context) {
  const RowShape shape = {p.batch * p.queries * p.heads, p.queries, p.heads, p.head_dim};
  if (shape.rows == 0) return;
  with_float_type(p.out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int W = LANES<T>;
    const MergeArguments<T> args = {shape,
                                    data_of<T>(p.out_a),
                                    data_of<float>(p.lse_a),
                                    data_of<T>(p.out_b),
                                    data_of<float>(p.lse_b),
                                    target_of<T>(p.out),
                                    target_of<float>(p.lse)};
    const bool vectors = p.head_dim % W == 0;
    with_row_grid(shape.rows, vectors ? p.head_dim / W : p.head_dim, [&](unsigned blocks, dim3 threads) {
      vectors ? merge_kernel<T, W><<<blocks, threads, 0, context.stream()>>>(args)
              : merge_kernel<T, 1><<<blocks, threads, 0, context.stream()>>>(args);
    });
  });
}

void merge_attention_states_backward(const MergeAttentionStatesBackwardParams& p, Context& context) {
  const RowShape shape = {p.batch * p.queries * p.heads, p.queries, p.heads, p.head_dim};
  if (shape.rows == 0) return;
  with_float_type(p.d_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int W = LANES<T>;
    const MergeBackwardArguments<T> args = {shape,
                                            data_of<T>(p.out_a),
                                            data_of<float>(p.lse_a),
                                            data_of<T>(p.out_b),
                                            data_of<float>(p.lse_b),
                                            data_of<T>(p.d_out),
                                            data_of<float>(p.d_lse),
                                            target_of<T>(p.d_out_a),
                                            target_of<float>(p.d_lse_a),
                                            target_of<T>(p.d_out_b),
                                            target_of<float>(p.d_lse_b)};
    const bool vectors = p.head_dim % W == 0;
    with_row_grid(shape.rows, vectors ? p.head_dim / W : p.head_dim, [&](unsigned blocks, dim3 threads) {
      vectors ? merge_backward_kernel<T, W><<<blocks, threads, 0, context.stream()>>>(args)
              : merge_backward_kernel<T, 1><<<blocks, threads, 0, context.stream()>>>(args);
    });
  });
}

}  // namespace ternflash::cuda
