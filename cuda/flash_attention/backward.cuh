// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The gradients of flash attention for 16-bit floats on any GPU with mma.sync and cp.async (Dao, "FlashAttention-2", 2023, algorithm 2).
//
//   P = exp(score(q k^T) - lse)   dV = P^T dOut   dP = dOut v^T   dS = P (dP - delta)   dK = scale dS^T q   dQ = scale dS k
//
// A block owns BN keys of one key head and walks over the queries that see them, BM at a time, for every query head that reads it: dK and
// dV stay in registers and are summed over the heads in a fixed order. Everything is computed transposed, keys down the rows. SIDES warps share
// 32 keys: first each computes the scores of its part of the queries, then, P and dS having gone through shared memory, each its
// part of the features of dV and dK. dQ is added to a float32 buffer in global memory, in no fixed order.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_CUH_

#include "arguments.h"
#include "score.h"
#include "../tile.h"

namespace ternflash::cuda {

template <int D, int BM, int BN, int STAGES>
constexpr int attention_backward_shared_bytes() {
  return 2 * BN * D * 2 + STAGES * (2 * BM * D * 2 + 2 * BM * 4) + 3 * BN * BM * 2;
}

// The sums for dQ lie in the order of mma's accumulators: [m16 tiles][D / 8] fragments of 128 floats, so that a warp adds whole lines. A head has
// ceil(Sq / 16) tiles; packed sequences begin at tile query_starts[b] / 16 + b of their head.
constexpr int FRAGMENT = 128;

__device__ __forceinline__ int64_t dq_tile(const AttentionArguments& args, const Problem& problem, int batch, int head,
                                           int query) {
  if (args.query_starts)
    return int64_t(head) * (args.lse_head / 16 + args.batch) + args.query_starts[batch] / 16 + batch + query / 16;
  return (int64_t(batch) * args.heads + head) * ((args.queries + 15) / 16) + query / 16;
}

// Only from compute capability 9.0 on there is shared memory for a third block.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int MOST_BLOCKS = 2;
#else
constexpr int MOST_BLOCKS = 3;
#endif

// GENERAL as in the forward pass. Without WRITES_DQ there is no dQ (the deterministic mode computes it in a kernel of its own).
template <class T, int D, int BM, int BN, int SIDES, int STAGES, int BLOCKS_PER_SM, bool WRITES_DQ, bool GENERAL>
__global__ void __launch_bounds__(BN * SIDES, BLOCKS_PER_SM < MOST_BLOCKS ? BLOCKS_PER_SM : MOST_BLOCKS)
    attention_backward(const __grid_constant__ AttentionBackwardArguments args) {
  constexpr int WARPS = BN / 32 * SIDES;
  constexpr int THREADS = WARPS * 32;
  constexpr int QUERIES = BM / SIDES;  // whose scores a warp computes
  constexpr int S_TILES = QUERIES / 8;
  constexpr int FEATURES = D / SIDES;  // of dK and dV that a warp owns
  constexpr int G_TILES = FEATURES / 8;
  static_assert(FEATURES % 16 == 0 && QUERIES % 16 == 0 && BM % 32 == 0 && BN % 32 == 0);
  // dQ [BM, D] is spread over the warps, DQ_ROWS of them down and the rest across.
  constexpr int DQ_M_TILES = D / (WARPS / (BM / 32)) % 16 == 0 ? 2 : 1;
  constexpr int DQ_ROWS = BM / 16 / DQ_M_TILES;
  constexpr int DQ_COLUMNS = D / (WARPS / DQ_ROWS);
  static_assert(WARPS % DQ_ROWS == 0 && DQ_COLUMNS % 16 == 0);

  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t k_smem = shared_address(shared);                  // [BN, D]
  const uint32_t v_smem = k_smem + BN * D * 2;                     // [BN, D]
  const uint32_t q_smem = v_smem + BN * D * 2;                     // [STAGES][BM, D]
  const uint32_t d_out_smem = q_smem + STAGES * BM * D * 2;        // [STAGES][BM, D]
  const uint32_t p_smem = d_out_smem + STAGES * BM * D * 2;        // [BN, BM], transposed P
  const uint32_t ds_smem = p_smem + BN * BM * 2;                   // [2][BN, BM], transposed dS
  const uint32_t statistics_smem = ds_smem + 2 * BN * BM * 2;          // [STAGES][base, delta][BM] floats
  const float* statistics = reinterpret_cast<const float*>(shared + (statistics_smem - k_smem));

  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int key_head = blockIdx.y;
  const int batch = blockIdx.z;
  const int first_head = key_head * args.heads_per_key_head;
  const Problem problem(args, batch, first_head);
  const int first_key = blockIdx.x * BN;
  if (first_key >= problem.keys) return;
  const int last_key = min(first_key + BN, problem.keys) - 1;
  const int queries_begin = problem.queries_begin(args, first_key) / BM * BM;
  const int queries_end = problem.queries_end(args, last_key);
  const int tiles = queries_end > queries_begin ? (queries_end - queries_begin + BM - 1) / BM : 0;
  const int steps = tiles * args.heads_per_key_head;

  const auto load_queries = [&](int step) {
    const Problem problem(args, ctaid_z(), ctaid_y() * args.heads_per_key_head);
    const int thread = tid_x();
    const int head = step / tiles;
    const int first_query = queries_begin + step % tiles * BM;
    const int stage = step % STAGES;
    const int valid = problem.queries - first_query;
    const int64_t start = problem.q_start + int64_t(head) * args.head_dim + int64_t(first_query) * args.query_row;
    load_tile<BM, D, THREADS, !GENERAL>(q_smem + stage * BM * D * 2, static_cast<const T*>(args.q) + start,
                                        args.query_row, valid, args.head_dim, args.head_dim % 8 == 0, thread);
    load_tile<BM, D, THREADS, !GENERAL>(d_out_smem + stage * BM * D * 2, static_cast<const T*>(args.d_out) + start,
                                        args.query_row, valid, args.head_dim, args.head_dim % 8 == 0, thread);
    const int64_t row = problem.lse_start + head * args.lse_head + first_query;
    const uint32_t target = statistics_smem + stage * 2 * BM * 4;
    for (int i = thread; i < BM; i += THREADS) {
      cp_async_4(target + i * 4, args.base + (i < valid ? row + i : 0), i < valid);
      cp_async_4(target + (BM + i) * 4, args.delta + (i < valid ? row + i : 0), i < valid);
    }
    cp_async_commit_group();
  };

  float d_k[2][G_TILES][4];
  float d_v[2][G_TILES][4];
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int n = 0; n < G_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) d_k[m][n][i] = d_v[m][n][i] = 0.0f;

