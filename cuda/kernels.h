// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The launchers of the CUDA backend: one per op of the contract. Each checks what its kernels can do, takes workspace from the context and
// launches on its stream; it returns before the kernels have run.

#ifndef TERNFLASH_CUDA_KERNELS_H_
#define TERNFLASH_CUDA_KERNELS_H_

#include "../binding/ops.h"
#include "context.h"

namespace ternflash::cuda {

#define TERNFLASH_DECLARE(name, js_name, Params) void name(const Params&, Context&);
TERNFLASH_OPS(TERNFLASH_DECLARE)
#undef TERNFLASH_DECLARE

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_KERNELS_H_
