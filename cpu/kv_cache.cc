// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Appends rows to a key or value cache: cache[b][position + s] = x[b][s], the position one for all batch entries or one
// for each.
//
//   x [B, S, row_size], cache [B, capacity, row_size], any dtype
//
// One task per batch entry and ROWS rows; the rows of a task are contiguous in both.

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int64_t ROWS = 64;

TERNFLASH_INLINE int64_t element_bytes(DType dtype) {
  if (dtype == DType::FLOAT32 || dtype == DType::INT32) return 4;
  return dtype == DType::FLOAT16 || dtype == DType::BFLOAT16 ? 2 : 1;
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void kv_cache_append(const KvCacheAppendParams& params, Context& context) {
  const int64_t row_bytes = params.row_size * element_bytes(params.x.dtype);
  const int64_t pieces = ceil_div(params.rows, ROWS);
  const int32_t* positions = static_cast<const int32_t*>(params.positions.data);
  const auto position_of = [&](int64_t entry) { return positions ? positions[entry] : params.position; };
  const auto fits = [&](int64_t position) { return position >= 0 && position + params.rows <= params.capacity; };
  for (int64_t entry = 0; entry < params.batch; entry++)
    if (!fits(position_of(entry))) context.fail("expected positions in the cache, got one outside");
  parallel_for(context, params.batch * pieces, [&](int64_t task, int) {
    const int64_t entry = task / pieces;
    const int64_t row = task % pieces * ROWS;
    const int64_t position = position_of(entry);
    if (!fits(position)) return;
    char* to = static_cast<char*>(params.cache.data) + (entry * params.capacity + position + row) * row_bytes;
    const char* from = static_cast<const char*>(params.x.data) + (entry * params.rows + row) * row_bytes;
    __builtin_memcpy(to, from, size_t(min64(ROWS, params.rows - row) * row_bytes));
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
