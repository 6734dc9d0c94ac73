// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = x W^T for packed ternary W [n, k], x [m, k] of int8 codes or of 16-bit floats.
//
//   stream  Few tokens: the packed weights are read once and set the time. Eight warps share 16 or 32 rows of W along
//           k; a thread loads 64 trits at a time, two loads ahead, straight into registers. W is operand A of the
//           tensor cores, the tokens are operand B.
//   tiles   Many tokens: four warps compute a tile of BM tokens by 128 rows of W. Both come through shared memory, W
//           packed, STAGES - 1 steps ahead; trits are spread in registers on the way to the tensor cores. Where there
//           are too few tiles to fill the device the sum over k is split; a second kernel adds the parts in order.
//
// The sums of codes are exact, so that their order does not matter; those of floats have an order that depends on shape
// and device alone.

#include <algorithm>
#include <type_traits>

#include "kernels.h"
#include "ternary_float32.h"
#include "ternary_fragments.h"
#include "ternary_rows.h"
#include "tile.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

template <class X, class Out>
struct Product {
  using Sum = typename TernaryFragments<X>::Sum;
  const X* x;
  const uint8_t* packed;
  const float* weight_scale;
  const float* activation_scales;  // of int8 x
  const Out* bias;
  Out* out;
  Sum* partial;  // [splits, m, n], or null without a split
  int m;
  int n;
  int k;  // a multiple of FEATURE_UNIT
  bool row_scales;
  int k_per_split;
  int row_tiles;
  int column_tiles;
};

template <class X>
constexpr bool IS_INT8 = std::is_same_v<X, int8_t>;

// The float epilogue of COUNT neighbouring results of one token: `sums` are unscaled, `scales` and `bias` their rows'.
template <class X, int COUNT>
__device__ __forceinline__ void finish(const typename TernaryFragments<X>::Sum (&sums)[COUNT],
                                       const float (&scales)[COUNT], bool row_scales, float token_scale, bool has_bias,
                                       const float (&bias)[COUNT], float (&values)[COUNT]) {
  using Fragments = TernaryFragments<X>;
  const float common = Fragments::factor(scales[0], token_scale);
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const float factor = row_scales ? Fragments::factor(scales[i], token_scale) : common;
    // The integer sum of a row whose scale is 0 is 0: the sign of the result could tell.
    const auto sum = IS_INT8<X> && scales[i] == 0.0f ? 0 : sums[i];
    values[i] = Fragments::value(sum, factor);
    if (has_bias) values[i] = __fadd_rn(values[i], bias[i]);
  }
}

// ---- Few tokens

constexpr int STREAM_WARPS = 8;
constexpr int STREAM_FEATURES = 256;  // of a warp and step
constexpr int MOST_STREAMED_TOKENS = 32;

