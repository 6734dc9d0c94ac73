// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The gradients of ternary products with 16-bit floats, float32 accumulation:
//
//   d_x [m, k]       = d_out [m, n] (trits * weight_scale) [n, k]
//   d_weight [n, k]  = d_out^T [n, m] (codes / activation_scales) [m, k]
//
// One kernel: d_out is operand A, the packed trits or the int8 codes are operand B and are spread to 16 bits in
// registers on the way to the tensor cores. What scales the rows of B is rounded to 16 bits and multiplied there, as if
// B had been there as a tensor; one scale for all is left to the end, in float32. Where there are too few tiles to fill
// the device the sum is split; a second kernel adds the parts in order.

#include <algorithm>
#include <type_traits>

#include "kernels.h"
#include "sixteen.h"
#include "ternary_float32.h"
#include "ternary_fragments.h"
#include "ternary_rows.h"
#include "tile.h"

namespace ternflash::cuda {

namespace {

constexpr int THREADS = 128;
constexpr int COLUMNS = 128;  // of a tile, and 64 of a warp
constexpr int DEPTH = 64;     // of a step
constexpr int STAGES = 3;
constexpr int LEAST_DEPTH_PER_SPLIT = 256;
constexpr int MOST_SPLITS = 16;

enum class Gradient { INPUT, WEIGHT };

template <class T>
struct GradientArguments {
  const T* d_out;      // INPUT: [rows, depth], WEIGHT: [depth, rows]
  const uint8_t* b;    // INPUT: packed trits, WEIGHT: codes in the order of ternary_codes.h; [depth, b_pitch]
  const T* factors;    // of the rows of B, [depth rounded up to DEPTH], or null
  const float* scale;  // of all, or null
  float factor;        // of all
  T* out;              // [rows, columns]
  float* partial;      // [splits, rows, columns], or null without a split
  int rows;
  int columns;
  int depth;
  int b_pitch;  // bytes
  int depth_per_split;
  int row_tiles;
  int column_tiles;
};

template <class T>
using PairOf = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;

template <class T>
__device__ __forceinline__ PairOf<T> pair_of(uint32_t bits) {
  PairOf<T> pair;
  memcpy(&pair, &bits, sizeof(pair));
  return pair;
}

template <class T>
__device__ __forceinline__ uint32_t bits_of(PairOf<T> pair) {
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

// What `codes_to_pair` makes of code 1. A code over its scale is as large as the activation was, but 1 / scale is 127
// times smaller than the token's largest, where float16 may have lost its precision.
template <class T>
constexpr float CODE_UNIT = std::is_same_v<T, __half> ? 1.0f / 64 : 1.0f;

// The bits of a pair of numbers whose lowest bits are those of an integer added to them.
template <class T>
constexpr uint32_t CODE_OFFSET = std::is_same_v<T, __half> ? 0x64806480u : 0x43004300u;

// Bytes 0 and 2 of `codes` as int8, times CODE_UNIT, without rounding; `offset` is CODE_OFFSET.
template <class T>
__device__ __forceinline__ PairOf<T> codes_to_pair(uint32_t codes, uint32_t offset);

template <>
__device__ __forceinline__ __half2 codes_to_pair<__half>(uint32_t codes, uint32_t offset) {
  // 1024 + 128 + code: the steps of float16 are 1 there.
  const uint32_t biased = lop3_and_xor(codes, 0x00ff00ffu, offset);
  return __hfma2(pair_of<__half>(biased), pair_of<__half>(0x24002400u), pair_of<__half>(0xcc80cc80u));  // / 64 - 18
}

template <>
__device__ __forceinline__ __nv_bfloat162 codes_to_pair<__nv_bfloat16>(uint32_t codes, uint32_t offset) {
  // 128 + the low seven bits, less 128, or 256 for a negative code: the steps of bfloat16 are 1 from 128 to 256.
  const uint32_t biased = lop3_and_xor(codes, 0x007f007fu, offset);
  const uint32_t bias = lop3_and_xor(codes, 0x00800080u, offset);
  return __hsub2(pair_of<__nv_bfloat16>(biased), pair_of<__nv_bfloat16>(bias));
}

// Of four neighbouring lanes, lane r has what belongs to features 4 i + r of a block of 64 in chunk[i]; it gets those
// of features 16 r to 16 r + 15.
__device__ __forceinline__ void gather_features(const float (&chunk)[16], float (&features)[16]) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int distance = 0; distance < 4; distance++) {
    const int other = lane ^ distance;
    float received[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float sent = other == 0 ? chunk[i] : other == 1 ? chunk[4 + i] : other == 2 ? chunk[8 + i] : chunk[12 + i];
      received[i] = __shfl_xor_sync(0xffffffff, sent, distance);
    }
#pragma unroll
    for (int from = 0; from < 4; from++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (from == other) features[4 * i + from] = received[i];
  }
}

template <Gradient GRADIENT, int BM>
struct StageSizes {
  static constexpr bool INPUT = GRADIENT == Gradient::INPUT;
  static constexpr int A_ROWS = INPUT ? BM : DEPTH;
  static constexpr int A_COLUMNS = INPUT ? DEPTH : BM;
  static constexpr int A_BYTES = BM * DEPTH * 2;
  static constexpr int B_ROW_BYTES = INPUT ? COLUMNS / 4 : COLUMNS;
  static constexpr int B_PITCH = B_ROW_BYTES + 16;  // rows 0, 2, 4 and 6 fall into different banks
  static constexpr int B_BYTES = DEPTH * B_PITCH;
  static constexpr int BYTES = A_BYTES + B_BYTES + DEPTH * 2;
};

template <class T, Gradient GRADIENT, int BM>
__global__ void __launch_bounds__(THREADS, 2) gradient_tiles(const __grid_constant__ GradientArguments<T> args) {
  using Sizes = StageSizes<GRADIENT, BM>;
  using TileA = Tile<Sizes::A_COLUMNS>;
  constexpr bool INPUT = Sizes::INPUT;
  constexpr int M_TILES = BM / 32;  // a warp's m16 tiles
  constexpr int N_TILES = COLUMNS / 16;

  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t stages_smem = shared_address(shared);
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int warp_row = thread / 64 * (BM / 2);
  const int warp_column = thread / 32 % 2 * (COLUMNS / 2);
  int row_tile;
  int column_tile;
  tile_position(blockIdx.x, args.row_tiles, args.column_tiles, row_tile, column_tile);
  const int first_row = row_tile * BM;
  const int first_column = column_tile * COLUMNS;
  const int begin = blockIdx.y * args.depth_per_split;
  const int end = min(args.depth, begin + args.depth_per_split);
  const int steps = end > begin ? (end - begin + DEPTH - 1) / DEPTH : 0;

  const int a_stride = INPUT ? args.depth : args.rows;
  const bool aligned = a_stride % 8 == 0;
  const auto load = [&](int step) {
    if (step < steps) {
      const int first = begin + step * DEPTH;
      const uint32_t a_smem = stages_smem + step % STAGES * Sizes::BYTES;
      const T* a = args.d_out + (INPUT ? int64_t(first_row) * a_stride + first : int64_t(first) * a_stride + first_row);
      load_tile<Sizes::A_ROWS, Sizes::A_COLUMNS, THREADS, false>(
          a_smem, a, a_stride, INPUT ? args.rows - first_row : end - first, INPUT ? end - first : args.rows - first_row,
          aligned, thread);
      constexpr int CHUNKS = Sizes::B_ROW_BYTES / 16;
      const int column_byte = INPUT ? first_column / 4 : first_column;
      const uint8_t* b = args.b + int64_t(first) * args.b_pitch + column_byte;
#pragma unroll
      for (int i = 0; i < DEPTH * CHUNKS / THREADS; i++) {
        const int row = (thread + i * THREADS) / CHUNKS;
        const int chunk = (thread + i * THREADS) % CHUNKS;
        const bool valid = first + row < end && column_byte + chunk * 16 < args.b_pitch;
        cp_async_16(a_smem + Sizes::A_BYTES + row * Sizes::B_PITCH + chunk * 16,
                    valid ? b + int64_t(row) * args.b_pitch + chunk * 16 : args.b, valid);
      }
      if (args.factors && thread < DEPTH * 2 / 16)
        cp_async_16(a_smem + Sizes::A_BYTES + Sizes::B_BYTES + thread * 16, args.factors + first + thread * 8, true);
    }
    cp_async_commit_group();  // an empty group keeps the count
  };

  float sum[M_TILES][N_TILES][4];
#pragma unroll
  for (int m = 0; m < M_TILES; m++)
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sum[m][n][i] = 0.0f;

  const uint32_t a_corner = INPUT ? corner_a<Sizes::A_COLUMNS>(0, lane) : corner_a_trans<Sizes::A_COLUMNS>(0, lane);
  // A thread holds of B the eight columns from 8 (lane / 4) of its warp's, each in its own tile of eight, in rows 2
  // (lane % 4) + {0, 1, 8, 9}.
  const int b_corner = Sizes::A_BYTES + 2 * (lane % 4) * Sizes::B_PITCH +
                       (INPUT ? warp_column / 4 + 2 * (lane / 4) : warp_column + 8 * (lane / 4));
  const uint32_t code_offset = in_register(CODE_OFFSET<T>);
  const int factor_corner = Sizes::A_BYTES + Sizes::B_BYTES + 4 * (lane % 4);

#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) load(step);
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    cp_async_wait_group<STAGES - 2>();
    __syncthreads();  // this step's tiles are there for all; all are done with the stage that is loaded next
    load(step + STAGES - 1);
    const uint8_t* stage = shared + step % STAGES * Sizes::BYTES;
    const uint32_t a_smem = stages_smem + step % STAGES * Sizes::BYTES;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
      uint32_t a[M_TILES][4];
#pragma unroll
      for (int m = 0; m < M_TILES; m++) {
        if constexpr (INPUT)
          ldmatrix_x4(a[m], a_smem + TileA::advance(a_corner, 2 * k) + (warp_row + 16 * m) * TileA::ROW_BYTES);
        else
          ldmatrix_x4_trans(a[m], a_smem + TileA::advance(a_corner, warp_row / 8 + 2 * m) + 16 * k * TileA::ROW_BYTES);
      }
      PairOf<T> factors[2];
      if (!INPUT || args.factors) {
#pragma unroll
        for (int r = 0; r < 2; r++)
          factors[r] = pair_of<T>(*reinterpret_cast<const uint32_t*>(stage + factor_corner + 32 * k + 16 * r));
      }
      const uint8_t* rows = stage + b_corner + 16 * k * Sizes::B_PITCH;
      const auto multiply = [&](int n, const uint32_t(&b)[2]) {
#pragma unroll
        for (int m = 0; m < M_TILES; m++) mma_m16n8k16<T>(sum[m][n], a[m], b[0], b[1]);
      };
      if constexpr (INPUT) {
        uint32_t codes[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const uint32_t low = *reinterpret_cast<const uint16_t*>(rows + 8 * r * Sizes::B_PITCH);
          const uint32_t high = *reinterpret_cast<const uint16_t*>(rows + (8 * r + 1) * Sizes::B_PITCH);
          codes[r] = signed_trits(__byte_perm(low, high, 0x5410));
        }
        const auto columns = [&](auto scaled) {
#pragma unroll
          for (int n = 0; n < N_TILES; n++) {
            uint32_t b[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
              b[r] = codes[r] << (14 - 2 * n) & 0xc000c000u;  // 0 and +-2.0, as in ternary_fragments.h
              if (decltype(scaled)::value) b[r] = bits_of<T>(__hmul2(pair_of<T>(b[r]), factors[r]));
            }
            multiply(n, b);
          }
        };
        if (args.factors)
          columns(std::true_type());
        else
          columns(std::false_type());
      } else {
        uint2 codes[2][2];
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
          for (int i = 0; i < 2; i++)
            codes[r][i] = *reinterpret_cast<const uint2*>(rows + (8 * r + i) * Sizes::B_PITCH);
#pragma unroll
        for (int n = 0; n < N_TILES; n++) {
          uint32_t b[2];
#pragma unroll
          for (int r = 0; r < 2; r++) {
            const uint32_t low = n < 4 ? codes[r][0].x : codes[r][0].y;
            const uint32_t high = n < 4 ? codes[r][1].x : codes[r][1].y;
            const uint32_t both = __byte_perm(low, high, n % 4 | (4 + n % 4) << 8);
            b[r] = bits_of<T>(__hmul2(codes_to_pair<T>(both, code_offset), factors[r]));
          }
          multiply(n, b);
        }
      }
    }
  }

