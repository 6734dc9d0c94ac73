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
// numbers, which some processors multiply very slowly. The polynomial of vec_exp; NaN stays NaN.
TERNFLASH_INLINE Vec softmax_exp(Vec x) {
  const VecInt small = x < -87.0f;
  const Vec clamped = small ? broadcast(-87.0f) : x;
  const Vec magic = broadcast(12582912.0f + 127.0f);  // leaves n + 127 in the low bits, the exponent field of 2^n
  const Vec shifted = clamped * 1.44269504088896341f + magic;
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
  return small ? Vec{} : p * as_float(as_int(shifted) << 23);
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
