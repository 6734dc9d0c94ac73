// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "failure.cuh"
#include "indices.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

constexpr int CHECK_THREADS = 1024;

// One block: the word is written without having been cleared.
__global__ void __launch_bounds__(CHECK_THREADS)
    check_indices_kernel(const int32_t* indices, int64_t count, int64_t size, bool has_other, int32_t other,
                         uint32_t* wrong, FailureRecord* failure, uint32_t failure_code) {
  const auto is_wrong = [&](int32_t index) { return (index < 0 || index >= size) && !(has_other && index == other); };
  __shared__ unsigned long long shared;
  int64_t found = INT64_MAX;
  // Indices of some rows of a tensor may begin anywhere.
  const int64_t vectors = reinterpret_cast<uintptr_t>(indices) % sizeof(int4) == 0 ? count / 4 : 0;
#pragma unroll 4
  for (int64_t vector = threadIdx.x; vector < vectors; vector += CHECK_THREADS) {
    const Chunk<int32_t, 4> chunk = load_chunk<4>(indices + 4 * vector);
#pragma unroll
    for (int i = 3; i >= 0; i--)
      if (is_wrong(chunk.elements[i])) found = min(found, 4 * vector + i);
  }
  for (int64_t i = 4 * vectors + threadIdx.x; i < count; i += CHECK_THREADS)
    if (is_wrong(indices[i])) found = min(found, i);
  const bool any = __syncthreads_or(found != INT64_MAX);
  if (threadIdx.x == 0) *wrong = any;
  if (!any) return;
  found = first_position(found, &shared);
  if (threadIdx.x == 0) record_failure(failure, failure_code, indices[found], found);
}

}  // namespace

const uint32_t* check_indices(const int32_t* indices, int64_t count, int64_t size, const int32_t* other,
                              const char* message, Context& context) {
  uint32_t* wrong = static_cast<uint32_t*>(context.workspace(sizeof(uint32_t)));
  if (!wrong) return nullptr;
  check_indices_kernel<<<1, CHECK_THREADS, 0, context.stream()>>>(indices, count, size, other != nullptr,
                                                                  other ? *other : 0, wrong, context.failure_record(),
                                                                  context.failure_code(message));
  return wrong;
}

}  // namespace ternflash::cuda