  // A thread has sixteen neighbouring columns of each of its rows: the eight of tile columns 2 (lane % 4), then those
  // of the next. Of codes they are chunk lane % 4 of a block of 64, with every fourth feature: the four threads that
  // have the block exchange them.
  if constexpr (!INPUT) {
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float chunk[16];
#pragma unroll
        for (int i = 0; i < 16; i++) chunk[i] = sum[m][i % 8][2 * half + i / 8];
        float features[16];
        gather_features(chunk, features);
#pragma unroll
        for (int i = 0; i < 16; i++) sum[m][i % 8][2 * half + i / 8] = features[i];
      }
  }
  const int column = first_column + warp_column + 16 * (lane % 4);
  if (column >= args.columns) return;
  const float factor = args.scale ? args.factor * *args.scale : args.factor;
  const bool whole = column + 16 <= args.columns && args.columns % 8 == 0;
#pragma unroll
  for (int m = 0; m < M_TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = first_row + warp_row + 16 * m + 8 * half + lane / 4;
      if (row >= args.rows) continue;
      const auto value = [&](int i) { return sum[m][i % 8][2 * half + i / 8]; };
      const auto store = [&](auto* target, float times) {
        using Out = std::remove_pointer_t<decltype(target)>;
        if (whole) {
          float values[16];
#pragma unroll
          for (int i = 0; i < 16; i++) values[i] = times * value(i);
          store_sixteen(target, values);
        } else {
#pragma unroll
          for (int i = 0; i < 16; i++)
            if (column + i < args.columns) target[i] = static_cast<Out>(times * value(i));
        }
      };
      const int64_t index = int64_t(row) * args.columns + column;
      if (args.partial)
        store(args.partial + int64_t(blockIdx.y) * args.rows * args.columns + index, 1.0f);
      else
        store(args.out + index, factor);
    }
}

