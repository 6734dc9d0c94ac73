// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
//   tiles   A block computes 128 x 128 results, a thread 8 x 8 of them, with fused multiply-adds; both factors are made
//           float32 on their way into shared memory, 8 deep. Where there are too few tiles to fill the device the sum
//           is split; a second kernel adds the parts in order.
//   stream  The product of few tokens: a warp has four rows of W and reads them once, a lane 16 features at a time.

#include <algorithm>

#include "ternary_codes.h"
#include "ternary_float32.h"
#include "ternary_fragments.h"
#include "ternary_rows.h"
#include "tile.h"

namespace ternflash::cuda {

namespace {

// Factors of out[i, j] = sum over d of a(i, d) b(j, d). ALONG: neighbours in memory are neighbours in d.

struct FloatRows {
  static constexpr bool ALONG = true;
  const float* values;  // [i, d]
  int64_t pitch;
  __device__ __forceinline__ float operator()(int i, int d) const { return values[i * pitch + d]; }
};

struct FloatColumns {
  static constexpr bool ALONG = false;
  const float* values;  // [d, i]
  int64_t pitch;
  __device__ __forceinline__ float operator()(int i, int d) const { return values[d * pitch + i]; }
};

__device__ __forceinline__ float trit_at(const uint8_t* row, int feature) {
  return float(int(row[feature >> 2] >> (2 * (feature & 3)) & 3) - 1);
}

struct TritRows {
  static constexpr bool ALONG = true;
  const uint8_t* packed;  // [j, d]
  int64_t pitch;
  __device__ __forceinline__ float operator()(int j, int d) const { return trit_at(packed + j * pitch, d); }
};

struct TritColumns {
  static constexpr bool ALONG = false;
  const uint8_t* packed;  // [d, j]
  int64_t pitch;
  const float* scales;  // of d, or one
  bool row_scales;
  __device__ __forceinline__ float operator()(int j, int d) const {
    return trit_at(packed + d * pitch, j) * scales[row_scales ? d : 0];
  }
};

struct CodeColumns {
  static constexpr bool ALONG = false;
  const int8_t* codes;  // [d, j], in the order of ternary_codes.h
  int64_t pitch;
  const float* scales;  // of d
  __device__ __forceinline__ float operator()(int j, int d) const {
    return float(codes[d * pitch + code_position(j)]) / scales[d];
  }
};

template <class A, class B>
struct FloatProduct {
  A a;
  B b;
  const float* scales;  // of the columns of the result, or one, or null
  bool column_scales;
  const float* bias;  // or null
  float* out;         // [rows, columns]
  float* partial;     // [splits, rows, columns], or null without a split
  int rows;
  int columns;
  int depth;
  int depth_per_split;
  int row_tiles;
  int column_tiles;

