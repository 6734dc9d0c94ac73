// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// The gradient of the queries by itself, in a fixed order, for the deterministic mode: dQ = scale dS k (backward.cuh has the formulas).
//
// A block of WARPS warps takes 16 queries a warp of one head and walks over the keys they see, BN at a time, in ascending order. Scores, dS and dQ
// stay in registers, as in the forward pass: P and dS of 16 keys are already an operand of the next product.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_QUERIES_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_QUERIES_CUH_

#include "arguments.h"
#include "score.h"
#include "../tile.h"

namespace ternflash::cuda {

template <int D, int BN, int WARPS, int STAGES>
constexpr int attention_backward_queries_shared_bytes() {
  return (2 * 16 * WARPS + STAGES * 2 * BN) * D * 2;
}

// GENERAL as in the forward pass.
template <class T, int D, int BN, int WARPS, int STAGES, int BLOCKS_PER_SM, bool GENERAL>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS_PER_SM)
    attention_backward_queries(const __grid_constant__ AttentionBackwardArguments args) {
  constexpr int BM = 16 * WARPS;
  constexpr int THREADS = WARPS * 32;
  constexpr int S_TILES = BN / 8;
  constexpr int Q_TILES = D / 8;
  static_assert(BN % 32 == 0);

  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t q_smem = shared_address(shared);              // [BM, D]
  const uint32_t d_out_smem = q_smem + BM * D * 2;             // [BM, D]
  const uint32_t k_smem = d_out_smem + BM * D * 2;             // [STAGES][BN, D]
  const uint32_t v_smem = k_smem + STAGES * BN * D * 2;        // [STAGES][BN, D]

  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int warp_row = thread / 32 * 16;
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const Problem problem(args, batch, head);
  // The last queries first: with a causal mask they have the most keys.
  const int first_query = (gridDim.x - 1 - blockIdx.x) * BM;
  if (first_query >= problem.queries) return;
  const int keys_begin = problem.keys_begin(args, first_query);
  const int keys_end = problem.keys_end(args, min(first_query + BM, problem.queries) - 1);
  const int first_tile = keys_begin / BN;
  const int tiles_end = keys_end > keys_begin ? (keys_end + BN - 1) / BN : first_tile;

  const auto load_keys = [&](int tile) {
    const int stage = tile % STAGES;
    const int64_t start = problem.k_start + int64_t(tile) * BN * args.key_row;
    load_tile<BN, D, THREADS, !GENERAL>(k_smem + stage * BN * D * 2, static_cast<const T*>(args.k) + start, args.key_row,
                                        problem.keys - tile * BN, args.head_dim, args.head_dim % 8 == 0, thread);
    load_tile<BN, D, THREADS, !GENERAL>(v_smem + stage * BN * D * 2, static_cast<const T*>(args.v) + start, args.key_row,
                                        problem.keys - tile * BN, args.head_dim, args.head_dim % 8 == 0, thread);
    cp_async_commit_group();
  };

  const int query_0 = first_query + warp_row + lane / 4;  // this thread's rows: query_0 + 8 half
  const int column_0 = 2 * (lane % 4);                    // and columns: column_0 + 8 n + {0, 1}
  float d_q[Q_TILES][4];
#pragma unroll
  for (int n = 0; n < Q_TILES; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) d_q[n][i] = 0.0f;
  float base[2];
  float delta[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = query_0 + 8 * half;
    const bool valid = query < problem.queries;
    base[half] = valid ? args.base[problem.lse_start + query] : INFINITY;
    delta[half] = valid ? args.delta[problem.lse_start + query] : 0.0f;
  }
  const uint32_t q_corner = corner_a<D>(q_smem + warp_row * Tile<D>::ROW_BYTES, lane);
  const uint32_t d_out_corner = q_corner + BM * D * 2;
  [[maybe_unused]] const float slope = GENERAL ? slope_log2(args, batch, head) : 0.0f;

  if (tiles_end > first_tile) {
    const int64_t start = problem.q_start + int64_t(first_query) * args.query_row;
    load_tile<BM, D, THREADS, !GENERAL>(q_smem, static_cast<const T*>(args.q) + start, args.query_row,
                                        problem.queries - first_query, args.head_dim, args.head_dim % 8 == 0, thread);
    load_tile<BM, D, THREADS, !GENERAL>(d_out_smem, static_cast<const T*>(args.d_out) + start, args.query_row,
                                        problem.queries - first_query, args.head_dim, args.head_dim % 8 == 0, thread);
    load_keys(first_tile);
  }

#pragma unroll 1
  for (int tile = first_tile; tile < tiles_end; tile++) {
    cp_async_wait_group<0>();
    __syncthreads();  // K and V (and Q and dOut) are there for all; all are done with the tile before
    if (STAGES > 1 && tile + 1 < tiles_end) load_keys(tile + 1);
    const uint32_t k_tile = k_smem + tile % STAGES * BN * D * 2;
    const uint32_t v_tile = v_smem + tile % STAGES * BN * D * 2;

    float s[S_TILES][4];
    float dp[S_TILES][4];
    // [16 queries, BN keys] = this warp's rows at `corner` times a tile of keys, transposed.
    const auto multiply = [&](float(&product)[S_TILES][4], uint32_t corner, uint32_t keys_tile) {
#pragma unroll
      for (int n = 0; n < S_TILES; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) product[n][i] = 0.0f;
      const uint32_t keys_corner = corner_b<D>(keys_tile, lane);
#pragma unroll(D > 128 ? 2 : D / 16)  // all of them at once would take more registers than there are
      for (int step = 0; step < D / 16; step++) {
        uint32_t a[4];
        ldmatrix_x4(a, Tile<D>::advance(corner, 2 * step));
#pragma unroll
        for (int n = 0; n < S_TILES; n += 2) {
          uint32_t b[4];
          ldmatrix_x4(b, Tile<D>::advance(keys_corner, 2 * step) + 8 * n * Tile<D>::ROW_BYTES);
          mma_m16n8k16<T>(product[n], a, b[0], b[1]);
          mma_m16n8k16<T>(product[n + 1], a, b[2], b[3]);
        }
      }
    };
    multiply(s, q_corner, k_tile);
    multiply(dp, d_out_corner, v_tile);

    const int first_key = tile * BN;
    const bool masked = !problem.all_seen(args, first_query, first_query + BM - 1, first_key, first_key + BN - 1);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int query = query_0 + 8 * half;
      const int center = query + problem.diagonal;
#pragma unroll
      for (int group = 0; group < BN / 32; group++) {
        [[maybe_unused]] uint4 numbers;
        if constexpr (GENERAL) {
          if (args.drop_threshold > 0)
            numbers = drop_numbers(args, problem.drop_row + query, first_key / 32 + group, lane % 4);
        }
#pragma unroll
        for (int t = 0; t < 4; t++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int n = 4 * group + t;
            const int key = first_key + column_0 + 8 * n + e;
            const float product = s[n][2 * half + e];
            float gradient = dp[n][2 * half + e];
            float exponent;
            [[maybe_unused]] float derivative = 1.0f;
            if constexpr (GENERAL) {
              if (args.softcap > 0.0f) {
                const float bent = tanhf(product * args.to_softcap);
                derivative = (1.0f - bent) * (1.0f + bent);
              }
              if (args.drop_threshold > 0)
                gradient = dropped(args, word_of(numbers, t), e)
                               ? 0.0f
                               : gradient * (65536.0f / static_cast<float>(65536 - args.drop_threshold));
              exponent = score_log2(args, product, slope, center - key) - base[half];
            } else {
              exponent = product * args.scale_log2 - base[half];
            }
            if (masked && (key >= problem.keys || (args.window_left >= 0 && key < center - args.window_left) ||
                           (args.window_right >= 0 && key > center + args.window_right)))
              exponent = -INFINITY;
            float ds = ex2_approx(exponent) * (gradient - delta[half]);
            if constexpr (GENERAL) ds *= derivative;
            s[n][2 * half + e] = ds;
          }
      }
    }

#pragma unroll
    for (int step = 0; step < BN / 16; step++) {
      const uint32_t a[4] = {
          pack<T>(s[2 * step][0], s[2 * step][1]), pack<T>(s[2 * step][2], s[2 * step][3]),
          pack<T>(s[2 * step + 1][0], s[2 * step + 1][1]), pack<T>(s[2 * step + 1][2], s[2 * step + 1][3])};
      const uint32_t keys_corner = corner_b_trans<D>(k_tile, lane);
#pragma unroll
      for (int n = 0; n < Q_TILES; n += 2) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, Tile<D>::advance(keys_corner, n) + 16 * step * Tile<D>::ROW_BYTES);
        mma_m16n8k16<T>(d_q[n], a, b[0], b[1]);
        mma_m16n8k16<T>(d_q[n + 1], a, b[2], b[3]);
      }
    }
    if (STAGES == 1 && tile + 1 < tiles_end) {
      __syncthreads();  // all are done with K and V
      load_keys(tile + 1);
    }
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = query_0 + 8 * half;
    if (query >= problem.queries) continue;
    T* row = static_cast<T*>(args.d_q) + problem.q_start + int64_t(query) * args.query_row + column_0;
#pragma unroll
    for (int n = 0; n < Q_TILES; n++) {
      const float first = d_q[n][2 * half] * args.scale;
      const float second = d_q[n][2 * half + 1] * args.scale;
      if (!GENERAL || args.head_dim % 2 == 0) {
        if (!GENERAL || column_0 + 8 * n < args.head_dim)
          *reinterpret_cast<uint32_t*>(row + 8 * n) = pack<T>(first, second);
      } else {
        if (column_0 + 8 * n < args.head_dim) row[8 * n] = static_cast<T>(first);
        if (column_0 + 8 * n + 1 < args.head_dim) row[8 * n + 1] = static_cast<T>(second);
      }
    }
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_BACKWARD_QUERIES_CUH_
