// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = f(gate) up with f(x) = x / (1 + e^-x) (SwiGLU; Shazeer, 2020), f(x) = max(x, 0)^2 (BitNet b1.58 2B-4T), f(x) =
// x Phi(x) or its tanh form (GEGLU; Hendrycks and Gimpel, 2016), and its gradients d_gate = d_out up f'(gate), d_up =
// d_out f(gate).
//
// For 16-bit floats e^x is exp2(x log2(e)) with the product rounded, and quotients are approximate: both wrong by at
// most 2^-17 of themselves where the result is not 0, which rounding to 11 bits hides.

#include "elementwise.cuh"
#include "kernels.h"

namespace ternflash::cuda {

namespace {

constexpr float LOG2_E = 1.44269504088896341f;

template <bool FLOAT32>
__device__ __forceinline__ float exponential(float x) {
  return FLOAT32 ? expf(x) : exp2f(x * LOG2_E);
}

// 1 / x for x from 1 to 2^126.
template <bool FLOAT32>
__device__ __forceinline__ float inverse(float x) {
  return FLOAT32 ? 1.0f / x : rcp_approx(x);
}

// max(x, 0) that keeps NaN.
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

// Phi(-x), the tail of the normal distribution, for x >= 0, given `bell` = e^(-x^2 / 2): bell times a polynomial of 1 /
// (1 + 0.35 x) without constant term, which follows Mills' ratio to 3e-8 of itself (minimax over 0..14).
template <bool FLOAT32>
__device__ __forceinline__ float normal_tail(float x, float bell) {
  const float t = inverse<FLOAT32>(fmaf(0.35f, x, 1.0f));
  float p = -0.02914592049f;
  p = fmaf(p, t, 0.14397165f);
  p = fmaf(p, t, -0.2557141558f);
  p = fmaf(p, t, 0.1591740487f);
  p = fmaf(p, t, -0.0231097594f);
  p = fmaf(p, t, 0.1055079727f);
  p = fmaf(p, t, 0.1198328753f);
  p = fmaf(p, t, 0.1398618687f);
  p = fmaf(p, t, 0.1396214044f);
  return p * t * bell;
}

// f(x) and its slope.
struct Curve {
  float value;
  float slope;
};

// x s with s = 1 / (1 + e^-x), by e^-|x| so that s and 1 - s keep their digits. The slope is at most 1.1.
struct Silu {
  template <bool FLOAT32>
  static __device__ __forceinline__ Curve at(float x) {
    const float e = exponential<FLOAT32>(-fabsf(x));
    const float head = inverse<FLOAT32>(1.0f + e);
    const float tail = e * head;
    const float s = x < 0.0f ? tail : head;
    return {x * s, s * fmaf(x, x < 0.0f ? head : tail, 1.0f)};
  }
};

// x Phi(x) = max(x, 0) - |x| Phi(-|x|): the tail on both sides keeps its digits. The slope Phi(x) + x phi(x) is at
// most 1.13.
struct GeluExact {
  template <bool FLOAT32>
  static __device__ __forceinline__ Curve at(float x) {
    const float size = fabsf(x);
    const float bell = exponential<FLOAT32>(-0.5f * (x * x));
    const float tail = normal_tail<FLOAT32>(size, bell);
    return {relu(x) - size * tail,
            (x > 0.0f ? 1.0f - tail : tail) + x * (bell * 0.398942280401432678f)};  // 1 / sqrt(2 pi)
  }
};

// x (1 + tanh(v / 2)) / 2 = x / (1 + e^-v) with v = sqrt(8 / pi) (x + 0.044715 x^3), by e^-|v| so that the tail keeps
// its digits here too. Far out, where the curve has long reached its limits, v is taken from nearer in and stays
// finite.
struct GeluTanh {
  template <bool FLOAT32>
  static __device__ __forceinline__ Curve at(float x) {
    constexpr float LINEAR = 1.59576912160573071f;  // sqrt(8 / pi)
    constexpr float CUBIC = LINEAR * 0.044715f;
    const float y = x > 32.0f ? 32.0f : x < -32.0f ? -32.0f : x;
    const float square = y * y;
    const float e = exponential<FLOAT32>(-fabsf(y) * fmaf(CUBIC, square, LINEAR));
    const float head = inverse<FLOAT32>(1.0f + e);
    const float tail = e * head;
    return {relu(x) - fabsf(x) * tail,
            (x > 0.0f ? head : tail) + (head * tail) * (y * fmaf(3.0f * CUBIC, square, LINEAR))};
  }
};

// f(gate) up, and its gradients. Factors are taken in an order in which no product of finite numbers overflows and then
// meets a 0.
template <class F>
struct Gated {
  template <bool FLOAT32>
  static __device__ __forceinline__ float forward(float x, float up) {
    return F::template at<FLOAT32>(x).value * up;
  }
  template <bool FLOAT32>
  static __device__ __forceinline__ void backward(float x, float up, float d_out, float& d_gate, float& d_up) {
    const Curve f = F::template at<FLOAT32>(x);
    // Half of a slope above 1 is below it: an overflow is one of the result.
    d_gate = 0.5f * f.slope * d_out * up * 2.0f;
    d_up = d_out * f.value;
  }
};

// The square is never formed: it could overflow, and infinity times an up of 0 is NaN.
struct Relu2 {
  template <bool FLOAT32>
  static __device__ __forceinline__ float forward(float x, float up) {
    return relu(x) * (relu(x) * up);
  }
  template <bool FLOAT32>
  static __device__ __forceinline__ void backward(float x, float up, float d_out, float& d_gate, float& d_up) {
    const float positive = relu(x);
    d_gate = d_out * (up * (x > 0.0f ? 1.0f : 0.0f)) * positive * 2.0f;
    d_up = positive * (positive * d_out);
  }
};

template <class Kind, bool FLOAT32>
struct Forward {
  __device__ __forceinline__ auto prepare() const {
    return [](const float(&x)[2], float(&y)[1]) { y[0] = Kind::template forward<FLOAT32>(x[0], x[1]); };
  }
};

template <class Kind, bool FLOAT32>
struct Backward {
  __device__ __forceinline__ auto prepare() const {
    return [](const float(&x)[3], float(&y)[2]) { Kind::template backward<FLOAT32>(x[0], x[1], x[2], y[0], y[1]); };
  }
};

template <class Body>
void with_kind(GatedActivation kind, const Body& body) {
  switch (kind) {
    case GatedActivation::SWIGLU:
      return body(Gated<Silu>{});
    case GatedActivation::RELU2_GLU:
      return body(Relu2{});
    case GatedActivation::GEGLU:
      return body(Gated<GeluExact>{});
    case GatedActivation::GEGLU_TANH:
      return body(Gated<GeluTanh>{});
  }
}

}  // namespace

void gated_activation(const GatedActivationParams& p, Context& context) {
  with_float_type(p.gate.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_kind(p.kind, [&](auto kind) {
      launch_elementwise<T, 2, 1>({p.gate, p.up}, {p.out}, Forward<decltype(kind), std::is_same_v<T, float>>{},
                                  context);
    });
  });
}

void gated_activation_backward(const GatedActivationBackwardParams& p, Context& context) {
  with_float_type(p.gate.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_kind(p.kind, [&](auto kind) {
      launch_elementwise<T, 3, 2>({p.gate, p.up, p.d_out}, {p.d_gate, p.d_up},
                                  Backward<decltype(kind), std::is_same_v<T, float>>{}, context);
    });
  });
}

}  // namespace ternflash::cuda
