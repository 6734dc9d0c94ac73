// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Chooses the kernels of flash attention and launches them.

#include "../kernels.h"
#include "score.h"
#include "variants.h"

namespace ternflash::cuda {

namespace {

template <class Arguments>
Arguments arguments(const AttentionShape& shape, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
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
    args.query_starts = static_cast<const int*>(shape.cu_seqlens.data);
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
  args.softcap = static_cast<float>(shape.softcap);
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

template <class T>
void forward(const FlashAttentionParams& p, Context& context) {
  const auto args = arguments<AttentionArguments>(p.shape, p.q, p.k, p.v, p.out, p.lse);
  if constexpr (sizeof(T) == 2) {
    if (const auto* variant = choose(forward_variants<T>(), args, context.device()))
      return check(launch(*variant, args, args.queries, args.heads, context.stream()), context);
  }
  check(launch_forward_elementwise<T>(args, context.stream()), context);
}

template <class T>
void backward(const FlashAttentionBackwardParams& p, Context& context) {
  auto args = arguments<AttentionBackwardArguments>(p.shape, p.q, p.k, p.v, p.out, p.lse);
  const cudaStream_t stream = context.stream();
  args.d_out = p.d_out.data;
  args.delta = static_cast<const float*>(p.delta.data);
  args.d_k = p.d_k.data;
  args.d_v = p.d_v.data;
  const int64_t rows = p.shape.total_queries * p.shape.heads;
  float* base = static_cast<float*>(context.workspace(static_cast<size_t>(rows) * sizeof(float)));
  if (!base) return;
  args.base = base;
  check(launch_backward_prepare<T>(args, static_cast<const float*>(p.d_lse.data), static_cast<float*>(p.delta.data), base,
                                   stream),
        context);
  if (p.d_sinks.data)
    check(launch_backward_sinks<T>(args, p.shape.cu_seqlens.data ? p.shape.total_queries : p.shape.queries, p.d_sinks.data,
                                   stream),
          context);
  T* d_q = static_cast<T*>(p.d_q.data);
  const int key_heads = args.heads / args.heads_per_key_head;
  if constexpr (sizeof(T) == 2) {
    if (const auto* variant = choose(backward_variants<T>(!p.deterministic), args, context.device())) {
      if (!p.deterministic) {
        const int64_t tiles = p.shape.cu_seqlens.data
                                  ? p.shape.heads * (p.shape.total_queries / 16 + p.shape.batch)
                                  : p.shape.batch * p.shape.heads * ((p.shape.queries + 15) / 16);
        const size_t bytes = static_cast<size_t>(tiles) * 16 * static_cast<size_t>(variant->head_dim) * sizeof(float);
        args.d_q = static_cast<float*>(context.workspace(bytes));
        if (!args.d_q) return;
        check(cudaMemsetAsync(args.d_q, 0, bytes, stream), context);
      }
      check(launch(*variant, args, args.keys, key_heads, stream), context);
      check(p.deterministic ? launch_backward_queries_elementwise<T>(args, d_q, stream)
                            : launch_backward_finish<T>(args, variant->head_dim, d_q, stream),
            context);
      return;
    }
  }
  check(launch_backward_keys_elementwise<T>(args, stream), context);
  check(launch_backward_queries_elementwise<T>(args, d_q, stream), context);
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
