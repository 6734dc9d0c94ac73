// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Vectors of floats of any dtype, and of bytes, as float32. Compiled once per instruction set, like those who include
// it.

#ifndef TERNFLASH_CPU_SIXTEEN_BITS_H_
#define TERNFLASH_CPU_SIXTEEN_BITS_H_

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "simd.h"

namespace {

typedef uint16_t HalfVec __attribute__((vector_size(2 * LANES)));

TERNFLASH_INLINE Vec load_float16(const uint8_t* p) {
#if defined(__AVX512F__)
  // With a mask of all lanes, because gcc 12 warns of the plain intrinsic's undefined source register.
  return Vec(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  return Vec(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  HalfVec halves;
  __builtin_memcpy(&halves, p, sizeof(halves));
  const VecInt bits = __builtin_convertvector(halves, VecInt);
  const VecInt magnitude = (bits & 0x7fff) << 13;
  const Vec finite = as_float(magnitude) * 5.192296858534828e33f;  // 2^112, see float16_to_float
  const VecInt value = (bits & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000 : as_int(finite);
  return as_float(value | (bits & 0x8000) << 16);
#endif
}

TERNFLASH_INLINE Vec load_bfloat16(const uint8_t* p) {
#if defined(__AVX512F__)
  // gcc 12 widens halves of the vector and puts them together.
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return as_float(VecInt(_mm512_maskz_slli_epi32(0xffff, wide, 16)));
#else
  HalfVec halves;
  __builtin_memcpy(&halves, p, sizeof(halves));
  return as_float(__builtin_convertvector(halves, VecInt) << 16);
#endif
}

typedef int8_t ByteVec __attribute__((vector_size(LANES)));

TERNFLASH_INLINE Vec load_int8(const int8_t* p) {
#if defined(__AVX512F__)
  // gcc 12 widens bytes in pieces and puts them together.
  const __m512i wide = _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return __builtin_convertvector(VecInt(wide), Vec);
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return __builtin_convertvector(VecInt(wide), Vec);
#else
  ByteVec bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return __builtin_convertvector(__builtin_convertvector(bytes, VecInt), Vec);
#endif
}

// Elements [index, index + LANES).
template <DType DTYPE>
TERNFLASH_INLINE Vec load_as_float(const void* data, int64_t index) {
  if constexpr (DTYPE == DType::FLOAT32) return load(static_cast<const float*>(data) + index);
  if constexpr (DTYPE == DType::INT8) return load_int8(static_cast<const int8_t*>(data) + index);
  const uint8_t* bytes = static_cast<const uint8_t*>(data) + 2 * index;
  return DTYPE == DType::FLOAT16 ? load_float16(bytes) : load_bfloat16(bytes);
}

// The same for the first `count` elements, if they are fewer; zeros after them.
template <DType DTYPE>
TERNFLASH_INLINE Vec load_as_float(const void* data, int64_t index, int64_t count) {
  if (__builtin_expect(count >= LANES, 1)) return load_as_float<DTYPE>(data, index);
  alignas(64) uint32_t elements[LANES] = {};
  constexpr int64_t BYTES = DTYPE == DType::FLOAT32 ? 4 : DTYPE == DType::INT8 ? 1 : 2;
  __builtin_memcpy(elements, static_cast<const uint8_t*>(data) + index * BYTES, size_t(count * BYTES));
  return load_as_float<DTYPE>(elements, 0);
}

}  // namespace

#endif  // TERNFLASH_CPU_SIXTEEN_BITS_H_
