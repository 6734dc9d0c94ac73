// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out [m, n] = codes [m, k] W^T for packed ternary W [n, k] and m <= 8. The memory sets the time: all warps of the GPU
// together have most of W, or all of it, under way at once, beginning before the kernel in front of this one is done. A
// tile of 16 rows is shared by some warps of a block along k; a warp copies to shared memory what it will multiply
// itself, so that no barrier is needed for it. W is operand A of the tensor cores, the tokens are operand B.

#include <limits.h>

#include <algorithm>

#include "early_launch.h"
#include "ternary_decode.h"
#include "ternary_rows.h"

namespace ternflash::cuda {

namespace {

constexpr int ROWS = 16;
constexpr int MOST_TOKENS = 8;
constexpr int UNIT = 512;  // features of a copy
constexpr int UNIT_ROW_BYTES = UNIT / 4;
constexpr int UNIT_BYTES = ROWS * UNIT_ROW_BYTES;
constexpr int SUM_PITCH = ROWS + 4;

// How the work is shared out.
struct DecodePlan {
  int parts;     // warps of a tile
  int tiles;     // of a block
  int per_warp;  // units, at most
};

// Of a block. Of more than one token every block makes a copy: then larger blocks.
__host__ __device__ constexpr int most_warps(bool one) { return one ? 8 : 16; }

template <class Out>
struct DecodeWeight {
  const uint8_t* packed;
  const float* weight_scale;
  const Out* bias;
  Out* out;
  int n;
  bool row_scales;
  int first_block;  // of those that have its rows
};

template <class Out>
struct DecodeArguments {
  const int8_t* x;
  const float* activation_scales;
  int m;
  int k;
  DecodePlan plan;
  DecodeWeight<Out> weights[MOST_DECODED_PRODUCTS];
};

// Tokens in shared memory: rows of whole units and 32 bytes, so that rows fall into different banks.
__host__ __device__ constexpr int token_pitch(int k) { return (k + UNIT - 1) / UNIT * UNIT + 32; }

// Of the 16-byte chunks of a row. The four lanes that read together are 4 chunks apart: two of them move over by one.
__device__ __forceinline__ int token_chunk(int chunk) { return chunk ^ (chunk >> 3 & 1); }

// Of the 16-byte chunks of a row of a unit: two rows, of which four lanes each read half, fall into different banks.
__device__ __forceinline__ int row_chunk(int row, int chunk) { return chunk ^ (row & 1) << 2; }

// SLOTS: copies of a warp that are under way. ONE: a single token, read from where it is.
template <class Out, int SLOTS, bool ONE>
__global__ void __launch_bounds__(32 * most_warps(ONE), 1)
    ternary_decode(const __grid_constant__ DecodeArguments<Out> args) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const DecodePlan& plan = args.plan;
  DecodeWeight<Out> weight = args.weights[0];
#pragma unroll
  for (int i = 1; i < MOST_DECODED_PRODUCTS; i++)
    if (static_cast<int>(blockIdx.x) >= args.weights[i].first_block) weight = args.weights[i];
  const int block = blockIdx.x - weight.first_block;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int warps = blockDim.x / 32;
  const int units = (args.k + UNIT - 1) / UNIT;
  const int pitch = token_pitch(args.k);
  const int tile_in_block = warp / plan.parts;
  const int part = warp - tile_in_block * plan.parts;
  const int first_row = (block * plan.tiles + tile_in_block) * ROWS;
  const uint8_t* const slots = shared + warp * SLOTS * UNIT_BYTES;
  uint8_t* const tokens = shared + warps * SLOTS * UNIT_BYTES;
  int* const sums_smem =
      reinterpret_cast<int*>(tokens + (ONE ? 0 : args.m * pitch));  // [warps, MOST_TOKENS, SUM_PITCH]