  if (steps > 0) {
    load_tile<BN, D, THREADS, !GENERAL>(
        k_smem, static_cast<const T*>(args.k) + problem.k_start + int64_t(first_key) * args.key_row, args.key_row,
        problem.keys - first_key, args.head_dim, args.head_dim % 8 == 0, thread);
    load_tile<BN, D, THREADS, !GENERAL>(
        v_smem, static_cast<const T*>(args.v) + problem.k_start + int64_t(first_key) * args.key_row, args.key_row,
        problem.keys - first_key, args.head_dim, args.head_dim % 8 == 0, thread);
    load_queries(0);
  }

  // dQ of a step, once its dS is there for all.
  [[maybe_unused]] const auto add_dq = [&](int step) {
    const Problem problem(args, ctaid_z(), ctaid_y() * args.heads_per_key_head);
    const int batch = ctaid_z();
    const int first_head = ctaid_y() * args.heads_per_key_head;
    const int first_query = queries_begin + step % tiles * BM;
    const uint32_t ds_tile = ds_smem + step % 2 * BN * BM * 2;
    const int lane = tid_x() % 32;
    const int warp = tid_x() / 32;
    const int dq_row = warp % DQ_ROWS * 16 * DQ_M_TILES;
    const int dq_column = warp / DQ_ROWS * DQ_COLUMNS;
    constexpr int DQ_TILES = DQ_COLUMNS / 8;
    constexpr int DQ_GROUP = DQ_TILES % 4 == 0 ? 4 : 2;
    const uint32_t ds_corner = Tile<BM>::advance(corner_a_trans<BM>(ds_tile, lane), dq_row / 8);
    const uint32_t keys_corner = corner_b_trans<D>(k_smem, lane);
    const int64_t first_tile = dq_tile(args, problem, batch, first_head + step / tiles, first_query + dq_row);
    // A few columns at a time, for want of registers.
#pragma unroll 1
    for (int first_n = 0; first_n < DQ_TILES; first_n += DQ_GROUP) {
      float d_q[DQ_M_TILES][DQ_GROUP][4];
#pragma unroll
      for (int m = 0; m < DQ_M_TILES; m++)
#pragma unroll
        for (int n = 0; n < DQ_GROUP; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) d_q[m][n][i] = 0.0f;
#pragma unroll
      for (int k = 0; k < BN / 16; k++) {
        uint32_t a[DQ_M_TILES][4];
#pragma unroll
        for (int m = 0; m < DQ_M_TILES; m++)
          ldmatrix_x4_trans(a[m], Tile<BM>::advance(ds_corner, 2 * m) + 16 * k * Tile<BM>::ROW_BYTES);
#pragma unroll
        for (int n = 0; n < DQ_GROUP; n += 2) {
          uint32_t b[4];
          ldmatrix_x4_trans(
              b, Tile<D>::advance(keys_corner, dq_column / 8 + first_n + n) + 16 * k * Tile<D>::ROW_BYTES);
#pragma unroll
          for (int m = 0; m < DQ_M_TILES; m++) {
            mma_m16n8k16<T>(d_q[m][n], a[m], b[0], b[1]);
            mma_m16n8k16<T>(d_q[m][n + 1], a[m], b[2], b[3]);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < DQ_M_TILES; m++) {
        if (first_query + dq_row + 16 * m >= problem.queries) continue;
        float* tile = args.d_q_sums + ((first_tile + m) * (D / 8) + dq_column / 8 + first_n) * FRAGMENT;
#pragma unroll
        for (int n = 0; n < DQ_GROUP; n++) red_add_fragment(tile + n * FRAGMENT, d_q[m][n], lane);
      }
    }
  };

  // What follows from a thread's number is worked out anew where it is needed: all registers are in use.
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    const int stage = step % STAGES;
    const int first_query = queries_begin + step % tiles * BM;
    cp_async_wait_group<0>();
    __syncthreads();  // this tile's Q, dOut and statistics are there for all; dS of the step before too; all are done with its Q, dOut and P
    if (STAGES > 1 && step + 1 < steps) load_queries(step + 1);
    const uint32_t q_tile = q_smem + stage * BM * D * 2;
    const uint32_t d_out_tile = d_out_smem + stage * BM * D * 2;
    const float* bases = statistics + stage * 2 * BM;
    const float* delta = bases + BM;
    const uint32_t ds_tile = ds_smem + step % 2 * BN * BM * 2;

    float s[2][S_TILES][4];
    float dp[2][S_TILES][4];
    // [32 keys, QUERIES] = the rows at `corner` times those of a tile of queries, transposed.
    const auto multiply = [&](float(&product)[2][S_TILES][4], uint32_t corner, uint32_t queries_tile) {
#pragma unroll
      for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < S_TILES; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) product[m][n][i] = 0.0f;
      const uint32_t queries_corner =
          corner_b<D>(queries_tile + tid_x() / 32 % SIDES * QUERIES * Tile<D>::ROW_BYTES, tid_x() % 32);
#pragma unroll
      for (int k = 0; k < D / 16; k++) {
        uint32_t a[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) ldmatrix_x4(a[m], Tile<D>::advance(corner, 2 * k) + 16 * m * Tile<D>::ROW_BYTES);
#pragma unroll
        for (int n = 0; n < S_TILES; n += 2) {
          uint32_t b[4];
          ldmatrix_x4(b, Tile<D>::advance(queries_corner, 2 * k) + 8 * n * Tile<D>::ROW_BYTES);
#pragma unroll
          for (int m = 0; m < 2; m++) {
            mma_m16n8k16<T>(product[m][n], a[m], b[0], b[1]);
            mma_m16n8k16<T>(product[m][n + 1], a[m], b[2], b[3]);
          }
        }
      }
    };
    const uint32_t k_corner = corner_a<D>(k_smem + tid_x() / 32 / SIDES * 32 * Tile<D>::ROW_BYTES, tid_x() % 32);
    const uint32_t v_corner = k_corner + BN * D * 2;
    multiply(s, k_corner, q_tile);
    // Here, so that its products fill the wait for the exponentials.
    if (WRITES_DQ && step > 0) add_dq(step - 1);

    // P, and with a softcap the derivative of the score.
    // This thread's keys: key_0 + 16 m + 8 half, and queries of a tile: column_0 + 8 n + {0, 1}.
    const int key_0 = first_key + tid_x() / 32 / SIDES * 32 + tid_x() % 32 / 4;
    const int column_0 = tid_x() / 32 % SIDES * QUERIES + 2 * (tid_x() % 4);
    const int head = first_head + step / tiles;
    [[maybe_unused]] const float slope = GENERAL ? slope_log2(args, batch, head) : 0.0f;
    const bool masked =
        !problem.all_seen(args, first_query, first_query + BM - 1, first_key, first_key + BN - 1);
    [[maybe_unused]] float derivative[2][GENERAL ? S_TILES : 1][4];
#pragma unroll
    for (int n = 0; n < S_TILES; n++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const float base = (&bases[column_0 + 8 * n])[e];
        const int query = first_query + column_0 + 8 * n + e;
#pragma unroll
        for (int i = 0; i < 4; i++) {  // m, half
          float& value = s[i / 2][n][2 * (i % 2) + e];
          const int key = key_0 + 8 * i;
          float exponent;
          if constexpr (GENERAL) {
            float& slack = derivative[i / 2][n][2 * (i % 2) + e];
            slack = 1.0f;
            if (args.softcap > 0.0f) {
              const float t = tanhf(value * args.to_softcap);
              slack = (1.0f - t) * (1.0f + t);
            }
            exponent = score_log2(args, value, slope, query + problem.diagonal - key) - base;
          } else {
            exponent = value * args.scale_log2 - base;
          }
          if (masked) {
            const int center = query + problem.diagonal;
            if (key >= problem.keys || (args.window_left >= 0 && key < center - args.window_left) ||
                (args.window_right >= 0 && key > center + args.window_right))
              exponent = -INFINITY;
          }
          value = ex2_approx(exponent);
        }
      }

    multiply(dp, v_corner, d_out_tile);

    // dP becomes dS; with dropout P becomes what the values were weighted with.
#pragma unroll
    for (int n = 0; n < S_TILES; n++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const float row_delta = delta[column_0 + 8 * n + e];
        [[maybe_unused]] uint4 numbers;
        if constexpr (GENERAL) {
          if (args.drop_threshold > 0) {
            const int64_t row = problem.drop_row + (step / tiles) * args.lse_head + first_query + column_0 + 8 * n + e;
            numbers = drop_numbers(args, row, key_0 / 32, (key_0 % 8) / 2);
          }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float& p = s[i / 2][n][2 * (i % 2) + e];
          float& gradient = dp[i / 2][n][2 * (i % 2) + e];
          if constexpr (GENERAL) {
            float keep = 1.0f;
            if (args.drop_threshold > 0)
              keep = dropped(args, word_of(numbers, i), key_0 % 2)
                         ? 0.0f
                         : 65536.0f / static_cast<float>(65536 - args.drop_threshold);
            gradient = p * (gradient * keep - row_delta) * derivative[i / 2][n][2 * (i % 2) + e];
            p *= keep;
          } else {
            gradient = p * (gradient - row_delta);
          }
        }
      }

#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int n = 0; n < S_TILES; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int lane = tid_x() % 32;
          const uint32_t offset = Tile<BM>::offset(tid_x() / 32 / SIDES * 32 + 16 * m + 8 * half + lane / 4,
                                                   tid_x() / 32 % SIDES * S_TILES + n) +
                                  4 * (lane % 4);
          st_shared_b32(p_smem + offset, pack<T>(s[m][n][2 * half], s[m][n][2 * half + 1]));
          st_shared_b32(ds_tile + offset, pack<T>(dp[m][n][2 * half], dp[m][n][2 * half + 1]));
        }
    bar_sync(1 + warp / SIDES, SIDES * 32);  // P and dS of these 32 keys are there for the warps that share them

