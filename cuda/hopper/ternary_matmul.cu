// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out [m, n] = codes [m, k] W^T for packed ternary W [n, k], compute capability 9.0. The tensor cores compute the
// transpose: rows of W are operand a, unpacked into registers, tokens are operand b in shared memory.
//
// Two warpgroups multiply, one warp loads codes, in steps of 128 features, and packed W, in units of 512, by TMA, as
// far ahead as shared memory allows.
//
//   persistent  Many tokens: tiles of 256 rows of W by 128 tokens. Results go through shared memory, transposed, to TMA
//               stores, which run while the next tile is computed.
//   small       Tiles of 128 rows of W by 16 to 64 tokens, two blocks on a multiprocessor. The sum over k may be shared
//   by the blocks of a cluster; each
//               then adds up the parts of some of the tile's tokens out of all blocks' shared memory.

#include <algorithm>

#include "../early_launch.h"
#include "../hopper.h"
#include "../tensor_map.h"
#include "../ternary_hopper.h"
#include "../ternary_rows.h"
#include "../wgmma.h"

namespace ternflash::cuda {

namespace {

constexpr int WARPGROUPS = 2;
constexpr int MULTIPLYING_THREADS = 128 * WARPGROUPS;
constexpr int THREADS = MULTIPLYING_THREADS + 32;
constexpr int LARGE_THREADS = MULTIPLYING_THREADS + 128;  // setmaxnreg is for whole warpgroups
constexpr int STEP = 128;                                 // features
constexpr int STEPS_PER_UNIT = 4;
constexpr int UNIT_ROW_BYTES = STEP * STEPS_PER_UNIT / 4;  // 128: the swizzled rows of TMA

struct TernaryMaps {
  CUtensorMap x;       // boxes of 128 codes x the tile's tokens
  CUtensorMap packed;  // boxes of 128 bytes x the tile's rows of W
  CUtensorMap out;     // persistent: boxes of 64 rows of W x 128 tokens
};

// M_TILES: of 64 rows of W, of a warpgroup.
template <int M_TILES, int TOKENS_, int X_STAGES_, int W_STAGES_>
struct Layout {
  static constexpr int TOKENS = TOKENS_;
  static constexpr int X_STAGES = X_STAGES_;
  static constexpr int W_STAGES = W_STAGES_;
  static constexpr int ROWS = 64 * M_TILES * WARPGROUPS;
  static constexpr int X_BYTES = TOKENS * STEP;
  static constexpr int W_BYTES = ROWS * UNIT_ROW_BYTES;
  static constexpr int PACKED = X_STAGES * X_BYTES;  // codes of all stages come first, then packed weights of all
  static constexpr int END_OF_STAGES = PACKED + W_STAGES * W_BYTES;
  static constexpr int X_FULL = 0;  // of the barriers
  static constexpr int X_EMPTY = X_FULL + 8 * X_STAGES;
  static constexpr int W_FULL = X_EMPTY + 8 * X_STAGES;
  static constexpr int W_EMPTY = W_FULL + 8 * W_STAGES;
  static constexpr int BARRIER_BYTES = W_EMPTY + 8 * W_STAGES;
  static_assert(PACKED % 1024 == 0 && W_BYTES % 1024 == 0);
};

template <class L>
__device__ __forceinline__ void init_barriers(uint32_t barriers_smem) {
  if (threadIdx.x == 0) {
    constexpr int WARPS = MULTIPLYING_THREADS / 32;
    for (int i = 0; i < L::X_STAGES; i++) {
      mbarrier_init(barriers_smem + L::X_FULL + 8 * i, 1);
      mbarrier_init(barriers_smem + L::X_EMPTY + 8 * i, WARPS);
    }
    for (int i = 0; i < L::W_STAGES; i++) {
      mbarrier_init(barriers_smem + L::W_FULL + 8 * i, 1);
      mbarrier_init(barriers_smem + L::W_EMPTY + 8 * i, WARPS);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
}

// How one thread loads.
template <class L>
struct Loader {
  const TernaryMaps& maps;
  const uint32_t smem;
  const uint32_t barriers_smem;
  Ring<L::X_STAGES> x{1};
  Ring<L::W_STAGES> w{1};

  // Codes of 128 features from `feature` of the tile's tokens.
  __device__ __forceinline__ void codes(int feature, int first_token) {
    const uint32_t full = barriers_smem + L::X_FULL + 8 * x.slot;
    mbarrier_wait(barriers_smem + L::X_EMPTY + 8 * x.slot, x.parity);
    mbarrier_arrive_expect(full, L::X_BYTES);
    tma_load_2d(smem + x.slot * L::X_BYTES, &maps.x, full, feature, first_token, L2_NORMAL);
    x.advance();
  }
  // Weights of 512 features.
  __device__ __forceinline__ void packed(int feature, int first_row) {
    const uint32_t full = barriers_smem + L::W_FULL + 8 * w.slot;
    mbarrier_wait(barriers_smem + L::W_EMPTY + 8 * w.slot, w.parity);
    mbarrier_arrive_expect(full, L::W_BYTES);
    tma_load_2d(smem + L::PACKED + w.slot * L::W_BYTES, &maps.packed, full, feature / 4, first_row, L2_NORMAL);
    w.advance();
  }
};

// The sums of one warpgroup's rows, step after step. `sums` are 64 times those of the codes.
template <int M_TILES, int TOKENS, class L>
struct Multiplier {
  using Product = Wgmma<int8_t, TOKENS>;
  const uint32_t smem;
  const uint32_t barriers_smem;
  Ring<L::X_STAGES> x{0};
  Ring<L::W_STAGES> w{0};
  int quarter = 0;              // of the unit of W
  uint32_t previous_empty = 0;  // the barrier of the codes that are still being multiplied
  uint32_t row_offset;          // of this thread's first row, and the words of its lane in a chunk of 16 bytes
  uint32_t swizzle;
  uint64_t x_operand;

  __device__ Multiplier(uint32_t smem, uint32_t barriers_smem) : smem(smem), barriers_smem(barriers_smem) {
    const int lane = threadIdx.x % 32;
    const int row = threadIdx.x / 128 * 64 * M_TILES + threadIdx.x % 128 / 32 * 16 + lane / 4;
    row_offset = L::PACKED + row * UNIT_ROW_BYTES + lane % 4 * 4;
    swizzle = lane / 4 << 4;
    x_operand = wgmma_operand(smem, 0);
  }

  // Operand a of four products, of 32 features each.
  __device__ __forceinline__ void unpack(int m, uint32_t (&a)[16]) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint32_t address =
          smem + w.slot * L::W_BYTES + row_offset + m * 64 * UNIT_ROW_BYTES + ((2 * quarter + half) << 4 ^ swizzle);
      uint32_t words[2];
#pragma unroll
      for (int below = 0; below < 2; below++) {
        asm volatile("ld.shared.b32 %0, [%1];" : "=r"(words[below]) : "r"(address + below * 8 * UNIT_ROW_BYTES));
        uint32_t trits[4];
        TernaryFragments<int8_t>::trits(words[below], 0, trits);
#pragma unroll
        for (int r = 0; r < 4; r++) a[8 * half + 4 * (r / 2) + 2 * (r % 2) + below] = trits[r];
      }
    }
  }

  __device__ __forceinline__ void multiply(int (&sums)[TOKENS / 2], const uint32_t (&a)[16], bool first) const {
    wgmma_fence();
    const uint64_t operand = wgmma_advance(x_operand, x.slot * L::X_BYTES);
#pragma unroll
    for (int i = 0; i < 4; i++)
      Product::registers_shared(sums, a + 4 * i, wgmma_advance(operand, 32 * i), i > 0 || !first);
    wgmma_commit();
    wgmma_wait<1>();  // the products before these are done: their operands may change
  }

  __device__ __forceinline__ void release_previous() {
    if (previous_empty && threadIdx.x % 32 == 0) mbarrier_arrive(previous_empty);
    previous_empty = 0;
  }

  // All M_TILES tiles of one step.
  __device__ __forceinline__ void step(int (&sums)[M_TILES][TOKENS / 2], uint32_t (&a)[2][16], int first_buffer,
                                       bool first, bool last) {
    if (quarter == 0) mbarrier_wait(barriers_smem + L::W_FULL + 8 * w.slot, w.parity);
    mbarrier_wait(barriers_smem + L::X_FULL + 8 * x.slot, x.parity);
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
      unpack(m, a[(first_buffer + m) % 2]);
      multiply(sums[m], a[(first_buffer + m) % 2], first);
      if (m == 0) release_previous();
    }
    previous_empty = barriers_smem + L::X_EMPTY + 8 * x.slot;
    x.advance();
    if (++quarter == STEPS_PER_UNIT || last) {
      quarter = 0;
      if (threadIdx.x % 32 == 0) mbarrier_arrive(barriers_smem + L::W_EMPTY + 8 * w.slot);
      w.advance();
    }
  }

