// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Rotary positions (Su et al., "RoFormer", 2021): pair (a, b) of a head becomes (a cos - b sin, a sin + b cos), the
// angle being position * frequency. x [tokens, heads, head_dim]. Angles are taken in float64, so that far positions
// stay exact. Tasks are spans of tokens. Where positions repeat (several sequences in a batch), a table of all
// positions comes first, also in parallel; else each token computes its own cosines once for all heads.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::MAX_ROPE_PAIRS;
using ternflash::RopeParams;

constexpr int64_t GRAIN = 16384;
constexpr int64_t TABLE_GRAIN = 2048;

// The cosines of all pairs at a position, then their sines: 2 * pairs floats.
TERNFLASH_INLINE void set_rotation(const RopeParams& p, int64_t position, float* rotation) {
  for (int64_t pair = 0; pair < p.pairs; pair++) {
    const double angle = double(position) * p.frequencies[pair];
    rotation[pair] = float(__builtin_cos(angle));
    rotation[p.pairs + pair] = float(p.inverse ? -__builtin_sin(angle) : __builtin_sin(angle));
  }
}

// The same for positions [begin, end) above `lowest`, by turning each further by the angle of one position: in float64
// that is as good for a few dozen turns as what it saves.
constexpr int64_t MOST_TURNS = 64;

void set_rotations(const RopeParams& p, int64_t lowest, int64_t begin, int64_t end, float* table) {
  double cos[MAX_ROPE_PAIRS], sin[MAX_ROPE_PAIRS], cos_one[MAX_ROPE_PAIRS], sin_one[MAX_ROPE_PAIRS];
  for (int64_t pair = 0; pair < p.pairs; pair++) {
    const double angle = p.inverse ? -p.frequencies[pair] : p.frequencies[pair];
    cos_one[pair] = __builtin_cos(angle);
    sin_one[pair] = __builtin_sin(angle);
  }
  for (int64_t i = begin; i < end; i++) {
    float* rotation = table + i * 2 * p.pairs;
    const bool turns = (i - begin) % MOST_TURNS > 0;
    for (int64_t pair = 0; pair < p.pairs && !turns; pair++) {
      const double angle = double(lowest + i) * p.frequencies[pair];
      cos[pair] = __builtin_cos(angle);
      sin[pair] = p.inverse ? -__builtin_sin(angle) : __builtin_sin(angle);
    }
    for (int64_t pair = 0; pair < p.pairs && turns; pair++) {
      const double before = cos[pair];
      cos[pair] = before * cos_one[pair] - sin[pair] * sin_one[pair];
      sin[pair] = before * sin_one[pair] + sin[pair] * cos_one[pair];
    }
    for (int64_t pair = 0; pair < p.pairs; pair++) {
      rotation[pair] = float(cos[pair]);
      rotation[p.pairs + pair] = float(sin[pair]);
    }
  }
}

TERNFLASH_INLINE void rotate(const RopeParams& p, const float* rotation, const float* x, float* out) {
  const float* cos = rotation;
  const float* sin = rotation + p.pairs;
  if (p.interleaved) {
    for (int64_t pair = 0; pair < p.pairs; pair++) {
      const float a = x[2 * pair], b = x[2 * pair + 1];
      out[2 * pair] = a * cos[pair] - b * sin[pair];
      out[2 * pair + 1] = a * sin[pair] + b * cos[pair];
    }
  } else {
    const float* second = x + p.pairs;
    float* second_out = out + p.pairs;
    for (int64_t pair = 0; pair < p.pairs; pair++) {
      const float a = x[pair], b = second[pair];
      out[pair] = a * cos[pair] - b * sin[pair];
      second_out[pair] = a * sin[pair] + b * cos[pair];
    }
  }
  for (int64_t d = 2 * p.pairs; d < p.head_dim; d++) out[d] = x[d];
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void rope(const RopeParams& p, Context& context) {
  const int32_t* positions = static_cast<const int32_t*>(p.positions.data);
  int64_t lowest = positions[0], highest = positions[0];
  for (int64_t token = 1; token < p.tokens; token++) {
    lowest = min64(lowest, positions[token]);
    highest = max64(highest, positions[token]);
  }
  // A table is worth it where it takes fewer cosines than the tokens have.
  const int64_t table_rows = highest - lowest + 1;
  float* table = table_rows < p.tokens ? shared_scratch<float>(context, table_rows * 2 * p.pairs) : nullptr;
  if (table)
    parallel_ranges(context, table_rows, max64(1, TABLE_GRAIN / p.pairs),
                    [&](int64_t begin, int64_t end, int) { set_rotations(p, lowest, begin, end, table); });

  const int64_t row = p.heads * p.head_dim;
  parallel_ranges(context, p.tokens, max64(1, GRAIN / row), [&](int64_t begin, int64_t end, int thread) {
    float* buffer = thread_scratch<float>(context, thread, 2 * p.head_dim);
    float own[2 * MAX_ROPE_PAIRS];
    for (int64_t token = begin; token < end; token++) {
      const float* rotation = table ? table + (positions[token] - lowest) * 2 * p.pairs : own;
      if (!table) set_rotation(p, positions[token], own);
      for (int64_t head = 0; head < p.heads; head++) {
        const int64_t start = token * row + head * p.head_dim;
        const float* x = as_floats(p.x, start, p.head_dim, buffer);
        rotate(p, rotation, x, buffer + p.head_dim);
        store_floats(p.out, start, p.head_dim, buffer + p.head_dim);
      }
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