    // dV += P^T dOut, dK += dS^T Q.
    const auto accumulate = [&](float(&gradient)[2][G_TILES][4], uint32_t weights_smem, uint32_t queries_tile) {
      const int lane = tid_x() % 32;
      const int warp_key = tid_x() / 32 / SIDES * 32;
      const int first_feature = tid_x() / 32 % SIDES * FEATURES;
      const uint32_t weights_corner = corner_a<BM>(weights_smem + warp_key * Tile<BM>::ROW_BYTES, lane);
      const uint32_t queries_corner = corner_b_trans<D>(queries_tile, lane);
#pragma unroll
      for (int k = 0; k < BM / 16; k++) {
        uint32_t a[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++)
          ldmatrix_x4(a[m], Tile<BM>::advance(weights_corner, 2 * k) + 16 * m * Tile<BM>::ROW_BYTES);
#pragma unroll
        for (int n = 0; n < G_TILES; n += 2) {
          uint32_t b[4];
          ldmatrix_x4_trans(b, Tile<D>::advance(queries_corner, first_feature / 8 + n) + 16 * k * Tile<D>::ROW_BYTES);
#pragma unroll
          for (int m = 0; m < 2; m++) {
            mma_m16n8k16<T>(gradient[m][n], a[m], b[0], b[1]);
            mma_m16n8k16<T>(gradient[m][n + 1], a[m], b[2], b[3]);
          }
        }
      }
    };
    accumulate(d_v, p_smem, d_out_tile);
    accumulate(d_k, ds_tile, q_tile);

