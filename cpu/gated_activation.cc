// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = f(gate) up with f(x) = x / (1 + e^-x) (SwiGLU; Shazeer, 2020), f(x) = max(x, 0)^2 (BitNet b1.58 2B-4T), f(x) =
// x Phi(x) or its tanh form (GEGLU; Hendrycks and Gimpel, 2016), and its gradients d_gate = d_out up f'(gate), d_up =
// d_out f(gate). Elementwise; tasks are runs of GRAIN elements.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::GatedActivation;
using ternflash::GatedActivationBackwardParams;
using ternflash::GatedActivationParams;

constexpr int64_t GRAIN = 8192;
constexpr int64_t CHUNK = 512;
static_assert(CHUNK % LANES == 0, "chunks are whole vectors");

// max(x, 0) that keeps NaN.
TERNFLASH_INLINE Vec relu(Vec x) { return vec_max(Vec{}, x); }

// x / (1 + e^-x); its slope is at most 1.1.
struct Silu {
  TERNFLASH_INLINE Vec value(Vec x) { return x * vec_sigmoid(x); }
  TERNFLASH_INLINE void with_slope(Vec x, Vec* value, Vec* slope) {
    const Vec sigmoid = vec_sigmoid(x);
    *value = x * sigmoid;
    *slope = sigmoid * (1.0f + x * (1.0f - sigmoid));
  }
};

// x Phi(x) = max(x, 0) - |x| Phi(-|x|): the tail on both sides keeps its digits. The slope Phi(x) + x phi(x) is at most
// 1.13.
struct GeluExact {
  TERNFLASH_INLINE Vec value(Vec x) {
    const Vec size = vec_max(x, -x);
    return relu(x) - size * vec_normal_tail(size, vec_exp(-0.5f * (x * x)));
  }
  TERNFLASH_INLINE void with_slope(Vec x, Vec* value, Vec* slope) {
    const Vec size = vec_max(x, -x);
    const Vec bell = vec_exp(-0.5f * (x * x));
    const Vec tail = vec_normal_tail(size, bell);
    *value = relu(x) - size * tail;
    *slope = (x > 0.0f ? 1.0f - tail : tail) + x * (bell * 0.398942280401432678f);  // 1 / sqrt(2 pi)
  }
};

// x (1 + tanh(v / 2)) / 2 = x / (1 + e^-v) with v = sqrt(8 / pi) (x + 0.044715 x^3), by e^-|v| so that the tail keeps
// its digits here too. Far out, where the curve has long reached its limits, v is taken from nearer in and stays
// finite.
struct GeluTanh {
  static constexpr float LINEAR = 1.59576912160573071f;  // sqrt(8 / pi)
  static constexpr float CUBIC = LINEAR * 0.044715f;
  TERNFLASH_INLINE Vec near(Vec x) { return vec_min(broadcast(32.0f), vec_max(broadcast(-32.0f), x)); }
  TERNFLASH_INLINE Vec exponential(Vec near) {
    return vec_exp(-vec_max(near, -near) * (LINEAR + CUBIC * (near * near)));
  }
  TERNFLASH_INLINE Vec value(Vec x) {
    const Vec e = exponential(near(x));
    return relu(x) - vec_max(x, -x) * (e / (1.0f + e));
  }
  TERNFLASH_INLINE void with_slope(Vec x, Vec* value, Vec* slope) {
    const Vec y = near(x);
    const Vec e = exponential(y);
    const Vec head = 1.0f / (1.0f + e);
    const Vec tail = e * head;
    *value = relu(x) - vec_max(x, -x) * tail;
    *slope = (x > 0.0f ? head : tail) + (head * tail) * (y * (LINEAR + 3.0f * CUBIC * (y * y)));
  }
};

// f(gate) up, and its gradients. Factors are taken in an order in which no product of finite numbers overflows and then
// meets a 0.
template <class Activation>
struct Gated {
  TERNFLASH_INLINE Vec forward(Vec x, Vec up) { return Activation::value(x) * up; }
  TERNFLASH_INLINE void backward(Vec x, Vec up, Vec d_out, Vec* d_gate, Vec* d_up) {
    Vec value, slope;
    Activation::with_slope(x, &value, &slope);
    // Half of a slope above 1 is below it: an overflow is one of the result.
    *d_gate = 0.5f * slope * d_out * up * 2.0f;
    *d_up = d_out * value;
  }
};

