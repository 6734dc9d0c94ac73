// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// out = softmax(score(q k^T)) v, tiled with an online softmax (Dao, "FlashAttention-2", 2023), for 16-bit floats on any GPU with
// mma.sync and cp.async (compute capability 8.0 and up).
//
// A block of WARPS warps takes BM queries of one head and walks over the keys it sees from the last tile of BN to the first, so that the masked ones
// come first. Each warp owns BM / WARPS queries: their scores, their row statistics and their part of the output never leave its registers.
// Shared memory holds Q, one tile of K and one of V; while a tile of K is multiplied the tile of V is fetched and the other way
// round, and a second block on the same multiprocessor fills what is left.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_CUH_

#include "arguments.h"
#include "score.h"
#include "../tile.h"

namespace ternflash::cuda {

// Whether the thread's number stays in a register through the loop. For compute capability 10.x the compiler (CUDA 13.0) spills for it.
#if __CUDA_ARCH__ >= 1000 && __CUDA_ARCH__ < 1200
constexpr bool KEEPS_THREAD = false;
#else
constexpr bool KEEPS_THREAD = true;
#endif

// GENERAL: head dims below D, softcap, ALiBi, dropout. Without, head_dim is D and the score is scale * q k.
template <class T, int D, int BM, int BN, int WARPS, int BLOCKS_PER_SM, bool GENERAL>
__global__ void __launch_bounds__(WARPS * 32, BLOCKS_PER_SM)
    attention_forward(const __grid_constant__ AttentionArguments args) {
  constexpr int THREADS = WARPS * 32;
  constexpr int M_TILES = BM / (16 * WARPS);  // m16 tiles of a warp
  constexpr int S_TILES = BN / 8;             // n8 tiles of the scores
  constexpr int O_TILES = D / 8;
  static_assert(BM % (16 * WARPS) == 0 && BN % 32 == 0);

  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t q_smem = shared_address(shared);    // [BM, D]
  const uint32_t k_smem = q_smem + BM * D * 2;       // [BN, D]
  const uint32_t v_smem = k_smem + BN * D * 2;       // [BN, D]

  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const Problem problem(args, batch, head);
  // The last queries first: with a causal mask they have the most keys.
  const int first_query = (gridDim.x - 1 - blockIdx.x) * BM;
  if (first_query >= problem.queries) return;
  const int last_query = min(first_query + BM, problem.queries) - 1;
  const int keys_begin = problem.keys_begin(args, first_query);
  const int keys_end = problem.keys_end(args, last_query);
  const int first_tile = keys_begin / BN;
  const int tiles_end = keys_end > keys_begin ? (keys_end + BN - 1) / BN : first_tile;

  constexpr bool TIGHT = !GENERAL && D != 128;  // needs nearly every register
  const auto load_keys = [&](uint32_t tile_smem, const void* tensor_gmem, int tile) {
    load_tile<BN, D, THREADS, !GENERAL>(
        tile_smem, static_cast<const T*>(tensor_gmem) + problem.k_start + int64_t(tile) * BN * args.key_row,
        args.key_row, problem.keys - tile * BN, args.head_dim, args.head_dim % 8 == 0,
        TIGHT && !KEEPS_THREAD ? tid_x() : thread);
    cp_async_commit_group();
  };

  float out[M_TILES][O_TILES][4];
  float row_max[M_TILES][2];
  float row_sum[M_TILES][2];  // of this thread's columns
#pragma unroll
  for (int m = 0; m < M_TILES; m++) {
#pragma unroll
    for (int n = 0; n < O_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) out[m][n][i] = 0.0f;
    row_max[m][0] = row_max[m][1] = -INFINITY;
    row_sum[m][0] = row_sum[m][1] = 0.0f;
  }
  const int warp_row = warp * 16 * M_TILES;             // of the block's tile
  int query_0 = first_query + warp_row + lane / 4;        // this thread's rows: query_0 + 16 m + 8 half
  int column_0 = 2 * (lane % 4);                          // and columns: column_0 + 8 n + {0, 1}
  const uint32_t q_corner = corner_a<D>(q_smem + warp_row * Tile<D>::ROW_BYTES, lane);
  const uint32_t k_corner = corner_b<D>(k_smem, lane);
  const uint32_t v_corner = corner_b_trans<D>(v_smem, lane);
  [[maybe_unused]] const float slope = GENERAL ? slope_log2(args, batch, head) : 0.0f;
  [[maybe_unused]] const bool drops = GENERAL && args.drop_threshold > 0;
  [[maybe_unused]] const float keep_scale = 65536.0f / static_cast<float>(65536 - args.drop_threshold);
  // Scores are multiplied by this on their way into the exponent; the general ones are there already.
  const float to_log2 = GENERAL ? 1.0f : args.scale_log2;

  if (tiles_end > first_tile) {
    load_tile<BM, D, THREADS, !GENERAL>(q_smem, static_cast<const T*>(args.q) + problem.q_start + int64_t(first_query) * args.query_row, args.query_row, problem.queries - first_query, args.head_dim,
                                        args.head_dim % 8 == 0, thread);
    load_keys(k_smem, args.k, tiles_end - 1);
  }

#pragma unroll 1
  for (int tile = tiles_end - 1; tile >= first_tile; tile--) {
    cp_async_wait_group<0>();
    __syncthreads();  // K (and Q) are there for all; all are done with V of the tile before
    load_keys(v_smem, args.v, tile);

    // Tensor cores cut off what is below the last bit of a sum, always downwards: in long chains that would be the largest error of lse.
    constexpr int CHAIN = D > 128 ? 4 : D / 16;
    float s[M_TILES][S_TILES][4];
#pragma unroll 1
    for (int first = 0; first < D / 16; first += CHAIN) {
      float part[M_TILES][S_TILES][4];
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int n = 0; n < S_TILES; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) part[m][n][i] = 0.0f;
#pragma unroll
      for (int step = first; step < first + CHAIN; step++) {
        uint32_t a[M_TILES][4];
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
          ldmatrix_x4(a[m], Tile<D>::advance(q_corner, 2 * step) + 16 * m * Tile<D>::ROW_BYTES);
#pragma unroll
        for (int n = 0; n < S_TILES; n += 2) {
          uint32_t b[4];
          ldmatrix_x4(b, Tile<D>::advance(k_corner, 2 * step) + 8 * n * Tile<D>::ROW_BYTES);
#pragma unroll
          for (int m = 0; m < M_TILES; m++) {
            mma_m16n8k16<T>(part[m][n], a[m], b[0], b[1]);
            mma_m16n8k16<T>(part[m][n + 1], a[m], b[2], b[3]);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int n = 0; n < S_TILES; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) s[m][n][i] = first == 0 ? part[m][n][i] : s[m][n][i] + part[m][n][i];
    }

    cp_async_wait_group<0>();
    __syncthreads();  // V is there for all; all are done with K
    if (tile > first_tile) load_keys(k_smem, args.k, tile - 1);

    const int first_key = tile * BN;
    if constexpr (GENERAL) {
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int n = 0; n < S_TILES; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int distance = query_0 + 16 * m + 8 * (i / 2) + problem.diagonal - (first_key + column_0 + 8 * n + i % 2);
            s[m][n][i] = score_log2(args, s[m][n][i], slope, distance);
          }
    }
    if (!problem.all_seen(args, first_query, first_query + BM - 1, first_key, first_key + BN - 1)) {
      if constexpr (TIGHT && !KEEPS_THREAD) query_0 = first_query + tid_x() / 32 * 16 * M_TILES + tid_x() % 32 / 4;
      if constexpr (TIGHT && WORKS_OUT_ANEW) column_0 = 2 * (tid_x() % 4);
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int center = query_0 + 16 * m + 8 * half + problem.diagonal;
          const int low = args.window_left < 0 ? 0 : center - args.window_left;
          const int high = args.window_right < 0 ? problem.keys : min(problem.keys, center + args.window_right + 1);
#pragma unroll
          for (int n = 0; n < S_TILES; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const int key = first_key + column_0 + 8 * n + e;
              if (key < low || key >= high) s[m][n][2 * half + e] = -INFINITY;
            }
        }
    }

    // Online softmax; the sums stay split over the four threads of a row until the end.
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float largest = row_max[m][half];
#pragma unroll
        for (int n = 0; n < S_TILES; n++) {
          largest = fmaxf(largest, s[m][n][2 * half]);
          largest = fmaxf(largest, s[m][n][2 * half + 1]);
        }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2));
        // While a row has seen no key its maximum is -Infinity; 0 in its place keeps the exponents from being NaN.
        const float base = largest == -INFINITY ? 0.0f : largest * to_log2;
        const float shrink = ex2_approx(row_max[m][half] * to_log2 - base);
        row_max[m][half] = largest;
        float sum = row_sum[m][half] * shrink;