  // Eight lanes copy the 128 bytes of a row of a unit. Rows that are not there are copies of another, whose results are
  // dropped.
  const uint32_t slots_smem = shared_address(shared) + warp * SLOTS * UNIT_BYTES;
  const auto load = [&](int unit, int slot) {
    if (unit < units) {
      const int byte = unit * UNIT_ROW_BYTES + lane % 8 * 16;
      const bool valid = byte < args.k / 4;
#pragma unroll
      for (int i = 0; i < ROWS / 4; i++) {
        const int row = 4 * i + lane / 8;
        const uint8_t* source = weight.packed + int64_t(min(first_row + row, weight.n - 1)) * (args.k / 4);
        cp_async_ahead_16(slots_smem + slot * UNIT_BYTES + row * UNIT_ROW_BYTES + row_chunk(row, lane % 8) * 16,
                          source + (valid ? byte : 0), valid);
      }
    }
    cp_async_commit_group();  // an empty group keeps the count
  };
#pragma unroll
  for (int i = 0; i < SLOTS; i++) load(part + i * plan.parts, i);
  let_next_kernel_begin();  // before waiting: this kernel writes no weights, and the one behind it reads nothing else
  wait_for_kernel_before();

  // What is needed last, early.
  const int items = plan.tiles * ROWS * args.m;
  const auto row_of = [&](int item) { return block * plan.tiles * ROWS + item % (plan.tiles * ROWS); };
  const auto token_of = [&](int item) { return item / (plan.tiles * ROWS); };
  struct Factors {
    float weight_scale;
    float token_scale;
    float bias;
  };
  const auto factors_of = [&](int item) {
    const int row = min(row_of(item), weight.n - 1);
    return Factors{weight.weight_scale[weight.row_scales ? row : 0], args.activation_scales[token_of(item)],
                   weight.bias ? static_cast<float>(weight.bias[row]) : 0.0f};
  };
  Factors factors{};
  if (threadIdx.x < items) factors = factors_of(threadIdx.x);

  const uint8_t* token = reinterpret_cast<const uint8_t*>(args.x);
  if constexpr (!ONE) {
    constexpr int AT_ONCE = 4;
    const int chunks = units * (UNIT / 16);
    for (int begin = threadIdx.x; begin < args.m * chunks; begin += AT_ONCE * blockDim.x) {
      uint4 codes[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        const int index = begin + i * blockDim.x;
        const int chunk = index % chunks;
        codes[i] = {0, 0, 0, 0};
        if (index < args.m * chunks && chunk < args.k / 16)
          codes[i] = *reinterpret_cast<const uint4*>(args.x + int64_t(index / chunks) * args.k + chunk * 16);
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        const int index = begin + i * blockDim.x;
        if (index < args.m * chunks)
          *reinterpret_cast<uint4*>(tokens + index / chunks * pitch + token_chunk(index % chunks) * 16) = codes[i];
      }
    }
    __syncthreads();
    token = tokens + min(lane / 4, args.m - 1) * pitch;
  }
  // Chunks 0 to 3 of 64 features, the side of a unit.
  const auto load_token = [&](int unit, int side, uint4(&b)[4]) {
    const int first = unit * (UNIT / 16) + side * 16 + lane % 4 * 4;
#pragma unroll
    for (int r = 0; r < 4; r++) {
      if constexpr (ONE) {
        b[r] = {0, 0, 0, 0};
        if (first < args.k / 16) b[r] = *reinterpret_cast<const uint4*>(token + (first + r) * 16);
      } else {
        b[r] = *reinterpret_cast<const uint4*>(token + token_chunk(first + r) * 16);
      }
    }
  };

