// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Chooses the kernels of flash attention and launches them.

#include <algorithm>
#include <initializer_list>

#include "../failure.cuh"
#include "../kernels.h"
#include "../vector.h"
#include "score.h"
#include "variants.h"

namespace ternflash::cuda {

namespace {

constexpr int SEQUENCE_THREADS = 256;

// starts = cu_seqlens [2, batch + 1], or zeros if something is wrong with them. One block.
__global__ void copy_sequences(const int* cu_seqlens, int batch, longlong2 totals, longlong2 longest, int* starts,
                               uint32_t* wrong, FailureRecord* failure, uint32_t failure_code) {
  bool found = false;
  for (int side = 0; side < 2; side++) {
    const int* begin = cu_seqlens + side * (batch + 1);
    const int64_t total = side == 0 ? totals.x : totals.y;
    const int64_t most = side == 0 ? longest.x : longest.y;
    for (int i = threadIdx.x; i <= batch; i += SEQUENCE_THREADS) {
      found = found || (i == 0 && begin[i] != 0) || (i == batch && begin[i] != total) ||
              (i < batch && (begin[i] > begin[i + 1] || int64_t(begin[i + 1]) - begin[i] > most));
    }
  }
  const bool any = __syncthreads_or(found);
  for (int i = threadIdx.x; i < 2 * (batch + 1); i += SEQUENCE_THREADS) starts[i] = any ? 0 : cu_seqlens[i];
  if (threadIdx.x > 0) return;
  *wrong = any;
  if (any) record_failure(failure, failure_code, 0, 0);
}

__global__ void clear_if_wrong(const uint32_t* wrong, uint8_t* bytes, int64_t count) {
  if (*wrong == 0) return;
  for (int64_t i = int64_t(blockIdx.x) * SEQUENCE_THREADS + threadIdx.x; i < count; i += int64_t(gridDim.x) * SEQUENCE_THREADS)
    bytes[i] = 0;
}

// `starts`: the checked cumulative lengths of packed sequences.
template <class Arguments>
Arguments arguments(const AttentionShape& shape, const int* starts, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                    const Tensor& lse) {
  Arguments args{};
  args.q = q.data;
  args.k = k.data;
  args.v = v.data;
  args.out = out.data;
  args.lse = static_cast<float*>(lse.data);
  args.batch = static_cast<int>(shape.batch);
  args.queries = static_cast<int>(shape.queries);
  args.keys = static_cast<int>(shape.keys);
  args.heads = static_cast<int>(shape.heads);
  args.heads_per_key_head = static_cast<int>(shape.heads / shape.key_heads);
  args.head_dim = static_cast<int>(shape.head_dim);
  args.query_row = static_cast<int>(shape.heads * shape.head_dim);
  args.key_row = static_cast<int>(shape.key_heads * shape.head_dim);
  if (shape.cu_seqlens.data) {
    args.query_starts = starts;
    args.key_starts = args.query_starts + shape.batch + 1;
    args.lse_head = shape.total_queries;
  } else {
    args.query_batch = shape.queries * args.query_row;
    args.key_batch = shape.key_capacity * args.key_row;
    args.lse_head = shape.queries;
    args.lse_batch = shape.heads * shape.queries;
  }
  args.scale = static_cast<float>(shape.scale);
  args.scale_log2 = static_cast<float>(shape.scale * 1.4426950408889634);
  args.window_left = static_cast<int>(shape.window_left);
  args.window_right = static_cast<int>(shape.window_right);
  args.top_left = shape.top_left;
  if (shape.softcap > 0.0) {
    // Beyond these, softcap and scale / softcap would leave the range of floats.
    const double softcap = std::min(std::max(shape.softcap, 1e-30), 1e30);
    args.softcap = static_cast<float>(softcap);
    args.to_softcap = static_cast<float>(shape.scale / softcap);
  }
  args.slopes = static_cast<const float*>(shape.alibi_slopes.data);
  args.slope_batch = shape.alibi_per_batch ? shape.heads : 0;
  args.sinks = shape.sinks.data;
  args.sinks_float32 = shape.sinks.dtype == DType::FLOAT32;
  args.drop_threshold = shape.dropout.threshold;
  args.drop_seed = shape.dropout.seed;
  args.drop_offset = shape.dropout.offset;
  args.drop_groups = (shape.keys + 31) / 32;
  return args;
}

// The first row that fits, or null.
template <class Arguments>
const AttentionVariant<Arguments>* choose(AttentionTable<Arguments> table, const AttentionArguments& args,
                                          const DeviceProperties& device) {
  const bool plain = args.softcap == 0.0f && !args.slopes && args.drop_threshold == 0;
  for (int i = 0; i < table.count; i++) {
    const AttentionVariant<Arguments>& row = table.rows[i];
    const bool takes = row.exact ? plain && args.head_dim == row.head_dim : args.head_dim <= row.head_dim;
    if (takes && static_cast<size_t>(row.shared_bytes) <= device.shared_bytes_per_block) return &row;
  }
  return nullptr;
}

template <class Arguments>
cudaError_t launch(const AttentionVariant<Arguments>& variant, const Arguments& args, int rows, int heads, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const cudaError_t status =
      cudaFuncSetAttribute(variant.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, variant.shared_bytes);
  if (status != cudaSuccess) return status;
  variant.kernel<<<dim3((rows + variant.rows - 1) / variant.rows, heads, args.batch), variant.threads, variant.shared_bytes,
                   stream>>>(args);
  return cudaGetLastError();
}

void check(cudaError_t status, Context& context) {
  if (status != cudaSuccess) context.fail(cudaGetErrorString(status));
}

// Clears `outputs` and reports a failure unless packed sequences lie within the tensors and are no longer than said. Where their cumulative
// lengths are afterwards, all of them 0 if they were wrong; false without workspace.
bool check_sequences(const AttentionShape& shape, std::initializer_list<Tensor> outputs, const int*& starts, Context& context) {
  starts = nullptr;
  if (!shape.cu_seqlens.data) return true;
  int* copy = static_cast<int*>(context.workspace(static_cast<size_t>(2 * (shape.batch + 1)) * sizeof(int)));
  uint32_t* wrong = static_cast<uint32_t*>(context.workspace(sizeof(uint32_t)));
  if (!copy || !wrong) return false;
  copy_sequences<<<1, SEQUENCE_THREADS, 0, context.stream()>>>(
      static_cast<const int*>(shape.cu_seqlens.data), static_cast<int>(shape.batch),
      make_longlong2(shape.total_queries, shape.total_keys), make_longlong2(shape.queries, shape.keys), copy, wrong,
      context.failure_record(),
      context.failure_code("expected cumulative lengths that rise from 0 to the total, got others"));
  for (const Tensor& output : outputs)
    if (output.data)
      clear_if_wrong<<<context.device().multiprocessors, SEQUENCE_THREADS, 0, context.stream()>>>(
          wrong, static_cast<uint8_t*>(output.data), output.length * element_bytes(output.dtype));
  starts = copy;
  return true;
}

template <class T>
void forward(const FlashAttentionParams& p, Context& context) {
  const int* starts;
  if (!check_sequences(p.shape, {p.out, p.lse}, starts, context)) return;
  const auto args = arguments<AttentionArguments>(p.shape, starts, p.q, p.k, p.v, p.out, p.lse);
  if constexpr (sizeof(T) == 2) {
    if (const auto* variant = choose(forward_variants<T>(), args, context.device()))
      return check(launch(*variant, args, args.queries, args.heads, context.stream()), context);
  }
  check(launch_forward_elementwise<T>(args, context.stream()), context);
}

template <class T>
void backward(const FlashAttentionBackwardParams& p, Context& context) {
  const int* starts;
  if (!check_sequences(p.shape, {p.d_q, p.d_k, p.d_v, p.d_sinks, p.delta}, starts, context)) return;
  auto args = arguments<AttentionBackwardArguments>(p.shape, starts, p.q, p.k, p.v, p.out, p.lse);
  const cudaStream_t stream = context.stream();
  args.d_out = p.d_out.data;
  args.delta = static_cast<const float*>(p.delta.data);
  args.d_q = p.d_q.data;
  args.d_k = p.d_k.data;
  args.d_v = p.d_v.data;
  const int64_t rows = p.shape.total_queries * p.shape.heads;
  float* delta = static_cast<float*>(p.delta.data);
  float* base = static_cast<float*>(context.workspace(static_cast<size_t>(rows) * sizeof(float)));
  if (!base) return;
  args.base = base;
  const float* d_lse = static_cast<const float*>(p.d_lse.data);
  const auto add_sinks = [&] {
    if (p.d_sinks.data)
      check(launch_backward_sinks<T>(args, p.shape.cu_seqlens.data ? p.shape.total_queries : p.shape.queries,
                                     p.d_sinks.data, stream),
            context);
  };
  const int key_heads = args.heads / args.heads_per_key_head;
  if constexpr (sizeof(T) == 2) {
    if (const auto* variant = choose(backward_variants<T>(!p.deterministic), args, context.device())) {
      check(launch_backward_prepare<T>(args, d_lse, delta, base, stream), context);
      add_sinks();
      if (!p.deterministic) {
        const int64_t tiles = p.shape.cu_seqlens.data
                                  ? p.shape.heads * (p.shape.total_queries / 16 + p.shape.batch)
                                  : p.shape.batch * p.shape.heads * ((p.shape.queries + 15) / 16);
        const size_t bytes = static_cast<size_t>(tiles) * 16 * static_cast<size_t>(variant->head_dim) * sizeof(float);
        args.d_q_sums = static_cast<float*>(context.workspace(bytes));
        if (!args.d_q_sums) return;
        check(cudaMemsetAsync(args.d_q_sums, 0, bytes, stream), context);
      }
      check(launch(*variant, args, args.keys, key_heads, stream), context);
      if (!p.deterministic) return check(launch_backward_finish<T>(args, variant->head_dim, stream), context);
      const auto* queries = choose(backward_queries_variants<T>(), args, context.device());
      return check(launch(*queries, args, args.queries, args.heads, stream), context);
    }
  }
  float* sum = static_cast<float*>(context.workspace(static_cast<size_t>(rows) * sizeof(float)));
  if (!sum) return;
  check(launch_backward_prepare_elementwise<T>(args, delta, base, sum, stream), context);
  args.sum = sum;
  args.d_lse = d_lse;
  add_sinks();
  check(launch_backward_keys_elementwise<T>(args, stream), context);
  check(launch_backward_queries_elementwise<T>(args, stream), context);
}

}  // namespace

void flash_attention(const FlashAttentionParams& p, Context& context) {
  if (p.shape.total_queries == 0) return;
  switch (p.q.dtype) {
    case DType::FLOAT16:
      return forward<__half>(p, context);
    case DType::BFLOAT16:
      return forward<__nv_bfloat16>(p, context);
    default:
      return forward<float>(p, context);
  }
}

void flash_attention_backward(const FlashAttentionBackwardParams& p, Context& context) {
  switch (p.q.dtype) {
    case DType::FLOAT16:
      return backward<__half>(p, context);
    case DType::BFLOAT16:
      return backward<__nv_bfloat16>(p, context);
    default:
      return backward<float>(p, context);
  }
}

}  // namespace ternflash::cuda