template <class X, class Out, int ROW_TILES, int TOKEN_TILES>
__global__ void __launch_bounds__(32 * STREAM_WARPS) ternary_stream(const __grid_constant__ Product<X, Out> args) {
  using Fragments = TernaryFragments<X>;
  using Sum = typename Fragments::Sum;
  constexpr int DEPTH = 2;
  constexpr int ROWS = 16 * ROW_TILES;
  constexpr int TOKENS = 8 * TOKEN_TILES;
  constexpr int PITCH = ROWS + 4;
  constexpr int CHUNKS = 16 / Fragments::CHUNK;  // of a word's features
  __shared__ Sum sums_smem[STREAM_WARPS][TOKENS][PITCH];

  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int first_row = blockIdx.x * ROWS;
  const int window = lane % 4 * 64;  // this thread's features of a step
  const int steps = (args.k + STREAM_FEATURES - 1) / STREAM_FEATURES;

  // Rows and tokens that are not there are copies of others, whose results are dropped.
  const uint8_t* rows[ROW_TILES][2];
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      rows[i][half] = args.packed + int64_t(min(first_row + 16 * i + 8 * half + lane / 4, args.n - 1)) * (args.k / 4);
  const X* tokens[TOKEN_TILES];
#pragma unroll
  for (int i = 0; i < TOKEN_TILES; i++) tokens[i] = args.x + int64_t(min(8 * i + lane / 4, args.m - 1)) * args.k;

  Sum sums[ROW_TILES][TOKEN_TILES][4];
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < TOKEN_TILES; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[i][j][e] = 0;

  uint4 ahead[DEPTH][ROW_TILES][2];
  const auto load = [&](int step, uint4(&words)[ROW_TILES][2]) {
    if (step >= steps) return;
    const int feature = min(step * STREAM_FEATURES + window, args.k - 64);
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) words[i][half] = ld_once_16(rows[i][half] + feature / 4);
  };
  // EXACT: all features of the step are there; otherwise they may be beyond k, and are 0.
  const auto multiply = [&](int step, const uint4(&words)[ROW_TILES][2], auto exact) {
    constexpr bool EXACT = decltype(exact)::value;
    const int feature = step * STREAM_FEATURES + window;
    const bool inside = EXACT || feature < args.k;
#pragma unroll
    for (int w = 0; w < 4; w++)
#pragma unroll
      for (int c = 0; c < CHUNKS; c++) {
        uint32_t b[TOKEN_TILES][4];
#pragma unroll
        for (int j = 0; j < TOKEN_TILES; j++) {
          uint4 chunk = {0, 0, 0, 0};
          if (inside)
            chunk = __ldg(reinterpret_cast<const uint4*>(tokens[j] + feature + 16 * w + Fragments::CHUNK * c));
          Fragments::activations(chunk, b[j]);
        }
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
          uint32_t trits[2][4];
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const uint4& four = words[i][half];
            Fragments::trits(w == 0 ? four.x : w == 1 ? four.y : w == 2 ? four.z : four.w, c, trits[half]);
          }
#pragma unroll
          for (int s = 0; s < 4; s += 2) {
            const uint32_t a[4] = {trits[0][s], trits[1][s], trits[0][s + 1], trits[1][s + 1]};
#pragma unroll
            for (int j = 0; j < TOKEN_TILES; j++) Fragments::multiply(sums[i][j], a, b[j][s], b[j][s + 1]);
          }
        }
      }
  };

#pragma unroll
  for (int d = 0; d < DEPTH; d++) load(warp + d * STREAM_WARPS, ahead[d]);
  // Rows left out by their scale are not read, but for what is under way before it is known. (A sum of floats is not to
  // lose a NaN that way.)
  if (IS_INT8<X> && args.row_scales) {
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        if (args.weight_scale[min(first_row + 16 * i + 8 * half + lane / 4, args.n - 1)] == 0.0f)
          rows[i][half] = args.packed;
  }
  int step = warp;
#pragma unroll 1
  for (; (step + (DEPTH - 1) * STREAM_WARPS + 1) * STREAM_FEATURES <= args.k; step += DEPTH * STREAM_WARPS)
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      uint4 now[ROW_TILES][2];
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) now[i][half] = ahead[d][i][half];
      load(step + (d + DEPTH) * STREAM_WARPS, ahead[d]);
      multiply(step + d * STREAM_WARPS, now, std::true_type());
    }
#pragma unroll
  for (int d = 0; d < DEPTH; d++)
    if (step + d * STREAM_WARPS < steps) multiply(step + d * STREAM_WARPS, ahead[d], std::false_type());

#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < TOKEN_TILES; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        sums_smem[warp][8 * j + 2 * (lane % 4) + e % 2][16 * i + 8 * (e / 2) + lane / 4] =
            Fragments::unscaled(sums[i][j][e]);
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < ROWS * TOKENS; i += 32 * STREAM_WARPS) {
    const int token = i / ROWS;
    const int row = first_row + i % ROWS;
    if (token >= args.m || row >= args.n) continue;
    Sum sum[1] = {0};
#pragma unroll
    for (int w = 0; w < STREAM_WARPS; w++) sum[0] += sums_smem[w][token][i % ROWS];
    const float scale[1] = {args.weight_scale[args.row_scales ? row : 0]};
    const float bias[1] = {args.bias ? static_cast<float>(args.bias[row]) : 0.0f};
    float value[1];
    finish<X>(sum, scale, false, IS_INT8<X> ? args.activation_scales[token] : 1.0f, args.bias != nullptr, bias, value);
    args.out[int64_t(token) * args.n + row] = static_cast<Out>(value[0]);
  }
}

