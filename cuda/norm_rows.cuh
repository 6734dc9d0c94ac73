// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// RMSNorm and LayerNorm, y = (x - m) r w + b with m = 0 for the first, and their gradients. x, y [M, K], w and b [K], m
// and r float32 [M]. With a residual, x + residual takes the place of x as it was rounded. A group of threads has a row
// in its registers, and takes the next one when it is done. Rows too long for that are read again for every pass.
//
// Sums are float32, those of a thread in pairs; a row whose squares float32 cannot hold is summed again in float64.

#ifndef TERNFLASH_CUDA_NORM_ROWS_CUH_
#define TERNFLASH_CUDA_NORM_ROWS_CUH_

#include "columns.cuh"
#include "early_launch.h"
#include "rows.cuh"

namespace ternflash::cuda {

template <class T>
struct NormArguments {
  const T* x;
  const T* residual;  // or null
  T* sum;
  const T* weight;  // or null
  const T* bias;    // or null
  T* out;
  float* mean;  // LayerNorm's
  float* rstd;
  int64_t rows;
  int64_t cols;
  double eps;
};

// Sums of squares that leave no doubt: inside this range no partial sum overflowed, and what underflowed is too small
// to be seen. A NaN is outside.
__device__ __forceinline__ bool safe_squares(float squares) { return squares > 1e-25f && squares < 1e37f; }

// A chunk of a [K] tensor, from the L1 cache after the first row, or of one number if it is absent.
template <int W, class T>
__device__ __forceinline__ void get_weight(const T* weight, int64_t chunk, float absent, float (&values)[W]) {
  if (weight) {
    load_floats(weight + chunk * W, values);
  } else {
#pragma unroll
    for (int i = 0; i < W; i++) values[i] = absent;
  }
}

// The sums of a weight's gradient take registers, LayerNorm has two of them, and blocks of several rows and long rows
// take a few more: which leaves room for fewer threads.
template <class Shape, bool LAYER>
constexpr int NORM_BACKWARD_BLOCKS = std::max(
    1, ROW_BLOCKS<Shape, 1024 - (LAYER ? 256 : 0) - (Shape::Threads::IN_BLOCK > 1 || Shape::KEPT == 0 ? 256 : 0)>);

template <class Shape, bool LAYER>
__global__ void __launch_bounds__(Shape::Threads::THREADS, ROW_BLOCKS<Shape>)
    norm_kernel(const __grid_constant__ NormArguments<typename Shape::Element> args) {
  wait_then_let_next_begin();
  using T = typename Shape::Element;
  using Index = typename Shape::Index;
  constexpr int W = Shape::W;
  typename Shape::Threads group;
  const int lane = group.lane();
  const float count = static_cast<float>(args.cols);
  const float eps = static_cast<float>(args.eps);
  for (int64_t index = int64_t(blockIdx.x) * group.IN_BLOCK + group.index(); index < args.rows;
       index += int64_t(gridDim.x) * group.IN_BLOCK) {
    const int64_t start = index * args.cols;
    const T* x = args.residual ? args.sum + start : args.x + start;
    Row<Shape> row;
    T first = args.x[start];
    if (args.residual) {
      if constexpr (LAYER) first = static_cast<T>(static_cast<float>(first) + static_cast<float>(args.residual[start]));
      Row<Shape> residual;
      row.load(args.x + start, args.cols, lane);
      residual.load(args.residual + start, args.cols, lane);
      for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
        float values[W];
        float more[W];
        row.get(slot, chunk, values);
        residual.get(slot, chunk, more);
#pragma unroll
        for (int i = 0; i < W; i++) values[i] += more[i];
        const Chunk<T, W> rounded = from_floats<T, W>(values);
        store_chunk(args.sum + start + chunk * W, rounded);
        row.keep(slot, rounded);
      });
      if constexpr (Shape::KEPT == 0) row.load(x, args.cols, lane);
    } else {
      row.load(x, args.cols, lane);
    }

