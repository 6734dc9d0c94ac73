// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Flash attention without tensor cores, for every dtype: what float32 runs on, and what takes the head dims for which a GPU has too little
// shared memory for the other kernels. Inputs are widened to float32 in shared memory, everything is float32 from there.
//
// 256 threads take a tile of R queries and R keys (R = 32, or 16 for head dims above 128), 256 / R threads a row.

#ifndef TERNFLASH_CUDA_FLASH_ATTENTION_ELEMENTWISE_CUH_
#define TERNFLASH_CUDA_FLASH_ATTENTION_ELEMENTWISE_CUH_

#include "arguments.h"
#include "score.h"

namespace ternflash::cuda {

constexpr int ELEMENTWISE_THREADS = 256;

template <int D>
struct Elementwise {
  static constexpr int R = D > 128 ? 16 : 32;
  static constexpr int LANES = ELEMENTWISE_THREADS / R;  // threads a row
  static constexpr int SCORES = R / LANES;               // scores a thread
  static constexpr int FEATURES = D / LANES;             // features of a row a thread
  static constexpr int STRIDE = D + 4;                   // floats from row to row in shared memory
  static constexpr int TILE = R * STRIDE;
  // `tiles` of inputs and two of scores.
  static constexpr int shared_bytes(int tiles) { return (tiles * TILE + 2 * R * (R + 1)) * 4; }
};

template <int D, class T>
__device__ __forceinline__ void load_floats(float* tile_smem, const T* rows_gmem, int row_stride, int valid_rows, int head_dim) {
  using E = Elementwise<D>;
  for (int i = threadIdx.x; i < E::R * D; i += ELEMENTWISE_THREADS) {
    const int row = i / D;
    const int column = i % D;
    tile_smem[row * E::STRIDE + column] =
        row < valid_rows && column < head_dim ? static_cast<float>(rows_gmem[int64_t(row) * row_stride + column]) : 0.0f;
  }
}

// A number in two floats, the second of which is what the first one lacks.
struct TwoFloats {
  float high;
  float low;
};

// In sections of 8 features, whose sums are added without loss: long sums in one float would be the largest error of a score.
template <int D>
__device__ __forceinline__ TwoFloats dot(const float* a, const float* b) {
  static_assert(D % 16 == 0);
  TwoFloats sum = {0.0f, 0.0f};
#pragma unroll 2
  for (int i = 0; i < D; i += 8) {
    const float4 x = *reinterpret_cast<const float4*>(a + i);
    const float4 y = *reinterpret_cast<const float4*>(b + i);
    const float4 z = *reinterpret_cast<const float4*>(a + i + 4);
    const float4 w = *reinterpret_cast<const float4*>(b + i + 4);
    const float section = (fmaf(z.x, w.x, x.x * y.x) + fmaf(z.y, w.y, x.y * y.y)) +
                          (fmaf(z.z, w.z, x.z * y.z) + fmaf(z.w, w.w, x.w * y.w));
    const float total = sum.high + section;
    const float shift = total - sum.high;
    sum.low += (sum.high - (total - shift)) + (section - shift);
    sum.high = total;
  }
  if (!isfinite(sum.high)) sum.low = 0.0f;
  return sum;
}

// e^x, correct to 0.66 units in the last place where it is above 1e-36 (expf: 1), for x up to 88. r is what x is off a multiple of ln(2), in two
// floats; e^r = 1 + (r + r^2 p(r)), where the rounding of 1 + r is made good.
__device__ __forceinline__ float exp_rounded(float x) {
  const float n = rintf(x * LOG2_E);
  const float coarse = fmaf(n, -0.693145751953125f, x);  // exact
  const float fine = n * -1.42860677e-6f;
  const float r = coarse + fine;
  const float rest = (coarse - r) + fine;
  float p = 1.98948136e-4f;
  p = fmaf(p, r, 1.39295437e-3f);
  p = fmaf(p, r, 8.33330409e-3f);
  p = fmaf(p, r, 4.16665041e-2f);
  p = fmaf(p, r, 1.66666667e-1f);
  p = fmaf(p, r, 0.5f);
  const float one_r = 1.0f + r;
  const float tail = fmaf(p * r, r, rest) + ((1.0f - one_r) + r);
  const float power = __int_as_float((static_cast<int>(n) + 127) << 23);
  return x > -85.0f ? (one_r + tail) * power : expf(x);  // also -Infinity and NaN
}

// The score of a query and a key in the natural exponent, and its derivative by the product; -Infinity if the key is not seen.
__device__ __forceinline__ TwoFloats score_exact(const AttentionArguments& args, const Problem& problem, TwoFloats product,
                                                 float slope, int query, int key, float& derivative) {
  const int center = query + problem.diagonal;
  derivative = 1.0f;
  if (key >= problem.keys || (args.window_left >= 0 && key < center - args.window_left) ||
      (args.window_right >= 0 && key > center + args.window_right))
    return {-INFINITY, 0.0f};
  TwoFloats score;
  if (args.softcap > 0.0f) {
    const float t = tanhf((product.high + product.low) * args.to_softcap);
    score = {args.softcap * t, 0.0f};
    derivative = (1.0f - t) * (1.0f + t);
  } else {
    score.high = product.high * args.scale;
    score.low = fmaf(product.high, args.scale, -score.high) + product.low * args.scale;
    // Beyond, the second float alone would decide between 0 and infinity; and nothing is lost with it.
    if (!(fabsf(score.high) < 1048576.0f)) score.low = 0.0f;
  }
  score.high -= slope * static_cast<float>(abs(center - key));
  return score;
}

// exp(score - base)
__device__ __forceinline__ float exp_of(TwoFloats score, float base) { return exp_rounded((score.high - base) + score.low); }

// The factor of a probability under dropout.
__device__ __forceinline__ float keep_factor(const AttentionArguments& args, const Problem& problem, int query, int key) {
  if (args.drop_threshold == 0) return 1.0f;
  const uint4 numbers = drop_numbers(args, problem.drop_row + query, key / 32, key % 8 / 2);
  return dropped(args, word_of(numbers, key % 32 / 8), key % 2)
             ? 0.0f
             : 65536.0f / static_cast<float>(65536 - args.drop_threshold);
}

template <class T>
__device__ __forceinline__ float sink_of(const AttentionArguments& args, int head) {
  return args.sinks_float32 ? static_cast<const float*>(args.sinks)[head]
                            : static_cast<float>(static_cast<const T*>(args.sinks)[head]);
}

template <class T, int D>
__global__ void __launch_bounds__(ELEMENTWISE_THREADS, 2)
    attention_forward_elementwise(const __grid_constant__ AttentionArguments args) {
  using E = Elementwise<D>;
  extern __shared__ __align__(16) float tiles[];
  float* q_smem = tiles;
  float* k_smem = q_smem + E::TILE;
  float* v_smem = k_smem + E::TILE;
  float* p_smem = v_smem + E::TILE;  // [R, R + 1]
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const Problem problem(args, batch, head);
  const int first_query = (gridDim.x - 1 - blockIdx.x) * E::R;
  if (first_query >= problem.queries) return;
  const int row = threadIdx.x / E::LANES;
  const int lane = threadIdx.x % E::LANES;  // of the row
  const int query = first_query + row;
  const int last_query = min(first_query + E::R, problem.queries) - 1;
  const int keys_end = problem.keys_end(args, last_query);
  const float slope = args.slopes ? args.slopes[batch * args.slope_batch + head] : 0.0f;

  load_floats<D>(q_smem, static_cast<const T*>(args.q) + problem.q_start + int64_t(first_query) * args.query_row,
                 args.query_row, problem.queries - first_query, args.head_dim);
  float out[E::FEATURES];
#pragma unroll
  for (int i = 0; i < E::FEATURES; i++) out[i] = 0.0f;
  float largest = -INFINITY;
  float sum = 0.0f;
  for (int first_key = problem.keys_begin(args, first_query) / E::R * E::R; first_key < keys_end; first_key += E::R) {
    __syncthreads();  // all are done with the tiles before
    const int64_t start = problem.k_start + int64_t(first_key) * args.key_row;
    load_floats<D>(k_smem, static_cast<const T*>(args.k) + start, args.key_row, problem.keys - first_key, args.head_dim);
    load_floats<D>(v_smem, static_cast<const T*>(args.v) + start, args.key_row, problem.keys - first_key, args.head_dim);
    __syncthreads();
    TwoFloats s[E::SCORES];
    float tile_largest = largest;
#pragma unroll
    for (int i = 0; i < E::SCORES; i++) {
      const int key = lane + i * E::LANES;
      float derivative;
      s[i] = score_exact(args, problem, dot<D>(q_smem + row * E::STRIDE, k_smem + key * E::STRIDE), slope, query,
                         first_key + key, derivative);
      tile_largest = fmaxf(tile_largest, s[i].high);
    }
#pragma unroll
    for (int offset = E::LANES / 2; offset > 0; offset /= 2)
      tile_largest = fmaxf(tile_largest, __shfl_xor_sync(0xffffffff, tile_largest, offset));
    const float base = tile_largest == -INFINITY ? 0.0f : tile_largest;
    const float shrink = exp_rounded(largest - base);
    largest = tile_largest;
    float part = 0.0f;
#pragma unroll
    for (int i = 0; i < E::SCORES; i++) {
      const int key = lane + i * E::LANES;
      const float p = exp_of(s[i], base);
      part += p;
      p_smem[row * (E::R + 1) + key] = p * keep_factor(args, problem, query, first_key + key);
    }
#pragma unroll
    for (int offset = E::LANES / 2; offset > 0; offset /= 2) part += __shfl_xor_sync(0xffffffff, part, offset);
    sum = sum * shrink + part;
    __syncwarp();  // the row's probabilities are there for its threads, which are of one warp
    float part_out[E::FEATURES] = {};
#pragma unroll 4
    for (int key = 0; key < E::R; key++) {
      const float p = p_smem[row * (E::R + 1) + key];
#pragma unroll
      for (int i = 0; i < E::FEATURES; i++)
        part_out[i] = fmaf(p, v_smem[key * E::STRIDE + lane + i * E::LANES], part_out[i]);
    }
#pragma unroll
    for (int i = 0; i < E::FEATURES; i++) out[i] = fmaf(out[i], shrink, part_out[i]);
  }
  if (query >= problem.queries) return;
  float weight = 1.0f;
  if (args.sinks) {
    const float sink = sink_of<T>(args, head);
    const float larger = fmaxf(largest, sink);
    weight = exp_rounded(largest - larger);
    sum = sum * weight + exp_rounded(sink - larger);
    largest = larger;
  }
  const float divisor = sum == 0.0f ? 1.0f : sum;  // NaN stays
  if (lane == 0) args.lse[problem.lse_start + query] = sum == 0.0f ? -INFINITY : largest + logf(sum);
  T* out_row = static_cast<T*>(args.out) + problem.q_start + int64_t(query) * args.query_row;
#pragma unroll
  for (int i = 0; i < E::FEATURES; i++) {
    const int feature = lane + i * E::LANES;
    if (feature < args.head_dim) out_row[feature] = static_cast<T>(out[i] * weight / divisor);
  }
}

// delta, base and sum of each query. The probabilities are computed anew rather than from lse, whose rounding would be an error of each of
// them; and delta is added up in the order of d_out v^T, so that their difference is 0 where it has to be.
template <class T, int D>
__global__ void __launch_bounds__(ELEMENTWISE_THREADS, 2)
    attention_backward_prepare_elementwise(const __grid_constant__ AttentionBackwardArguments args, float* delta,
                                           float* base, float* sums) {
  using E = Elementwise<D>;
  extern __shared__ __align__(16) float tiles[];
  float* q_smem = tiles;
  float* k_smem = q_smem + E::TILE;
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const Problem problem(args, batch, head);
  const int first_query = (gridDim.x - 1 - blockIdx.x) * E::R;
  if (first_query >= problem.queries) return;
  const int row = threadIdx.x / E::LANES;
  const int lane = threadIdx.x % E::LANES;
  const int query = first_query + row;
  const int64_t statistic = problem.lse_start + query;
  const int keys_end = problem.keys_end(args, min(first_query + E::R, problem.queries) - 1);
  const float slope = args.slopes ? args.slopes[batch * args.slope_batch + head] : 0.0f;
  const int64_t start = problem.q_start + int64_t(first_query) * args.query_row;
  const int valid = problem.queries - first_query;
  load_floats<D>(q_smem, static_cast<const T*>(args.out) + start, args.query_row, valid, args.head_dim);
  load_floats<D>(k_smem, static_cast<const T*>(args.d_out) + start, args.query_row, valid, args.head_dim);
  __syncthreads();  // both are there
  if (lane == 0 && query < problem.queries) {
    const TwoFloats sum = dot<D>(k_smem + row * E::STRIDE, q_smem + row * E::STRIDE);
    delta[statistic] = sum.high + sum.low;
  }
  __syncthreads();  // all are done with them
  load_floats<D>(q_smem, static_cast<const T*>(args.q) + start, args.query_row, valid, args.head_dim);
  float largest = -INFINITY;
  float sum = 0.0f;
  for (int first_key = problem.keys_begin(args, first_query) / E::R * E::R; first_key < keys_end; first_key += E::R) {
    __syncthreads();  // all are done with the tile before
    load_floats<D>(k_smem, static_cast<const T*>(args.k) + problem.k_start + int64_t(first_key) * args.key_row,
                   args.key_row, problem.keys - first_key, args.head_dim);
    __syncthreads();  // it is there
    TwoFloats s[E::SCORES];
    float larger = largest;
#pragma unroll
    for (int i = 0; i < E::SCORES; i++) {
      const int key = lane + i * E::LANES;
      float derivative;
      s[i] = score_exact(args, problem, dot<D>(q_smem + row * E::STRIDE, k_smem + key * E::STRIDE), slope, query,
                         first_key + key, derivative);
      larger = fmaxf(larger, s[i].high);
    }
    if (larger == -INFINITY) continue;
    sum *= exp_rounded(largest - larger);
#pragma unroll
    for (int i = 0; i < E::SCORES; i++) sum += exp_of(s[i], larger);
    largest = larger;
  }
  // The row's threads put theirs together.
#pragma unroll
  for (int offset = E::LANES / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xffffffff, largest, offset);
    const float other_sum = __shfl_xor_sync(0xffffffff, sum, offset);
    const float larger = fmaxf(largest, other);
    if (larger == -INFINITY) continue;
    sum = sum * exp_rounded(largest - larger) + other_sum * exp_rounded(other - larger);
    largest = larger;
  }
  if (lane > 0 || query >= problem.queries) return;
  if (args.sinks) {
    const float sink = sink_of<T>(args, head);
    const float larger = fmaxf(largest, sink);
    sum = sum * exp_rounded(largest - larger) + exp_rounded(sink - larger);
    largest = larger;
  }
  base[statistic] = largest;
  sums[statistic] = sum;
}