    if (STAGES == 1 && step + 1 < steps) {
      __syncthreads();  // all are done with Q and dOut
      load_queries(step + 1);
    }
  }

  if (WRITES_DQ && steps > 0) {
    __syncthreads();
    add_dq(steps - 1);
  }

  // dK and dV, straight from the registers; where they go is worked out anew, rather than kept in registers through the loop.
  {
    const Problem problem(args, ctaid_z(), ctaid_y() * args.heads_per_key_head);
    const int lane = tid_x() % 32;
    const int warp = tid_x() / 32;
    const int first_feature = warp % SIDES * FEATURES;
    const int key_0 = ctaid_x() * BN + warp / SIDES * 32 + lane / 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {  // m, half
      const int key = key_0 + 8 * i;
      if (key >= problem.keys) continue;
      const int column = first_feature + 2 * (lane % 4);
      const int64_t start = problem.k_start + int64_t(key) * args.key_row + column;
      T* d_k_row = static_cast<T*>(args.d_k) + start;
      T* d_v_row = static_cast<T*>(args.d_v) + start;
#pragma unroll
      for (int n = 0; n < G_TILES; n++) {
        const float* k_values = &d_k[i / 2][n][2 * (i % 2)];
        const float* v_values = &d_v[i / 2][n][2 * (i % 2)];
        if (!GENERAL || args.head_dim % 2 == 0) {
          if (GENERAL && column + 8 * n >= args.head_dim) continue;
          *reinterpret_cast<uint32_t*>(d_k_row + 8 * n) = pack<T>(k_values[0] * args.scale, k_values[1] * args.scale);
          *reinterpret_cast<uint32_t*>(d_v_row + 8 * n) = pack<T>(v_values[0], v_values[1]);
        } else {
          for (int e = 0; e < 2; e++) {
            if (column + 8 * n + e >= args.head_dim) continue;
            d_k_row[8 * n + e] = static_cast<T>(k_values[e] * args.scale);
            d_v_row[8 * n + e] = static_cast<T>(v_values[e]);
          }
        }
      }
    }
  }
}