template <class T>
__global__ void gradient_add_parts(const __grid_constant__ GradientArguments<T> args, int splits) {
  const int64_t length = int64_t(args.rows) * args.columns;
  const float factor = args.scale ? args.factor * *args.scale : args.factor;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < length; i += int64_t(gridDim.x) * blockDim.x) {
    float sum = 0.0f;
    for (int split = 0; split < splits; split++) sum += args.partial[split * length + i];
    args.out[i] = static_cast<T>(factor * sum);
  }
}

// factors[i] = scales[i], or numerator / scales[i] if the numerator is not 0; 0 from `count` on.
template <class T>
__global__ void round_factors(const float* scales, int count, int padded, float numerator, T* factors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= padded) return;
  const float scale = i < count ? scales[i] : 0.0f;
  factors[i] = static_cast<T>(i >= count ? 0.0f : numerator != 0.0f ? numerator / scale : scale);
}

template <class T>
const T* make_factors(const Tensor& scales, float numerator, Context& context) {
  const int count = static_cast<int>(scales.length);
  const int padded = (count + DEPTH - 1) / DEPTH * DEPTH;
  T* factors = static_cast<T*>(context.workspace(padded * sizeof(T)));
  if (factors)
    round_factors<T><<<(padded + 255) / 256, 256, 0, context.stream()>>>(static_cast<const float*>(scales.data), count,
                                                                         padded, numerator, factors);
  return factors;
}

