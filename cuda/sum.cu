// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out [outer, inner] = factor * the sum over the middle axis of x [outer, reduce, inner]. Floats are added in float64,
// int32 wraps around.
//
//   inner = 1, short rows: a warp has a row.
//   inner = 1, long rows: a block has a piece of a row.
//   else: a block has a span of columns and a piece of the rows; its threads lie along the columns, and rows of threads
//   take turns.
//
// Where there is more than one piece, add_parts adds their totals in order. Pieces depend on the shape alone.

#include "columns.cuh"
#include "kernels.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

constexpr int64_t PIECE = 16384;     // elements of a row that a block adds up
constexpr int64_t SHORT_ROW = 1024;  // elements
constexpr int64_t WANTED_BLOCKS = 2048;
constexpr int UNROLL = 4;

template <class T>
using TotalOf = std::conditional_t<std::is_integral_v<T>, uint32_t, double>;

template <class T>
__device__ __forceinline__ TotalOf<T> term(T value) {
  if constexpr (std::is_integral_v<T>)
    return value;
  else
    return static_cast<double>(static_cast<float>(value));
}

template <class T>
struct SumArguments {
  const T* x;
  T* out;
  TotalOf<T>* parts;  // [outer, pieces, inner], null for one piece
  int64_t outer;
  int64_t reduce;
  int64_t inner;
  int64_t pieces;
  int64_t piece;  // rows of one
  double factor;
};

template <class T>
__device__ __forceinline__ void store_total(const SumArguments<T>& args, int64_t outer, int64_t piece, int64_t col,
                                            TotalOf<T> total) {
  if (args.parts)
    args.parts[(outer * args.pieces + piece) * args.inner + col] = total;
  else if constexpr (std::is_integral_v<T>)
    args.out[outer * args.inner + col] = total;
  else
    args.out[outer * args.inner + col] = static_cast<T>(static_cast<float>(total * args.factor));
}

// Rows, or pieces of rows; W is above 1 if all of them begin at a multiple of 16 bytes.
template <class T, int W, int SIZE>
__global__ void __launch_bounds__(BLOCK_THREADS) sum_rows_kernel(const __grid_constant__ SumArguments<T> args) {
  Group<SIZE> group;
  const int64_t task = int64_t(blockIdx.x) * Group<SIZE>::IN_BLOCK + group.index();
  const int64_t outer = task / args.pieces;
  if (outer >= args.outer) return;
  const int64_t piece = task % args.pieces;
  const int64_t count = min(args.piece, args.reduce - piece * args.piece);
  const T* x = args.x + outer * args.reduce + piece * args.piece;
  const int64_t vectors = count / W;
  TotalOf<T> total = 0;
#pragma unroll UNROLL
  for (int64_t vector = group.lane(); vector < vectors; vector += SIZE) {
    const Chunk<T, W> chunk = load_chunk<W>(x + vector * W);
#pragma unroll
    for (int i = 0; i < W; i++) total += term(chunk.elements[i]);
  }
  const int64_t last = vectors * W + group.lane();
  if (last < count) total += term(x[last]);
  total = group.reduce(total, Sum());
  if (group.lane() == 0) store_total(args, outer, piece, 0, total);
}

// blockDim is (threads along the columns, rows of threads), both powers of 2.
template <class T, int W>
__global__ void __launch_bounds__(BLOCK_THREADS)
    sum_columns_kernel(const __grid_constant__ SumArguments<T> args, int64_t spans) {
  __shared__ TotalOf<T> shared[W][BLOCK_THREADS];
  int64_t rest = blockIdx.x;
  const int64_t col = (rest % spans * blockDim.x + threadIdx.x) * W;
  rest /= spans;
  const int64_t piece = rest % args.pieces;
  const int64_t outer = rest / args.pieces;
  const int64_t end = min((piece + 1) * args.piece, args.reduce);
  TotalOf<T> totals[W];
#pragma unroll
  for (int i = 0; i < W; i++) totals[i] = 0;
  if (col < args.inner) {
    const T* x = args.x + outer * args.reduce * args.inner + col;
#pragma unroll UNROLL
    for (int64_t row = piece * args.piece + threadIdx.y; row < end; row += blockDim.y) {
      const Chunk<T, W> chunk = load_chunk<W>(x + row * args.inner);
#pragma unroll
      for (int i = 0; i < W; i++) totals[i] += term(chunk.elements[i]);
    }
  }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int i = 0; i < W; i++) shared[i][thread] = totals[i];
  for (int rows = blockDim.y / 2; rows > 0; rows /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < rows)