// ---- Many tokens

constexpr int TILE_THREADS = 128;
constexpr int TILE_COLUMNS = 128;
constexpr int STAGES = 4;
constexpr int X_ROW_BYTES = 128;                  // of a step
constexpr int SUM_PITCH = TILE_COLUMNS + 4;       // of sums in shared memory
constexpr int MOST_FEATURES_PER_SPLIT = 1 << 17;  // 64 * 128 * 2^17 = 2^30: the scaled sums of codes stay below 2^31
constexpr int LEAST_FEATURES_PER_SPLIT = 256;
constexpr int MOST_SPLITS = 16;

template <class X, int BM>
struct TileSizes {
  static constexpr int BK = X_ROW_BYTES / sizeof(X);
  static constexpr int W_ROW_BYTES = BK / 4;
  static constexpr int X_BYTES = BM * X_ROW_BYTES;
  static constexpr int STAGE_BYTES = X_BYTES + TILE_COLUMNS * W_ROW_BYTES;
  static constexpr int SUM_BYTES = BM * SUM_PITCH * 4;
  static constexpr int SHARED_BYTES = std::max(STAGES * STAGE_BYTES, SUM_BYTES);
};

template <class T>
using FourOf = std::conditional_t<std::is_same_v<T, int>, int4, float4>;

// Four results of a row to four neighbouring elements, those from `valid` on left out.
template <class T>
__device__ __forceinline__ void store_four(T* out, const float (&values)[4], int valid, bool aligned) {
  if (aligned && valid >= 4) {
    if constexpr (sizeof(T) == 4)
      *reinterpret_cast<float4*>(out) = {values[0], values[1], values[2], values[3]};
    else
      *reinterpret_cast<uint2*>(out) = {pack<T>(values[0], values[1]), pack<T>(values[2], values[3])};
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i < valid) out[i] = static_cast<T>(values[i]);
}

// Scale and bias of four neighbouring rows of W.
struct FourRows {
  float scales[4];
  float bias[4];
};

template <class X, class Out>
__device__ __forceinline__ FourRows load_four_rows(const Product<X, Out>& args, int first) {
  FourRows rows;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = min(first + i, args.n - 1);
    rows.scales[i] = args.weight_scale[args.row_scales ? row : 0];
    rows.bias[i] = args.bias ? static_cast<float>(args.bias[row]) : 0.0f;
  }
  return rows;
}

template <class X, class Out>
__device__ __forceinline__ void finish_four(const Product<X, Out>& args, const FourRows& rows,
                                            const typename TernaryFragments<X>::Sum (&sums)[4], int token, int column) {
  float values[4];
  const float token_scale = IS_INT8<X> ? args.activation_scales[token] : 1.0f;
  finish<X>(sums, rows.scales, args.row_scales, token_scale, args.bias != nullptr, rows.bias, values);
  store_four(args.out + int64_t(token) * args.n + column, values, args.n - column, args.n % 4 == 0);
}

