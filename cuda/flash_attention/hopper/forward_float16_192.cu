// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#include "../forward_hopper_table.cuh"

namespace ternflash::cuda {

template <>
HopperForwardTable hopper_forward_variants<__half, 192>() {
  return hopper_forward_table<__half, 192>();
}

}  // namespace ternflash::cuda
