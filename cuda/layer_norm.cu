// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// LayerNorm (Ba, Kiros and Hinton, 2016) and its gradient; norm_rows.cuh has the kernels.

#include "kernels.h"
#include "norm_rows.cuh"

namespace ternflash::cuda {

void layer_norm(const LayerNormParams& p, Context& context) {
  with_float_type(p.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    NormArguments<T> args = {};
    args.x = data_of<T>(p.x);
    args.residual = data_of<T>(p.residual);
    args.sum = target_of<T>(p.sum);
    args.weight = data_of<T>(p.weight);
    args.bias = data_of<T>(p.bias);
    args.out = target_of<T>(p.out);
    args.mean = target_of<float>(p.mean);
    args.rstd = target_of<float>(p.rstd);
    args.rows = p.rows;
    args.cols = p.cols;
    args.eps = p.eps;
    launch_norm<true>(args, context);
  });
}

void layer_norm_backward(const LayerNormBackwardParams& p, Context& context) {
  with_float_type(p.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    NormBackwardArguments<T> args = {};
    args.d_out = data_of<T>(p.d_out);
    args.d_sum = data_of<T>(p.d_sum);
    args.x = data_of<T>(p.x);
    args.weight = data_of<T>(p.weight);
    args.mean = data_of<float>(p.mean);
    args.rstd = data_of<float>(p.rstd);
    args.d_x = target_of<T>(p.d_x);
    args.rows = p.rows;
    args.cols = p.cols;
    launch_norm_backward<true>(args, target_of<T>(p.d_weight), target_of<T>(p.d_bias), context);
  });
}

}  // namespace ternflash::cuda
