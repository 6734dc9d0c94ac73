// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "backward_table.cuh"

namespace ternflash::cuda {

template <>
AttentionTable<AttentionBackwardArguments> backward_variants<__nv_bfloat16>(bool writes_dq) {
  return writes_dq ? backward_table<__nv_bfloat16, true>() : backward_table<__nv_bfloat16, false>();
}

template <>
AttentionTable<AttentionBackwardArguments> backward_queries_variants<__nv_bfloat16>() {
  return backward_queries_table<__nv_bfloat16>();
}

template cudaError_t launch_backward_finish<__nv_bfloat16>(const AttentionBackwardArguments&, int, cudaStream_t);

}  // namespace ternflash::cuda
