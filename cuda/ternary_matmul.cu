// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = x W^T for packed ternary W [n, k], x [m, k] of int8 codes or of 16-bit floats.
//
//   stream  Few tokens: the packed weights are read once and set the time. The warps of a block share 16 or more rows
//   of
//           W along k; a thread loads 64 trits at a time, two loads ahead, straight into registers, the first ones
//           before the kernel in front of this one is done. W is operand A of the tensor cores, tokens are operand B.
//   tiles   Many tokens: four warps compute a tile of BM tokens by 128 rows of W. Both come through shared memory, W
//           packed, STAGES - 1 steps ahead; trits are spread in registers on the way to the tensor cores. Where there
//           are too few tiles to fill the device the sum over k is split; a second kernel adds the parts in order.
//
// The sums of codes are exact, so that their order does not matter; those of floats have an order that depends on shape
// and device alone.

#include <algorithm>
#include <type_traits>

#include "early_launch.h"
#include "kernels.h"
#include "ternary_decode.h"
#include "ternary_float32.h"
#include "ternary_fragments.h"
#include "ternary_hopper.h"
#include "ternary_product.h"
#include "ternary_rows.h"
#include "tile.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

// ---- Few tokens

constexpr int STREAM_FEATURES = 256;  // of a warp and step
constexpr int STREAM_DEPTH = 2;       // steps ahead
constexpr int MOST_STREAMED_TOKENS = 16;

template <int ROW_TILES, int TOKEN_TILES>
struct StreamSizes {
  static constexpr int MOST_WARPS = TOKEN_TILES == 1 ? 16 : 8;
  static constexpr int ROWS = 16 * ROW_TILES;
  static constexpr int TOKENS = 8 * TOKEN_TILES;
  static constexpr int PITCH = ROWS + 4;
  static constexpr int WARP_BYTES = TOKENS * PITCH * 4;  // of sums in shared memory
};

// The tokens' operands of the 64 features that a thread has of a step: `operands` calls with what is multiplied at
// once.
template <class X, int TOKEN_TILES>
struct StreamTokens {
  const X* rows[TOKEN_TILES];  // this thread's features of step 0, of token 8 i + lane / 4

  // body(w, c, s, b): b[i] are two registers for trits s and s + 1 of chunk c of word w.
  template <class Body>
  __device__ __forceinline__ void operands(int feature, bool inside, const Body& body) const {
    if constexpr (IS_INT8<X>) {
#pragma unroll
      for (int s = 0; s < 4; s += 2) {
        uint4 chunks[TOKEN_TILES][2];
#pragma unroll
        for (int i = 0; i < TOKEN_TILES; i++)
#pragma unroll
          for (int r = 0; r < 2; r++) chunks[i][r] = load(i, feature + 16 * (s + r), inside);
#pragma unroll
        for (int w = 0; w < 4; w++) {
          uint32_t b[TOKEN_TILES][2];
#pragma unroll
          for (int i = 0; i < TOKEN_TILES; i++)
#pragma unroll
            for (int r = 0; r < 2; r++) b[i][r] = word(chunks[i][r], w);
          body(w, 0, s, b);
        }
      }
    } else {
#pragma unroll
      for (int w = 0; w < 4; w++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          uint4 chunks[TOKEN_TILES];
#pragma unroll
          for (int i = 0; i < TOKEN_TILES; i++) chunks[i] = load(i, feature + 16 * w + 8 * c, inside);
#pragma unroll
          for (int s = 0; s < 4; s += 2) {
            uint32_t b[TOKEN_TILES][2];
#pragma unroll
            for (int i = 0; i < TOKEN_TILES; i++) {
              b[i][0] = word(chunks[i], s);
              b[i][1] = word(chunks[i], s + 1);
            }
            body(w, c, s, b);
          }
        }
    }
  }

 private:
  __device__ __forceinline__ uint4 load(int tile, int feature, bool inside) const {
    return inside ? *reinterpret_cast<const uint4*>(rows[tile] + feature) : uint4{0, 0, 0, 0};
  }
  static __device__ __forceinline__ uint32_t word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }
};

template <class X, class Out, int ROW_TILES, int TOKEN_TILES>
__global__ void __launch_bounds__(32 * StreamSizes<ROW_TILES, TOKEN_TILES>::MOST_WARPS, 1)
    ternary_stream(const __grid_constant__ Product<X, Out> args) {
  using Fragments = TernaryFragments<X>;
  using Sum = typename Fragments::Sum;
  using Sizes = StreamSizes<ROW_TILES, TOKEN_TILES>;
  extern __shared__ __align__(1024) uint8_t shared[];
  Sum* sums_smem = reinterpret_cast<Sum*>(shared);  // [warps, TOKENS, PITCH]

  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int warps = blockDim.x / 32;
  const int first_row = blockIdx.x * Sizes::ROWS;
  const int window = lane % 4 * 64;  // this thread's features of a step
  const int steps = (args.k + STREAM_FEATURES - 1) / STREAM_FEATURES;

  // Rows and tokens that are not there are copies of others, whose results are dropped.
  const uint8_t* rows[ROW_TILES][2];
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      rows[i][half] = args.packed + int64_t(min(first_row + 16 * i + 8 * half + lane / 4, args.n - 1)) * (args.k / 4);

  uint4 ahead[STREAM_DEPTH][ROW_TILES][2];
  const auto load = [&](int step, uint4(&words)[ROW_TILES][2]) {
    if (step >= steps) return;
    const int feature = min(step * STREAM_FEATURES + window, args.k - 64);
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) words[i][half] = ld_once_16(rows[i][half] + feature / 4);
  };
