// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Vectors of floats on any instruction set, through the compiler's vector extensions. This header is included by
// sources that are compiled once per instruction set (TERNFLASH_ISA), so everything in it has internal linkage: an
// inline function of the C++ library here could be emitted with AVX-512 inside and be linked for every processor. For
// the same reason no standard library header belongs in such a source; test/core/objects.test.ts looks
// for weak symbols.

#ifndef TERNFLASH_CPU_SIMD_H_
#define TERNFLASH_CPU_SIMD_H_

#include <stddef.h>
#include <stdint.h>

#include "../binding/ops.h"
#include "context.h"

#ifndef TERNFLASH_ISA
#error "TERNFLASH_ISA must name the instruction set this source is compiled for"
#endif

namespace {

using ternflash::DType;
using ternflash::Tensor;
using ternflash::cpu::Context;

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
constexpr int LANES = VECTOR_BYTES / 4;  // floats in a vector

typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
// Of floats, and of bytes that begin anywhere.
typedef float VecUnaligned __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));
typedef int32_t VecInt __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t VecUint __attribute__((vector_size(VECTOR_BYTES)));

#define TERNFLASH_INLINE static inline __attribute__((always_inline, unused))
#define TERNFLASH_UNROLL _Pragma("GCC unroll 64")

// Lanes of a, then of b, by number.
#if defined(__clang__) || __GNUC__ >= 12
#define TERNFLASH_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define TERNFLASH_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, decltype((a) < (b)){__VA_ARGS__})
#endif

TERNFLASH_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
TERNFLASH_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecUnaligned*>(p) = v; }
// x - 0 keeps the compiler from emitting an addition for the broadcast.
TERNFLASH_INLINE Vec broadcast(float x) { return x - Vec{}; }
TERNFLASH_INLINE VecInt as_int(Vec v) { return reinterpret_cast<VecInt>(v); }
TERNFLASH_INLINE Vec as_float(VecInt v) { return reinterpret_cast<Vec>(v); }
TERNFLASH_INLINE Vec vec_max(Vec a, Vec b) { return a > b ? a : b; }
TERNFLASH_INLINE Vec vec_min(Vec a, Vec b) { return a < b ? a : b; }

TERNFLASH_INLINE float vec_sum(Vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}

TERNFLASH_INLINE float vec_max_lane(Vec v) {
  float lanes[LANES];
  store(lanes, v);
  float best = lanes[0];
  for (int i = 1; i < LANES; i++) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// First `count` lanes of p (count <= LANES), the others `rest`.
TERNFLASH_INLINE Vec load_partial(const float* p, int count, float rest) {
  float lanes[LANES];
  for (int i = 0; i < LANES; i++) lanes[i] = i < count ? p[i] : rest;
  return load(lanes);
}
TERNFLASH_INLINE void store_partial(float* p, Vec v, int count) {
  float lanes[LANES];
  store(lanes, v);
  for (int i = 0; i < count; i++) p[i] = lanes[i];
}

// e^x to about 1 unit in the last place: 2^n times a polynomial of the remainder in [-ln2/2, ln2/2] (Cephes expf).
// Below -103.9 the result is 0, above 88.7 infinity; NaN stays NaN.
TERNFLASH_INLINE Vec vec_exp(Vec x) {
  const Vec clamped = vec_min(vec_max(x, broadcast(-104.0f)), broadcast(89.0f));
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = clamped * 1.44269504088896341f + magic;
  const VecInt exponent = as_int(shifted) - as_int(magic);
  const Vec n = shifted - magic;
  Vec r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // Two factors, because 2^n alone leaves the range of normal floats at both ends.
  const VecInt half = exponent >> 1;
  const Vec scale_a = as_float((half + 127) << 23);
  const Vec scale_b = as_float((exponent - half + 127) << 23);
  const Vec result = p * scale_a * scale_b;
  return x != x ? x : result;
}

TERNFLASH_INLINE Vec vec_sigmoid(Vec x) { return 1.0f / (1.0f + vec_exp(-x)); }

// Phi(-x), the tail of the normal distribution, for x >= 0, given `bell` = e^(-x^2 / 2): bell times a polynomial of 1 /
// (1 + 0.35 x) without constant term, which follows Mills' ratio to 3e-8 of itself (minimax over 0..14, fitted for
// this).
TERNFLASH_INLINE Vec vec_normal_tail(Vec x, Vec bell) {
  const Vec t = 1.0f / (1.0f + 0.35f * x);
  Vec p = broadcast(-0.02914592049f);
  p = p * t + 0.14397165f;
  p = p * t - 0.2557141558f;
  p = p * t + 0.1591740487f;
  p = p * t - 0.0231097594f;
  p = p * t + 0.1055079727f;
  p = p * t + 0.1198328753f;
  p = p * t + 0.1398618687f;
  p = p * t + 0.1396214044f;
  return p * t * bell;
}

TERNFLASH_INLINE constexpr int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
TERNFLASH_INLINE constexpr int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
TERNFLASH_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
TERNFLASH_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

TERNFLASH_INLINE int64_t element_bytes(DType dtype) {
  if (dtype == DType::FLOAT32 || dtype == DType::INT32) return 4;
  return dtype == DType::FLOAT16 || dtype == DType::BFLOAT16 ? 2 : 1;
}

TERNFLASH_INLINE float bits_to_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
TERNFLASH_INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

TERNFLASH_INLINE float bfloat16_to_float(uint16_t bits) { return bits_to_float(uint32_t(bits) << 16); }
// Ties to even; NaN stays a quiet NaN.
TERNFLASH_INLINE uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

// Branch-free: scaling by 2^112 moves the exponent and makes subnormals normal.
TERNFLASH_INLINE float float16_to_float(uint16_t half) {
  const uint32_t magnitude = uint32_t(half & 0x7fff) << 13;
  const float finite = bits_to_float(magnitude) * bits_to_float(0x77800000u);
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t bits = (half & 0x7c00) == 0x7c00 ? special : float_to_bits(finite);
  return bits_to_float(bits | uint32_t(half & 0x8000) << 16);
}
// Ties to even; 65520 and above give infinity; NaN stays a quiet NaN.
TERNFLASH_INLINE uint16_t float_to_float16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return uint16_t(half | ((bits >> 16) & 0x8000u));
}