template <class X, class Out, int BM>
__global__ void __launch_bounds__(TILE_THREADS, 2) ternary_tiles(const __grid_constant__ Product<X, Out> args) {
  using Fragments = TernaryFragments<X>;
  using Sum = typename Fragments::Sum;
  using Sizes = TileSizes<X, BM>;
  constexpr int BK = Sizes::BK;
  constexpr int W_ROW_BYTES = Sizes::W_ROW_BYTES;
  constexpr int ROW_TILES = TILE_COLUMNS / 32;  // a warp's tiles of 16 rows of W
  constexpr int TOKEN_TILES = BM / 16;          // and of 8 tokens
  using TileX = Tile<X_ROW_BYTES / 2>;

  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t stages_smem = shared_address(shared);
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int warp_token = thread / 64 * (BM / 2);
  const int warp_column = thread / 32 % 2 * (TILE_COLUMNS / 2);
  int row_tile;
  int column_tile;
  tile_position(blockIdx.x, args.row_tiles, args.column_tiles, row_tile, column_tile);
  const int first_token = row_tile * BM;
  const int first_column = column_tile * TILE_COLUMNS;
  const int k_begin = blockIdx.y * args.k_per_split;
  const int k_end = min(args.k, k_begin + args.k_per_split);
  const int steps = k_end > k_begin ? (k_end - k_begin + BK - 1) / BK : 0;

  const int packed_stride = args.k / 4;
  const auto load = [&](int step) {
    if (step < steps) {
      const int k = k_begin + step * BK;
      const uint32_t x_smem = stages_smem + step % STAGES * Sizes::STAGE_BYTES;
      // Elements of 16 bits, or pairs of codes.
      const auto* x = reinterpret_cast<const uint16_t*>(args.x + int64_t(first_token) * args.k + k);
      load_tile<BM, X_ROW_BYTES / 2, TILE_THREADS, false>(x_smem, x, args.k * int(sizeof(X)) / 2, args.m - first_token,
                                                          (k_end - k) * int(sizeof(X)) / 2, true, thread);
      constexpr int CHUNKS = W_ROW_BYTES / 16;
      const uint8_t* packed = args.packed + int64_t(first_column) * packed_stride + k / 4;
#pragma unroll
      for (int i = 0; i < TILE_COLUMNS * CHUNKS / TILE_THREADS; i++) {
        const int index = thread + i * TILE_THREADS;
        const int row = index / CHUNKS;
        const int chunk = index % CHUNKS;
        const bool valid = first_column + row < args.n && k + chunk * 64 < k_end;
        cp_async_16(x_smem + Sizes::X_BYTES + index * 16,
                    packed + (valid ? int64_t(row) * packed_stride + chunk * 16 : 0), valid);
      }
    }
    cp_async_commit_group();  // an empty group keeps the count
  };

  Sum sums[ROW_TILES][TOKEN_TILES][4];
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < TOKEN_TILES; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[i][j][e] = 0;

  // A thread reads chunks 2 (lane % 4) and the next of rows of x, and the words of W that hold the same features.
  const uint32_t x_corner = TileX::offset(warp_token + lane / 4, 2 * (lane % 4));
  const uint32_t w_corner = Sizes::X_BYTES + (warp_column + lane / 4) * W_ROW_BYTES + lane % 4 * (W_ROW_BYTES / 4);

#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) load(step);
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    cp_async_wait_group<STAGES - 2>();
    __syncthreads();  // this step's tiles are there for all; all are done with the stage that is loaded next
    load(step + STAGES - 1);
    const uint8_t* stage = shared + step % STAGES * Sizes::STAGE_BYTES;
#pragma unroll
    for (int c = 0; c < 2; c++) {
      uint32_t x[TOKEN_TILES][4];
#pragma unroll
      for (int j = 0; j < TOKEN_TILES; j++)
        Fragments::activations(*reinterpret_cast<const uint4*>(stage + (x_corner ^ (c << 4)) + 8 * j * X_ROW_BYTES),
                               x[j]);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++) {
        uint32_t trits[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++)
          Fragments::trits(*reinterpret_cast<const uint32_t*>(stage + w_corner + (16 * i + 8 * half) * W_ROW_BYTES +
                                                              (IS_INT8<X> ? 4 * c : 0)),
                           c, trits[half]);
#pragma unroll
        for (int s = 0; s < 4; s += 2) {
          const uint32_t a[4] = {trits[0][s], trits[1][s], trits[0][s + 1], trits[1][s + 1]};
#pragma unroll
          for (int j = 0; j < TOKEN_TILES; j++) Fragments::multiply(sums[i][j], a, x[j][s], x[j][s + 1]);
        }
      }
    }
  }

  // Through shared memory to whole rows of the result.
  cp_async_wait_group<0>();
  __syncthreads();
  Sum* sums_smem = reinterpret_cast<Sum*>(shared);
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < TOKEN_TILES; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        sums_smem[(warp_token + 8 * j + 2 * (lane % 4) + e % 2) * SUM_PITCH + warp_column + 16 * i + 8 * (e / 2) +
                  lane / 4] = Fragments::unscaled(sums[i][j][e]);
  __syncthreads();
  const int column = first_column + 4 * lane;
  if (column >= args.n) return;
  const FourRows rows = load_four_rows(args, column);
  const int tokens = min(BM, args.m - first_token);