#pragma unroll
  for (int d = 0; d < STREAM_DEPTH; d++) load(warp + d * warps, ahead[d]);
  let_next_kernel_begin();  // before waiting: this kernel writes no weights, and the one behind it reads nothing else
  wait_for_kernel_before();

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
  StreamTokens<X, TOKEN_TILES> tokens;
#pragma unroll
  for (int i = 0; i < TOKEN_TILES; i++)
    tokens.rows[i] = args.x + int64_t(min(8 * i + lane / 4, args.m - 1)) * args.k + window;
  Sum sums[ROW_TILES][TOKEN_TILES][4];
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < TOKEN_TILES; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[i][j][e] = 0;

  // EXACT: all features of the step are there; otherwise they may be beyond k, and are 0.
  const auto multiply = [&](int step, const uint4(&words)[ROW_TILES][2], auto exact) {
    constexpr bool EXACT = decltype(exact)::value;
    const int feature = step * STREAM_FEATURES;
    tokens.operands(
        feature, EXACT || feature + window < args.k, [&](int w, int c, int s, const uint32_t(&b)[TOKEN_TILES][2]) {
#pragma unroll
          for (int i = 0; i < ROW_TILES; i++) {
            uint32_t trits[2][4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const uint4& four = words[i][half];
              Fragments::trits(w == 0 ? four.x : w == 1 ? four.y : w == 2 ? four.z : four.w, c, trits[half]);
            }
            const uint32_t a[4] = {trits[0][s], trits[1][s], trits[0][s + 1], trits[1][s + 1]};
#pragma unroll
            for (int j = 0; j < TOKEN_TILES; j++) Fragments::multiply(sums[i][j], a, b[j][0], b[j][1]);
          }
        });
  };
  int step = warp;
#pragma unroll 1
  for (; (step + (STREAM_DEPTH - 1) * warps + 1) * STREAM_FEATURES <= args.k; step += STREAM_DEPTH * warps)
#pragma unroll
    for (int d = 0; d < STREAM_DEPTH; d++) {
      uint4 now[ROW_TILES][2];
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) now[i][half] = ahead[d][i][half];
      load(step + (d + STREAM_DEPTH) * warps, ahead[d]);
      multiply(step + d * warps, now, std::true_type());
    }