  int sums[2][4] = {};
  int slot = 0;
#pragma unroll 1
  for (int unit = part; unit < units; unit += plan.parts) {
    uint4 b[2][4];
    if constexpr (ONE) {
      load_token(unit, 0, b[0]);
      load_token(unit, 1, b[1]);
    }
    cp_async_wait_group<SLOTS - 1>();
    __syncwarp();  // what other lanes have copied is there
    const uint8_t* source = slots + slot * UNIT_BYTES + lane / 4 * UNIT_ROW_BYTES;
#pragma unroll
    for (int side = 0; side < 2; side++) {
      if constexpr (!ONE) load_token(unit, side, b[side]);
      uint4 words[2];
#pragma unroll
      for (int half = 0; half < 2; half++)
        words[half] = *reinterpret_cast<const uint4*>(source + 8 * half * UNIT_ROW_BYTES +
                                                      row_chunk(lane / 4, 4 * side + lane % 4) * 16);
      const auto multiply = [&](uint32_t low, uint32_t high, uint32_t x0, uint32_t x1, uint32_t x2, uint32_t x3) {
        uint32_t trits[2][4];
        TernaryFragments<int8_t>::trits(low, 0, trits[0]);
        TernaryFragments<int8_t>::trits(high, 0, trits[1]);
        const uint32_t first[4] = {trits[0][0], trits[1][0], trits[0][1], trits[1][1]};
        const uint32_t second[4] = {trits[0][2], trits[1][2], trits[0][3], trits[1][3]};
        TernaryFragments<int8_t>::multiply(sums[0], first, x0, x1);
        TernaryFragments<int8_t>::multiply(sums[1], second, x2, x3);
      };
      const uint4(&x)[4] = b[side];
      multiply(words[0].x, words[1].x, x[0].x, x[1].x, x[2].x, x[3].x);
      multiply(words[0].y, words[1].y, x[0].y, x[1].y, x[2].y, x[3].y);
      multiply(words[0].z, words[1].z, x[0].z, x[1].z, x[2].z, x[3].z);
      multiply(words[0].w, words[1].w, x[0].w, x[1].w, x[2].w, x[3].w);
    }
    __syncwarp();                           // all lanes have read
    load(unit + SLOTS * plan.parts, slot);  // to the same place
    slot = slot + 1 == SLOTS ? 0 : slot + 1;
  }
#pragma unroll
  for (int e = 0; e < 4; e++)
    sums_smem[(warp * MOST_TOKENS + 2 * (lane % 4) + e % 2) * SUM_PITCH + 8 * (e / 2) + lane / 4] =
        (sums[0][e] + sums[1][e]) >> 6;
  __syncthreads();
  for (int item = threadIdx.x; item < items; item += blockDim.x) {
    if (item >= static_cast<int>(blockDim.x)) factors = factors_of(item);
    const int row = row_of(item);
    if (row >= weight.n) continue;
    const int first_warp = item % (plan.tiles * ROWS) / ROWS * plan.parts;
    int sum[1] = {0};
    for (int i = 0; i < plan.parts; i++)
      sum[0] += sums_smem[((first_warp + i) * MOST_TOKENS + token_of(item)) * SUM_PITCH + item % ROWS];
    const float scale[1] = {factors.weight_scale};
    const float bias[1] = {factors.bias};
    float value[1];
    finish<int8_t>(sum, scale, false, factors.token_scale, weight.bias != nullptr, bias, value);
    weight.out[int64_t(token_of(item)) * weight.n + row] = static_cast<Out>(value[0]);
  }
}

template <class Out>
int64_t tiles_of(const Product<int8_t, Out>& product) {
  return (product.n + ROWS - 1) / ROWS;
}

template <class Out>
DecodePlan plan_decode(const Product<int8_t, Out>* products, int count, int multiprocessors) {
  const int64_t m = products[0].m;
  const int64_t k = products[0].k;
  int64_t tiles = 0;
  for (int i = 0; i < count; i++) tiles += tiles_of(products[i]);
  const int64_t units = (k + UNIT - 1) / UNIT;
  // About 16 on each multiprocessor; a little more than all that are there would do no harm if blocks are small.
  const int64_t warps = int64_t(m == 1 ? 17 : 16) * multiprocessors;
  const int64_t wanted = std::max<int64_t>(1, (tiles * units + warps - 1) / warps);
  const int parts = static_cast<int>(std::min<int64_t>(most_warps(m == 1), (units + wanted - 1) / wanted));
  const int block_tiles = std::max(1, most_warps(m == 1) / parts);
  return {parts, block_tiles, static_cast<int>((units + parts - 1) / parts)};
}

constexpr int MOST_SLOTS = 3;

size_t shared_bytes(int64_t m, int64_t k, const DecodePlan& plan) {
  const int warps = plan.parts * plan.tiles;
  return size_t(warps) * std::min(plan.per_warp, MOST_SLOTS) * UNIT_BYTES +
         (m > 1 ? size_t(m) * token_pitch(static_cast<int>(k)) : 0) + size_t(warps) * MOST_TOKENS * SUM_PITCH * 4;
}

template <class Out, int SLOTS, bool ONE>
void launch(const DecodeArguments<Out>& args, int64_t blocks, bool early, Context& context) {
  const auto kernel = ternary_decode<Out, SLOTS, ONE>;
  const int bytes = static_cast<int>(shared_bytes(args.m, args.k, args.plan));
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const EarlyLaunch launch(static_cast<unsigned>(blocks), 32 * args.plan.parts * args.plan.tiles, bytes,
                           context.stream(), early);
  cudaLaunchKernelEx(&launch.config, kernel, args);
}

template <class Out, bool ONE>
void launch_with_slots(const DecodeArguments<Out>& args, int64_t blocks, bool early, Context& context) {
  switch (std::min(args.plan.per_warp, MOST_SLOTS)) {
    case 1:
      return launch<Out, 1, ONE>(args, blocks, early, context);
    case 2:
      return launch<Out, 2, ONE>(args, blocks, early, context);
    default:
      return launch<Out, MOST_SLOTS, ONE>(args, blocks, early, context);
  }
}

}  // namespace

