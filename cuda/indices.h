// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Indices that only the kernels see: checked in a pass of its own, so that an op with a wrong one leaves zeros
// everywhere.

#ifndef TERNFLASH_CUDA_INDICES_H_
#define TERNFLASH_CUDA_INDICES_H_

#include "context.h"

namespace ternflash::cuda {

// Launches a kernel that reports `message`, with the first such index as {value} at {position}, if an index is neither in
// 0..size-1 nor equal to `other`, where that is not null. What is returned points to a word in device memory that then is not 0; it is null if there is no workspace.
const uint32_t* check_indices(const int32_t* indices, int64_t count, int64_t size, const int32_t* other,
                              const char* message, Context& context);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_INDICES_H_
