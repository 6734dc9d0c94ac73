// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "elementwise.cuh"
#include "prepare.cuh"
#include "variants.h"

namespace ternflash::cuda {

namespace {

// Calls `go` with the narrowest width that takes the head dim, as a type.
template <int D>
struct Width {
  static constexpr int value = D;
};

template <class Go>
cudaError_t with_width(int head_dim, Go go) {
  if (head_dim <= 32) return go(Width<32>());
  if (head_dim <= 64) return go(Width<64>());
  if (head_dim <= 128) return go(Width<128>());
  return go(Width<256>());
}

template <class Kernel>
cudaError_t allow_shared(Kernel kernel, int bytes) {
  return bytes > 48 << 10 ? cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) : cudaSuccess;
}

__device__ __forceinline__ float sink_probability(const AttentionBackwardArguments& args, float sink, int64_t statistic) {
  return args.sum ? exp_rounded(sink - args.base[statistic]) / args.sum[statistic] : expf(sink - args.lse[statistic]);
}

// delta - d_lse
__device__ __forceinline__ float d_score(const AttentionBackwardArguments& args, int64_t statistic) {
  return args.d_lse ? args.delta[statistic] - args.d_lse[statistic] : args.delta[statistic];
}

// One block a head; thread t adds the rows t, t + 256, ..., then a tree.
template <class T>
__global__ void attention_backward_sinks(const __grid_constant__ AttentionBackwardArguments args, int64_t batches,
                                         int64_t rows_per_batch, void* d_sinks) {
  __shared__ double sums[ELEMENTWISE_THREADS];
  const int head = blockIdx.x;
  const float sink = sink_of<T>(args, head);
  double sum = 0.0;
  for (int64_t batch = 0; batch < batches; batch++) {
    const int64_t start = batch * args.lse_batch + head * args.lse_head;
    for (int64_t i = threadIdx.x; i < rows_per_batch; i += ELEMENTWISE_THREADS)
      sum -= static_cast<double>(sink_probability(args, sink, start + i)) * static_cast<double>(d_score(args, start + i));
  }
  sums[threadIdx.x] = sum;
  for (int half = ELEMENTWISE_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();  // the sums of the round before are there
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x > 0) return;
  if (args.sinks_float32)
    static_cast<float*>(d_sinks)[head] = static_cast<float>(sums[0]);
  else
    static_cast<T*>(d_sinks)[head] = static_cast<T>(static_cast<float>(sums[0]));
}

}  // namespace

template <class T>
cudaError_t launch_forward_elementwise(const AttentionArguments& args, cudaStream_t stream) {
  return with_width(args.head_dim, [&](auto width) {
    using E = Elementwise<decltype(width)::value>;
    const auto kernel = attention_forward_elementwise<T, decltype(width)::value>;
    const cudaError_t status = allow_shared(kernel, E::shared_bytes(3));
    if (status != cudaSuccess) return status;
    kernel<<<dim3((args.queries + E::R - 1) / E::R, args.heads, args.batch), ELEMENTWISE_THREADS, E::shared_bytes(3), stream>>>(args);
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t launch_backward_prepare_elementwise(const AttentionBackwardArguments& args, float* delta, float* base,
                                                float* sum, cudaStream_t stream) {
  return with_width(args.head_dim, [&](auto width) {
    using E = Elementwise<decltype(width)::value>;
    const auto kernel = attention_backward_prepare_elementwise<T, decltype(width)::value>;
    constexpr int BYTES = 2 * E::TILE * 4;
    const cudaError_t status = allow_shared(kernel, BYTES);
    if (status != cudaSuccess) return status;
    kernel<<<dim3((args.queries + E::R - 1) / E::R, args.heads, args.batch), ELEMENTWISE_THREADS, BYTES, stream>>>(
        args, delta, base, sum);
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t launch_backward_keys_elementwise(const AttentionBackwardArguments& args, cudaStream_t stream) {
  return with_width(args.head_dim, [&](auto width) {
    using E = Elementwise<decltype(width)::value>;
    const auto kernel = attention_backward_keys_elementwise<T, decltype(width)::value>;
    const cudaError_t status = allow_shared(kernel, E::shared_bytes(4));
    if (status != cudaSuccess || args.keys == 0) return status;
    kernel<<<dim3((args.keys + E::R - 1) / E::R, args.heads / args.heads_per_key_head, args.batch), ELEMENTWISE_THREADS,
             E::shared_bytes(4), stream>>>(args);
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t launch_backward_queries_elementwise(const AttentionBackwardArguments& args, cudaStream_t stream) {
  return with_width(args.head_dim, [&](auto width) {
    using E = Elementwise<decltype(width)::value>;
    const auto kernel = attention_backward_queries_elementwise<T, decltype(width)::value>;
    const cudaError_t status = allow_shared(kernel, E::shared_bytes(4));
    if (status != cudaSuccess) return status;
    kernel<<<dim3((args.queries + E::R - 1) / E::R, args.heads, args.batch), ELEMENTWISE_THREADS, E::shared_bytes(4), stream>>>(
        args);
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t launch_backward_prepare(const AttentionBackwardArguments& args, const float* d_lse, float* delta, float* base,
                                    cudaStream_t stream) {
  const dim3 grid((args.queries + 7) / 8, args.heads, args.batch);
  attention_backward_prepare<T><<<grid, 256, 0, stream>>>(args, d_lse, delta, base);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_backward_sinks(const AttentionBackwardArguments& args, int64_t rows_per_head, void* d_sinks,
                                  cudaStream_t stream) {
  const int64_t batches = args.query_starts ? 1 : args.batch;
  attention_backward_sinks<T><<<args.heads, ELEMENTWISE_THREADS, 0, stream>>>(args, batches, rows_per_head, d_sinks);
  return cudaGetLastError();
}

#define TERNFLASH_INSTANTIATE(T)                                                                                  \
  template cudaError_t launch_backward_prepare<T>(const AttentionBackwardArguments&, const float*, float*, float*, \
                                                  cudaStream_t);                                                  \
  template cudaError_t launch_forward_elementwise<T>(const AttentionArguments&, cudaStream_t);                    \
  template cudaError_t launch_backward_prepare_elementwise<T>(const AttentionBackwardArguments&, float*, float*, float*, \
                                                              cudaStream_t);                                      \
  template cudaError_t launch_backward_keys_elementwise<T>(const AttentionBackwardArguments&, cudaStream_t);      \
  template cudaError_t launch_backward_queries_elementwise<T>(const AttentionBackwardArguments&, cudaStream_t);    \
  template cudaError_t launch_backward_sinks<T>(const AttentionBackwardArguments&, int64_t, void*, cudaStream_t);
TERNFLASH_INSTANTIATE(float)
TERNFLASH_INSTANTIATE(__half)
TERNFLASH_INSTANTIATE(__nv_bfloat16)
#undef TERNFLASH_INSTANTIATE

}  // namespace ternflash::cuda