  __device__ __forceinline__ void all(int (&sums)[M_TILES][TOKENS / 2], int steps) {
    uint32_t a[2][16];
    if constexpr (M_TILES == 2) {
#pragma unroll 1
      for (int i = 0; i < steps; i++) step(sums, a, 0, i == 0, i + 1 == steps);
    } else {
      int i = 0;
#pragma unroll 1
      for (; i + 1 < steps; i += 2) {
        step(sums, a, 0, i == 0, false);
        step(sums, a, 1, false, i + 2 == steps);
      }
      if (i < steps) step(sums, a, 0, i == 0, true);
    }
    wgmma_wait<0>();
    release_previous();
  }
};

// ---- Many tokens

constexpr int LARGE_TOKENS = 128;
using LargeLayout = Layout<2, LARGE_TOKENS, 6, 2>;
constexpr int PART_BYTES = LARGE_TOKENS * 64 * 2;  // results of 64 rows of W
constexpr int LARGE_OUT = LargeLayout::END_OF_STAGES;
constexpr int LARGE_BARRIERS = LARGE_OUT + 2 * WARPGROUPS * PART_BYTES;
constexpr int LARGE_FACTORS = LARGE_BARRIERS + LargeLayout::BARRIER_BYTES;
constexpr int LARGE_BYTES = LARGE_FACTORS + WARPGROUPS * 2 * LARGE_TOKENS * 4;
static_assert(LARGE_BYTES <= 232448);

struct TilePosition {
  int first_row;
  int first_token;
};

// Bands of 8 tiles of tokens come with the same rows of W, before those with the next rows.
__device__ __forceinline__ TilePosition large_tile(int index, int row_tiles, int token_tiles) {
  constexpr int BAND = 8;
  const int band = index / (BAND * row_tiles);
  const int within = index - band * BAND * row_tiles;
  const int height = min(BAND, token_tiles - band * BAND);
  const int row = within / height;
  return {row * LargeLayout::ROWS, (band * BAND + within - row * height) * LARGE_TOKENS};
}

// Whether exponents are far from the ends of float32's range, so that `quotient` below is right.
__device__ __forceinline__ bool is_moderate(float x) {
  const float magnitude = fabsf(x);
  return magnitude > 0x1p-60f && magnitude < 0x1p60f;
}

// a / b rounded to nearest, from 1 / b rounded to nearest (Markstein, 1990).
__device__ __forceinline__ float quotient(float a, float b, float reciprocal) {
  const float q = __fmul_rn(a, reciprocal);
  return __fmaf_rn(__fmaf_rn(-q, b, a), reciprocal, q);
}

enum class Scales { COMMON, ROWS, EXTREME_ROWS };

template <class Out>
__global__ void __launch_bounds__(LARGE_THREADS, 1)
    ternary_persistent(const __grid_constant__ TernaryMaps maps, const __grid_constant__ Product<int8_t, Out> args) {
  using L = LargeLayout;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t smem = shared_address(shared);
  const uint32_t barriers_smem = smem + LARGE_BARRIERS;
  if (threadIdx.x == MULTIPLYING_THREADS) {
    prefetch_tensormap(&maps.packed);
    prefetch_tensormap(&maps.x);
  }
  init_barriers<L>(barriers_smem);
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  const int steps = (args.k + STEP - 1) / STEP;
  const int row_tiles = (args.n + L::ROWS - 1) / L::ROWS;
  const int token_tiles = (args.m + LARGE_TOKENS - 1) / LARGE_TOKENS;
  const int tiles = row_tiles * token_tiles;

  if (warp >= MULTIPLYING_THREADS / 32) {
    setmaxnreg_dec<24>();
    if (threadIdx.x > MULTIPLYING_THREADS) return;
    Loader<L> loader{maps, smem, barriers_smem};
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const TilePosition position = large_tile(tile, row_tiles, token_tiles);
#pragma unroll 1
      for (int i = 0; i < steps; i++) {
        if (i % STEPS_PER_UNIT == 0) loader.packed(i * STEP, position.first_row);
        loader.codes(i * STEP, position.first_token);
      }
    }
    return;
  }

