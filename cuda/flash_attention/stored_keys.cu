// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Attention forward over keys and values as a cache stores them.
//
//   q, out [B, Sq, H, D], lse [B, H, Sq]; k, v [B, capacity, G, D] or pages [count, size, G, D], any float dtype or int8 with
//   scales [rows, G]
//
// A block owns one query of one head. Its warps take TOGETHER keys at a time in turn, each with a running maximum, sum and
// output of its own (Dao 2023, FlashAttention-2, algorithm 1); the lanes of a warp lie along D. At the end the warps' results
// are merged. Numbers become float32 in registers; the scales of codes multiply scores and probabilities, one for each key.
// No tensor cores, and every query reads the keys again: for decoding, where each is read once for each query head.

#include "stored_keys.h"

#include "../pages.cuh"
#include "score.h"

namespace ternflash::cuda {

namespace {

constexpr int WARPS = 16;
constexpr int TOGETHER = 4;  // keys of a warp, to hide the latency of their loads
constexpr int MAX_HEAD_DIM = 256;
constexpr int OF_LANE = MAX_HEAD_DIM / 32;  // numbers of a row that a lane has at most: those lane, lane + 32, ...

struct StoredKeys {
  CacheRows rows;
  const float* key_scales;  // of codes, else null
  const float* value_scales;
  int key_heads;
};

template <class T, class K>
__global__ void __launch_bounds__(32 * WARPS, 1)
    attention_forward_stored(const __grid_constant__ AttentionArguments args, const __grid_constant__ StoredKeys stored) {
  __shared__ float maxima[WARPS];
  __shared__ float sums[WARPS];
  __shared__ float outputs[WARPS][MAX_HEAD_DIM];
  const int query = blockIdx.x;
  const int head = blockIdx.y;
  const int batch = blockIdx.z;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const Problem problem(args, batch, head);
  const int64_t q_start = problem.q_start + int64_t(query) * args.query_row;
  const int key_head = head / args.heads_per_key_head;
  const float slope = slope_log2(args, batch, head);
  const K* const k = static_cast<const K*>(args.k);
  const K* const v = static_cast<const K*>(args.v);

  float q_rmem[OF_LANE], out_rmem[OF_LANE] = {};
#pragma unroll
  for (int i = 0; i < OF_LANE; i++) {
    const int d = lane + 32 * i;
    q_rmem[i] = d < args.head_dim ? static_cast<float>(static_cast<const T*>(args.q)[q_start + d]) : 0.0f;
  }
  float maximum = -INFINITY;
  float sum = 0.0f;
  const int end = problem.keys_end(args, query);
  for (int first = problem.keys_begin(args, query) + warp * TOGETHER; first < end; first += WARPS * TOGETHER) {
    int64_t starts[TOGETHER];  // of the key's head in k and v
    float scores[TOGETHER], value_scales[TOGETHER];
#pragma unroll
    for (int j = 0; j < TOGETHER; j++) {
      const int key = first + j;
      const int64_t row = max(int64_t(0), stored.rows.row(batch, min(key, end - 1)));
      const int64_t key_of_head = row * stored.key_heads + key_head;
      starts[j] = key_of_head * args.head_dim;
      value_scales[j] = stored.value_scales ? stored.value_scales[key_of_head] : 1.0f;
      float product = 0.0f;
#pragma unroll
      for (int i = 0; i < OF_LANE; i++) {
        const int d = lane + 32 * i;
        if (d < args.head_dim) product += q_rmem[i] * static_cast<float>(k[starts[j] + d]);
      }
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) product += __shfl_xor_sync(0xffffffffu, product, offset);
      if (stored.key_scales) product *= stored.key_scales[key_of_head];
      scores[j] = key < end ? score_log2(args, product, slope, query + problem.diagonal - key) : -INFINITY;
    }
    float raised = maximum;
#pragma unroll
    for (int j = 0; j < TOGETHER; j++) raised = scores[j] > raised || scores[j] != scores[j] ? scores[j] : raised;  // NaN stays
    // Of -Infinity nothing is subtracted: -Infinity - -Infinity would be NaN.
    const float subtract = raised == -INFINITY ? 0.0f : raised;
    const float rescale = exp2f(maximum - subtract);
    maximum = raised;
    sum *= rescale;
#pragma unroll
    for (int i = 0; i < OF_LANE; i++) out_rmem[i] *= rescale;
#pragma unroll
    for (int j = 0; j < TOGETHER; j++) {
      if (first + j >= end) break;
      const float p = exp2f(scores[j] - subtract);
      sum += p;
#pragma unroll
      for (int i = 0; i < OF_LANE; i++) {
        const int d = lane + 32 * i;
        if (d < args.head_dim) out_rmem[i] += p * value_scales[j] * static_cast<float>(v[starts[j] + d]);
      }
    }
  }
  if (lane == 0) {
    maxima[warp] = maximum;
    sums[warp] = sum;
  }
#pragma unroll
  for (int i = 0; i < OF_LANE; i++) outputs[warp][lane + 32 * i] = out_rmem[i];
  __syncthreads();  // all warps' results are there

  const float sink = args.sinks ? sink_log2<T>(args, head) : -INFINITY;
  float most = sink;
  for (int w = 0; w < WARPS; w++) most = maxima[w] > most || maxima[w] != maxima[w] ? maxima[w] : most;
  const float subtract = most == -INFINITY ? 0.0f : most;
  float total = exp2f(sink - subtract);
  float out = 0.0f;
  const int d = threadIdx.x;
  for (int w = 0; w < WARPS; w++) {
    const float factor = exp2f(maxima[w] - subtract);
    total += sums[w] * factor;
    if (d < MAX_HEAD_DIM) out += outputs[w][d] * factor;
  }
  const float inverse = total == 0.0f ? 0.0f : 1.0f / total;  // 0 for a query that sees no key
  if (d < args.head_dim) static_cast<T*>(args.out)[q_start + d] = static_cast<T>(out * inverse);
  if (d == 0) args.lse[problem.lse_start + query] = total == 0.0f ? -INFINITY : (most + log2f(total)) * LN_2;
}

}  // namespace

template <class T>
void launch_forward_stored(const FlashAttentionParams& p, const AttentionArguments& args, Context& context) {
  check_pages(p.shape.pages, p.shape.batch, context);
  const StoredKeys stored{CacheRows(p.shape.pages, p.shape.key_capacity), data_of<float>(p.key_scales),
                          data_of<float>(p.value_scales), static_cast<int>(p.shape.key_heads)};
  const dim3 blocks(args.queries, args.heads, args.batch);
  const auto launch = [&](auto type) {
    using K = typename decltype(type)::type;
    attention_forward_stored<T, K><<<blocks, 32 * WARPS, 0, context.stream()>>>(args, stored);
  };
  if (p.k.dtype == DType::INT8) launch(Type<int8_t>{});
  else with_float_type(p.k.dtype, launch);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) context.fail(cudaGetErrorString(status));
}

template void launch_forward_stored<float>(const FlashAttentionParams&, const AttentionArguments&, Context&);
template void launch_forward_stored<__half>(const FlashAttentionParams&, const AttentionArguments&, Context&);
template void launch_forward_stored<__nv_bfloat16>(const FlashAttentionParams&, const AttentionArguments&, Context&);

}  // namespace ternflash::cuda