#pragma unroll
        for (int n = 0; n < S_TILES; n++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& p = s[m][n][2 * half + e];
            p = ex2_approx(p * to_log2 - base);
            sum += p;
          }
        row_sum[m][half] = sum;
#pragma unroll
        for (int n = 0; n < O_TILES; n++) {
          out[m][n][2 * half] *= shrink;
          out[m][n][2 * half + 1] *= shrink;
        }
      }

    if constexpr (GENERAL) {
      if (drops) {
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int64_t row = problem.drop_row + query_0 + 16 * m + 8 * half;
#pragma unroll
            for (int group = 0; group < BN / 32; group++) {
              const uint4 numbers = drop_numbers(args, row, first_key / 32 + group, lane % 4);
#pragma unroll
              for (int t = 0; t < 4; t++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                  float& p = s[m][4 * group + t][2 * half + e];
                  p = dropped(args, word_of(numbers, t), e) ? 0.0f : p * keep_scale;
                }
            }
          }
      }
    }

#pragma unroll
    for (int step = 0; step < BN / 16; step++) {
      uint32_t p[M_TILES][4];
#pragma unroll
      for (int m = 0; m < M_TILES; m++) {
        p[m][0] = pack<T>(s[m][2 * step][0], s[m][2 * step][1]);
        p[m][1] = pack<T>(s[m][2 * step][2], s[m][2 * step][3]);
        p[m][2] = pack<T>(s[m][2 * step + 1][0], s[m][2 * step + 1][1]);
        p[m][3] = pack<T>(s[m][2 * step + 1][2], s[m][2 * step + 1][3]);
      }
#pragma unroll
      for (int n = 0; n < O_TILES; n += 2) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, Tile<D>::advance(v_corner, n) + 16 * step * Tile<D>::ROW_BYTES);
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          mma_m16n8k16<T>(out[m][n], p[m], b[0], b[1]);
          mma_m16n8k16<T>(out[m][n + 1], p[m], b[2], b[3]);
        }
      }
    }
  }

  // What follows is worked out anew from the block's and thread's numbers, rather than kept in registers through the loop.
  {
    const int lane = tid_x() % 32;
    const int warp_row = tid_x() / 32 * 16 * M_TILES;
    const int head = ctaid_y();
    const Problem problem(args, ctaid_z(), head);
    const int first_query = (gridDim.x - 1 - ctaid_x()) * BM;
    const uint32_t q_smem = shared_address(shared);
    // The sums of a row's four threads, the sink, and the row's statistics.
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float sum = row_sum[m][half];
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
        sum += __shfl_xor_sync(0xffffffff, sum, 2);
        float base = row_max[m][half] * to_log2;  // -Infinity without keys
        float weight = 1.0f;                      // of what `out` holds
        if (args.sinks) {
          const float sink = sink_log2<T>(args, head);
          const float larger = fmaxf(base, sink);
          weight = ex2_approx(base - larger);
          sum = sum * weight + ex2_approx(sink - larger);
          base = larger;
        }
        const float inverse = sum == 0.0f ? 0.0f : weight / sum;  // NaN stays
        const int query = first_query + warp_row + lane / 4 + 16 * m + 8 * half;
        if (lane % 4 == 0 && query < problem.queries)
          args.lse[problem.lse_start + query] = sum == 0.0f ? -INFINITY : LN_2 * (base + log2f(sum));
#pragma unroll
        for (int n = 0; n < O_TILES; n++) {
          out[m][n][2 * half] *= inverse;
          out[m][n][2 * half + 1] *= inverse;
        }
      }

    // Through shared memory, so that rows are written 16 bytes at a time. Each warp uses the rows of Q that it alone reads.
    cp_async_wait_group<0>();
    if (tiles_end == first_tile) __syncwarp();
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int n = 0; n < O_TILES; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const uint32_t address = q_smem + Tile<D>::offset(warp_row + 16 * m + 8 * half + lane / 4, n) + 4 * (lane % 4);
          asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(pack<T>(out[m][n][2 * half], out[m][n][2 * half + 1]))
                       : "memory");
        }
    __syncwarp();
    T* out_gmem = static_cast<T*>(args.out) + problem.q_start + int64_t(first_query) * args.query_row;
    constexpr int CHUNKS = Tile<D>::CHUNKS;
#pragma unroll
    for (int i = 0; i < 16 * M_TILES * CHUNKS / 32; i++) {
      const int row = warp_row + (i * 32 + lane) / CHUNKS;
      const int chunk = (i * 32 + lane) % CHUNKS;
      if (first_query + row >= problem.queries) continue;
      const uint4 bits = *reinterpret_cast<const uint4*>(shared + Tile<D>::offset(row, chunk));
      T* target = out_gmem + int64_t(row) * args.query_row + chunk * 8;
      if (!GENERAL || args.head_dim % 8 == 0) {
        if (!GENERAL || chunk * 8 < args.head_dim) *reinterpret_cast<uint4*>(target) = bits;
      } else {
        const T* elements = reinterpret_cast<const T*>(&bits);
        for (int e = 0; e < 8; e++)
          if (chunk * 8 + e < args.head_dim) target[e] = elements[e];
      }
    }
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_FORWARD_CUH_