#pragma unroll 2
  for (int row = thread / 32; row < tokens; row += TILE_THREADS / 32) {
    Sum four[4];
#pragma unroll
    for (int i = 0; i < 4; i++) four[i] = sums_smem[row * SUM_PITCH + 4 * lane + i];
    const int token = first_token + row;
    if (!args.partial) {
      finish_four(args, rows, four, token, column);
      continue;
    }
    Sum* target = args.partial + (int64_t(blockIdx.y) * args.m + token) * args.n + column;
    if (args.n % 4 == 0)
      *reinterpret_cast<FourOf<Sum>*>(target) = {four[0], four[1], four[2], four[3]};
    else
      for (int i = 0; i < 4; i++)
        if (column + i < args.n) target[i] = four[i];
  }
}

// The parts of each sum added in their order; a thread has four neighbouring results.
template <class X, class Out>
__global__ void ternary_add_parts(const __grid_constant__ Product<X, Out> args, int splits) {
  using Sum = typename TernaryFragments<X>::Sum;
  const int per_token = (args.n + 3) / 4;
  const int64_t count = int64_t(args.m) * per_token;
  const int64_t length = int64_t(args.m) * args.n;
  for (int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; index < count;
       index += int64_t(gridDim.x) * blockDim.x) {
    const int token = static_cast<int>(index / per_token);
    const int column = static_cast<int>(index - int64_t(token) * per_token) * 4;
    const int64_t first = int64_t(token) * args.n + column;
    const bool whole = args.n % 4 == 0;
    Sum sums[4] = {0, 0, 0, 0};
    for (int split = 0; split < splits; split++) {
      const Sum* part = args.partial + split * length + first;
      if (whole) {
        const FourOf<Sum> four = *reinterpret_cast<const FourOf<Sum>*>(part);
        sums[0] += four.x;
        sums[1] += four.y;
        sums[2] += four.z;
        sums[3] += four.w;
      } else {
        for (int i = 0; i < 4; i++) sums[i] += column + i < args.n ? part[i] : 0;
      }
    }
    finish_four(args, load_four_rows(args, column), sums, token, column);
  }
}

// ---- Launches

template <class X, class Out, int BM>
void launch_tiles(Product<X, Out>& args, Context& context) {
  using Sizes = TileSizes<X, BM>;
  const int multiprocessors = context.device().multiprocessors;
  args.row_tiles = (args.m + BM - 1) / BM;
  args.column_tiles = (args.n + TILE_COLUMNS - 1) / TILE_COLUMNS;
  const int64_t tiles = int64_t(args.row_tiles) * args.column_tiles;
  int splits = 1;
  if (tiles < multiprocessors)
    splits = static_cast<int>(std::max<int64_t>(
        1, std::min<int64_t>({2 * multiprocessors / tiles, args.k / LEAST_FEATURES_PER_SPLIT, MOST_SPLITS})));
  if (IS_INT8<X>) splits = std::max(splits, (args.k + MOST_FEATURES_PER_SPLIT - 1) / MOST_FEATURES_PER_SPLIT);
  args.k_per_split = ((args.k + splits - 1) / splits + Sizes::BK - 1) / Sizes::BK * Sizes::BK;
  splits = (args.k + args.k_per_split - 1) / args.k_per_split;
  args.partial = nullptr;
  if (splits > 1) {
    args.partial = static_cast<typename Product<X, Out>::Sum*>(context.workspace(size_t(splits) * args.m * args.n * 4));
    if (!args.partial) return;
  }
  const auto kernel = ternary_tiles<X, Out, BM>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Sizes::SHARED_BYTES);
  kernel<<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(splits)), TILE_THREADS, Sizes::SHARED_BYTES,
           context.stream()>>>(args);
  if (splits > 1) {
    const int64_t fours = int64_t(args.m) * ((args.n + 3) / 4);
    const int64_t blocks = std::min<int64_t>((fours + 255) / 256, 16 * multiprocessors);
    ternary_add_parts<X, Out><<<static_cast<unsigned>(blocks), 256, 0, context.stream()>>>(args, splits);
  }
}

