// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Appends rows to a key or value cache: cache[b][position + s] = x[b][s], the position one for all batch entries or one
// for each; x [B, S, row_size], cache [B, capacity, row_size], any dtype. The rows of a batch entry are one run of bytes
// in both; blockIdx.y counts batch entries, each thread copies words of their runs.

#include "failure.cuh"
#include "kernels.h"
#include "vector.h"

namespace ternflash::cuda {

namespace {

constexpr int UNROLL = 4;
constexpr int64_t MAX_ENTRIES = 65535;  // of a launch

// Where each entry's rows go.
struct Positions {
  const int* positions;  // [B], or null: the cache begins there for all
  int64_t last;          // the largest that leaves room
  int64_t row_words;
  FailureRecord* failure;
  uint32_t failure_code;
};

// `words` of each entry; `stride` words from an entry of the cache to the next.
template <class V>
__global__ void __launch_bounds__(BLOCK_THREADS)
    append_kernel(const V* x, V* cache, int64_t words, int64_t stride, Positions to) {
  x += blockIdx.y * words;
  cache += blockIdx.y * stride;
  if (to.positions) {
    const int position = to.positions[blockIdx.y];
    if (position < 0 || position > to.last) {
      if (blockIdx.x == 0 && threadIdx.x == 0) record_failure(to.failure, to.failure_code, position, blockIdx.y);
      return;
    }
    cache += position * to.row_words;
  }
  const int64_t first = int64_t(blockIdx.x) * (BLOCK_THREADS * UNROLL) + threadIdx.x;
  V values[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; u++)
    if (first + u * BLOCK_THREADS < words) values[u] = x[first + u * BLOCK_THREADS];
#pragma unroll
  for (int u = 0; u < UNROLL; u++)
    if (first + u * BLOCK_THREADS < words) cache[first + u * BLOCK_THREADS] = values[u];
}

template <class V>
void launch(const KvCacheAppendParams& p, int64_t row_bytes, Context& context) {
  const int64_t size = static_cast<int64_t>(sizeof(V));
  const int64_t words = p.rows * row_bytes / size;
  const int64_t stride = p.capacity * row_bytes / size;
  const V* x = data_of<V>(p.x);
  V* cache = target_of<V>(p.cache) + p.position * row_bytes / size;
  const unsigned blocks = static_cast<unsigned>(ceil_div(words, BLOCK_THREADS * UNROLL));
  Positions to{static_cast<const int*>(p.positions.data), p.capacity - p.rows, row_bytes / size, context.failure_record(),
               context.failure_code("expected positions in the cache, got one outside")};
  for (int64_t entry = 0; entry < p.batch; entry += MAX_ENTRIES) {
    const unsigned entries = static_cast<unsigned>(std::min(MAX_ENTRIES, p.batch - entry));
    append_kernel<V><<<dim3(blocks, entries), BLOCK_THREADS, 0, context.stream()>>>(
        x + entry * words, cache + entry * stride, words, stride, to);
    if (to.positions) to.positions += MAX_ENTRIES;
  }
}

}  // namespace

void kv_cache_append(const KvCacheAppendParams& p, Context& context) {
  const int64_t row_bytes = p.row_size * element_bytes(p.x.dtype);
  if (p.rows * row_bytes == 0) return;
  if (row_bytes % 16 == 0)
    launch<uint4>(p, row_bytes, context);
  else if (row_bytes % 4 == 0)
    launch<uint32_t>(p, row_bytes, context);
  else if (row_bytes % 2 == 0)
    launch<uint16_t>(p, row_bytes, context);
  else
    launch<uint8_t>(p, row_bytes, context);
}

}  // namespace ternflash::cuda
