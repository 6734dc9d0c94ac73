// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Softmax of rows, and its gradient d_x = y (d_y - sum(y d_y)). A row is in the registers of a group of threads, or, if
// it is long, met twice: then its largest element and its sum of exponentials are taken in one go (Milakov and
// Gimelshein, 2018).

#include <math.h>

#include "kernels.h"
#include "rows.cuh"

namespace ternflash::cuda {

namespace {

template <class T>
struct SoftmaxArguments {
  const T* x;
  T* out;
  int64_t rows;
  int64_t cols;
};

// Where all is -Infinity, subtracting 0 makes every exponential 0.
__device__ __forceinline__ float shift_of(float largest) { return largest == -INFINITY ? 0.0f : largest; }

template <class Shape>
__global__ void __launch_bounds__(Shape::Threads::THREADS, ROW_BLOCKS<Shape>)
    softmax_kernel(const __grid_constant__ SoftmaxArguments<typename Shape::Element> args) {
  using Index = typename Shape::Index;
  constexpr int W = Shape::W;
  typename Shape::Threads group;
  const int lane = group.lane();
  for (int64_t index = int64_t(blockIdx.x) * group.IN_BLOCK + group.index(); index < args.rows;
       index += int64_t(gridDim.x) * group.IN_BLOCK) {
    Row<Shape> row;
    row.load(args.x + index * args.cols, args.cols, lane);
    float largest = -INFINITY;
    float sum = 0.0f;
    if constexpr (Shape::KEPT > 0) {
      for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
        float x[W];
        row.get(slot, chunk, x);
#pragma unroll
        for (int i = 0; i < W; i++) largest = fmaxf(largest, x[i]);
      });
      largest = group.reduce(largest, Largest());
      const float shift = shift_of(largest);
      float e[Shape::SLOTS][W];
      for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
        row.get(slot, chunk, e[slot]);
#pragma unroll
        for (int i = 0; i < W; i++) e[slot][i] = expf(e[slot][i] - shift);
        sum += sum_of_pairs<W>([&](int i) { return e[slot][i]; });
      });
      sum = group.reduce(sum, Sum());
      const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
      for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
#pragma unroll
        for (int i = 0; i < W; i++) e[slot][i] *= inverse;
        store_floats<W>(args.out + index * args.cols + chunk * W, e[slot]);
      });
    } else {
      for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
        float x[W];
        row.get(slot, chunk, x);
        float most = largest;
#pragma unroll
        for (int i = 0; i < W; i++) most = fmaxf(most, x[i]);
        const float shift = shift_of(most);
        if (most > largest) {
          sum *= expf(largest - shift);
          largest = most;
        }
        sum += sum_of_pairs<W>([&](int i) { return expf(x[i] - shift); });
      });
      const float own = largest;
      largest = group.reduce(largest, Largest());
      const float shift = shift_of(largest);
      sum = group.reduce(sum * expf(own - shift), Sum());
      const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
      for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
        float x[W];
        row.get(slot, chunk, x);
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = expf(x[i] - shift) * inverse;
        store_floats<W>(args.out + index * args.cols + chunk * W, x);
      });
    }
  }
}

template <class T>
struct SoftmaxBackwardArguments {
  const T* out;
  const T* d_out;
  T* d_x;
  int64_t rows;
  int64_t cols;
};

template <class Shape>
__global__ void __launch_bounds__(Shape::Threads::THREADS, ROW_BLOCKS<Shape>)
    softmax_backward_kernel(const __grid_constant__ SoftmaxBackwardArguments<typename Shape::Element> args) {
  using Index = typename Shape::Index;
  constexpr int W = Shape::W;
  typename Shape::Threads group;
  const int lane = group.lane();
  for (int64_t index = int64_t(blockIdx.x) * group.IN_BLOCK + group.index(); index < args.rows;
       index += int64_t(gridDim.x) * group.IN_BLOCK) {
    Row<Shape> out;
    Row<Shape> d_out;
    out.load(args.out + index * args.cols, args.cols, lane);
    d_out.load(args.d_out + index * args.cols, args.cols, lane);
    float dot = 0.0f;
    for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
      float y[W];
      float d_y[W];
      out.get(slot, chunk, y);
      d_out.get(slot, chunk, d_y);
      dot += sum_of_pairs<W>([&](int i) { return y[i] * d_y[i]; });
    });
    dot = group.reduce(dot, Sum());
    for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
      float y[W];
      float d_y[W];
      out.get(slot, chunk, y);
      d_out.get(slot, chunk, d_y);
#pragma unroll
      for (int i = 0; i < W; i++) y[i] *= d_y[i] - dot;
      store_floats<W>(args.d_x + index * args.cols + chunk * W, y);
    });
  }
}

template <class Shape>
unsigned row_grid(int64_t rows, const Context& context) {
  return grid_size(ceil_div(rows, Shape::Threads::IN_BLOCK), context, 2 * ROW_BLOCKS<Shape>);
}

}  // namespace

void softmax(const SoftmaxParams& p, Context& context) {
  with_float_type(p.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const SoftmaxArguments<T> args = {data_of<T>(p.x), target_of<T>(p.out), p.rows, p.cols};
    with_row_shape<T>(p.cols, [&](auto shape) {
      using Shape = decltype(shape);
      softmax_kernel<Shape><<<row_grid<Shape>(p.rows, context), Shape::Threads::THREADS, 0, context.stream()>>>(args);
    });
  });
}

void softmax_backward(const SoftmaxBackwardParams& p, Context& context) {
  with_float_type(p.out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const SoftmaxBackwardArguments<T> args = {data_of<T>(p.out), data_of<T>(p.d_out), target_of<T>(p.d_x), p.rows,
                                              p.cols};
    with_row_shape<T>(p.cols, [&](auto shape) {
      using Shape = decltype(shape);
      softmax_backward_kernel<Shape>
          <<<row_grid<Shape>(p.rows, context), Shape::Threads::THREADS, 0, context.stream()>>>(args);
    });
  });
}

}  // namespace ternflash::cuda
