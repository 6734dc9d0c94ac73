// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Ops whose outputs depend on the elements of their inputs at the same place.

#ifndef TERNFLASH_CUDA_ELEMENTWISE_CUH_
#define TERNFLASH_CUDA_ELEMENTWISE_CUH_

#include "early_launch.h"
#include "vector.h"

namespace ternflash::cuda {

template <class T, int INPUTS, int OUTPUTS>
struct ElementwiseArguments {
  const T* inputs[INPUTS];
  T* outputs[OUTPUTS];  // may be inputs
  int64_t length;
};

// A thread has UNROLL vectors of each tensor, whose loads are all under way at once; what is left over behind the last
// whole vector is the first block's.
template <class Body, class T, int INPUTS, int OUTPUTS, int UNROLL>
__global__ void __launch_bounds__(BLOCK_THREADS, 4)
    elementwise_kernel(const __grid_constant__ ElementwiseArguments<T, INPUTS, OUTPUTS> args,
                       const __grid_constant__ Body body) {
  wait_then_let_next_begin();
  constexpr int W = LANES<T>;
  const int64_t vectors = args.length / W;
  const int64_t first = int64_t(blockIdx.x) * (BLOCK_THREADS * UNROLL) + threadIdx.x;
  Chunk<T, W> inputs[UNROLL][INPUTS];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t vector = first + u * BLOCK_THREADS;
    if (vector < vectors)
#pragma unroll
      for (int n = 0; n < INPUTS; n++) inputs[u][n] = load_chunk<W>(args.inputs[n] + vector * W);
  }
  const auto function = body.prepare();
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    const int64_t vector = first + u * BLOCK_THREADS;
    if (vector >= vectors) break;
    float in[INPUTS][W];
    float out[OUTPUTS][W];
#pragma unroll
    for (int n = 0; n < INPUTS; n++) to_floats(inputs[u][n], in[n]);
#pragma unroll
    for (int i = 0; i < W; i++) {
      float x[INPUTS];
      float y[OUTPUTS];
#pragma unroll
      for (int n = 0; n < INPUTS; n++) x[n] = in[n][i];
      function(x, y);
#pragma unroll
      for (int n = 0; n < OUTPUTS; n++) out[n][i] = y[n];
    }
#pragma unroll
    for (int n = 0; n < OUTPUTS; n++) store_floats<W>(args.outputs[n] + vector * W, out[n]);
  }
  if (blockIdx.x > 0 || vectors * W + threadIdx.x >= args.length) return;
  const int64_t last = vectors * W + threadIdx.x;
  float x[INPUTS];
  float y[OUTPUTS];
#pragma unroll
  for (int n = 0; n < INPUTS; n++) x[n] = static_cast<float>(args.inputs[n][last]);
  function(x, y);
#pragma unroll
  for (int n = 0; n < OUTPUTS; n++) args.outputs[n][last] = static_cast<T>(y[n]);
}

// body.prepare() gives, once for each thread, the function (const float (&x)[INPUTS], float (&y)[OUTPUTS]) of an
// element.
template <class T, int INPUTS, int OUTPUTS, class Body>
void launch_elementwise(const Tensor (&inputs)[INPUTS], const Tensor (&outputs)[OUTPUTS], const Body& body,
                        Context& context) {
  constexpr int UNROLL = INPUTS == 1 ? 4 : 2;
  ElementwiseArguments<T, INPUTS, OUTPUTS> args;
  for (int n = 0; n < INPUTS; n++) args.inputs[n] = data_of<T>(inputs[n]);
  for (int n = 0; n < OUTPUTS; n++) args.outputs[n] = target_of<T>(outputs[n]);
  args.length = outputs[0].length;
  if (args.length == 0) return;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(args.length / LANES<T>, BLOCK_THREADS * UNROLL));
  launch_early(elementwise_kernel<Body, T, INPUTS, OUTPUTS, UNROLL>, static_cast<unsigned>(blocks), BLOCK_THREADS, 0,
               context, args, body);
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_ELEMENTWISE_CUH_
