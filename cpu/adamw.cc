// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// AdamW (Loshchilov and Hutter, 2019, algorithm 2, with PyTorch's order of operations) over all parameters in one pass:
//   p -= lr wd p;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t)
//   + eps)
// Parameters and gradients in any float dtype, moments in float32. p is the float32 master where there is one, and the
// parameter its rounding; g is the gradient times the coefficient. Tasks are runs of GRAIN elements of one parameter.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::AdamWParams;

constexpr int64_t GRAIN = 16384;
constexpr int64_t CHUNK = 512;

// The numbers of a step, in float32.
struct Step {
  float beta1, rest1;  // 1 - beta1
  float beta2, rest2;
  float size;         // learning rate / (1 - beta1^t)
  float root_factor;  // 1 / sqrt(1 - beta2^t)
  float eps;
  float coefficient;  // of the gradients
};

// By value and without aliases, so that the loop becomes vectors. keep is 1 - learning rate * weight decay.
TERNFLASH_INLINE void update(const Step step, const float keep, float* __restrict values, float* __restrict m,
                             float* __restrict v, const float* __restrict gradient, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    const float g = gradient[i] * step.coefficient;
    m[i] = step.beta1 * m[i] + step.rest1 * g;
    v[i] = step.beta2 * v[i] + step.rest2 * g * g;
    values[i] = values[i] * keep - step.size * m[i] / (__builtin_sqrtf(v[i]) * step.root_factor + step.eps);
  }
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void adamw(const AdamWParams& p, Context& context) {
  int64_t tasks = 0;
  for (size_t i = 0; i < p.count; i++) tasks += ceil_div(p.parameters[i].length, GRAIN);
  const double correction1 = 1.0 - __builtin_pow(p.beta1, double(p.step));
  const double correction2 = 1.0 - __builtin_pow(p.beta2, double(p.step));
  const Step step = {float(p.beta1),
                     float(1.0 - p.beta1),
                     float(p.beta2),
                     float(1.0 - p.beta2),
                     float(p.learning_rate / correction1),
                     float(1.0 / __builtin_sqrt(correction2)),
                     float(p.eps),
                     p.coefficient.data ? *static_cast<const float*>(p.coefficient.data) : 1.0f};
  parallel_for(context, tasks, [&](int64_t task, int) {
    int64_t piece = task;
    size_t index = 0;
    for (; piece >= ceil_div(p.parameters[index].length, GRAIN); index++)
      piece -= ceil_div(p.parameters[index].length, GRAIN);
    const Tensor& parameter = p.parameters[index];
    // What is updated: the master, the float32 parameter, or nothing that is there in float32.
    float* place = static_cast<float*>(parameter.dtype == DType::FLOAT32 ? parameter.data : p.masters[index].data);
    const float keep = float(1.0 - p.learning_rate * p.weight_decays[index]);
    float* first_moment = static_cast<float*>(p.first_moments[index].data);
    float* second_moment = static_cast<float*>(p.second_moments[index].data);
    const int64_t end = min64((piece + 1) * GRAIN, parameter.length);
    float buffer[CHUNK], gradient_buffer[CHUNK];
    for (int64_t start = piece * GRAIN; start < end; start += CHUNK) {
      const int64_t count = min64(CHUNK, end - start);
      float* values = place ? place + start : buffer;
      if (!place) load_floats(parameter, start, count, values);
      const float* gradient = as_floats(p.gradients[index], start, count, gradient_buffer);
      update(step, keep, values, first_moment + start, second_moment + start, gradient, count);
      if (parameter.dtype != DType::FLOAT32) store_floats(parameter, start, count, values);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