  __device__ __forceinline__ float finish(float sum, int column) const {
    if (scales) sum *= scales[column_scales ? column : 0];
    return bias ? sum + bias[column] : sum;
  }
};

constexpr int TILE = 128;
constexpr int DEPTH = 8;
constexpr int TILE_THREADS = 256;
constexpr int LEAST_DEPTH_PER_SPLIT = 256;
constexpr int MOST_SPLITS = 16;

template <class A, class B>
__global__ void __launch_bounds__(TILE_THREADS, 2) float32_tiles(const __grid_constant__ FloatProduct<A, B> args) {
  __shared__ __align__(16) float a_smem[2][DEPTH][TILE + 4];
  __shared__ __align__(16) float b_smem[2][DEPTH][TILE + 4];
  const int thread = threadIdx.x;
  int row_tile;
  int column_tile;
  tile_position(blockIdx.x, args.row_tiles, args.column_tiles, row_tile, column_tile);
  const int first_row = row_tile * TILE;
  const int first_column = column_tile * TILE;
  const int begin = blockIdx.y * args.depth_per_split;
  const int end = min(args.depth, begin + args.depth_per_split);
  const int steps = end > begin ? (end - begin + DEPTH - 1) / DEPTH : 0;

  // Four elements of each factor a thread and step.
  constexpr int EACH = TILE * DEPTH / TILE_THREADS;
  const auto depth_of = [&](bool along, int i) {
    return along ? (thread + TILE_THREADS * i) % DEPTH : (thread + TILE_THREADS * i) / TILE;
  };
  const auto place_of = [&](bool along, int i) {
    return along ? (thread + TILE_THREADS * i) / DEPTH : (thread + TILE_THREADS * i) % TILE;
  };
  float a_next[EACH];
  float b_next[EACH];
  const auto fetch = [&](int step) {
    const int first = begin + step * DEPTH;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int row = first_row + place_of(A::ALONG, i);
      const int a_depth = first + depth_of(A::ALONG, i);
      a_next[i] = row < args.rows && a_depth < end ? args.a(row, a_depth) : 0.0f;
      const int column = first_column + place_of(B::ALONG, i);
      const int b_depth = first + depth_of(B::ALONG, i);
      b_next[i] = column < args.columns && b_depth < end ? args.b(column, b_depth) : 0.0f;
    }
  };
  const auto store = [&](int stage) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      a_smem[stage][depth_of(A::ALONG, i)][place_of(A::ALONG, i)] = a_next[i];
      b_smem[stage][depth_of(B::ALONG, i)][place_of(B::ALONG, i)] = b_next[i];
    }
  };

  // A thread has rows 4 ty + {0..3} and 64 more, columns likewise.
  const int tx = thread % 16;
  const int ty = thread / 16;
  float sum[8][8];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) sum[i][j] = 0.0f;
  if (steps > 0) {
    fetch(0);
    store(0);
  }
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    __syncthreads();  // this step's tiles are there for all; all are done with the other stage
    if (step + 1 < steps) fetch(step + 1);
    const int stage = step % 2;
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      float a[8];
      float b[8];
      *reinterpret_cast<float4*>(a) = *reinterpret_cast<const float4*>(&a_smem[stage][d][4 * ty]);
      *reinterpret_cast<float4*>(a + 4) = *reinterpret_cast<const float4*>(&a_smem[stage][d][64 + 4 * ty]);
      *reinterpret_cast<float4*>(b) = *reinterpret_cast<const float4*>(&b_smem[stage][d][4 * tx]);
      *reinterpret_cast<float4*>(b + 4) = *reinterpret_cast<const float4*>(&b_smem[stage][d][64 + 4 * tx]);
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
    }
    if (step + 1 < steps) store(1 - stage);
  }

  int row_0 = first_row + 4 * ty;  // of the results
  int column_0 = first_column + 4 * tx;
  if constexpr (WORKS_OUT_ANEW) {
    tile_position(ctaid_x(), args.row_tiles, args.column_tiles, row_tile, column_tile);
    row_0 = row_tile * TILE + tid_x() / 16 * 4;
    column_0 = column_tile * TILE + tid_x() % 16 * 4;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int row = row_0 + i / 4 * 64 + i % 4;
    if (row >= args.rows) continue;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const int column = column_0 + j / 4 * 64 + j % 4;
      if (column >= args.columns) continue;
      const int64_t index = int64_t(row) * args.columns + column;
      if (args.partial)
        args.partial[int64_t(blockIdx.y) * args.rows * args.columns + index] = sum[i][j];
      else
        args.out[index] = args.finish(sum[i][j], column);
    }
  }
}

template <class A, class B>
__global__ void float32_add_parts(const __grid_constant__ FloatProduct<A, B> args, int splits) {
  const int64_t length = int64_t(args.rows) * args.columns;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < length; i += int64_t(gridDim.x) * blockDim.x) {
    float sum = 0.0f;
    for (int split = 0; split < splits; split++) sum += args.partial[split * length + i];
    args.out[i] = args.finish(sum, static_cast<int>(i % args.columns));
  }
}