  setmaxnreg_inc<240>();
  const int group = warp / 4;
  const int thread = threadIdx.x % 128;
  const int lane = threadIdx.x % 32;
  // Of the tile's tokens: the common factor, or the scale and what it divides by.
  float* factors = reinterpret_cast<float*>(shared + LARGE_FACTORS) + group * 2 * LARGE_TOKENS;
  float* reciprocals = factors + LARGE_TOKENS;
  Multiplier<2, LARGE_TOKENS, L> multiplier(smem, barriers_smem);
  int sums[2][LARGE_TOKENS / 2];
#pragma unroll 1
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const TilePosition position = large_tile(tile, row_tiles, token_tiles);
    const int first_row = position.first_row + group * 128;
    const float token_scale = args.activation_scales[min(position.first_token + thread, args.m - 1)];
    if (args.row_scales) {
      factors[thread] = token_scale;
      reciprocals[thread] = __frcp_rn(token_scale);
    } else {
      factors[thread] = __fdiv_rn(args.weight_scale[0], token_scale);
    }

    multiplier.all(sums, steps);

    if (thread == 0) tma_wait_read();  // the tile before is out of shared memory
    bar_sync(1 + group, 128);
    const auto finish_tile = [&](auto kind) {
      constexpr Scales SCALES = decltype(kind)::value;
#pragma unroll
      for (int m = 0; m < 2; m++) {
        wgmma_pin(sums[m]);
        float scales[2];
        float bias[2];
#pragma unroll
        for (int below = 0; below < 2; below++) {
          const int row = min(first_row + m * 64 + warp % 4 * 16 + 8 * below + lane / 4, args.n - 1);
          scales[below] = args.weight_scale[args.row_scales ? row : 0];
          bias[below] = args.bias ? static_cast<float>(args.bias[row]) : 0.0f;
        }
        const uint32_t part_smem = smem + LARGE_OUT + (group * 2 + m) * PART_BYTES;
        const auto value = [&](int sum, int below, int token) {
          float factor = factors[token];
          if constexpr (SCALES == Scales::ROWS) factor = quotient(scales[below], factor, reciprocals[token]);
          if constexpr (SCALES == Scales::EXTREME_ROWS) factor = __fdiv_rn(scales[below], factor);
          const float x = TernaryFragments<int8_t>::value(scales[below] == 0.0f ? 0 : sum >> 6, factor);
          return args.bias ? __fadd_rn(x, bias[below]) : x;
        };
        // Sixteen tokens at a time; rows of 64 results, swizzled as TMA wants them.
#pragma unroll
        for (int j = 0; j < LARGE_TOKENS / 16; j++) {
          uint32_t packed[4];
#pragma unroll
          for (int half = 0; half < 2; half++)
#pragma unroll
            for (int below = 0; below < 2; below++) {
              const int token = 16 * j + 8 * half + 2 * (lane % 4);
              const int* pair = &sums[m][8 * j + 4 * half + 2 * below];
              packed[2 * half + below] = pack<Out>(value(pair[0], below, token), value(pair[1], below, token + 1));
            }
          const int token = 16 * j + lane / 16 * 8 + lane % 8;
          const int chunk = warp % 4 * 2 + (lane >> 3 & 1);
          stmatrix_x4_trans(part_smem + token * 128 + ((chunk ^ (token & 7)) << 4), packed[0], packed[1], packed[2],
                            packed[3]);
        }
      }
    };
    if (!args.row_scales) {
      finish_tile(std::integral_constant<Scales, Scales::COMMON>());
    } else {
      bool moderate = is_moderate(factors[thread]);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int row = min(first_row + i / 2 * 64 + warp % 4 * 16 + 8 * (i % 2) + lane / 4, args.n - 1);
        moderate = moderate && is_moderate(args.weight_scale[row]);
      }
      if (bar_and(1 + group, 128, moderate))
        finish_tile(std::integral_constant<Scales, Scales::ROWS>());
      else
        finish_tile(std::integral_constant<Scales, Scales::EXTREME_ROWS>());
    }
    fence_async_proxy();
    bar_sync(1 + group, 128);
    if (thread == 0) {
#pragma unroll
      for (int m = 0; m < 2; m++)
        tma_store_2d(&maps.out, smem + LARGE_OUT + (group * 2 + m) * PART_BYTES, first_row + 64 * m,
                     position.first_token);
      tma_commit_group();
    }
  }
  if (thread == 0) tma_wait();
}

