// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// What the attention kernels do to a vector of scores: softcap and ALiBi, the mask, the exponential.

#ifndef TERNFLASH_CPU_ATTENTION_SCORES_H_
#define TERNFLASH_CPU_ATTENTION_SCORES_H_

#include "attention_rows.h"

namespace {

// Lanes where first <= key < end keep their score, the others see nothing.
TERNFLASH_INLINE Vec mask_score(Vec score, VecInt key, VecInt first, VecInt end) {
  const VecInt visible = (key >= first) & (key < end);
  return visible ? score : broadcast(-INFINITE);
}

TERNFLASH_INLINE VecInt load_int(const int32_t* p) { return as_int(load(reinterpret_cast<const float*>(p))); }

// first, first + 1, ...
TERNFLASH_INLINE VecInt count_from(int64_t first) {
  int32_t numbers[LANES];
  for (int i = 0; i < LANES; i++) numbers[i] = int32_t(first) + i;
  return load_int(numbers);
}

// e^x for the x of a softmax, which is never much above 0; 0 below -87, where vec_exp would go on into subnormal
// numbers, which some processors multiply very slowly. 2^n times a polynomial of the remainder of x / ln 2 in [-1/2,
// 1/2] (minimax, fitted for this): within (1.5 + 0.25 |x|) 2^-24 of the result, which for a sum of e^x is far below
// the rounding of its larger terms. NaN stays NaN.
// In steps over all of the vectors: what one step has to wait for is long done, so that no scheduler fills up.
template <int COUNT>
TERNFLASH_INLINE void softmax_exp(Vec (&x)[COUNT]) {
  constexpr float FACTORS[] = {1.3398875016719103e-3f, 9.61843691766262e-3f, 5.5503323674201965e-2f,
                               0.24022647738456726f,   0.6931471824645996f,  1.0f};
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  Vec shifted[COUNT], f[COUNT], p[COUNT];
  TERNFLASH_UNROLL
  for (int i = 0; i < COUNT; i++) shifted[i] = x[i] * 1.44269504088896341f + magic;
  TERNFLASH_UNROLL
  for (int i = 0; i < COUNT; i++) f[i] = shifted[i] - magic;
  TERNFLASH_UNROLL
  for (int i = 0; i < COUNT; i++) f[i] = x[i] * 1.44269504088896341f - f[i];
  TERNFLASH_UNROLL
  for (int i = 0; i < COUNT; i++) p[i] = broadcast(1.5353361959569156e-4f);
  TERNFLASH_UNROLL
  for (int step = 0; step < 6; step++) {
    TERNFLASH_UNROLL
    for (int i = 0; i < COUNT; i++) p[i] = p[i] * f[i] + FACTORS[step];
  }
  TERNFLASH_UNROLL
  for (int i = 0; i < COUNT; i++)  // unsigned: below -87 it overflows, and is not taken
    p[i] = as_float(VecInt(VecUint(as_int(p[i])) + (VecUint(as_int(shifted[i])) << 23)));
  TERNFLASH_UNROLL
  for (int i = 0; i < COUNT; i++) x[i] = x[i] < -87.0f ? Vec{} : p[i];
}

TERNFLASH_INLINE Vec softmax_exp(Vec x) {
  Vec one[1] = {x};
  softmax_exp(one);
  return one[0];
}

// tanh x to about 1 unit in the last place (Cephes tanhf): a polynomial around 0, else (1 - e^-2|x|) / (1 + e^-2|x|).
TERNFLASH_INLINE Vec vec_tanh(Vec x) {
  const VecInt sign = as_int(x) & as_int(broadcast(-0.0f));
  const Vec magnitude = as_float(as_int(x) ^ sign);
  const Vec z = x * x;
  Vec p = broadcast(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vec inner = p * z * x + x;
  const Vec e = softmax_exp(magnitude * -2.0f);
  const Vec outer = (1.0f - e) / (1.0f + e);
  return magnitude < 0.625f ? inner : as_float(as_int(outer) ^ sign);
}

// How a score follows from scale * q.k, beside the mask.
struct ScoreRule {
  bool plain;  // it is that
  bool alibi;
  float softcap;  // 0: none
  float inverse_softcap;

  explicit ScoreRule(const ternflash::AttentionShape& shape) {
    // Beyond these limits a float32 score and its cap no longer differ, or the capped score is as good as 0; but 1 /
    // softcap and softcap * tanh would leave the range of floats.
    const double cap = shape.softcap < 1e-30 ? 1e-30 : shape.softcap > 1e30 ? 1e30 : shape.softcap;
    softcap = shape.softcap > 0 ? float(cap) : 0.0f;
    inverse_softcap = shape.softcap > 0 ? float(1 / cap) : 0.0f;
    alibi = shape.alibi_slopes.data != nullptr;
    plain = softcap == 0.0f && !alibi;
  }

  // The score, and its derivative by s. `diagonal` is the key beside the query.
  __attribute__((always_inline)) Vec apply(Vec s, Vec slope, VecInt diagonal, VecInt key, Vec& derivative) const {
    derivative = broadcast(1.0f);
    if (softcap != 0.0f) {
      const Vec bent = vec_tanh(s * inverse_softcap);
      derivative = 1.0f - bent * bent;
      s = bent * softcap;
    }
    if (alibi) {
      const VecInt difference = diagonal - key;
      s -= slope * __builtin_convertvector(difference < 0 ? -difference : difference, Vec);
    }
    return s;
  }
};

// The head's sink as a float, -inf if there is none: it takes part in the softmax like a score.
TERNFLASH_INLINE float sink_of(const ternflash::AttentionShape& shape, int64_t head) {
  float sink = -INFINITE;
  if (shape.sinks.data) load_floats(shape.sinks, head, 1, &sink);
  return sink;
}

}  // namespace

#endif  // TERNFLASH_CPU_ATTENTION_SCORES_H_
