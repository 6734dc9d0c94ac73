// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rotary positions (Su et al., "RoFormer", 2021): pair (a, b) of a head becomes (a cos - b sin, a sin + b cos), the angle
// being position * frequency. x [tokens, heads, head_dim]. Angles are taken in float64, so that far positions stay
// exact. Tasks are spans of tokens; tokens of equal position in a span (the same place of several sequences) share the
// cosines of the last one.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::MAX_ROPE_PAIRS;
using ternflash::RopeParams;

constexpr int64_t GRAIN = 16384;

struct Rotation {
  int64_t position = -1;
  bool known = false;
  float cos[MAX_ROPE_PAIRS];
  float sin[MAX_ROPE_PAIRS];
};

TERNFLASH_INLINE void set_rotation(const RopeParams& p, int64_t position, Rotation& rotation) {
  if (rotation.known && rotation.position == position) return;
  rotation.known = true;
  rotation.position = position;
  for (int64_t pair = 0; pair < p.pairs; pair++) {
    const double angle = double(position) * p.frequencies[pair];
    rotation.cos[pair] = float(__builtin_cos(angle));
    rotation.sin[pair] = float(p.inverse ? -__builtin_sin(angle) : __builtin_sin(angle));
  }
}

TERNFLASH_INLINE void rotate(const RopeParams& p, const Rotation& rotation, const float* x, float* out) {
  if (p.interleaved) {
    for (int64_t pair = 0; pair < p.pairs; pair++) {
      const float a = x[2 * pair], b = x[2 * pair + 1];
      out[2 * pair] = a * rotation.cos[pair] - b * rotation.sin[pair];
      out[2 * pair + 1] = a * rotation.sin[pair] + b * rotation.cos[pair];
    }
  } else {
    const float* second = x + p.pairs;
    float* second_out = out + p.pairs;
    for (int64_t pair = 0; pair < p.pairs; pair++) {
      const float a = x[pair], b = second[pair];
      out[pair] = a * rotation.cos[pair] - b * rotation.sin[pair];
      second_out[pair] = a * rotation.sin[pair] + b * rotation.cos[pair];
    }
  }
  for (int64_t d = 2 * p.pairs; d < p.head_dim; d++) out[d] = x[d];
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void rope(const RopeParams& p, Context& context) {
  const int32_t* positions = static_cast<const int32_t*>(p.positions.data);
  // Sequences of a batch usually count alike: find the period, and let a task take one place of all of them.
  int64_t period = p.tokens;
  for (int64_t t = 1; t < p.tokens; t++) {
    if (positions[t] != positions[0]) continue;
    period = p.tokens % t == 0 ? t : p.tokens;
    break;
  }
  for (int64_t t = period; t < p.tokens && period < p.tokens; t++)
    if (positions[t] != positions[t - period]) period = p.tokens;
  const int64_t repeats = p.tokens / period, row = p.heads * p.head_dim;
  parallel_ranges(context, period, max64(1, GRAIN / (row * repeats)), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 2 * p.head_dim);
    Rotation rotation;
    for (int64_t place = begin; place < end; place++) {
      set_rotation(p, positions[place], rotation);
      for (int64_t repeat = 0; repeat < repeats; repeat++) {
        for (int64_t head = 0; head < p.heads; head++) {
          const int64_t start = (repeat * period + place) * row + head * p.head_dim;
          const float* x = as_floats(p.x, start, p.head_dim, buffer);
          rotate(p, rotation, x, buffer + p.head_dim);
          store_floats(p.out, start, p.head_dim, buffer + p.head_dim);
        }
      }
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