// ---- Small tiles

constexpr int SMALL_BLOCKS = 2;  // on a multiprocessor
template <int TOKENS>
constexpr int SMALL_X_STAGES = TOKENS == 16   ? 16
                               : TOKENS == 32 ? 9
                                              : 5;

template <int TOKENS>
struct SmallLayout : Layout<1, TOKENS, SMALL_X_STAGES<TOKENS>, 4> {
  using Base = Layout<1, TOKENS, SMALL_X_STAGES<TOKENS>, 4>;
  static constexpr int SUM_PITCH = Base::ROWS + 4;  // of sums in shared memory, where the stages were
  static constexpr int BARRIERS = Base::END_OF_STAGES;
  static constexpr int TOKEN_SCALES = BARRIERS + Base::BARRIER_BYTES;
  static constexpr int BYTES = TOKEN_SCALES + TOKENS * 4;
  static_assert(TOKENS * SUM_PITCH * 4 <= Base::END_OF_STAGES && SMALL_BLOCKS * (BYTES + 1024) <= 233472);
};

template <class Out, int TOKENS>
__global__ void __launch_bounds__(THREADS, SMALL_BLOCKS)
    ternary_small(const __grid_constant__ TernaryMaps maps, const __grid_constant__ Product<int8_t, Out> args,
                  int splits) {
  using L = SmallLayout<TOKENS>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t smem = shared_address(shared);
  const uint32_t barriers_smem = smem + L::BARRIERS;
  if (threadIdx.x == MULTIPLYING_THREADS) {
    prefetch_tensormap(&maps.packed);
    prefetch_tensormap(&maps.x);
  }
  init_barriers<L>(barriers_smem);
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  const int rank = blockIdx.x % splits;
  const int tile = blockIdx.x / splits;
  const int token_tiles = (args.m + TOKENS - 1) / TOKENS;
  const int row_tile = tile / token_tiles;
  const int first_row = row_tile * L::ROWS;
  const int first_token = (tile - row_tile * token_tiles) * TOKENS;
  const int all_steps = (args.k + STEP - 1) / STEP;
  const int first_step = all_steps * rank / splits;
  const int steps = all_steps * (rank + 1) / splits - first_step;

  if (warp == MULTIPLYING_THREADS / 32) {
    if (threadIdx.x % 32 == 0) {
      Loader<L> loader{maps, smem, barriers_smem};
      const int first_feature = first_step * STEP;
      const int units = (steps + STEPS_PER_UNIT - 1) / STEPS_PER_UNIT;
      const int ahead = min(units, L::W_STAGES);
      for (int i = 0; i < ahead; i++) loader.packed(first_feature + i * STEPS_PER_UNIT * STEP, first_row);
      wait_for_kernel_before();
#pragma unroll 1
      for (int i = 0; i < steps; i++) {
        if (i % STEPS_PER_UNIT == 0 && i / STEPS_PER_UNIT >= ahead) loader.packed(first_feature + i * STEP, first_row);
        loader.codes(first_feature + i * STEP, first_token);
      }
    }
    __syncwarp();
    if (splits > 1) {
      cluster_sync();
      cluster_sync();
    }
    return;
  }

  wait_for_kernel_before();
  float* token_scales = reinterpret_cast<float*>(shared + L::TOKEN_SCALES);
  if (threadIdx.x < TOKENS)
    token_scales[threadIdx.x] = args.activation_scales[min(first_token + int(threadIdx.x), args.m - 1)];
  int sums[1][TOKENS / 2];
  if (steps > 0) {
    Multiplier<1, TOKENS, L> multiplier(smem, barriers_smem);
    multiplier.all(sums, steps);
  } else {
#pragma unroll
    for (int i = 0; i < TOKENS / 2; i++) sums[0][i] = 0;
  }
  // A warp has 128 rows of a token, a thread four of them.
  const int lane = threadIdx.x % 32;
  const int column = first_row + 4 * lane;
  const FourRows rows = load_four_rows(args, min(column, args.n - 1));
  let_next_kernel_begin();  // not before: its blocks would take room from those of this one that are still to come
  bar_sync(1, MULTIPLYING_THREADS);  // no stage is needed any more
  int* sums_smem = reinterpret_cast<int*>(shared);
#pragma unroll
  for (int i = 0; i < TOKENS / 2; i++)
    sums_smem[(8 * (i / 4) + 2 * (lane % 4) + i % 2) * L::SUM_PITCH + warp * 16 + 8 * (i / 2 % 2) + lane / 4] =
        sums[0][i] >> 6;
  if (splits > 1)
    cluster_sync();
  else
    bar_sync(1, MULTIPLYING_THREADS);

  if (column < args.n) {
    const int begin = TOKENS * rank / splits;
    const int end = min(args.m - first_token, TOKENS * (rank + 1) / splits);
#pragma unroll 2
    for (int token = begin + warp; token < end; token += MULTIPLYING_THREADS / 32) {
      int four[4] = {0, 0, 0, 0};
      const auto add = [&](const int4& part) {
        four[0] += part.x;
        four[1] += part.y;
        four[2] += part.z;
        four[3] += part.w;
      };
      const int index = token * L::SUM_PITCH + 4 * lane;
      if (splits == 1) {
        add(*reinterpret_cast<const int4*>(sums_smem + index));
      } else {
        for (int i = 0; i < splits; i++) add(ld_cluster_16(map_cluster(smem + 4 * index, i)));
      }
      finish_four(args, rows, four, token_scales[token], first_token + token, column);
    }
  }
  if (splits > 1) cluster_sync();  // no block ends while others read its sums
}

