// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Appends rows to a key or value cache: cache[b][position + s] = x[b][s], the position one for all batch entries or one
// for each.
//
//   x [B, S, row_size], cache [B, capacity, row_size] or pages [count, size, row_size]
//
// Of one dtype the bytes move; to another float dtype numbers are rounded; to int8 the numbers of each head become
// codes with a scale, as lib/backend.ts says, equal to the bit on every backend. One task per batch entry and ROWS
// rows.

#include "cache_rows.h"
#include "kernels.h"
#include "sixteen_bits.h"

namespace {

using ternflash::KvCacheAppendParams;

constexpr int64_t ROWS = 64;
constexpr float LEAST = 0x1p-100f;  // what is smaller has no inverse among floats

template <DType FROM>
TERNFLASH_INLINE void convert_row(const KvCacheAppendParams& params, int64_t from, int64_t to) {
  for (int64_t i = 0; i < params.row_size; i += LANES) {
    alignas(64) float values[LANES];
    store(values, load_as_float<FROM>(params.x.data, from + i, params.row_size - i));
    store_floats(params.cache, to + i, min64(LANES, params.row_size - i), values);
  }
}

// The numbers of one head from element `from` on: their codes, and the scale.
template <DType FROM>
TERNFLASH_INLINE float write_codes(const void* x, int64_t from, int64_t count, int8_t* codes) {
  Vec largest{}, finite{};  // finite: 0 but where a number is not
  for (int64_t i = 0; i < count; i += LANES) {
    const Vec value = load_as_float<FROM>(x, from + i, count - i);
    largest = vec_max(largest, vec_max(value, -value));
    finite += value * 0.0f;
  }
  const float most = vec_max_lane(largest), not_finite = vec_sum(finite);
  const bool zero = most < LEAST || not_finite != not_finite;
  const Vec inverse = broadcast(zero ? 0.0f : 127.0f / most);
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  for (int64_t i = 0; i < count; i += LANES) {
    const Vec value = load_as_float<FROM>(x, from + i, count - i) * inverse;
    const Vec clipped = vec_max(vec_min(value, broadcast(127.0f)), broadcast(-127.0f));
    const VecInt rounded = zero ? VecInt{} : as_int(clipped + magic) - as_int(magic);
    const ByteVec bytes = __builtin_convertvector(rounded, ByteVec);
    __builtin_memcpy(codes + i, &bytes, size_t(min64(LANES, count - i)));
  }
  return not_finite != not_finite ? not_finite : zero ? 0.0f : most / 127.0f;
}

// Row `from` of x to row `to` of the cache.
template <DType FROM>
TERNFLASH_INLINE void write_row(const KvCacheAppendParams& params, int64_t from, int64_t to) {
  if (!params.scales.data) return convert_row<FROM>(params, from * params.row_size, to * params.row_size);
  const int64_t heads = params.row_size / params.head_dim;
  for (int64_t head = 0; head < heads; head++) {
    const int64_t begin = head * params.head_dim;
    static_cast<float*>(params.scales.data)[to * heads + head] =
        write_codes<FROM>(params.x.data, from * params.row_size + begin, params.head_dim,
                          static_cast<int8_t*>(params.cache.data) + to * params.row_size + begin);
  }
}

TERNFLASH_INLINE void append_row(const KvCacheAppendParams& params, int64_t from, int64_t to) {
  if (params.x.dtype == params.cache.dtype) {
    const int64_t bytes = params.row_size * element_bytes(params.x.dtype);
    __builtin_memcpy(static_cast<char*>(params.cache.data) + to * bytes,
                     static_cast<const char*>(params.x.data) + from * bytes, size_t(bytes));
  } else if (params.x.dtype == DType::FLOAT32) {
    write_row<DType::FLOAT32>(params, from, to);
  } else if (params.x.dtype == DType::FLOAT16) {
    write_row<DType::FLOAT16>(params, from, to);
  } else {
    write_row<DType::BFLOAT16>(params, from, to);
  }
}

}  // namespace

namespace ternflash::cpu::TERNFLASH_ISA {

void kv_cache_append(const KvCacheAppendParams& params, Context& context) {
  if (!check_pages(params.pages, params.batch, context)) return;
  const int64_t pieces = ceil_div(params.rows, ROWS);
  const int32_t* positions = static_cast<const int32_t*>(params.positions.data);
  const auto position_of = [&](int64_t entry) { return positions ? positions[entry] : params.position; };
  const auto fits = [&](int64_t position) { return position >= 0 && position + params.rows <= params.capacity; };
  for (int64_t entry = 0; entry < params.batch; entry++)
    if (!fits(position_of(entry))) context.fail("expected positions in the cache, got one outside");
  const bool paged = params.pages.table.data != nullptr;
  parallel_for(context, params.batch * pieces, [&](int64_t task, int) {
    const int64_t entry = task / pieces;
    const int64_t begin = task % pieces * ROWS;
    const int64_t position = position_of(entry);
    if (!fits(position)) return;
    for (int64_t s = begin; s < min64(begin + ROWS, params.rows); s++) {
      const int64_t token = position + s;
      const int64_t to = paged ? page_row(params.pages, entry, token) : entry * params.capacity + token;
      if (to >= 0) append_row(params, entry * params.rows + s, to);
    }
  });
}

}  // namespace ternflash::cpu::TERNFLASH_ISA