template <class Out>
bool takes_ternary_decode(const Product<int8_t, Out>* products, int count, const DeviceProperties& device) {
  const Product<int8_t, Out>& first = products[0];
  return first.m <= MOST_TOKENS && first.k <= MOST_FEATURES_PER_SUM &&
         shared_bytes(first.m, first.k, plan_decode(products, count, device.multiprocessors)) <=
             device.shared_bytes_per_block;
}

template <class Out>
void launch_ternary_decode(const Product<int8_t, Out>* products, int count, bool early, Context& context) {
  DecodeArguments<Out> args{products[0].x,
                            products[0].activation_scales,
                            products[0].m,
                            products[0].k,
                            plan_decode(products, count, context.device().multiprocessors),
                            {}};
  int64_t blocks = 0;
  for (int i = 0; i < MOST_DECODED_PRODUCTS; i++) {
    args.weights[i].first_block = INT_MAX;
    if (i >= count) continue;
    const Product<int8_t, Out>& p = products[i];
    args.weights[i] = {p.packed, p.weight_scale, p.bias, p.out, p.n, p.row_scales, static_cast<int>(blocks)};
    blocks += (tiles_of(p) + args.plan.tiles - 1) / args.plan.tiles;
  }
  if (args.m == 1)
    launch_with_slots<Out, true>(args, blocks, early, context);
  else
    launch_with_slots<Out, false>(args, blocks, early, context);
  context.lets_next_begin();
}

#define TERNFLASH_INSTANTIATE(Out)                                                               \
  template bool takes_ternary_decode(const Product<int8_t, Out>*, int, const DeviceProperties&); \
  template void launch_ternary_decode(const Product<int8_t, Out>*, int, bool, Context&);
TERNFLASH_INSTANTIATE(float)
TERNFLASH_INSTANTIATE(__half)
TERNFLASH_INSTANTIATE(__nv_bfloat16)
#undef TERNFLASH_INSTANTIATE

}  // namespace ternflash::cuda
