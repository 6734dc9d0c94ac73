// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_FAILURE_CUH_
#define TERNFLASH_CUDA_FAILURE_CUH_

#include "context.h"

namespace ternflash::cuda {

// Records a failure, unless there is one already. Where several threads of a launch could call it, they must agree on one that does:
// which of them comes first would differ from run to run.
__device__ __forceinline__ void record_failure(FailureRecord* record, uint32_t code, int32_t value, int64_t position) {
  if (atomicCAS(&record->code, 0u, code) != 0) return;
  record->value = value;
  record->position = position;
}

// The smallest of the block's positions, in all its threads; `shared` is theirs.
__device__ __forceinline__ int64_t first_position(int64_t position, unsigned long long* shared) {
  if (threadIdx.x == 0) *shared = ~0ull;
  __syncthreads();  // it is set
  if (position != INT64_MAX) atomicMin(shared, static_cast<unsigned long long>(position));
  __syncthreads();  // all have been there
  return static_cast<int64_t>(*shared);
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FAILURE_CUH_
