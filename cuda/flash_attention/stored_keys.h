// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention forward over keys and values that are stored otherwise than q: in another float dtype, in int8 with scales, in
// pages.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_STORED_KEYS_H_
#define TERNFLASH_CUDA_FLASH_ATTENTION_STORED_KEYS_H_

#include "../../binding/ops.h"
#include "../context.h"
#include "arguments.h"

namespace ternflash::cuda {

// Whether only these kernels can read the keys.
inline bool has_stored_keys(const FlashAttentionParams& p) { return p.shape.pages.table.data || p.k.dtype != p.q.dtype; }

// Fails the op if a page is none of the cache's. Lengths are checked before. T: the type of q.
template <class T>
void launch_forward_stored(const FlashAttentionParams& p, const AttentionArguments& args, Context& context);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_STORED_KEYS_H_
