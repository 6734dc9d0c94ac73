// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention over two disjoint sets of keys made that over all (Flash-Decoding; FlashInfer's merge_state):
//   lse = log(exp(lse_a) + exp(lse_b)), out = share_a out_a + share_b out_b, share = exp(its lse - lse).
// A side without keys, lse -infinity, is not looked at. Tasks are spans of rows [B, S, H]; a row's scalars are float64.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::MergeAttentionStatesBackwardParams;
using ternflash::MergeAttentionStatesParams;

constexpr int64_t GRAIN = 16384;
constexpr int64_t CHUNK = 256;
constexpr int SUM_LANES = 16;

struct Shares {
  double a;
  double b;
  double lse;
};

TERNFLASH_INLINE Shares shares_of(double lse_a, double lse_b) {
  const double none = -__builtin_inf();
  if (lse_a == none && lse_b == none) return {0.0, 0.0, none};
  const double largest = lse_a > lse_b ? lse_a : lse_b;
  return {1.0 / (1.0 + __builtin_exp(lse_b - lse_a)), 1.0 / (1.0 + __builtin_exp(lse_a - lse_b)),
          largest + __builtin_log1p(__builtin_exp(-__builtin_fabs(lse_a - lse_b)))};
}

// Elements [start, start + count) as floats, zeros where no key was seen.
TERNFLASH_INLINE const float* seen(const Tensor& out, float lse, int64_t start, int64_t count, float* buffer) {
  if (lse != -__builtin_inff()) return as_floats(out, start, count, buffer);
  for (int64_t i = 0; i < count; i++) buffer[i] = 0.0f;
  return buffer;
}

// body(row, place of the row in lse) for every row, in spans over all threads.
template <class Params, class Body>
TERNFLASH_INLINE void for_rows(const Params& p, Context& context, const Body& body) {
  parallel_ranges(context, p.batch * p.queries * p.heads, max64(1, GRAIN / p.head_dim),
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t row = begin; row < end; row++) {
                      const int64_t head = row % p.heads, query = row / p.heads % p.queries;
                      body(row, (row / p.heads / p.queries * p.heads + head) * p.queries + query);
                    }
                  });
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void merge_attention_states(const MergeAttentionStatesParams& p, Context& context) {
  const float* lse_a = static_cast<const float*>(p.lse_a.data);
  const float* lse_b = static_cast<const float*>(p.lse_b.data);
  float* lse = static_cast<float*>(p.lse.data);
  for_rows(p, context, [&](int64_t row, int64_t at) {
    const Shares shares = shares_of(double(lse_a[at]), double(lse_b[at]));
    const float share_a = float(shares.a), share_b = float(shares.b);
    lse[at] = float(shares.lse);
    float a_buffer[CHUNK], b_buffer[CHUNK], out[CHUNK];
    for (int64_t first = 0; first < p.head_dim; first += CHUNK) {
      const int64_t start = row * p.head_dim + first, count = min64(CHUNK, p.head_dim - first);
      const float* a = seen(p.out_a, lse_a[at], start, count, a_buffer);
      const float* b = seen(p.out_b, lse_b[at], start, count, b_buffer);
      for (int64_t i = 0; i < count; i++) out[i] = share_a * a[i] + share_b * b[i];
      store_floats(p.out, start, count, out);
    }
  });
}

// d_out_a = share_a d_out, d_lse_a = share_a share_b (d_out . (out_a - out_b)) + share_a d_lse; the same for b.
void merge_attention_states_backward(const MergeAttentionStatesBackwardParams& p, Context& context) {
  const float* lse_a = static_cast<const float*>(p.lse_a.data);
  const float* lse_b = static_cast<const float*>(p.lse_b.data);
  const float* d_lse = static_cast<const float*>(p.d_lse.data);
  for_rows(p, context, [&](int64_t row, int64_t at) {
    const Shares shares = shares_of(double(lse_a[at]), double(lse_b[at]));
    const float share_a = float(shares.a), share_b = float(shares.b);
    float a_buffer[CHUNK], b_buffer[CHUNK], d_buffer[CHUNK], d_a[CHUNK], d_b[CHUNK];
    double lanes[SUM_LANES] = {};
    for (int64_t first = 0; first < p.head_dim; first += CHUNK) {
      const int64_t start = row * p.head_dim + first, count = min64(CHUNK, p.head_dim - first);
      const float* a = seen(p.out_a, lse_a[at], start, count, a_buffer);
      const float* b = seen(p.out_b, lse_b[at], start, count, b_buffer);
      const float* d_out = as_floats(p.d_out, start, count, d_buffer);
      for (int64_t i = 0; i < count; i++) {
        d_a[i] = share_a * d_out[i];
        d_b[i] = share_b * d_out[i];
      }
      int64_t i = 0;
      for (; i + SUM_LANES <= count; i += SUM_LANES)
        for (int lane = 0; lane < SUM_LANES; lane++)
          lanes[lane] += double(d_out[i + lane]) * (double(a[i + lane]) - double(b[i + lane]));
      for (; i < count; i++) lanes[0] += double(d_out[i]) * (double(a[i]) - double(b[i]));
      store_floats(p.d_out_a, start, count, d_a);
      store_floats(p.d_out_b, start, count, d_b);
    }
    double difference = 0;
    for (int lane = 0; lane < SUM_LANES; lane++) difference += lanes[lane];
    const double from_out = shares.a * shares.b * difference, from_lse = d_lse ? double(d_lse[at]) : 0.0;
    static_cast<float*>(p.d_lse_a.data)[at] = float(from_out + shares.a * from_lse);
    static_cast<float*>(p.d_lse_b.data)[at] = float(-from_out + shares.b * from_lse);
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