template <class T, Gradient GRADIENT, int BM>
void launch_tiles(GradientArguments<T>& args, Context& context) {
  const int multiprocessors = context.device().multiprocessors;
  args.row_tiles = (args.rows + BM - 1) / BM;
  args.column_tiles = (args.columns + COLUMNS - 1) / COLUMNS;
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
  constexpr int SHARED_BYTES = STAGES * StageSizes<GRADIENT, BM>::BYTES;
  const auto kernel = gradient_tiles<T, GRADIENT, BM>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
  kernel<<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(splits)), THREADS, SHARED_BYTES,
           context.stream()>>>(args);
  if (splits > 1) {
    const int64_t blocks = std::min<int64_t>((int64_t(args.rows) * args.columns + 255) / 256, 16 * multiprocessors);
    gradient_add_parts<T><<<static_cast<unsigned>(blocks), 256, 0, context.stream()>>>(args, splits);
  }
}

template <class T, Gradient GRADIENT>
void launch(GradientArguments<T>& args, Context& context) {
  // Large tiles where they fill the device.
  const int64_t large_tiles = int64_t((args.rows + 127) / 128) * ((args.columns + COLUMNS - 1) / COLUMNS);
  if (args.rows > 64 && large_tiles * 2 >= context.device().multiprocessors)
    launch_tiles<T, GRADIENT, 128>(args, context);
  else
    launch_tiles<T, GRADIENT, 64>(args, context);
}