// ---- Launches

template <class Out>
CUtensorMapDataType map_type() {
  return std::is_same_v<Out, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

template <class L, class Out>
bool encode_maps(const Product<int8_t, Out>& args, TernaryMaps& maps) {
  return encode_matrix(maps.x, CU_TENSOR_MAP_DATA_TYPE_UINT8, CU_TENSOR_MAP_SWIZZLE_128B, args.x, args.m, args.k,
                       args.k, L::TOKENS, STEP) &&
         encode_matrix(maps.packed, CU_TENSOR_MAP_DATA_TYPE_UINT8, CU_TENSOR_MAP_SWIZZLE_128B, args.packed, args.n,
                       args.k / 4, args.k / 4, L::ROWS, UNIT_ROW_BYTES);
}

int64_t count_tiles(int64_t n, int64_t m, int rows, int tokens) {
  return (n + rows - 1) / rows * ((m + tokens - 1) / tokens);
}

template <class Out>
bool launch_persistent(const Product<int8_t, Out>& args, Context& context) {
  using L = LargeLayout;
  TernaryMaps maps;
  if (!encode_maps<L>(args, maps) || !encode_matrix(maps.out, map_type<Out>(), CU_TENSOR_MAP_SWIZZLE_128B, args.out,
                                                    args.m, args.n, int64_t(args.n) * 2, LARGE_TOKENS, 64))
    return false;
  const auto kernel = ternary_persistent<Out>;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, LARGE_BYTES) != cudaSuccess)
    return false;
  const int64_t blocks =
      std::min<int64_t>(count_tiles(args.n, args.m, L::ROWS, LARGE_TOKENS), context.device().multiprocessors);
  kernel<<<static_cast<unsigned>(blocks), LARGE_THREADS, LARGE_BYTES, context.stream()>>>(maps, args);
  return true;
}

