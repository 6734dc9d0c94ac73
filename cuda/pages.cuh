// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Where the tokens of a cache are: end to end for each batch entry, or in pages that entries share.

#ifndef TERNFLASH_CUDA_PAGES_CUH_
#define TERNFLASH_CUDA_PAGES_CUH_

#include "failure.cuh"
#include "vector.h"

namespace ternflash::cuda {

struct CacheRows {
  const int* table;  // [B, per_entry], or null: entry b has rows b * capacity and on
  int per_entry;
  int size;
  int count;
  int64_t capacity;

  CacheRows(const KeyPages& pages, int64_t capacity)
      : table(data_of<int>(pages.table)),
        per_entry(static_cast<int>(pages.per_entry)),
        size(static_cast<int>(pages.size)),
        count(static_cast<int>(pages.count)),
        capacity(capacity) {}

  // The row of a token, -1 if no page of the cache holds it.
  __device__ __forceinline__ int64_t row(int64_t entry, int token) const {
    if (!table) return entry * capacity + token;
    const int page = table[entry * per_entry + token / size];
    return page < 0 || page >= count ? -1 : int64_t(page) * size + token % size;
  }
};

// One block.
static __global__ void check_pages_kernel(const int* table, int64_t entries, int count, FailureRecord* failure, uint32_t failure_code) {
  __shared__ unsigned long long shared;
  int64_t position = INT64_MAX;
  for (int64_t i = threadIdx.x; i < entries && position == INT64_MAX; i += BLOCK_THREADS)
    if (table[i] < -1 || table[i] >= count) position = i;
  position = first_position(position, &shared);
  if (threadIdx.x == 0 && position >= 0) record_failure(failure, failure_code, table[position], position);
}

// Fails the op if a page is neither one of the cache's nor none; kernels take it for none.
inline void check_pages(const KeyPages& pages, int64_t batch, Context& context) {
  if (!pages.table.data) return;
  check_pages_kernel<<<1, BLOCK_THREADS, 0, context.stream()>>>(
      data_of<int>(pages.table), batch * pages.per_entry, static_cast<int>(pages.count), context.failure_record(),
      context.failure_code("expected pages of the cache, got one outside"));
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_PAGES_CUH_