    // The elements are met as their distances from `pivot`: for LayerNorm a float near the mean, found as the mean
    // distance from the first element, so that they are as small as the row's spread however large its mean is.
    // `offset` is what pivot lacks.
    float pivot = 0.0f;
    float offset = 0.0f;
    if constexpr (LAYER) {
      pivot = static_cast<float>(first);
      float total = 0.0f;
      for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
        float values[W];
        row.get(slot, chunk, values);
        total += sum_of_pairs<W>([&](int i) { return values[i] - pivot; });
      });
      pivot += group.reduce(total, Sum()) / count;
    }
    float sums[2] = {0.0f, 0.0f};  // of the squares, and for LayerNorm of the distances
    for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
      float values[W];
      row.get(slot, chunk, values);
#pragma unroll
      for (int i = 0; i < W; i++) values[i] -= pivot;
      sums[0] += sum_of_pairs<W>([&](int i) { return values[i] * values[i]; });
      if constexpr (LAYER) sums[1] += sum_of_pairs<W>([&](int i) { return values[i]; });
    });
    if constexpr (LAYER)
      group.reduce(sums, Sum());
    else
      sums[0] = group.reduce(sums[0], Sum());
    float rstd;
    if (safe_squares(sums[0])) {
      if constexpr (LAYER) offset = sums[1] / count;
      rstd = __frsqrt_rn(fmaxf(sums[0] / count - offset * offset, 0.0f) + eps);
    } else {
      double mean = 0.0;
      if constexpr (LAYER) {
        double total = 0.0;
        for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
          float values[W];
          row.get(slot, chunk, values);
#pragma unroll
          for (int i = 0; i < W; i++) total += static_cast<double>(values[i]);
        });
        mean = group.reduce(total, Sum()) / static_cast<double>(args.cols);
      }
      double squares = 0.0;
      for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
        float values[W];
        row.get(slot, chunk, values);
#pragma unroll
        for (int i = 0; i < W; i++) {
          const double distance = static_cast<double>(values[i]) - mean;
          squares += distance * distance;
        }
      });
      squares = group.reduce(squares, Sum());
      rstd = static_cast<float>(1.0 / sqrt(squares / static_cast<double>(args.cols) + args.eps));
      if constexpr (LAYER) {
        pivot = static_cast<float>(mean);
        offset = static_cast<float>(mean - static_cast<double>(pivot));
      }
    }
    if (lane == 0) {
      args.rstd[index] = rstd;
      if constexpr (LAYER) args.mean[index] = pivot + offset;
    }
    for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
      float values[W];
      float w[W];
      row.get(slot, chunk, values);
      get_weight(args.weight, chunk, 1.0f, w);
      if constexpr (LAYER) {
        float b[W];
        get_weight(args.bias, chunk, 0.0f, b);
#pragma unroll
        for (int i = 0; i < W; i++) values[i] = fmaf((values[i] - pivot - offset) * rstd, w[i], b[i]);
      } else {
#pragma unroll
        for (int i = 0; i < W; i++) values[i] = values[i] * rstd * w[i];
      }
      store_floats<W>(args.out + start + chunk * W, values);
    });
  }
}

template <class T>
struct NormBackwardArguments {
  const T* d_out;
  const T* d_sum;  // or null
  const T* x;
  const T* weight;    // or null
  const float* mean;  // LayerNorm's
  const float* rstd;
  T* d_x;
  float* weight_parts;  // [blocks, K]: sums over the rows of a block, or null
  float* bias_parts;
  int64_t rows;
  int64_t cols;
};

// Adds each group's sums of its columns in the order of the groups, and stores what the block has.
template <class Shape>
__device__ __forceinline__ void store_parts(float* parts, const float (&sums)[Shape::SLOTS][Shape::W], int64_t cols) {
  constexpr int W = Shape::W;
  constexpr int GROUPS = Shape::Threads::IN_BLOCK;
  typename Shape::Threads group;
  const int lane = group.lane();
  float* target = parts + blockIdx.x * cols;
  if constexpr (GROUPS == 1) {
    for_chunks<Shape>(cols, lane, [&](int slot, typename Shape::Index chunk) {
#pragma unroll
      for (int i = 0; i < W; i++) target[int64_t(chunk) * W + i] = sums[slot][i];
    });
  } else {
    constexpr int COLS = Shape::STEP * Shape::SLOTS * W;
    __shared__ float shares[GROUPS][COLS];
    __syncthreads();
#pragma unroll
    for (int slot = 0; slot < Shape::SLOTS; slot++)
#pragma unroll
      for (int i = 0; i < W; i++) shares[group.index()][(slot * Shape::STEP + lane) * W + i] = sums[slot][i];
    __syncthreads();
    for (int col = threadIdx.x; col < COLS && col < cols; col += Shape::Threads::THREADS) {
      float total = 0.0f;
#pragma unroll 8
      for (int g = 0; g < GROUPS; g++) total += shares[g][col];
      target[col] = total;
    }
  }
}

