// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "forward_table.cuh"

namespace ternflash::cuda {

template <>
AttentionTable<AttentionArguments> forward_variants<__half>() {
  return forward_table<__half>();
}

}  // namespace ternflash::cuda