template <class A, class B>
void launch_tiles(FloatProduct<A, B>& args, Context& context) {
  const int multiprocessors = context.device().multiprocessors;
  args.row_tiles = (args.rows + TILE - 1) / TILE;
  args.column_tiles = (args.columns + TILE - 1) / TILE;
  const int64_t tiles = int64_t(args.row_tiles) * args.column_tiles;
  int splits = 1;
  if (tiles < multiprocessors)
    splits = static_cast<int>(std::max<int64_t>(
        1, std::min<int64_t>({2 * multiprocessors / tiles, args.depth / LEAST_DEPTH_PER_SPLIT, MOST_SPLITS})));
  args.depth_per_split = ((args.depth + splits - 1) / splits + DEPTH - 1) / DEPTH * DEPTH;
  splits = (args.depth + args.depth_per_split - 1) / args.depth_per_split;
  args.partial = nullptr;
  if (splits > 1) {
    args.partial = static_cast<float*>(context.workspace(size_t(splits) * args.rows * args.columns * sizeof(float)));
    if (!args.partial) return;
  }
  float32_tiles<A, B>
      <<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(splits)), TILE_THREADS, 0, context.stream()>>>(args);
  if (splits > 1) {
    const int64_t blocks = std::min<int64_t>((int64_t(args.rows) * args.columns + 255) / 256, 16 * multiprocessors);
    float32_add_parts<A, B><<<static_cast<unsigned>(blocks), 256, 0, context.stream()>>>(args, splits);
  }
}

// ---- Few tokens

constexpr int STREAM_WARPS = 8;
constexpr int STREAM_ROWS = 4;  // of a warp
constexpr int MOST_STREAMED_TOKENS = 16;

struct FloatStream {
  const float* x;
  const uint8_t* packed;
  const float* scales;
  bool row_scales;
  const float* bias;
  float* out;
  int m;
  int n;
  int k;  // a multiple of FEATURE_UNIT
};

template <int TOKENS>
__global__ void __launch_bounds__(32 * STREAM_WARPS) float32_stream(const __grid_constant__ FloatStream args) {
  const int lane = threadIdx.x % 32;
  const int first_row = (blockIdx.x * STREAM_WARPS + threadIdx.x / 32) * STREAM_ROWS;
  const int first_token = blockIdx.y * TOKENS;
  if (first_row >= args.n) return;
  // Rows and tokens that are not there are copies of others, whose results are dropped.
  const uint32_t* rows[STREAM_ROWS];
  const float* tokens[TOKENS];
#pragma unroll
  for (int i = 0; i < STREAM_ROWS; i++)
    rows[i] = reinterpret_cast<const uint32_t*>(args.packed + int64_t(min(first_row + i, args.n - 1)) * (args.k / 4));
#pragma unroll
  for (int j = 0; j < TOKENS; j++) tokens[j] = args.x + int64_t(min(first_token + j, args.m - 1)) * args.k;

  float sums[STREAM_ROWS][TOKENS] = {};
#pragma unroll 1
  for (int word = lane; word < args.k / 16; word += 32) {
    uint32_t codes[STREAM_ROWS];
#pragma unroll
    for (int i = 0; i < STREAM_ROWS; i++) codes[i] = signed_trits(rows[i][word]);
#pragma unroll
    for (int quad = 0; quad < 4; quad++) {
      float4 x[TOKENS];
#pragma unroll
      for (int j = 0; j < TOKENS; j++) x[j] = reinterpret_cast<const float4*>(tokens[j] + 16 * word)[quad];
#pragma unroll
      for (int i = 0; i < STREAM_ROWS; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const float trit = __uint_as_float(codes[i] << (30 - 8 * quad - 2 * e) & 0xc0000000u);  // 0 or +-2.0
#pragma unroll
          for (int j = 0; j < TOKENS; j++)
            sums[i][j] = fmaf(e == 0 ? x[j].x : e == 1 ? x[j].y : e == 2 ? x[j].z : x[j].w, trit, sums[i][j]);
        }
    }
  }
#pragma unroll
  for (int i = 0; i < STREAM_ROWS; i++)
#pragma unroll
    for (int j = 0; j < TOKENS; j++) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sums[i][j] += __shfl_xor_sync(0xffffffffu, sums[i][j], step);
      const int row = first_row + i;
      const int token = first_token + j;
      if (lane != 0 || row >= args.n || token >= args.m) continue;
      const float value = 0.5f * sums[i][j] * args.scales[args.row_scales ? row : 0];
      args.out[int64_t(token) * args.n + row] = args.bias ? value + args.bias[row] : value;
    }
}

