// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "forward_table.cuh"

namespace ternflash::cuda {

template <>
AttentionTable<AttentionArguments> forward_variants<__nv_bfloat16>() {
  return forward_table<__nv_bfloat16>();
}

}  // namespace ternflash::cuda
