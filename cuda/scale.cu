// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// x times a number, of which a part may be in device memory.

#include "elementwise.cuh"
#include "kernels.h"

namespace ternflash::cuda {

namespace {

struct Scaling {
  double factor;
  const float* factor_tensor;  // or null

  __device__ __forceinline__ auto prepare() const {
    const float product = static_cast<float>(factor_tensor ? factor * static_cast<double>(*factor_tensor) : factor);
    return [product](const float(&x)[1], float(&y)[1]) { y[0] = x[0] * product; };
  }
};

}  // namespace

void scale(const ScaleParams& p, Context& context) {
  const Scaling scaling = {p.factor, data_of<float>(p.factor_tensor)};
  with_float_type(p.x.dtype, [&](auto type) {
    launch_elementwise<typename decltype(type)::type, 1, 1>({p.x}, {p.out}, scaling, context);
  });
}

}  // namespace ternflash::cuda
