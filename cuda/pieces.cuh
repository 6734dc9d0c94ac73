// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Lists of tensors that one launch works on: each is cut into pieces of PIECE elements, the pieces of all are numbered
// in order, and a block that has a piece looks up whose it is.

#ifndef TERNFLASH_CUDA_PIECES_CUH_
#define TERNFLASH_CUDA_PIECES_CUH_

#include <vector>

#include "vector.h"

namespace ternflash::cuda {

constexpr int64_t PIECE = 16384;  // elements

// The place in the list of the tensor whose piece `piece` is; `first_piece` of the entries ascends. All threads of a
// warp call it.
template <class Entry>
__device__ __forceinline__ int entry_of(const Entry* entries, int count, int64_t piece) {
  // It is in low .. high - 1, of which the lanes look at 32 at a time.
  int low = 0;
  int high = count;
  while (high - low > 1) {
    const int step = (high - low + 31) / 32;
    const int probe = low + static_cast<int>(threadIdx.x % 32) * step;
    const uint32_t reached = __ballot_sync(0xffffffffu, probe < high && entries[probe].first_piece <= piece);
    low += (__popc(reached) - 1) * step;
    high = min(high, low + step);
  }
  return low;
}

// A copy of the list in workspace, or null.
template <class Entry>
const Entry* upload(const std::vector<Entry>& entries, Context& context) {
  const size_t bytes = entries.size() * sizeof(Entry);
  void* copy = context.workspace(bytes);
  if (copy) context.upload(copy, entries.data(), bytes);
  return static_cast<const Entry*>(copy);
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_PIECES_CUH_