// With n = (x - m) r and g = w d_y: d_x = r (g - mean(g) - n mean(n g)) + d_sum, without mean(g) for RMSNorm; d_w = sum
// over rows of d_y n; d_b = sum over rows of d_y. n comes first: the product of x and d_y could overflow.
template <class Shape, bool LAYER>
__global__ void __launch_bounds__(Shape::Threads::THREADS, (NORM_BACKWARD_BLOCKS<Shape, LAYER>))
    norm_backward_kernel(const __grid_constant__ NormBackwardArguments<typename Shape::Element> args) {
  using Index = typename Shape::Index;
  constexpr int W = Shape::W;
  typename Shape::Threads group;
  const int lane = group.lane();
  const float count = static_cast<float>(args.cols);
  float d_weight[Shape::SLOTS][W] = {};
  float d_bias[Shape::SLOTS][W] = {};
  for (int64_t index = int64_t(blockIdx.x) * group.IN_BLOCK + group.index(); index < args.rows;
       index += int64_t(gridDim.x) * group.IN_BLOCK) {
    const int64_t start = index * args.cols;
    Row<Shape> x;
    Row<Shape> d_out;
    Row<Shape> d_sum;
    x.load(args.x + start, args.cols, lane);
    d_out.load(args.d_out + start, args.cols, lane);
    if (args.d_sum) d_sum.load(args.d_sum + start, args.cols, lane);
    const float rstd = args.rstd[index];
    const float mean = LAYER ? args.mean[index] : 0.0f;
    float sums[2] = {0.0f, 0.0f};  // of n g, and for LayerNorm of g
    for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
      float n[W];
      float g[W];
      float w[W];
      x.get(slot, chunk, n);
      d_out.get(slot, chunk, g);
      get_weight(args.weight, chunk, 1.0f, w);
#pragma unroll
      for (int i = 0; i < W; i++) {
        n[i] = (n[i] - mean) * rstd;
        if constexpr (Shape::KEPT > 0) {
          d_weight[slot][i] = fmaf(g[i], n[i], d_weight[slot][i]);
          if constexpr (LAYER) d_bias[slot][i] += g[i];
        }
        g[i] *= w[i];
      }
      sums[0] += sum_of_pairs<W>([&](int i) { return n[i] * g[i]; });
      if constexpr (LAYER) sums[1] += sum_of_pairs<W>([&](int i) { return g[i]; });
    });
    if constexpr (LAYER)
      group.reduce(sums, Sum());
    else
      sums[0] = group.reduce(sums[0], Sum());
    const float product = sums[0] / count;
    const float level = sums[1] / count;
    for_chunks<Shape>(args.cols, lane, [&](int slot, Index chunk) {
      float n[W];
      float g[W];
      float w[W];
      x.get(slot, chunk, n);
      d_out.get(slot, chunk, g);
      get_weight(args.weight, chunk, 1.0f, w);
#pragma unroll
      for (int i = 0; i < W; i++) {
        n[i] = (n[i] - mean) * rstd;
        g[i] = rstd * (g[i] * w[i] - level - n[i] * product);
      }
      if (args.d_sum) {
        float more[W];
        d_sum.get(slot, chunk, more);
#pragma unroll
        for (int i = 0; i < W; i++) g[i] += more[i];
      }
      store_floats<W>(args.d_x + start + chunk * W, g);
    });
  }
  if constexpr (Shape::KEPT > 0) {
    if (args.weight_parts) store_parts<Shape>(args.weight_parts, d_weight, args.cols);
    if constexpr (LAYER)
      if (args.bias_parts) store_parts<Shape>(args.bias_parts, d_bias, args.cols);
  }
}

constexpr int64_t LONG_ROW_PARTS = 64;