template <class T>
void input_gradient(const TernaryMatmulBackwardParams& p, Context& context) {
  GradientArguments<T> args = {};
  args.d_out = static_cast<const T*>(p.d_out.data);
  args.b = padded_trits(p.packed.data, p.n, p.k, context);
  args.b_pitch = static_cast<int>(padded_features(p.k) / 4);
  const bool row_scales = p.weight_scale.length > 1;
  args.factors = row_scales ? make_factors<T>(p.weight_scale, 0.0f, context) : nullptr;
  if (!args.b || (row_scales && !args.factors)) return;
  args.scale = row_scales ? nullptr : static_cast<const float*>(p.weight_scale.data);
  args.factor = 0.5f;  // trits are +-2
  args.out = static_cast<T*>(p.d_x.data);
  args.rows = static_cast<int>(p.m);
  args.columns = static_cast<int>(p.k);
  args.depth = static_cast<int>(p.n);
  launch<T, Gradient::INPUT>(args, context);
}

template <class T>
void weight_gradient(const BitLinearWeightBackwardParams& p, Context& context) {
  GradientArguments<T> args = {};
  args.d_out = static_cast<const T*>(p.d_out.data);
  args.b = static_cast<const uint8_t*>(p.codes.data);
  args.b_pitch = static_cast<int>(padded_features(p.k));
  args.factors = make_factors<T>(p.activation_scales, 1.0f / CODE_UNIT<T>, context);
  if (!args.b || !args.factors) return;
  args.factor = 1.0f;
  args.out = static_cast<T*>(p.d_weight.data);
  args.rows = static_cast<int>(p.n);
  args.columns = static_cast<int>(p.k);
  args.depth = static_cast<int>(p.m);
  launch<T, Gradient::WEIGHT>(args, context);
}

}  // namespace

void ternary_matmul_backward(const TernaryMatmulBackwardParams& p, Context& context) {
  switch (p.d_x.dtype) {
    case DType::FLOAT16:
      return input_gradient<__half>(p, context);
    case DType::BFLOAT16:
      return input_gradient<__nv_bfloat16>(p, context);
    default:
      return ternary_matmul_backward_float32(p, context);
  }
}

void bit_linear_weight_backward(const BitLinearWeightBackwardParams& p, Context& context) {
  switch (p.d_weight.dtype) {
    case DType::FLOAT16:
      return weight_gradient<__half>(p, context);
    case DType::BFLOAT16:
      return weight_gradient<__nv_bfloat16>(p, context);
    default:
      return bit_linear_weight_backward_float32(p, context);
  }
}

}  // namespace ternflash::cuda
