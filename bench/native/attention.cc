// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// flash_attention and its backward pass for programs other than Node, so that they can be timed in one process with
// PyTorch (bench/torch_attention.py): a shared library with two C functions.

#include "context.h"

using namespace ternflash;

extern "C" {

struct TernflashAttention {
  void* q;  // [batch, queries, heads, head_dim], or [total_queries, heads, head_dim] with cu_seqlens
  void* k;  // [batch, keys, key_heads, head_dim]
  void* v;
  void* out;
  float* lse;
  void* sinks;       // [heads] of the dtype of q, or null
  void* cu_seqlens;  // int32 [2, batch + 1], or null
  void* workspace;   // of the GPU, zeros before the first call
  int64_t workspace_bytes;
  void* stream;
  int64_t dtype;  // 0: float16, 1: bfloat16
  int64_t batch;
  int64_t queries;
  int64_t keys;
  int64_t heads;
  int64_t key_heads;
  int64_t head_dim;
  int64_t total_queries;
  int64_t total_keys;
  int64_t window_left;  // -1: unlimited
  int64_t window_right;
  double scale;
  double softcap;
};

struct TernflashAttentionBackward {
  TernflashAttention forward;  // out and lse as it gave them
  void* d_out;
  void* d_q;
  void* d_k;
  void* d_v;
  float* delta;  // workspace, as many as lse
  int64_t deterministic;
};

}  // extern "C"

namespace {

// What both passes take.
template <class Params>
void describe(const TernflashAttention& call, Params& p) {
  const DType dtype = call.dtype == 0 ? DType::FLOAT16 : DType::BFLOAT16;
  const bool packed = call.cu_seqlens != nullptr;
  const int64_t query_rows = packed ? call.total_queries : call.batch * call.queries;
  const int64_t key_rows = packed ? call.total_keys : call.batch * call.keys;
  AttentionShape& shape = p.shape;
  shape.batch = call.batch;
  shape.queries = call.queries;
  shape.keys = shape.key_capacity = call.keys;
  shape.heads = call.heads;
  shape.key_heads = call.key_heads;
  shape.head_dim = call.head_dim;
  shape.cu_seqlens = {call.cu_seqlens, DType::INT32, 2 * (call.batch + 1)};
  shape.total_queries = query_rows;
  shape.total_keys = key_rows;
  shape.scale = call.scale;
  shape.softcap = call.softcap;
  shape.window_left = call.window_left;
  shape.window_right = call.window_right;
  shape.sinks = {call.sinks, dtype, call.heads};
  p.q = {call.q, dtype, query_rows * call.heads * call.head_dim};
  p.k = {call.k, dtype, key_rows * call.key_heads * call.head_dim};
  p.v = {call.v, dtype, p.k.length};
  p.out = {call.out, dtype, p.q.length};
  p.lse = {call.lse, DType::FLOAT32, query_rows * call.heads};
}

template <class Launch>
int queue(const TernflashAttention& call, const Launch& launch) {
  BenchContext context(call.stream, call.workspace, call.workspace_bytes);
  launch(context);
  return context.failed() ? 1 : 0;
}

}  // namespace

extern "C" {

// Queues flash_attention; 0, or 1 if it failed.
__attribute__((visibility("default"))) int ternflash_attention(const TernflashAttention* call) {
  FlashAttentionParams p{};
  describe(*call, p);
  return queue(*call, [&](cuda::Context& context) { cuda::flash_attention(p, context); });
}

// Queues flash_attention_backward; 0, or 1 if it failed.
__attribute__((visibility("default"))) int ternflash_attention_backward(const TernflashAttentionBackward* call) {
  FlashAttentionBackwardParams p{};
  describe(call->forward, p);
  p.d_out = {call->d_out, p.q.dtype, p.q.length};
  p.d_q = {call->d_q, p.q.dtype, p.q.length};
  p.d_k = {call->d_k, p.q.dtype, p.k.length};
  p.d_v = {call->d_v, p.q.dtype, p.k.length};
  p.delta = {call->delta, DType::FLOAT32, p.lse.length};
  p.deterministic = call->deterministic != 0;
  return queue(call->forward, [&](cuda::Context& context) { cuda::flash_attention_backward(p, context); });
}

}  // extern "C"
