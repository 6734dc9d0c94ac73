// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Operands of the tensor cores from packed ternary weights and rows of activations.
//
// A product does not depend on the order of the features as long as both operands have the same one. Of 16-bit floats a
// thread takes 16 bytes of a row as they lie (a chunk of 8 elements), and the trits of the same features from the word
// of 16 that holds them; each gives four registers, and register pairs (0, 1) and (2, 3) are what the thread holds of an
// operand in two mma steps. Codes lie in the order of ternary_codes.h: register r of a word is for 4 bytes of chunk r of
// the block of 64.
//
// Trits are made from codes without a subtraction: as two's complement numbers of two bits, moved to the top of the
// element they become 0 and +-64 as int8 and 0 and +-2.0 as float16 or bfloat16; `unscaled` takes that back.

#ifndef TERNFLASH_CUDA_TERNARY_FRAGMENTS_H_
#define TERNFLASH_CUDA_TERNARY_FRAGMENTS_H_

#include "ptx.h"

namespace ternflash::cuda {

constexpr uint32_t ZERO_TRITS = 0x55555555u;  // a word of 16

// Codes 0, 1, 2 of two bits each to -1, 0, 1 in two's complement.
__device__ __forceinline__ uint32_t signed_trits(uint32_t codes) { return ~(codes | (codes << 1 & 0xaaaaaaaau)); }

template <class X>
struct TernaryFragments {
  using Sum = float;
  static constexpr int CHUNK = 8;  // features

  // The trits of chunk 0 or 1 of a word's features.
  static __device__ __forceinline__ void trits(uint32_t word, int chunk, uint32_t (&r)[4]) {
    const uint32_t codes = signed_trits(word);
    // Even features in the low half, odd ones in the high half, each at bits 0, 4, 8 and 12 of it.
    const uint32_t pairs =
        chunk == 0 ? __byte_perm(codes, codes << 14, 0x7610) : __byte_perm(codes, codes >> 2, 0x7632);
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = pairs << (14 - 4 * i) & 0xc000c000u;
  }
  static __device__ __forceinline__ void activations(const uint4& chunk, uint32_t (&r)[4]) {
    r[0] = chunk.x;
    r[1] = chunk.y;
    r[2] = chunk.z;
    r[3] = chunk.w;
  }
  static __device__ __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_m16n8k16<X>(d, a, b0, b1);
  }
  static __device__ __forceinline__ Sum unscaled(Sum sum) { return 0.5f * sum; }
  // What an unscaled sum is to be multiplied with.
  static __device__ __forceinline__ float factor(float weight_scale, float) { return weight_scale; }
  static __device__ __forceinline__ float value(Sum sum, float factor) { return sum * factor; }
};

template <>
struct TernaryFragments<int8_t> {
  using Sum = int;

  // Byte b of register r belongs to feature 4b + r.
  static __device__ __forceinline__ void trits(uint32_t word, int, uint32_t (&r)[4]) {
    const uint32_t codes = signed_trits(word);
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = codes << (6 - 2 * i) & 0xc0c0c0c0u;
  }
  static __device__ __forceinline__ void multiply(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_m16n8k32(d, a, b0, b1);
  }
  static __device__ __forceinline__ Sum unscaled(Sum sum) { return sum >> 6; }
  static __device__ __forceinline__ float factor(float weight_scale, float token_scale) {
    return __fdiv_rn(weight_scale, token_scale);
  }
  static __device__ __forceinline__ float value(Sum sum, float factor) {
    return __fmul_rn(__int2float_rn(sum), factor);
  }
};

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_TERNARY_FRAGMENTS_H_