template <class Out, int TOKENS>
bool launch_small(const Product<int8_t, Out>& args, int splits, bool early, Context& context) {
  using L = SmallLayout<TOKENS>;
  TernaryMaps maps;
  if (!encode_maps<L>(args, maps)) return false;
  const auto kernel = ternary_small<Out, TOKENS>;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::BYTES) != cudaSuccess) return false;
  const int64_t tiles = count_tiles(args.n, args.m, L::ROWS, TOKENS);
  EarlyLaunch launch(static_cast<unsigned>(tiles * splits), THREADS, L::BYTES, context.stream(), early);
  if (splits > 1) launch.in_clusters(splits);
  return cudaLaunchKernelEx(&launch.config, kernel, maps, args, splits) == cudaSuccess;
}

}  // namespace

template <class Out>
bool takes_ternary_hopper(const Product<int8_t, Out>& args, const DeviceProperties& device) {
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  return device.capability == 90 && tensor_map_encoder() && args.k <= MOST_FEATURES_PER_SUM && aligned(args.x) &&
         aligned(args.packed) && aligned(args.out) && size_t(LARGE_BYTES) <= device.shared_bytes_per_block;
}

template <class Out>
TernaryHopperPlan plan_ternary_hopper(const Product<int8_t, Out>& args, const DeviceProperties& device) {
  const auto tiles = [&](int rows, int tokens) { return count_tiles(args.n, args.m, rows, tokens); };
  const int processors = device.multiprocessors;
  if (sizeof(Out) == 2 && args.n % 8 == 0 && tiles(LargeLayout::ROWS, LARGE_TOKENS) * 4 >= processors * 3)
    return {true, LARGE_TOKENS, 1};
  const int tokens = args.m <= 16 ? 16 : args.m <= 32 ? 32 : 64;
  const int steps = (args.k + STEP - 1) / STEP;
  int splits = 1;
  while (splits < 8 && tiles(SmallLayout<64>::ROWS, tokens) * splits * 2 <= processors &&
         steps >= splits * 2 * STEPS_PER_UNIT)
    splits *= 2;
  return {false, tokens, splits};
}

