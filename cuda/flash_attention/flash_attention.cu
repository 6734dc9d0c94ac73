// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Chooses the kernels of flash attention and launches them.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "../early_launch.h"
#include "../failure.cuh"
#include "../kernels.h"
#include "../ptx.h"
#include "../vector.h"
#include "decode.h"
#include "forward_hopper.h"
#include "score.h"
#include "stored_keys.h"
#include "variants.h"

namespace ternflash::cuda {

namespace {

constexpr int SEQUENCE_THREADS = 256;

// starts = cu_seqlens [2, batch + 1], or zeros if something is wrong with them; after them, [sections.count + 1], how many tiles the sections before
// each have, if every (batch entry, head) of a section had as many as the longest. One block.
__global__ void copy_sequences(const int* cu_seqlens, int batch, int heads, longlong2 totals, longlong2 longest, HopperSections sections,
                               int* starts, uint32_t* wrong, FailureRecord* failure, uint32_t failure_code) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  bool found = false;
#pragma unroll
  for (int side = 0; side < 2; side++) {
    const int* begin = cu_seqlens + side * (batch + 1);
    const int64_t total = side == 0 ? totals.x : totals.y;
    const int64_t most = side == 0 ? longest.x : longest.y;
    for (int i = threadIdx.x; i <= batch; i += SEQUENCE_THREADS) {
      // All of it, without branches: no load waits for another.
      const int own = begin[i];
      const int next = begin[min(i + 1, batch)];
      found |= (i == 0) & (own != 0);
      found |= (i == batch) & (own != total);
      found |= (own > next) | (int64_t(next) - own > most);
    }
  }
  const bool any = __syncthreads_or(found);
  for (int i = threadIdx.x; i < 2 * (batch + 1); i += SEQUENCE_THREADS) starts[i] = any ? 0 : cu_seqlens[i];
  if (sections.count > 0) {
    __shared__ int warp_sums[SEQUENCE_THREADS / 32];
    int* section_starts = starts + 2 * (batch + 1);
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    int before = 0;
    for (int first = 0; first <= sections.count; first += SEQUENCE_THREADS) {
      const int section = first + static_cast<int>(threadIdx.x);
      int own = 0;
      if (!any && section < sections.count) {
        const int first_pair = section * sections.pairs;
        const int pairs = min(sections.pairs, batch * heads - first_pair);
        int most = 0;
        for (int b = first_pair / heads; b <= (first_pair + pairs - 1) / heads; b++) most = max(most, cu_seqlens[b + 1] - cu_seqlens[b]);
        own = (most + sections.tile_queries - 1) / sections.tile_queries * pairs;
      }
      int sum = own;  // of the threads so far
      for (int distance = 1; distance < 32; distance *= 2) {
        const int left = __shfl_up_sync(0xffffffff, sum, distance);
        if (lane >= distance) sum += left;
      }
      if (lane == 31) warp_sums[warp] = sum;
      __syncthreads();
      int all = 0;
      for (int w = 0; w < SEQUENCE_THREADS / 32; w++) {
        if (w < warp) sum += warp_sums[w];
        all += warp_sums[w];
      }
      if (section <= sections.count) section_starts[section] = before + sum - own;
      before += all;
      __syncthreads();
    }
  }
  if (threadIdx.x > 0) return;
  *wrong = any;
  if (any) record_failure(failure, failure_code, 0, 0);
}

// Whether each batch entry has as many keys as there is room for; the kernels take those there is room for. One block.
__global__ void check_held_keys(const int* held, int added, int most, int batch, FailureRecord* failure, uint32_t failure_code) {
  wait_then_let_next_begin();
  __shared__ unsigned long long shared;
  int64_t position = INT64_MAX;
  for (int b = threadIdx.x; b < batch && position == INT64_MAX; b += SEQUENCE_THREADS)
    if (held[b] < 0 || int64_t(held[b]) + added > most) position = b;
  position = first_position(position, &shared);
  if (threadIdx.x == 0 && position >= 0) record_failure(failure, failure_code, held[position], position);
}

__global__ void clear_bytes_if_wrong(const uint32_t* wrong, uint8_t* bytes, int64_t count) {
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
  args.held_keys = static_cast<const int*>(shape.held_keys.data);
  args.added_keys = static_cast<int>(shape.added_keys);
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

// Packed sequences as the kernels read them.
struct Sequences {
  const int* starts = nullptr;  // cumulative lengths, all 0 if they were wrong; then what copy_sequences adds. Null if sequences are not packed
  const uint32_t* wrong = nullptr;
};

constexpr const char* TOO_MANY_TOKENS = "expected tokens that fit into the cache, got a length that is negative or too large";

// Reports a failure unless packed sequences lie within the tensors and are no longer than said. False without workspace.
bool check_sequences(const AttentionShape& shape, const HopperSections& sections, Sequences& sequences, Context& context) {
  if (shape.held_keys.data) {
    launch_early(check_held_keys, 1, SEQUENCE_THREADS, 0, context, static_cast<const int*>(shape.held_keys.data),
                 static_cast<int>(shape.added_keys), static_cast<int>(shape.keys), static_cast<int>(shape.batch),
                 context.failure_record(), context.failure_code(TOO_MANY_TOKENS));
  }
  if (!shape.cu_seqlens.data) return true;
  int* copy = static_cast<int*>(context.workspace(static_cast<size_t>(2 * (shape.batch + 1) + sections.count + 1) * sizeof(int)));
  uint32_t* wrong = static_cast<uint32_t*>(context.workspace(sizeof(uint32_t)));
  if (!copy || !wrong) return false;
  const EarlyLaunch launch(1, SEQUENCE_THREADS, 0, context.stream(), context.device().capability >= 90);
  check(cudaLaunchKernelEx(&launch.config, copy_sequences, static_cast<const int*>(shape.cu_seqlens.data), static_cast<int>(shape.batch),
                           static_cast<int>(shape.heads), make_longlong2(shape.total_queries, shape.total_keys),
                           make_longlong2(shape.queries, shape.keys), sections, copy, wrong, context.failure_record(),
                           context.failure_code("expected cumulative lengths that rise from 0 to the total, got others")),
        context);
  sequences = {copy, wrong};
  return true;
}

// Clears `outputs` if packed sequences were wrong.
void clear_if_wrong(const Sequences& sequences, std::initializer_list<Tensor> outputs, Context& context) {
  if (!sequences.wrong) return;
  for (const Tensor& output : outputs)
    if (output.data)
      clear_bytes_if_wrong<<<context.device().multiprocessors, SEQUENCE_THREADS, 0, context.stream()>>>(
          sequences.wrong, static_cast<uint8_t*>(output.data), output.length * element_bytes(output.dtype));
}

// TERNFLASH_ATTENTION_KERNEL: which kernels attention forward on 16-bit floats may use.
enum class Kernels { AUTO, PORTABLE, HOPPER };

bool allowed_kernels(Kernels& allowed, Context& context) {
  static const char* const value = std::getenv("TERNFLASH_ATTENTION_KERNEL");
  const auto is = [](const char* name) { return std::strcmp(value, name) == 0; };
  if (!value || is("") || is("auto")) allowed = Kernels::AUTO;
  else if (is("portable")) allowed = Kernels::PORTABLE;
  else if (is("hopper")) allowed = Kernels::HOPPER;
  else {
    context.fail("expected TERNFLASH_ATTENTION_KERNEL=auto, portable or hopper, got another value");
    return false;
  }
  return true;
}

template <class T>
void forward(const FlashAttentionParams& p, Context& context) {
  const auto prepared = [&](const int* starts) { return arguments<AttentionArguments>(p.shape, starts, p.q, p.k, p.v, p.out, p.lse); };
  Sequences sequences;
  if (has_stored_keys(p)) {
    if (check_sequences(p.shape, {}, sequences, context)) launch_forward_stored<T>(p, prepared(nullptr), context);
    return;
  }
  if constexpr (sizeof(T) == 2) {
    Kernels allowed;
    if (!allowed_kernels(allowed, context)) return;
    if (allowed != Kernels::HOPPER && !p.shape.cu_seqlens.data) {
      const AttentionArguments args = prepared(nullptr);
      if (const DecodeVariant* decode = choose_decode<T>(args, context.device()))
        return launch_decode<T>(*decode, args, args.held_keys ? context.failure_code(TOO_MANY_TOKENS) : 0, context);
    }
    const auto* hopper = allowed == Kernels::PORTABLE ? nullptr : choose_forward_hopper<T>(prepared(nullptr), context.device());
    if (allowed == Kernels::HOPPER && !hopper)
      return context.fail(
          "expected attention for which there is a kernel for compute capability 9.0, as TERNFLASH_ATTENTION_KERNEL=hopper demands, got other");
    if (hopper) {
      if (!check_sequences(p.shape, hopper_sections(*hopper, prepared(nullptr)), sequences, context)) return;
      const bool packed = sequences.starts != nullptr;
      return check(launch_forward_hopper<T>(*hopper, prepared(sequences.starts), packed ? p.shape.total_queries : p.shape.queries,
                                            packed ? p.shape.total_keys : p.shape.keys,
                                            packed ? sequences.starts + 2 * (p.shape.batch + 1) : nullptr, sequences.wrong,
                                            context.device(), context.tickets(), context.stream()),
                   context);
    }
  }
  if (!check_sequences(p.shape, {}, sequences, context)) return;
  clear_if_wrong(sequences, {p.out, p.lse}, context);
  const AttentionArguments args = prepared(sequences.starts);
  if constexpr (sizeof(T) == 2) {
    if (const auto* variant = choose(forward_variants<T>(), args, context.device()))
      return check(launch(*variant, args, args.queries, args.heads, context.stream()), context);
  }
  check(launch_forward_elementwise<T>(args, context.stream()), context);
}

template <class T>
void backward(const FlashAttentionBackwardParams& p, Context& context) {
  Sequences sequences;
  if (!check_sequences(p.shape, {}, sequences, context)) return;
  clear_if_wrong(sequences, {p.d_q, p.d_k, p.d_v, p.d_sinks, p.delta}, context);
  auto args = arguments<AttentionBackwardArguments>(p.shape, sequences.starts, p.q, p.k, p.v, p.out, p.lse);
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
