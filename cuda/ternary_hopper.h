// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Products of int8 codes with packed ternary weights for compute capability 9.0.

#ifndef TERNFLASH_CUDA_TERNARY_HOPPER_H_
#define TERNFLASH_CUDA_TERNARY_HOPPER_H_

#include "context.h"
#include "ternary_product.h"

namespace ternflash::cuda {

// How a product is shared out among blocks of threads.
struct TernaryHopperPlan {
  bool persistent;  // tiles of 256 rows of W, one block on each multiprocessor; else of 128 rows
  int tokens;       // of a tile: 16, 32, 64, or 128 if persistent
  int splits;       // of the sum, 1, 2, 4 or 8: the blocks of a cluster
};

// Whether these kernels take the product; x and the packed rows are padded as they are there.
template <class Out>
bool takes_ternary_hopper(const Product<int8_t, Out>& args, const DeviceProperties& device);

template <class Out>
TernaryHopperPlan plan_ternary_hopper(const Product<int8_t, Out>& args, const DeviceProperties& device);

// `early`: the kernel may begin before the one in front of it is done; it reads nothing but packed weights until then.
template <class Out>
void launch_ternary_hopper(const Product<int8_t, Out>& args, const TernaryHopperPlan& plan, bool early,
                           Context& context);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TERNARY_HOPPER_H_