void launch_stream(const TernaryMatmulParams& p, Context& context) {
  const int64_t features = padded_features(p.k);
  FloatStream args;
  args.x = static_cast<const float*>(padded_rows(p.x.data, p.m, p.k * 4, features * 4, 0, context));
  args.packed = padded_trits(p.packed.data, p.n, p.k, context);
  if (!args.x || !args.packed) return;
  args.scales = static_cast<const float*>(p.weight_scale.data);
  args.row_scales = p.weight_scale.length > 1;
  args.bias = static_cast<const float*>(p.bias.data);
  args.out = static_cast<float*>(p.out.data);
  args.m = static_cast<int>(p.m);
  args.n = static_cast<int>(p.n);
  args.k = static_cast<int>(features);
  constexpr int ROWS = STREAM_WARPS * STREAM_ROWS;
  const unsigned blocks = static_cast<unsigned>((p.n + ROWS - 1) / ROWS);
  if (p.m == 1)
    float32_stream<1><<<blocks, 32 * STREAM_WARPS, 0, context.stream()>>>(args);
  else
    float32_stream<4>
        <<<dim3(blocks, static_cast<unsigned>((p.m + 3) / 4)), 32 * STREAM_WARPS, 0, context.stream()>>>(args);
}

}  // namespace

void ternary_matmul_float32(const TernaryMatmulParams& p, Context& context) {
  if (p.m <= MOST_STREAMED_TOKENS) return launch_stream(p, context);
  FloatProduct<FloatRows, TritRows> args = {};
  args.a = {static_cast<const float*>(p.x.data), p.k};
  args.b = {static_cast<const uint8_t*>(p.packed.data), (p.k + 3) / 4};
  args.scales = static_cast<const float*>(p.weight_scale.data);
  args.column_scales = p.weight_scale.length > 1;
  args.bias = static_cast<const float*>(p.bias.data);
  args.out = static_cast<float*>(p.out.data);
  args.rows = static_cast<int>(p.m);
  args.columns = static_cast<int>(p.n);
  args.depth = static_cast<int>(p.k);
  launch_tiles(args, context);
}

void ternary_matmul_backward_float32(const TernaryMatmulBackwardParams& p, Context& context) {
  FloatProduct<FloatRows, TritColumns> args = {};
  args.a = {static_cast<const float*>(p.d_out.data), p.n};
  args.b = {static_cast<const uint8_t*>(p.packed.data), (p.k + 3) / 4, static_cast<const float*>(p.weight_scale.data),
            p.weight_scale.length > 1};
  args.out = static_cast<float*>(p.d_x.data);
  args.rows = static_cast<int>(p.m);
  args.columns = static_cast<int>(p.k);
  args.depth = static_cast<int>(p.n);
  launch_tiles(args, context);
}

void bit_linear_weight_backward_float32(const BitLinearWeightBackwardParams& p, Context& context) {
  FloatProduct<FloatColumns, CodeColumns> args = {};
  args.a = {static_cast<const float*>(p.d_out.data), p.n};
  args.b = {static_cast<const int8_t*>(p.codes.data), padded_features(p.k),
            static_cast<const float*>(p.activation_scales.data)};
  args.out = static_cast<float*>(p.d_weight.data);
  args.rows = static_cast<int>(p.n);
  args.columns = static_cast<int>(p.k);
  args.depth = static_cast<int>(p.m);
  launch_tiles(args, context);
}

}  // namespace ternflash::cuda