#pragma unroll
  for (int d = 0; d < STREAM_DEPTH; d++)
    if (step + d * warps < steps) multiply(step + d * warps, ahead[d], std::false_type());

  const auto sum_of = [&](int w, int token, int row) -> Sum& {
    return sums_smem[(w * Sizes::TOKENS + token) * Sizes::PITCH + row];
  };
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < TOKEN_TILES; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        sum_of(warp, 8 * j + 2 * (lane % 4) + e % 2, 16 * i + 8 * (e / 2) + lane / 4) =
            Fragments::unscaled(sums[i][j][e]);
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < Sizes::ROWS * Sizes::TOKENS; i += blockDim.x) {
    const int token = i / Sizes::ROWS;
    const int row = first_row + i % Sizes::ROWS;
    if (token >= args.m || row >= args.n) continue;
    Sum sum[1] = {0};
    for (int w = 0; w < warps; w++) sum[0] += sum_of(w, token, i % Sizes::ROWS);
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
constexpr int X_ROW_BYTES = 128;             // of a step
constexpr int SUM_PITCH = TILE_COLUMNS + 4;  // of sums in shared memory
constexpr int LEAST_FEATURES_PER_SPLIT = 256;
constexpr int MOST_SPLITS = 16;

template <class X, class Out>
__device__ __forceinline__ float token_scale(const Product<X, Out>& args, int token) {
  return IS_INT8<X> ? args.activation_scales[token] : 1.0f;
}

template <class X, int BM>
struct TileSizes {
  static constexpr int BK = X_ROW_BYTES / sizeof(X);
  static constexpr int W_ROW_BYTES = BK / 4;
  static constexpr int X_BYTES = BM * X_ROW_BYTES;
  static constexpr int STAGE_BYTES = X_BYTES + TILE_COLUMNS * W_ROW_BYTES;
  static constexpr int SUM_BYTES = BM * SUM_PITCH * 4;
  static constexpr int SHARED_BYTES = std::max(STAGES * STAGE_BYTES, SUM_BYTES);
};

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

  // Of floats a thread reads chunks 2 (lane % 4) and the next of rows of x, and the words of W that hold the same
  // features. Of codes four lanes together read a block, and each the word of W with its features.
  const uint32_t x_corner = IS_INT8<X> ? TileX::offset(warp_token + lane % 8, lane / 8)
                                       : TileX::offset(warp_token + lane / 4, 2 * (lane % 4));
  const uint32_t w_corner = Sizes::X_BYTES + (warp_column + lane / 4) * W_ROW_BYTES + lane % 4 * 4;

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
      for (int j = 0; j < TOKEN_TILES; j++) {
        if constexpr (IS_INT8<X>)
          ldmatrix_x4(x[j],
                      stages_smem + step % STAGES * Sizes::STAGE_BYTES + (x_corner ^ (c << 6)) + 8 * j * X_ROW_BYTES);
        else
          Fragments::activations(*reinterpret_cast<const uint4*>(stage + (x_corner ^ (c << 4)) + 8 * j * X_ROW_BYTES),
                                 x[j]);
      }
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++) {
        uint32_t trits[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++)
          Fragments::trits(*reinterpret_cast<const uint32_t*>(stage + w_corner + (16 * i + 8 * half) * W_ROW_BYTES +
                                                              (IS_INT8<X> ? 16 * c : 0)),
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
      finish_four(args, rows, four, token_scale(args, token), token, column);
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
    finish_four(args, load_four_rows(args, column), sums, token_scale(args, token), token, column);
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
  if (IS_INT8<X>) splits = std::max(splits, (args.k + MOST_FEATURES_PER_SUM - 1) / MOST_FEATURES_PER_SUM);
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
void launch_stream(const Product<X, Out>& args, bool early, Context& context) {
  using Sizes = StreamSizes<ROW_TILES, TOKEN_TILES>;
  const int steps = (args.k + STREAM_FEATURES - 1) / STREAM_FEATURES;
  // As few as have all of it under way at once, or as have equally much each.
  const int rounds = (steps + STREAM_DEPTH * Sizes::MOST_WARPS - 1) / (STREAM_DEPTH * Sizes::MOST_WARPS);
  const int warps = (steps + STREAM_DEPTH * rounds - 1) / (STREAM_DEPTH * rounds);
  const auto kernel = ternary_stream<X, Out, ROW_TILES, TOKEN_TILES>;
  const int shared_bytes = warps * Sizes::WARP_BYTES;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  const EarlyLaunch launch(static_cast<unsigned>((args.n + Sizes::ROWS - 1) / Sizes::ROWS), 32 * warps, shared_bytes,
                           context.stream(), early);
  cudaLaunchKernelEx(&launch.config, kernel, args);
  context.lets_next_begin();
}

// Rows of whole units; `early` is cleared if a kernel has to make them. False, and a recorded failure, without memory.
template <class X, class Out>
bool pad(Product<X, Out>& args, bool& early, Context& context) {
  const int64_t features = padded_features(args.k);
  const uint8_t* packed = padded_trits(args.packed, args.n, args.k, context);
  early = early && packed == args.packed;
  args.packed = packed;
  if (!IS_INT8<X>)
    args.x = static_cast<const X*>(
        padded_rows(args.x, args.m, args.k * int64_t(sizeof(X)), features * sizeof(X), 0, context));
  args.k = static_cast<int>(features);
  return args.x && args.packed;
}

// `args` are padded.
template <class X, class Out>
void multiply(Product<X, Out>& args, bool early, Context& context) {
#ifdef TERNFLASH_HOPPER
  if constexpr (IS_INT8<X>) {
    if (takes_ternary_hopper(args, context.device()))
      return launch_ternary_hopper(args, plan_ternary_hopper(args, context.device()), early, context);
  }
#endif
  if (args.m <= MOST_STREAMED_TOKENS && args.k <= MOST_FEATURES_PER_SUM)
    return args.m <= 8 ? launch_stream<X, Out, 1, 1>(args, early, context)
                       : launch_stream<X, Out, 2, 2>(args, early, context);
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
  const size_t count = 1 + p.also_count;
  bool early = context.follows_letting_op();
  for (size_t begin = 0; begin < count; begin += MOST_DECODED_PRODUCTS) {
    Product<int8_t, Out> products[MOST_DECODED_PRODUCTS];
    const int some = static_cast<int>(std::min<size_t>(MOST_DECODED_PRODUCTS, count - begin));
    for (int i = 0; i < some; i++) {
      products[i] = product<int8_t, Out>(begin + i == 0 ? p : p.with(p.also[begin + i - 1]), p.codes);
      products[i].activation_scales = static_cast<const float*>(p.activation_scales.data);
      if (!pad(products[i], early, context)) return;
    }
    if (takes_ternary_decode(products, some, context.device())) {
      launch_ternary_decode(products, some, early, context);
      continue;
    }
    for (int i = 0; i < some; i++) multiply(products[i], early, context);
  }
}

template <class T>
void multiply_floats(const TernaryMatmulParams& p, Context& context) {
  Product<T, T> args = product<T, T>(p, p.x);
  bool early = context.follows_letting_op();
  if (pad(args, early, context)) multiply(args, early, context);
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
