// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// RMSNorm (Zhang and Sennrich, 2019) and its gradient; norm_rows.cuh has the kernels.

#include "kernels.h"
#include "norm_rows.cuh"

namespace ternflash::cuda {

void rms_norm(const RmsNormParams& p, Context& context) {
  with_float_type(p.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    NormArguments<T> args = {};
    args.x = data_of<T>(p.x);
    args.residual = data_of<T>(p.residual);
    args.sum = target_of<T>(p.sum);
    args.weight = data_of<T>(p.weight);
    args.out = target_of<T>(p.out);
    args.rstd = target_of<float>(p.rstd);
    args.rows = p.rows;
    args.cols = p.cols;
    args.eps = p.eps;
    launch_norm<false>(args, context);
  });
}

void rms_norm_backward(const RmsNormBackwardParams& p, Context& context) {
  with_float_type(p.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    NormBackwardArguments<T> args = {};
    args.d_out = data_of<T>(p.d_out);
    args.d_sum = data_of<T>(p.d_sum);
    args.x = data_of<T>(p.x);
    args.weight = data_of<T>(p.weight);
    args.rstd = data_of<float>(p.rstd);
    args.d_x = target_of<T>(p.d_x);
    args.rows = p.rows;
    args.cols = p.cols;
    launch_norm_backward<false>(args, target_of<T>(p.d_weight), static_cast<T*>(nullptr), context);
  });
}

}  // namespace ternflash::cuda
