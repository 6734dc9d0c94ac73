// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// quantize_activations and ternary_matmul_int8 for programs other than Node, so that they can be timed in one process
// with PyTorch (bench/torch_ternary.py).

#include "context.h"

using namespace ternflash;

extern "C" {

struct TernflashTernary {
  void* x;              // [m, k]
  void* codes;          // int8 [m, k rounded up to 64]
  float* scales;        // [m]
  void* packed;         // uint8 [n, k / 4 rounded up]
  float* weight_scale;  // [1] or [n]
  void* bias;           // [n], or null
  void* out;            // [m, n]
  void* workspace;      // of the GPU, zeros before the first call
  int64_t workspace_bytes;
  void* stream;
  int64_t dtype;  // of x, bias and out; 0: float16, 1: bfloat16, 2: float32
  int64_t m;
  int64_t n;
  int64_t k;
  int64_t row_scales;
  int64_t follows;  // the call before on the stream was one of these
};

}  // extern "C"

namespace {

DType dtype_of(const TernflashTernary& call) {
  return call.dtype == 0 ? DType::FLOAT16 : call.dtype == 1 ? DType::BFLOAT16 : DType::FLOAT32;
}

TernaryMatmulInt8Params product_of(const TernflashTernary& call) {
  const DType dtype = dtype_of(call);
  const int64_t row = (call.k + 63) / 64 * 64;
  TernaryMatmulInt8Params p{};
  p.codes = {call.codes, DType::INT8, call.m * row};
  p.activation_scales = {call.scales, DType::FLOAT32, call.m};
  p.packed = {call.packed, DType::UINT8, call.n * ((call.k + 3) / 4)};
  p.weight_scale = {call.weight_scale, DType::FLOAT32, call.row_scales ? call.n : 1};
  if (call.bias) p.bias = {call.bias, dtype, call.n};
  p.out = {call.out, dtype, call.m * call.n};
  p.m = call.m;
  p.n = call.n;
  p.k = call.k;
  return p;
}

BenchContext context_of(const TernflashTernary& call) {
  return BenchContext(call.stream, call.workspace, call.workspace_bytes, call.follows != 0);
}

}  // namespace

extern "C" {

// Queues quantize_activations; 0, or 1 if it failed.
__attribute__((visibility("default"))) int ternflash_quantize_activations(const TernflashTernary* call) {
  BenchContext context = context_of(*call);
  QuantizeActivationsParams p{};
  p.x = {call->x, dtype_of(*call), call->m * call->k};
  p.codes = {call->codes, DType::INT8, call->m * ((call->k + 63) / 64 * 64)};
  p.scales = {call->scales, DType::FLOAT32, call->m};
  p.rows = call->m;
  p.cols = call->k;
  cuda::quantize_activations(p, context);
  return context.failed() ? 1 : 0;
}

// Queues ternary_matmul_int8; 0, or 1 if it failed.
__attribute__((visibility("default"))) int ternflash_ternary_matmul(const TernflashTernary* call) {
  BenchContext context = context_of(*call);
  cuda::ternary_matmul_int8(product_of(*call), context);
  return context.failed() ? 1 : 0;
}

}  // extern "C"