// d_q rounded, with the scale: one warp a tile of 16 queries and 8 features.
template <class T, int D>
__global__ void attention_backward_finish(const __grid_constant__ AttentionBackwardArguments args) {
  const int index = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const Problem problem(args, blockIdx.z, blockIdx.y);
  const int first_query = index / (D / 8) * 16;
  const int column = index % (D / 8) * 8 + 2 * (lane % 4);
  if (first_query >= problem.queries || column >= args.head_dim) return;
  const int64_t tile = dq_tile(args, problem, blockIdx.z, blockIdx.y, first_query) * (D / 8) + index % (D / 8);
  float values[4];
  load_fragment(values, args.d_q_sums + tile * FRAGMENT, lane);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = first_query + 8 * half + lane / 4;
    if (query >= problem.queries) continue;
    T* row = static_cast<T*>(args.d_q) + problem.q_start + int64_t(query) * args.query_row + column;
    const float first = values[2 * half] * args.scale;
    const float second = values[2 * half + 1] * args.scale;
    if (args.head_dim % 2 == 0) {
      *reinterpret_cast<uint32_t*>(row) = pack<T>(first, second);
    } else {
      row[0] = static_cast<T>(first);
      if (column + 1 < args.head_dim) row[1] = static_cast<T>(second);
    }
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_CUH_
