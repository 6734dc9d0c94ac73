// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The matrix product for other kernels of the same instruction set.

#ifndef TERNFLASH_CPU_MATMUL_H_
#define TERNFLASH_CPU_MATMUL_H_

#include "../binding/ops.h"
#include "context.h"

namespace ternflash::cpu::TERNFLASH_ISA {

// The op matmul; with `add`, out += A B, without a bias. Takes scratch memory: that of the caller does not survive.
void matmul_onto(const MatmulParams& p, bool add, Context& context);

}  // namespace ternflash::cpu::TERNFLASH_ISA

#endif  // TERNFLASH_CPU_MATMUL_H_
