// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_PREPARE_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_PREPARE_CUH_

#include "arguments.h"
#include "score.h"

namespace ternflash::cuda {

// delta = sum(out * d_out) - d_lse and base of each query, one warp a row.
template <class T>
__global__ void attention_backward_prepare(const __grid_constant__ AttentionBackwardArguments args, const float* d_lse,
                                           float* delta, float* base) {
  const int query = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const Problem problem(args, blockIdx.z, blockIdx.y);
  if (query >= problem.queries) return;
  const int64_t start = problem.q_start + int64_t(query) * args.query_row;
  const T* out_row = static_cast<const T*>(args.out) + start;
  const T* d_out_row = static_cast<const T*>(args.d_out) + start;
  float sum = 0.0f;
  if (sizeof(T) == 2 && args.head_dim % 8 == 0) {
    for (int i = lane * 8; i < args.head_dim; i += 256) {
      const uint4 a = *reinterpret_cast<const uint4*>(out_row + i);
      const uint4 b = *reinterpret_cast<const uint4*>(d_out_row + i);
      const T* x = reinterpret_cast<const T*>(&a);
      const T* y = reinterpret_cast<const T*>(&b);
#pragma unroll
      for (int e = 0; e < 8; e++) sum += static_cast<float>(x[e]) * static_cast<float>(y[e]);
    }
  } else {
    for (int i = lane; i < args.head_dim; i += 32) sum += static_cast<float>(out_row[i]) * static_cast<float>(d_out_row[i]);
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
  if (lane == 0) {
    const int64_t index = problem.lse_start + query;
    delta[index] = d_lse ? sum - d_lse[index] : sum;
    base[index] = args.lse[index] == -INFINITY ? INFINITY : args.lse[index] * LOG2_E;
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_PREPARE_CUH_