// The weights' gradients of rows that registers do not hold: a block has 32 chunks of columns and every
// LONG_ROW_PARTS-th share of the rows.
template <class T, int W, bool LAYER>
__global__ void __launch_bounds__(BLOCK_THREADS)
    norm_weight_gradient_kernel(const __grid_constant__ NormBackwardArguments<T> args, int64_t part_rows) {
  constexpr int WARPS = BLOCK_THREADS / 32;
  __shared__ float shares[2][WARPS][32 * W];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t first_col = int64_t(blockIdx.x) * (32 * W);
  const int64_t col = first_col + lane * W;
  const int64_t end = min((blockIdx.y + 1) * part_rows, args.rows);
  float d_weight[W] = {};
  float d_bias[W] = {};
  if (col < args.cols) {
#pragma unroll 4
    for (int64_t row = blockIdx.y * part_rows + warp; row < end; row += WARPS) {
      float n[W];
      float g[W];
      load_floats(args.x + row * args.cols + col, n);
      load_floats(args.d_out + row * args.cols + col, g);
      const float rstd = args.rstd[row];
      const float mean = LAYER ? args.mean[row] : 0.0f;
#pragma unroll
      for (int i = 0; i < W; i++) {
        d_weight[i] = fmaf(g[i], (n[i] - mean) * rstd, d_weight[i]);
        if constexpr (LAYER) d_bias[i] += g[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < W; i++) {
    shares[0][warp][lane * W + i] = d_weight[i];
    shares[1][warp][lane * W + i] = d_bias[i];
  }
  __syncthreads();
  for (int c = threadIdx.x; c < 32 * W && first_col + c < args.cols; c += BLOCK_THREADS) {
    float totals[2] = {0.0f, 0.0f};
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      totals[0] += shares[0][w][c];
      totals[1] += shares[1][w][c];
    }
    const int64_t at = blockIdx.y * args.cols + first_col + c;
    if (args.weight_parts) args.weight_parts[at] = totals[0];
    if constexpr (LAYER)
      if (args.bias_parts) args.bias_parts[at] = totals[1];
  }
}

template <bool LAYER, class T>
void launch_norm(const NormArguments<T>& args, Context& context) {
  with_row_shape<T>(args.cols, [&](auto shape) {
    using Shape = decltype(shape);
    const unsigned blocks = grid_size(ceil_div(args.rows, Shape::Threads::IN_BLOCK), context, 2 * ROW_BLOCKS<Shape>);
    launch_early(norm_kernel<Shape, LAYER>, blocks, Shape::Threads::THREADS, 0, context, args);
  });
}

// The parts of the arguments are set here.
template <bool LAYER, class T>
void launch_norm_backward(NormBackwardArguments<T> args, T* d_weight, T* d_bias, Context& context) {
  with_row_shape<T>(args.cols, [&](auto shape) {
    using Shape = decltype(shape);
    const unsigned blocks =
        grid_size(ceil_div(args.rows, Shape::Threads::IN_BLOCK), context, NORM_BACKWARD_BLOCKS<Shape, LAYER>);
    const int64_t part_rows = ceil_div(args.rows, LONG_ROW_PARTS);
    const int64_t parts = Shape::KEPT > 0 ? blocks : ceil_div(args.rows, part_rows);
    const size_t part_bytes = static_cast<size_t>(parts * args.cols) * sizeof(float);
    if (d_weight) args.weight_parts = static_cast<float*>(context.workspace(part_bytes));
    if (d_bias) args.bias_parts = static_cast<float*>(context.workspace(part_bytes));
    if ((d_weight && !args.weight_parts) || (d_bias && !args.bias_parts)) return;
    norm_backward_kernel<Shape, LAYER><<<blocks, Shape::Threads::THREADS, 0, context.stream()>>>(args);
    if constexpr (Shape::KEPT == 0) {
      const dim3 grid(static_cast<unsigned>(ceil_div(args.cols, 32 * Shape::W)), static_cast<unsigned>(parts));
      if (d_weight || d_bias)
        norm_weight_gradient_kernel<T, Shape::W, LAYER><<<grid, BLOCK_THREADS, 0, context.stream()>>>(args, part_rows);
    }
    if (d_weight) add_parts(args.weight_parts, d_weight, 1, parts, args.cols, 1.0, context);
    if (d_bias) add_parts(args.bias_parts, d_bias, 1, parts, args.cols, 1.0, context);
  });
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_NORM_ROWS_CUH_
