// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// y[m, n] = (sum over k of codes[m, k] trit[n, k]) * weight_scale / activation_scale[m] + bias[n], the sum exactly in
// int32 for any K, the epilogue to the bit as lib/backend.ts states it (this file is compiled without contraction).
//
// A packed byte holds four neighbours along K as codes 0..2 = trit + 1, so sum codes * trit = sum codes * code - sum
// codes.
// With many tokens packed rows are transposed first (ternary_panels.h), with few they are streamed (ternary_stream.h).
//
// Zeros are left out where they come in blocks: rows of zeros, known by their scale of 0 or by their bytes, and BLOCKs
// of features that are zero in all rows of a panel or task. They are looked for in every call, at a cost that the dense
// case hardly shows.

#include "kernels.h"
#include "ternary_panels.h"
#include "ternary_stream.h"

namespace ternflash::cpu::TERNFLASH_ISA {

void ternary_matmul_int8(const TernaryMatmulInt8Params& p, Context& context) {
  if (p.m < FEW_TOKENS)
    multiply_streaming(p, context);
  else
    multiply_panels(p, context);
  for (size_t i = 0; i < p.also_count; i++) ternary_matmul_int8(p.with(p.also[i]), context);
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