#pragma unroll
      for (int i = 0; i < W; i++) shared[i][thread] += shared[i][thread + rows * blockDim.x];
  }
  if (threadIdx.y > 0 || col >= args.inner) return;
#pragma unroll
  for (int i = 0; i < W; i++) store_total(args, outer, piece, col + i, shared[i][thread]);
}

// Pieces of at least `least` rows, a multiple of `unit`, that make up to WANTED_BLOCKS blocks where there are `blocks`
// already.
template <class T>
bool cut(SumArguments<T>& args, int64_t blocks, int64_t least, int64_t unit, Context& context) {
  const int64_t wanted = std::max<int64_t>(1, WANTED_BLOCKS / blocks);
  args.piece = std::max<int64_t>(least, ceil_div(ceil_div(args.reduce, wanted), unit) * unit);
  args.pieces = std::max<int64_t>(1, ceil_div(args.reduce, args.piece));
  args.parts = nullptr;
  if (args.pieces == 1) return true;
  args.parts = static_cast<TotalOf<T>*>(
      context.workspace(static_cast<size_t>(args.outer * args.pieces * args.inner) * sizeof(TotalOf<T>)));
  return args.parts != nullptr;
}

template <class T, int W, int SIZE>
void launch_rows(const SumArguments<T>& args, Context& context) {
  const int64_t blocks = ceil_div(args.outer * args.pieces, Group<SIZE>::IN_BLOCK);
  sum_rows_kernel<T, W, SIZE><<<static_cast<unsigned>(blocks), BLOCK_THREADS, 0, context.stream()>>>(args);
}

template <class T, int W>
void launch_columns(SumArguments<T>& args, Context& context) {
  unsigned across = 1;
  while (across < 32 && across * W < args.inner) across *= 2;
  const unsigned rows = BLOCK_THREADS / across;
  const int64_t spans = ceil_div(args.inner, int64_t(across) * W);
  if (!cut(args, args.outer * spans, 4 * UNROLL * rows, 1, context)) return;
  sum_columns_kernel<T, W>
      <<<static_cast<unsigned>(args.outer * args.pieces * spans), dim3(across, rows), 0, context.stream()>>>(args,
                                                                                                             spans);
}

template <class T>
void sum_of(const SumParams& p, Context& context) {
  constexpr int W = LANES<T>;
  SumArguments<T> args = {data_of<T>(p.x), target_of<T>(p.out), nullptr, p.outer, p.reduce, p.inner, 1, p.reduce,
                          p.factor};
  if (p.inner == 1) {
    const bool vectors = p.outer == 1 || p.reduce % W == 0;
    if (p.reduce <= SHORT_ROW) {
      vectors ? launch_rows<T, W, 32>(args, context) : launch_rows<T, 1, 32>(args, context);
    } else {
      if (!cut(args, p.outer, PIECE, W, context)) return;
      vectors ? launch_rows<T, W, BLOCK_THREADS>(args, context) : launch_rows<T, 1, BLOCK_THREADS>(args, context);
    }
  } else {
    p.inner % W == 0 ? launch_columns<T, W>(args, context) : launch_columns<T, 1>(args, context);
    if (args.pieces > 1 && !args.parts) return;
  }
  if (args.parts) add_parts(args.parts, args.out, args.outer, args.pieces, args.inner, args.factor, context);
}

}  // namespace

void sum(const SumParams& p, Context& context) {
  if (p.outer * p.inner == 0) return;
  if (p.x.dtype == DType::INT32)
    sum_of<uint32_t>(p, context);
  else
    with_float_type(p.x.dtype, [&](auto type) { sum_of<typename decltype(type)::type>(p, context); });
}

}  // namespace ternflash::cuda