// P (as the values were weighted) and dS of a tile, transposed if the rows are keys: [R, R + 1] each, from tiles of Q, K, dOut and V.
template <class T, int D, bool KEY_ROWS>
__device__ __forceinline__ void gradient_scores(const AttentionBackwardArguments& args, const Problem& problem, float slope,
                                                const float* q_smem, const float* k_smem, const float* v_smem,
                                                const float* d_out_smem, float* p_smem, float* ds_smem, int first_query,
                                                int first_key) {
  using E = Elementwise<D>;
  const int row = tid_x() / E::LANES;
  const int lane = tid_x() % E::LANES;
#pragma unroll
  for (int i = 0; i < E::SCORES; i++) {
    const int other = lane + i * E::LANES;
    const int query = KEY_ROWS ? other : row;
    const int key = KEY_ROWS ? row : other;
    float p = 0.0f;
    float ds = 0.0f;
    if (first_query + query < problem.queries) {
      float derivative;
      const TwoFloats score =
          score_exact(args, problem, dot<D>(q_smem + query * E::STRIDE, k_smem + key * E::STRIDE), slope,
                      first_query + query, first_key + key, derivative);
      if (score.high > -INFINITY) {
        const int64_t statistic = problem.lse_start + first_query + query;
        const float keep = keep_factor(args, problem, first_query + query, first_key + key);
        const TwoFloats product = dot<D>(d_out_smem + query * E::STRIDE, v_smem + key * E::STRIDE);
        const float dp = product.high + product.low;
        p = exp_of(score, args.base[statistic]) / args.sum[statistic];
        const float d_lse = args.d_lse ? args.d_lse[statistic] : 0.0f;
        ds = p * ((dp * keep - args.delta[statistic]) + d_lse) * derivative;
        p *= keep;
      }
    }
    p_smem[row * (E::R + 1) + other] = p;
    ds_smem[row * (E::R + 1) + other] = ds;
  }
}

