// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Vectors of bytes for products of ternary codes (0..2) with int8 values, summed in lanes of four. With AVX-512 VNNI or
// the dot products of arm64 four products go straight into int32. AVX without VNNI adds them in pairs in int16, which
// holds MOST_PRODUCTS of them; to_int32 makes int32 lanes of what add_products has summed.

#ifndef TERNFLASH_CPU_BYTE_VECTORS_H_
#define TERNFLASH_CPU_BYTE_VECTORS_H_

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#include "simd.h"

namespace {

#if defined(__AVX512BW__)
typedef __m512i Bytes;
constexpr int STEP = 64;
TERNFLASH_INLINE Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
TERNFLASH_INLINE void store_bytes(void* p, Bytes v) { _mm512_storeu_si512(p, v); }
TERNFLASH_INLINE Bytes zero_bytes() { return _mm512_setzero_si512(); }
TERNFLASH_INLINE Bytes broadcast_four(int32_t four) { return _mm512_set1_epi32(four); }
TERNFLASH_INLINE Bytes codes_of(Bytes packed, int part) {
  return _mm512_and_si512(_mm512_srli_epi16(packed, 2 * part), _mm512_set1_epi8(3));
}
TERNFLASH_INLINE Bytes add_int32(Bytes a, Bytes b) { return _mm512_add_epi32(a, b); }
#if defined(__AVX512VNNI__)
// As assembly: around the intrinsic gcc 12 copies the accumulators from register to register and spills them.
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(values));
  return acc;
}
TERNFLASH_INLINE Bytes to_int32(Bytes acc) { return acc; }
#else
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  return _mm512_add_epi16(acc, _mm512_maddubs_epi16(codes, values));
}
TERNFLASH_INLINE Bytes to_int32(Bytes acc) { return _mm512_madd_epi16(acc, _mm512_set1_epi16(1)); }
#endif
#elif defined(__AVX2__)
typedef __m256i Bytes;
constexpr int STEP = 32;
TERNFLASH_INLINE Bytes load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
TERNFLASH_INLINE void store_bytes(void* p, Bytes v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
TERNFLASH_INLINE Bytes zero_bytes() { return _mm256_setzero_si256(); }
TERNFLASH_INLINE Bytes broadcast_four(int32_t four) { return _mm256_set1_epi32(four); }
TERNFLASH_INLINE Bytes codes_of(Bytes packed, int part) {
  return _mm256_and_si256(_mm256_srli_epi16(packed, 2 * part), _mm256_set1_epi8(3));
}
TERNFLASH_INLINE Bytes add_int32(Bytes a, Bytes b) { return _mm256_add_epi32(a, b); }
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  return _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, values));
}
TERNFLASH_INLINE Bytes to_int32(Bytes acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
#else
// Portable: the accumulator of a lane is an int32 from the start.
typedef int8_t Bytes __attribute__((vector_size(16)));
typedef int32_t Lanes __attribute__((vector_size(16)));
constexpr int STEP = 16;
TERNFLASH_INLINE Bytes load_bytes(const void* p) {
  Bytes v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
TERNFLASH_INLINE void store_bytes(void* p, Bytes v) { __builtin_memcpy(p, &v, sizeof(v)); }
TERNFLASH_INLINE Bytes zero_bytes() { return Bytes{}; }
TERNFLASH_INLINE Bytes broadcast_four(int32_t four) {
  const Lanes lanes = {four, four, four, four};
  return reinterpret_cast<Bytes>(lanes);
}
TERNFLASH_INLINE Bytes codes_of(Bytes packed, int part) {
  return reinterpret_cast<Bytes>(reinterpret_cast<Lanes>(packed) >> (2 * part)) & 3;
}
TERNFLASH_INLINE Bytes add_int32(Bytes a, Bytes b) {
  return reinterpret_cast<Bytes>(reinterpret_cast<Lanes>(a) + reinterpret_cast<Lanes>(b));
}
#if defined(__SSE2__)
// The even and the odd bytes as 16-bit numbers; each multiply-add joins two of a lane's four products.
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  const __m128i c = reinterpret_cast<__m128i>(codes), v = reinterpret_cast<__m128i>(values);
  const __m128i even = _mm_madd_epi16(_mm_and_si128(c, _mm_set1_epi16(255)), _mm_srai_epi16(_mm_slli_epi16(v, 8), 8));
  const __m128i odd = _mm_madd_epi16(_mm_srli_epi16(c, 8), _mm_srai_epi16(v, 8));
  return reinterpret_cast<Bytes>(_mm_add_epi32(reinterpret_cast<__m128i>(acc), _mm_add_epi32(even, odd)));
}
#elif defined(__ARM_FEATURE_DOTPROD)
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  return Bytes(vdotq_s32(int32x4_t(acc), int8x16_t(codes), int8x16_t(values)));
}
#else
TERNFLASH_INLINE Bytes add_products(Bytes acc, Bytes codes, Bytes values) {
  // Byte i of each lane, sign-extended; codes are never negative.
  const Lanes c = reinterpret_cast<Lanes>(codes), v = reinterpret_cast<Lanes>(values);
  Lanes sum = reinterpret_cast<Lanes>(acc);
  for (int i = 0; i < 4; i++) sum += (c << (24 - 8 * i) >> 24) * (v << (24 - 8 * i) >> 24);
  return reinterpret_cast<Bytes>(sum);
}
#endif
TERNFLASH_INLINE Bytes to_int32(Bytes acc) { return acc; }
#endif

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// A product is at most 2 * 128, a pair in an int16 512: sixty of them stay below 2^15.
constexpr int64_t MOST_PRODUCTS = 60;
#else
constexpr int64_t MOST_PRODUCTS = INT64_MAX;
#endif

}  // namespace

#endif  // TERNFLASH_CPU_BYTE_VECTORS_H_
