// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Products of the int8 codes of few tokens, as in decoding: packed weights go through shared memory once, those of
// several products in one launch.

#ifndef TERNFLASH_CUDA_TERNARY_DECODE_H_
#define TERNFLASH_CUDA_TERNARY_DECODE_H_

#include "context.h"
#include "ternary_product.h"

namespace ternflash::cuda {

constexpr int MOST_DECODED_PRODUCTS = 4;

// Whether this kernel takes the products, of the same codes: at most 8 tokens, which fit into shared memory.
template <class Out>
bool takes_ternary_decode(const Product<int8_t, Out>* products, int count, const DeviceProperties& device);

// `early`: the kernel may begin before the one in front of it is done; it reads nothing but packed weights until then.
template <class Out>
void launch_ternary_decode(const Product<int8_t, Out>* products, int count, bool early, Context& context);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TERNARY_DECODE_H_
