// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The ternary products whose float operand is float32: on the ordinary cores, as tensor cores have no float32.

#ifndef TERNFLASH_CUDA_TERNARY_FLOAT32_H_
#define TERNFLASH_CUDA_TERNARY_FLOAT32_H_

#include "../binding/ops.h"
#include "context.h"

namespace ternflash::cuda {

void ternary_matmul_float32(const TernaryMatmulParams& p, Context& context);
void ternary_matmul_backward_float32(const TernaryMatmulBackwardParams& p, Context& context);
void bit_linear_weight_backward_float32(const BitLinearWeightBackwardParams& p, Context& context);

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TERNARY_FLOAT32_H_