template <class T, int D>
__global__ void __launch_bounds__(ELEMENTWISE_THREADS, D < 64 ? 2 : 1)
    attention_backward_keys_elementwise(const __grid_constant__ AttentionBackwardArguments args) {
  using E = Elementwise<D>;
  extern __shared__ __align__(16) float tiles[];
  float* q_smem = tiles;
  float* k_smem = q_smem + E::TILE;
  float* v_smem = k_smem + E::TILE;
  float* d_out_smem = v_smem + E::TILE;
  float* p_smem = d_out_smem + E::TILE;
  float* ds_smem = p_smem + E::R * (E::R + 1);
  const int key_head = blockIdx.y;
  const int batch = blockIdx.z;
  const int first_key = blockIdx.x * E::R;
  float d_k[E::FEATURES];
  float d_v[E::FEATURES];
#pragma unroll
  for (int i = 0; i < E::FEATURES; i++) d_k[i] = d_v[i] = 0.0f;
  const Problem first(args, batch, key_head * args.heads_per_key_head);
  if (first_key >= first.keys) return;
  const int64_t start = first.k_start + int64_t(first_key) * args.key_row;
  load_floats<D>(k_smem, static_cast<const T*>(args.k) + start, args.key_row, first.keys - first_key, args.head_dim);
  load_floats<D>(v_smem, static_cast<const T*>(args.v) + start, args.key_row, first.keys - first_key, args.head_dim);
  const int last_key = min(first_key + E::R, first.keys) - 1;
  for (int member = 0; member < args.heads_per_key_head; member++) {
    const int head = key_head * args.heads_per_key_head + member;
    const Problem problem(args, batch, head);
    const float slope = args.slopes ? args.slopes[batch * args.slope_batch + head] : 0.0f;
    const int queries_end = problem.queries_end(args, last_key);
    for (int first_query = problem.queries_begin(args, first_key) / E::R * E::R; first_query < queries_end;
         first_query += E::R) {
      __syncthreads();  // all are done with the tiles before
      const int64_t query_start = problem.q_start + int64_t(first_query) * args.query_row;
      load_floats<D>(q_smem, static_cast<const T*>(args.q) + query_start, args.query_row, problem.queries - first_query,
                     args.head_dim);
      load_floats<D>(d_out_smem, static_cast<const T*>(args.d_out) + query_start, args.query_row,
                     problem.queries - first_query, args.head_dim);
      __syncthreads();
      gradient_scores<T, D, true>(args, problem, slope, q_smem, k_smem, v_smem, d_out_smem, p_smem, ds_smem,
                                  first_query, first_key);
      __syncwarp();  // a row's threads are of one warp
      // Worked out anew, rather than kept in registers.
      const int row = tid_x() / E::LANES;
      const int lane = tid_x() % E::LANES;
      float part_k[E::FEATURES] = {};
      float part_v[E::FEATURES] = {};
#pragma unroll 4
      for (int query = 0; query < E::R; query++) {
        const float p = p_smem[row * (E::R + 1) + query];
        const float ds = ds_smem[row * (E::R + 1) + query];
#pragma unroll
        for (int i = 0; i < E::FEATURES; i++) {
          part_v[i] = fmaf(p, d_out_smem[query * E::STRIDE + lane + i * E::LANES], part_v[i]);
          part_k[i] = fmaf(ds, q_smem[query * E::STRIDE + lane + i * E::LANES], part_k[i]);
        }
      }
#pragma unroll
      for (int i = 0; i < E::FEATURES; i++) {
        d_k[i] += part_k[i];
        d_v[i] += part_v[i];
      }
    }
  }
  const Problem problem(args, ctaid_z(), ctaid_y() * args.heads_per_key_head);
  const int key = ctaid_x() * E::R + tid_x() / E::LANES;
  const int lane = tid_x() % E::LANES;
  if (key >= problem.keys) return;
  const int64_t target = problem.k_start + int64_t(key) * args.key_row;
#pragma unroll
  for (int i = 0; i < E::FEATURES; i++) {
    const int feature = lane + i * E::LANES;
    if (feature >= args.head_dim) continue;
    static_cast<T*>(args.d_k)[target + feature] = static_cast<T>(d_k[i] * args.scale);
    static_cast<T*>(args.d_v)[target + feature] = static_cast<T>(d_v[i]);
  }
}

