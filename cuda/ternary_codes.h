// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The order of a token's int8 codes on GPUs: quantize_activations makes it, the products and their backward pass read
// it. A row is filled up with zeros to whole units of 64 features. In a unit lies at byte 16 r + 4 t + b what belongs
// to feature 16 t + 4 b + r: then 4 bytes, and what a shift and a mask make of the word of W with features 16 t to 16 t
// + 15, are registers of the tensor cores for the same four features (ternary_fragments.h).

#ifndef TERNFLASH_CUDA_TERNARY_CODES_H_
#define TERNFLASH_CUDA_TERNARY_CODES_H_

namespace ternflash::cuda {

// Where the code of a feature lies in its row.
__host__ __device__ constexpr int code_position(int feature) {
  return (feature & ~63) | (feature & 3) << 4 | (feature & 48) >> 2 | (feature & 12) >> 2;
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TERNARY_CODES_H_