template <class Out>
void launch_ternary_hopper(const Product<int8_t, Out>& args, const TernaryHopperPlan& plan, bool early,
                           Context& context) {
  bool launched = false;
  if (plan.persistent) {
    if constexpr (sizeof(Out) == 2) launched = launch_persistent<Out>(args, context);
  } else if (plan.tokens == 16) {
    launched = launch_small<Out, 16>(args, plan.splits, early, context);
  } else if (plan.tokens == 32) {
    launched = launch_small<Out, 32>(args, plan.splits, early, context);
  } else {
    launched = launch_small<Out, 64>(args, plan.splits, early, context);
  }
  if (!launched) return context.fail("the product's kernel could not be launched");
  if (!plan.persistent) context.lets_next_begin();
}

#define TERNFLASH_INSTANTIATE(Out)                                                                      \
  template bool takes_ternary_hopper(const Product<int8_t, Out>&, const DeviceProperties&);             \
  template TernaryHopperPlan plan_ternary_hopper(const Product<int8_t, Out>&, const DeviceProperties&); \
  template void launch_ternary_hopper(const Product<int8_t, Out>&, const TernaryHopperPlan&, bool, Context&);
TERNFLASH_INSTANTIATE(float)
TERNFLASH_INSTANTIATE(__half)
TERNFLASH_INSTANTIATE(__nv_bfloat16)
#undef TERNFLASH_INSTANTIATE

}  // namespace ternflash::cuda
