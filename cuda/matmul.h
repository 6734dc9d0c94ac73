// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors

#ifndef TERNFLASH_CUDA_MATMUL_H_
#define TERNFLASH_CUDA_MATMUL_H_

#include "../binding/ops.h"
#include "context.h"

namespace ternflash::cuda {

// The product of p.a and p.b, + p.bias, as float32 [m, n] in `sums` instead of p.out, and added to what is there if `adds`.
void matmul_onto(const MatmulParams& p, float* sums, bool adds, Context& context);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_MATMUL_H_