// Elements [start, start + count) of a float tensor into float32, and back with rounding.
TERNFLASH_INLINE void load_floats(const Tensor& tensor, int64_t start, int64_t count, float* out) {
  if (tensor.dtype == DType::FLOAT32) {
    const float* p = static_cast<const float*>(tensor.data) + start;
    for (int64_t i = 0; i < count; i++) out[i] = p[i];
  } else if (tensor.dtype == DType::BFLOAT16) {
    const uint16_t* p = static_cast<const uint16_t*>(tensor.data) + start;
    for (int64_t i = 0; i < count; i++) out[i] = bfloat16_to_float(p[i]);
  } else {
    const uint16_t* p = static_cast<const uint16_t*>(tensor.data) + start;
    for (int64_t i = 0; i < count; i++) out[i] = float16_to_float(p[i]);
  }
}
TERNFLASH_INLINE void store_floats(const Tensor& tensor, int64_t start, int64_t count, const float* in) {
  if (tensor.dtype == DType::FLOAT32) {
    float* p = static_cast<float*>(tensor.data) + start;
    for (int64_t i = 0; i < count; i++) p[i] = in[i];
  } else if (tensor.dtype == DType::BFLOAT16) {
    uint16_t* p = static_cast<uint16_t*>(tensor.data) + start;
    for (int64_t i = 0; i < count; i++) p[i] = float_to_bfloat16(in[i]);
  } else {
    uint16_t* p = static_cast<uint16_t*>(tensor.data) + start;
    for (int64_t i = 0; i < count; i++) p[i] = float_to_float16(in[i]);
  }
}

// A float32 view of elements [start, start + count): the tensor's own memory if it is float32, else `buffer`, filled.
TERNFLASH_INLINE const float* as_floats(const Tensor& tensor, int64_t start, int64_t count, float* buffer) {
  if (tensor.dtype == DType::FLOAT32) return static_cast<const float*>(tensor.data) + start;
  load_floats(tensor, start, count, buffer);
  return buffer;
}

// body(task, thread) for each task in [0, tasks), over all threads.
template <class Body>
TERNFLASH_INLINE void parallel_for(Context& context, int64_t tasks, const Body& body) {
  context.parallel_for(
      tasks, [](void* state, int64_t task, int thread) { (*static_cast<const Body*>(state))(task, thread); },
      const_cast<Body*>(&body));
}

// body(begin, end, thread) over [0, count) cut into pieces of about `grain` elements.
template <class Body>
TERNFLASH_INLINE void parallel_ranges(Context& context, int64_t count, int64_t grain, const Body& body) {
  const int64_t tasks = ceil_div(count, grain);
  parallel_for(context, tasks, [&](int64_t task, int thread) {
    const int64_t begin = task * grain;
    body(begin, min64(begin + grain, count), thread);
  });
}

template <class T>
TERNFLASH_INLINE T* thread_scratch(Context& context, int thread, int64_t count) {
  return static_cast<T*>(context.thread_scratch(thread, size_t(count) * sizeof(T)));
}
template <class T>
TERNFLASH_INLINE T* shared_scratch(Context& context, int64_t count) {
  return static_cast<T*>(context.shared_scratch(size_t(count) * sizeof(T)));
}

}  // namespace

#endif  // TERNFLASH_CPU_SIMD_H_