// The square is never formed: it could overflow, and infinity times an up of 0 is NaN.
struct Relu2 {
  TERNFLASH_INLINE Vec forward(Vec x, Vec up) { return relu(x) * (relu(x) * up); }
  TERNFLASH_INLINE void backward(Vec x, Vec up, Vec d_out, Vec* d_gate, Vec* d_up) {
    const Vec positive = relu(x);
    const Vec on = x > 0.0f ? broadcast(1.0f) : Vec{};
    *d_gate = d_out * (up * on) * positive * 2.0f;
    *d_up = positive * (positive * d_out);
  }
};

template <class Kind>
TERNFLASH_INLINE void forward(const GatedActivationParams& p, Context& context) {
  parallel_ranges(context, p.gate.length, GRAIN, [&](int64_t begin, int64_t end, int) {
    float gate_buffer[CHUNK], up_buffer[CHUNK], out_buffer[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
      const int64_t count = min64(CHUNK, end - i);
      const float* gate = as_floats(p.gate, i, count, gate_buffer);
      const float* up = as_floats(p.up, i, count, up_buffer);
      float* out = p.out.dtype == DType::FLOAT32 ? static_cast<float*>(p.out.data) + i : out_buffer;
      int64_t j = 0;
      for (; j + LANES <= count; j += LANES) store(out + j, Kind::forward(load(gate + j), load(up + j)));
      if (j < count) {
        const int rest = int(count - j);
        const Vec last = Kind::forward(load_partial(gate + j, rest, 0.0f), load_partial(up + j, rest, 0.0f));
        store_partial(out + j, last, rest);
      }
      if (out == out_buffer) store_floats(p.out, i, count, out);
    }
  });
}

template <class Kind>
TERNFLASH_INLINE void backward(const GatedActivationBackwardParams& p, Context& context) {
  parallel_ranges(context, p.gate.length, GRAIN, [&](int64_t begin, int64_t end, int) {
    float gate_buffer[CHUNK], up_buffer[CHUNK], d_out_buffer[CHUNK], d_gate_buffer[CHUNK], d_up_buffer[CHUNK];
    for (int64_t i = begin; i < end; i += CHUNK) {
      const int64_t count = min64(CHUNK, end - i);
      const float* gate = as_floats(p.gate, i, count, gate_buffer);
      const float* up = as_floats(p.up, i, count, up_buffer);
      const float* d_out = as_floats(p.d_out, i, count, d_out_buffer);
      const bool direct = p.d_gate.dtype == DType::FLOAT32;
      float* d_gate = direct ? static_cast<float*>(p.d_gate.data) + i : d_gate_buffer;
      float* d_up = direct ? static_cast<float*>(p.d_up.data) + i : d_up_buffer;
      Vec of_gate, of_up;
      int64_t j = 0;
      for (; j + LANES <= count; j += LANES) {
        Kind::backward(load(gate + j), load(up + j), load(d_out + j), &of_gate, &of_up);
        store(d_gate + j, of_gate);
        store(d_up + j, of_up);
      }
      if (j < count) {
        const int rest = int(count - j);
        Kind::backward(load_partial(gate + j, rest, 0.0f), load_partial(up + j, rest, 0.0f),
                       load_partial(d_out + j, rest, 0.0f), &of_gate, &of_up);
        store_partial(d_gate + j, of_gate, rest);
        store_partial(d_up + j, of_up, rest);
      }
      if (!direct) {
        store_floats(p.d_gate, i, count, d_gate);
        store_floats(p.d_up, i, count, d_up);
      }
    }
  });
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void gated_activation(const GatedActivationParams& p, Context& context) {
  switch (p.kind) {
    case GatedActivation::SWIGLU:
      return forward<Gated<Silu>>(p, context);
    case GatedActivation::RELU2_GLU:
      return forward<Relu2>(p, context);
    case GatedActivation::GEGLU:
      return forward<Gated<GeluExact>>(p, context);
    case GatedActivation::GEGLU_TANH:
      return forward<Gated<GeluTanh>>(p, context);
  }
}

void gated_activation_backward(const GatedActivationBackwardParams& p, Context& context) {
  switch (p.kind) {
    case GatedActivation::SWIGLU:
      return backward<Gated<Silu>>(p, context);
    case GatedActivation::RELU2_GLU:
      return backward<Relu2>(p, context);
    case GatedActivation::GEGLU:
      return backward<Gated<GeluExact>>(p, context);
    case GatedActivation::GEGLU_TANH:
      return backward<Gated<GeluTanh>>(p, context);
  }
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