template <class T, int D>
__global__ void __launch_bounds__(ELEMENTWISE_THREADS, D < 64 ? 2 : 1)
    attention_backward_queries_elementwise(const __grid_constant__ AttentionBackwardArguments args) {
  using E = Elementwise<D>;
  extern __shared__ __align__(16) float tiles[];
  float* q_smem = tiles;
  float* k_smem = q_smem + E::TILE;
  float* v_smem = k_smem + E::TILE;
  float* d_out_smem = v_smem + E::TILE;
  float* p_smem = d_out_smem + E::TILE;
  float* ds_smem = p_smem + E::R * (E::R + 1);
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const Problem problem(args, batch, head);
  const int first_query = (gridDim.x - 1 - blockIdx.x) * E::R;
  if (first_query >= problem.queries) return;
  const int row = threadIdx.x / E::LANES;
  const int lane = threadIdx.x % E::LANES;
  const int last_query = min(first_query + E::R, problem.queries) - 1;
  const int keys_end = problem.keys_end(args, last_query);
  const float slope = args.slopes ? args.slopes[batch * args.slope_batch + head] : 0.0f;
  const int64_t start = problem.q_start + int64_t(first_query) * args.query_row;
  load_floats<D>(q_smem, static_cast<const T*>(args.q) + start, args.query_row, problem.queries - first_query, args.head_dim);
  load_floats<D>(d_out_smem, static_cast<const T*>(args.d_out) + start, args.query_row, problem.queries - first_query,
                 args.head_dim);
  float sum[E::FEATURES];
#pragma unroll
  for (int i = 0; i < E::FEATURES; i++) sum[i] = 0.0f;
  for (int first_key = problem.keys_begin(args, first_query) / E::R * E::R; first_key < keys_end; first_key += E::R) {
    __syncthreads();  // all are done with the tiles before
    const int64_t key_start = problem.k_start + int64_t(first_key) * args.key_row;
    load_floats<D>(k_smem, static_cast<const T*>(args.k) + key_start, args.key_row, problem.keys - first_key, args.head_dim);
    load_floats<D>(v_smem, static_cast<const T*>(args.v) + key_start, args.key_row, problem.keys - first_key, args.head_dim);
    __syncthreads();
    gradient_scores<T, D, false>(args, problem, slope, q_smem, k_smem, v_smem, d_out_smem, p_smem, ds_smem, first_query,
                                 first_key);
    __syncwarp();
    float part[E::FEATURES] = {};
#pragma unroll 4
    for (int key = 0; key < E::R; key++) {
      const float ds = ds_smem[row * (E::R + 1) + key];
#pragma unroll
      for (int i = 0; i < E::FEATURES; i++) part[i] = fmaf(ds, k_smem[key * E::STRIDE + lane + i * E::LANES], part[i]);
    }
#pragma unroll
    for (int i = 0; i < E::FEATURES; i++) sum[i] += part[i];
  }
  if (first_query + row >= problem.queries) return;
#pragma unroll
  for (int i = 0; i < E::FEATURES; i++) {
    const int feature = lane + i * E::LANES;
    if (feature < args.head_dim)
      static_cast<T*>(args.d_q)[start + int64_t(row) * args.query_row + feature] = static_cast<T>(sum[i] * args.scale);
  }
}

}  // namespace ternflash::cuda

#endif  // TERNFLASH_CUDA_FLASH_ATTENTION_ELEMENTWISE_CUH_
