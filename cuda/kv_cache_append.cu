// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Appends rows to a key or value cache: cache[b][position + s] = x[b][s], the position one for all batch entries or one
// for each; x [B, S, row_size], cache [B, capacity, row_size] or pages [count, size, row_size].
//
// Of one dtype and without pages the rows of a batch entry are one run of bytes in both: blockIdx.y counts batch entries,
// each thread copies words of their runs. Else a warp takes the numbers of one head, which are rounded to the dtype of the
// cache, or become codes with a scale, as lib/backend.ts says, equal to the bit on every backend.

#include "early_launch.h"
#include "kernels.h"
#include "pages.cuh"

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
  wait_then_let_next_begin();
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
    launch_early(append_kernel<V>, dim3(blocks, entries), BLOCK_THREADS, 0, context, x + entry * words,
                 cache + entry * stride, words, stride, to);
    if (to.positions) to.positions += MAX_ENTRIES;
  }
}

constexpr int STORE_WARPS = BLOCK_THREADS / 32;
constexpr float LEAST = 0x1p-100f;  // what is smaller has no inverse among floats

// Where each entry's heads go.
struct HeadsTo {
  CacheRows rows;
  const int* positions;  // [B], or null: `position` for all
  int64_t position;
  int64_t count;  // heads of x
  int new_rows;
  int heads;  // of a row
  int head_dim;
  int64_t capacity;
  float* scales;
  FailureRecord* failure;
  uint32_t failure_code;
};

template <class T, class U>
__global__ void __launch_bounds__(BLOCK_THREADS) store_kernel(const T* x, U* cache, const __grid_constant__ HeadsTo to) {
  wait_then_let_next_begin();
  const int lane = threadIdx.x % 32;
  const int64_t number = int64_t(blockIdx.x) * STORE_WARPS + threadIdx.x / 32;
  if (number >= to.count) return;
  const int head = static_cast<int>(number % to.heads);
  const int s = static_cast<int>(number / to.heads % to.new_rows);
  const int64_t entry = number / to.heads / to.new_rows;
  const int64_t position = to.positions ? to.positions[entry] : to.position;
  if (position < 0 || position + to.new_rows > to.capacity) {
    if (lane == 0 && head == 0 && s == 0) record_failure(to.failure, to.failure_code, static_cast<int>(position), entry);
    return;
  }
  const int64_t row = to.rows.row(entry, static_cast<int>(position + s));
  if (row < 0) return;
  const int64_t target = row * to.heads + head;
  x += number * to.head_dim;
  cache += target * to.head_dim;
  if constexpr (!std::is_same_v<U, int8_t>) {
    for (int d = lane; d < to.head_dim; d += 32) cache[d] = static_cast<U>(static_cast<float>(x[d]));
  } else {
    float most = 0.0f;
    bool finite = true;
    for (int d = lane; d < to.head_dim; d += 32) {
      const float value = static_cast<float>(x[d]);
      most = fmaxf(most, fabsf(value));
      finite = finite && isfinite(value);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
    finite = __all_sync(0xffffffffu, finite);
    const bool zero = !finite || most < LEAST;
    const float inverse = zero ? 0.0f : __fdiv_rn(127.0f, most);
    for (int d = lane; d < to.head_dim; d += 32)
      cache[d] = zero ? 0 : static_cast<int8_t>(max(-127, min(127, __float2int_rn(__fmul_rn(static_cast<float>(x[d]), inverse)))));
    if (lane == 0) to.scales[target] = !finite ? NAN : zero ? 0.0f : __fdiv_rn(most, 127.0f);
  }
}

void launch_store(const KvCacheAppendParams& p, Context& context) {
  if (p.x.dtype == DType::INT8 || p.x.dtype == DType::UINT8 || p.x.dtype == DType::INT32)
    return context.fail("expected floats for pages or a cache of another dtype, got integers");
  check_pages(p.pages, p.batch, context);
  const int64_t heads = p.row_size / p.head_dim;
  const HeadsTo to{CacheRows(p.pages, p.capacity),
                   data_of<int>(p.positions),
                   p.position,
                   p.batch * p.rows * heads,
                   static_cast<int>(p.rows),
                   static_cast<int>(heads),
                   static_cast<int>(p.head_dim),
                   p.capacity,
                   target_of<float>(p.scales),
                   context.failure_record(),
                   context.failure_code("expected positions in the cache, got one outside")};
  const unsigned blocks = static_cast<unsigned>(ceil_div(to.count, STORE_WARPS));
  with_float_type(p.x.dtype, [&](auto from) {
    using T = typename decltype(from)::type;
    const auto launch = [&](auto type) {
      using U = typename decltype(type)::type;
      launch_early(store_kernel<T, U>, blocks, BLOCK_THREADS, 0, context, data_of<T>(p.x), target_of<U>(p.cache), to);
    };
    if (p.cache.dtype == DType::INT8) launch(Type<int8_t>{});
    else with_float_type(p.cache.dtype, launch);
  });
}

}  // namespace

void kv_cache_append(const KvCacheAppendParams& p, Context& context) {
  const int64_t row_bytes = p.row_size * element_bytes(p.x.dtype);
  if (p.rows * row_bytes == 0) return;
  if (p.pages.table.data || p.x.dtype != p.cache.dtype) return launch_store(p, context);
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
