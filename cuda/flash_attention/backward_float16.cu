// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "backward_table.cuh"

namespace ternflash::cuda {

template <>
AttentionTable<AttentionBackwardArguments> backward_variants<__half>(bool writes_dq) {
  return writes_dq ? backward_table<__half, true>() : backward_table<__half, false>();
}

template <>
AttentionTable<AttentionBackwardArguments> backward_queries_variants<__half>() {
  return backward_queries_table<__half>();
}

template cudaError_t launch_backward_finish<__half>(const AttentionBackwardArguments&, int, cudaStream_t);

}  // namespace ternflash::cuda
