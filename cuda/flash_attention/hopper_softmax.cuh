// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention for compute capability 9.0: the softmax of the scores of a warpgroup, block by block, in registers.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_SOFTMAX_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_SOFTMAX_CUH_

#include "../ptx.h"

namespace ternflash::cuda {

// Of a thread's two rows; scores as wgmma leaves them, see ../wgmma.h.
struct HopperSoftmax {
  const float to_log2;  // what scores are multiplied with to be exponents of 2
  float row_max[2];     // of the scores, at most 2^8 less than the true one in the exponent
  float row_sum[2];     // of this thread's columns
  float rescale[2];     // of what was added up before this block

  __device__ explicit HopperSoftmax(float factor) : to_log2(factor) {}

  // Replaces the scores of a block, FIRST: the tile's first, by probabilities that have not been divided by their sum.
  // The maximum that is kept rises only when it would by more than 2^8 in the exponent: then the output has to be
  // rescaled, else probabilities are up to 2^8, which their sums bear.
  template <bool FIRST, int COUNT>
  __device__ void step(float (&s)[COUNT]) {
    constexpr float SLACK = 8.0f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = FIRST ? s[2 * half] : row_max[half];
#pragma unroll
      for (int i = 0; i < COUNT / 4; i++) largest = fmaxf(fmaxf(largest, s[4 * i + 2 * half]), s[4 * i + 2 * half + 1]);
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2));
      if (FIRST) {
        row_max[half] = largest;
        rescale[half] = 1.0f;
      } else {
        const bool rises = (largest - row_max[half]) * to_log2 > SLACK;
        rescale[half] = rises ? ex2_approx((row_max[half] - largest) * to_log2) : 1.0f;
        if (rises) row_max[half] = largest;
        row_sum[half] *= rescale[half];
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      // While a row has seen no key its maximum is -Infinity; 0 in its place keeps the exponents from being NaN.
      const float base = row_max[half] == -INFINITY ? 0.0f : row_max[half] * to_log2;
      float sum = FIRST ? 0.0f : row_sum[half];
#pragma unroll
      for (int i = 0; i < COUNT / 4; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float& each = s[4 * i + 2 * half + e];
          each = ex2_approx(each * to_log2 - base);
          sum += each;
        }
      row_sum[half] = sum;
    }
  }

  __device__ float2 maximum() const { return make_float2(row_max[0], row_max[1]); }
  __device__ float2 sums() const { return make_float2(row_sum[0], row_sum[1]); }
  __device__ bool rescales() const { return __any_sync(0xffffffff, rescale[0] != 1.0f || rescale[1] != 1.0f); }
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_HOPPER_SOFTMAX_CUH_
