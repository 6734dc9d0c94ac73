// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The kernels that flash_attention.cu chooses from. Each (dtype, direction) is a source of its own.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_VARIANTS_H_
#define TERNFLASH_CUDA_FLASH_ATTENTION_VARIANTS_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "arguments.h"

namespace ternflash::cuda {

// A kernel and what it takes. The first row of a table that fits is used: head_dim at most (`exact`: equal to) the call's, no option that the
// row lacks, and shared memory that the GPU has.
template <class Arguments>
struct AttentionVariant {
  int head_dim;
  bool exact;    // head_dim itself, without softcap, ALiBi and dropout
  int rows;      // of the tile that a block owns: queries forward, keys backward
  int threads;
  int shared_bytes;
  void (*kernel)(Arguments);
};

template <class Arguments>
struct AttentionTable {
  const AttentionVariant<Arguments>* rows;
  int count;
};

// Tensor cores. T: __half or __nv_bfloat16.
template <class T>
AttentionTable<AttentionArguments> forward_variants();
// Adds dQ to the float32 sums, or computes dK and dV alone.
template <class T>
AttentionTable<AttentionBackwardArguments> backward_variants(bool writes_dq);
// dQ alone, in a fixed order.
template <class T>
AttentionTable<AttentionBackwardArguments> backward_queries_variants();

// Steps around the backward kernels.
template <class T>
cudaError_t launch_backward_prepare(const AttentionBackwardArguments& args, const float* d_lse, float* delta, float* base,
                                    cudaStream_t stream);
// `width`: the variant's head_dim.
template <class T>
cudaError_t launch_backward_finish(const AttentionBackwardArguments& args, int width, cudaStream_t stream);

// Without tensor cores: any dtype and head dim.
template <class T>
cudaError_t launch_forward_elementwise(const AttentionArguments& args, cudaStream_t stream);
// After it args.sum and args.d_lse must be set.
template <class T>
cudaError_t launch_backward_prepare_elementwise(const AttentionBackwardArguments& args, float* delta, float* base,
                                                float* sum, cudaStream_t stream);
template <class T>
cudaError_t launch_backward_keys_elementwise(const AttentionBackwardArguments& args, cudaStream_t stream);
template <class T>
cudaError_t launch_backward_queries_elementwise(const AttentionBackwardArguments& args, cudaStream_t stream);

// The gradient of the sinks, in a fixed order: d_sinks[h] = -sum over queries of exp(sink - lse) * delta.
template <class T>
cudaError_t launch_backward_sinks(const AttentionBackwardArguments& args, int64_t rows_per_head, void* d_sinks,
                                  cudaStream_t stream);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_VARIANTS_H_
