// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = f(gate) up with f(x) = x / (1 + e^-x) (SwiGLU; Shazeer, 2020) or f(x) = max(x, 0)^2 (BitNet b1.58 2B-4T), and
// its gradients d_gate = d_out up f'(gate), d_up = d_out f(gate). Elementwise; tasks are runs of GRAIN elements.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::GatedActivation;
using ternflash::GatedActivationBackwardParams;
using ternflash::GatedActivationParams;

constexpr int64_t GRAIN = 8192;
constexpr int64_t CHUNK = 512;
static_assert(CHUNK % LANES == 0, "chunks are whole vectors");

// CHUNK elements of a tensor, zero beyond the end.
TERNFLASH_INLINE void load_chunk(const Tensor& tensor, int64_t start, int64_t count, float* out) {
  load_floats(tensor, start, count, out);
  for (int64_t i = count; i < round_up(count, LANES); i++) out[i] = 0.0f;
}

// max(x, 0) that keeps NaN.
TERNFLASH_INLINE Vec relu(Vec x) { return vec_max(Vec{}, x); }

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void gated_activation(const GatedActivationParams& p, Context& context) {
  parallel_ranges(context, p.gate.length, GRAIN, [&](int64_t begin, int64_t end, int) {
    float gate[CHUNK], up[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
      const int64_t count = min64(CHUNK, end - i);
      load_chunk(p.gate, i, count, gate);
      load_chunk(p.up, i, count, up);
      for (int64_t j = 0; j < count; j += LANES) {
        const Vec x = load(gate + j), u = load(up + j);
        // The square is never formed: it could overflow, and infinity times an up of 0 is NaN.
        const Vec positive = relu(x);
        store(gate + j, p.kind == GatedActivation::SWIGLU ? x * vec_sigmoid(x) * u : positive * (positive * u));
      }
      store_floats(p.out, i, count, gate);
    }
  });
}

void gated_activation_backward(const GatedActivationBackwardParams& p, Context& context) {
  parallel_ranges(context, p.gate.length, GRAIN, [&](int64_t begin, int64_t end, int) {
    float gate[CHUNK], up[CHUNK], d_out[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
      const int64_t count = min64(CHUNK, end - i);
      load_chunk(p.gate, i, count, gate);
      load_chunk(p.up, i, count, up);
      load_chunk(p.d_out, i, count, d_out);
      for (int64_t j = 0; j < count; j += LANES) {
        const Vec x = load(gate + j), u = load(up + j), d = load(d_out + j);
        // Factors are taken in an order in which no product of finite numbers overflows and then meets a 0.
        if (p.kind == GatedActivation::SWIGLU) {
          const Vec sigmoid = vec_sigmoid(x);
          const Vec slope = sigmoid * (1.0f + x * (1.0f - sigmoid));  // at most 1.1
          store(gate + j, slope * d * u);
          store(up + j, d * (x * sigmoid));
        } else {
          const Vec positive = relu(x);
          const Vec on = x > 0.0f ? broadcast(1.0f) : Vec{};
          store(gate + j, d * (u * on) * positive * 2.0f);
          store(up + j, positive * (positive * d));
        }
      }
      store_floats(p.d_gate, i, count, gate);
      store_floats(p.d_up, i, count, up);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
