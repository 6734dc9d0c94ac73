// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_GUARD_H_
#define TERNFLASH_CUDA_GUARD_H_

#include <stddef.h>
#include <stdint.h>

#include "context.h"

namespace ternflash::cuda {

// Whether this build has code for the current GPU.
cudaError_t probe_kernels();

// Reports `code` if one of the bytes is not `value`.
void check_guard(const uint8_t* bytes, size_t count, uint8_t value, uint32_t code, Context& context);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_GUARD_H_
