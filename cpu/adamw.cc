// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// AdamW (Loshchilov and Hutter, 2019, algorithm 2, with PyTorch's order of operations) over all parameters in one pass:
//   p -= lr wd p;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
// Parameters and gradients in any float dtype, moments in float32. Tasks are runs of GRAIN elements of one parameter.

#include "kernels.h"
#include "simd.h"

namespace {

using ternflash::AdamWParams;

constexpr int64_t GRAIN = 16384;
constexpr int64_t CHUNK = 512;

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void adamw(const AdamWParams& p, Context& context) {
  int64_t tasks = 0;
  for (size_t i = 0; i < p.count; i++) tasks += ceil_div(p.parameters[i].length, GRAIN);
  const double correction1 = 1.0 - __builtin_pow(p.beta1, double(p.step));
  const double correction2 = 1.0 - __builtin_pow(p.beta2, double(p.step));
  const float step_size = float(p.learning_rate / correction1);
  const float root_factor = float(1.0 / __builtin_sqrt(correction2));
  const float beta1 = float(p.beta1), rest1 = float(1.0 - p.beta1);
  const float beta2 = float(p.beta2), rest2 = float(1.0 - p.beta2);
  const float eps = float(p.eps);
  parallel_for(context, tasks, [&](int64_t task, int) {
    int64_t piece = task;
    size_t index = 0;
    for (; piece >= ceil_div(p.parameters[index].length, GRAIN); index++)
      piece -= ceil_div(p.parameters[index].length, GRAIN);
    const Tensor& parameter = p.parameters[index];
    const float keep = float(1.0 - p.learning_rate * p.weight_decays[index]);
    float* first_moment = static_cast<float*>(p.first_moments[index].data);
    float* second_moment = static_cast<float*>(p.second_moments[index].data);
    const int64_t end = min64((piece + 1) * GRAIN, parameter.length);
    float values[CHUNK], gradient_buffer[CHUNK];
    for (int64_t start = piece * GRAIN; start < end; start += CHUNK) {
      const int64_t count = min64(CHUNK, end - start);
      load_floats(parameter, start, count, values);
      const float* gradient = as_floats(p.gradients[index], start, count, gradient_buffer);
      float* m = first_moment + start;
      float* v = second_moment + start;
      for (int64_t i = 0; i < count; i++) {
        const float g = gradient[i];
        m[i] = beta1 * m[i] + rest1 * g;
        v[i] = beta2 * v[i] + rest2 * g * g;
        values[i] = values[i] * keep - step_size * m[i] / (__builtin_sqrtf(v[i]) * root_factor + eps);
      }
      store_floats(parameter, start, count, values);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