template <class X, class Out, int ROW_TILES, int TOKEN_TILES>
void launch_stream(const Product<X, Out>& args, Context& context) {
  constexpr int ROWS = 16 * ROW_TILES;
  ternary_stream<X, Out, ROW_TILES, TOKEN_TILES>
      <<<static_cast<unsigned>((args.n + ROWS - 1) / ROWS), 32 * STREAM_WARPS, 0, context.stream()>>>(args);
}

template <class X, class Out>
void multiply(Product<X, Out>& args, Context& context) {
  const int64_t features = padded_features(args.k);
  args.x =
      static_cast<const X*>(padded_rows(args.x, args.m, args.k * int64_t(sizeof(X)), features * sizeof(X), 0, context));
  args.packed = padded_trits(args.packed, args.n, args.k, context);
  if (!args.x || !args.packed) return;
  args.k = static_cast<int>(features);

  if (args.m <= MOST_STREAMED_TOKENS && args.k <= MOST_FEATURES_PER_SPLIT) {
    if (args.m <= 8)
      launch_stream<X, Out, 1, 1>(args, context);
    else if (args.m <= 16)
      launch_stream<X, Out, 2, 2>(args, context);
    else
      launch_stream<X, Out, 2, 4>(args, context);
    return;
  }
  // Large tiles where they fill the device.
  const int64_t large_tiles = int64_t((args.m + 127) / 128) * ((args.n + TILE_COLUMNS - 1) / TILE_COLUMNS);
  if (args.m > 64 && large_tiles * 2 >= context.device().multiprocessors)
    launch_tiles<X, Out, 128>(args, context);
  else
    launch_tiles<X, Out, 64>(args, context);
}

template <class X, class Out, class Params>
Product<X, Out> product(const Params& p, const Tensor& x) {
  Product<X, Out> args = {};
  args.x = static_cast<const X*>(x.data);
  args.packed = static_cast<const uint8_t*>(p.packed.data);
  args.weight_scale = static_cast<const float*>(p.weight_scale.data);
  args.bias = static_cast<const Out*>(p.bias.data);
  args.out = static_cast<Out*>(p.out.data);
  args.m = static_cast<int>(p.m);
  args.n = static_cast<int>(p.n);
  args.k = static_cast<int>(p.k);
  args.row_scales = p.weight_scale.length > 1;
  return args;
}

template <class Out>
void multiply_codes(const TernaryMatmulInt8Params& p, Context& context) {
  Product<int8_t, Out> args = product<int8_t, Out>(p, p.codes);
  args.activation_scales = static_cast<const float*>(p.activation_scales.data);
  multiply(args, context);
}

template <class T>
void multiply_floats(const TernaryMatmulParams& p, Context& context) {
  Product<T, T> args = product<T, T>(p, p.x);
  multiply(args, context);
}

}  // namespace

void ternary_matmul_int8(const TernaryMatmulInt8Params& p, Context& context) {
  with_float_type(p.out.dtype, [&](auto type) { multiply_codes<typename decltype(type)::type>(p, context); });
}

void ternary_matmul(const TernaryMatmulParams& p, Context& context) {
  switch (p.out.dtype) {
    case DType::FLOAT16:
      return multiply_floats<__half>(p, context);
    case DType::BFLOAT16:
      return multiply_floats<__nv_bfloat16>(p, context);
    default:
      return ternary_matmul_float32(p, context);
  }
}

}  // namespace ternflash::cuda
